from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.stages.datasets.labelled import Labelled
from rcnn.stages.datasets.spec import open_dataset
from rcnn.stages.record import check_field


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, size in (
        ("dog/b.jpg", (8, 6)),
        ("dog/deep/c.png", (5, 5)),
        ("ant/a.jpg", (9, 7)),
        (".hidden/x.jpg", (3, 3)),
    ):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size).save(path)
    (tmp_path / "set" / "dog" / "notes.txt").write_text("no image")
    return tmp_path / "set"


def test_a_folder_is_a_class_and_an_image_one_object(folder: Path) -> None:
    data = Labelled(folder)
    assert data.classes == ("ant", "dog")
    assert [record.id for record in data] == ["ant/a.jpg", "dog/b.jpg", "dog/deep/c.png"]
    assert [record["truth_labels"].tolist() for record in data] == [[1], [2], [2]]
    record = data[1]
    assert record["truth_boxes"].tolist() == [[0, 0, 8, 6]]
    assert record["truth_areas"].tolist() == [48]
    assert record["image"].shape == (6, 8, 3)
    assert data.left_out == []


def test_fields_are_as_declared_and_go_to_another_process(folder: Path) -> None:
    for record in pickle.loads(pickle.dumps(list(Labelled(folder)))):
        known: dict[str, int] = {}
        for name in record:
            check_field(name, record[name], known, "labelled")


def test_an_image_is_turned_upright_and_its_box_with_it(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 6)).save(folder / "dog" / "b.jpg", exif=exif)
    record = Labelled(folder)[1]
    assert record["image"].shape == (8, 6, 3)
    assert record["truth_boxes"].tolist() == [[0, 0, 6, 8]]


def test_the_identity_of_the_box_is_the_image(folder: Path) -> None:
    before = Labelled(folder)[1].raw("truth_boxes").identity()
    assert Labelled(folder)[1].raw("truth_boxes").identity() == before
    Image.new("RGB", (8, 6), "red").save(folder / "dog" / "b.jpg")
    assert Labelled(folder)[1].raw("truth_boxes").identity() != before


def test_what_has_no_class_and_a_class_without_images_are_told(folder: Path) -> None:
    Image.new("RGB", (8, 6)).save(folder / "stray.jpg")
    (folder / "bee").mkdir()
    data = Labelled(folder)
    assert data.classes == ("ant", "bee", "dog")
    assert data[1]["truth_labels"].tolist() == [3]
    assert [(problem.kind, problem.loses) for problem in data.problems] == [
        ("missing annotation", "image"), ("class without images", ""), ("not read", ""), ("not read", ""),
    ]  # fmt: skip
    assert len(data.left_out) == 1
    assert "stray.jpg" in data.left_out[0]


def test_what_is_not_read_is_told_by_folder(folder: Path) -> None:
    (folder / "ant" / ".git").mkdir()
    for name in ("readme.md", ".a.jpg", ".notes", "ant/.git/b.jpg", "dog/b.HEIC", "dog/c.txt", "dog/d.txt"):
        (folder / name).write_text("")
    (folder / ".empty").mkdir()
    told = {(Path(p.file).name, p.what) for p in Labelled(folder).problems if p.kind == "not read"}
    assert told == {
        ("set", "what is hidden is not read: .a.jpg, .hidden"),
        ("set", "what is no image is not read: readme.md"),
        ("ant", "what is hidden is not read: .git/b.jpg"),
        ("dog", "what is no image is not read: b.HEIC, c.txt, d.txt and 1 more"),
    }


def test_a_spec_names_it(folder: Path) -> None:
    data = open_dataset(f"labelled:{folder}#dog")
    assert [record["truth_labels"].tolist() for record in data] == [[], [1], [1]]
    assert data[1]["truth_boxes"].tolist() == [[0, 0, 8, 6]]
    assert data[0]["truth_boxes"].shape == (0, 4)
    assert data[0]["truth_areas"].shape == (0,)


def test_what_is_no_such_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    with pytest.raises(UserError, match="holds no folders"):
        Labelled(tmp_path / "flat")
    (tmp_path / "flat" / "cat").mkdir()
    with pytest.raises(UserError, match="no image in the folders"):
        Labelled(tmp_path / "flat")
    with pytest.raises(UserError, match="there is no folder"):
        Labelled(tmp_path / "none")
