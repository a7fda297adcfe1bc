from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.stages.datasets.folder import Files, Folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("b.jpg", "sub/a.PNG", "sub/deep/c.jpeg", ".hidden/d.jpg", "sub/._b.jpg", "träum 1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 6)).save(tmp_path / name, exif=exif)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_gone_through_in_the_order_of_ids(root: Path) -> None:
    data = Folder(root)
    ids = [record.id for record in data]
    assert ids == ["b.jpg", "sub/a.PNG", "sub/deep/c.jpeg", "träum 1.png"]
    assert data.classes == ()
    assert set(data[0]) == {"image", "size"}


def test_images_are_read_upright(root: Path) -> None:
    for record in Folder(root):
        assert record["image"].shape == (9, 6, 3)
        assert record["size"].tolist() == [9, 6]


def test_files_are_named_from_the_folder_that_holds_them_all(root: Path) -> None:
    paths = [root / "sub" / "deep" / "c.jpeg", root / "sub" / "a.PNG", root / "sub" / "a.PNG"]
    assert [record.id for record in Files(paths)] == ["a.PNG", "deep/c.jpeg"]
    one = Files([str(root / "sub" / "a.PNG")])
    assert [record.id for record in one] == ["a.PNG"]
    assert one[0]["size"].tolist() == [9, 6]


def test_what_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        Folder(root / "nowhere")
    with pytest.raises(UserError, match=r"z\.jpg"):
        Files([root / "b.jpg", root / "z.jpg"])
    with pytest.raises(UserError, match="no image"):
        Files([])
    (root / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        Folder(root / "empty")
