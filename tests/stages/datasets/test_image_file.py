from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.stages.datasets.image_file import SIDE, examine, image_fields, image_size, read_image

RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)


def saved(path: Path, image: Any, mode: str | None = None, **options: Any) -> Path:
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    (picture.convert(mode) if mode else picture).save(path, **options)
    return path


def test_rgb_is_as_stored(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", RGB)
    assert (read_image(path) == RGB).all()
    assert read_image(path).dtype == np.uint8
    assert image_size(path).tolist() == [6, 9]
    assert image_size(path).dtype == np.int64


def test_grey_is_three_times_the_same(tmp_path: Path) -> None:
    grey = RGB[..., 0]
    assert (read_image(saved(tmp_path / "a.png", grey)) == grey[..., None]).all()
    assert (read_image(saved(tmp_path / "b.png", grey > 99)) == (grey > 99)[..., None] * 255).all()


def test_sixteen_bits_become_the_upper_eight(tmp_path: Path) -> None:
    grey = RGB[..., 0].astype(np.uint16) * 256 + 77
    for name in ("a.png", "a.tif"):
        assert (read_image(saved(tmp_path / name, grey)) == RGB[..., :1]).all()


def test_thirty_two_bits_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.tif", RGB[..., 0].astype(np.float32))
    with pytest.raises(UserError, match="32 bits"):
        read_image(path)


def test_a_palette_is_looked_up(tmp_path: Path) -> None:
    flat = np.zeros((6, 9, 3), np.uint8)
    flat[:, :4], flat[:, 4:] = (250, 10, 30), (0, 99, 200)
    assert (read_image(saved(tmp_path / "a.png", Image.fromarray(flat).convert("P", palette=1))) == flat).all()


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    alpha = np.full((6, 9, 1), 255, np.uint8)
    alpha[:3] = 0
    image = read_image(saved(tmp_path / "a.png", np.concatenate([RGB, alpha], 2)))
    assert (image[:3] == 255).all()
    assert (image[3:] == RGB[3:]).all()


def test_cmyk_is_close_to_what_it_was(tmp_path: Path) -> None:
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    path = saved(tmp_path / "a.jpg", flat, "CMYK", quality=100)
    assert np.abs(read_image(path).astype(int) - (200, 100, 50)).max() <= 4


def test_orientation_is_followed_only_when_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    path = saved(tmp_path / "a.png", RGB, exif=exif)
    assert (read_image(path) == RGB).all()
    assert image_size(path).tolist() == [6, 9]
    assert (read_image(path, upright=True) == np.rot90(RGB, -1)).all()
    assert image_size(path, upright=True).tolist() == [9, 6]


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_file_cut_short_is_named(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / name, np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert image_size(path).tolist() == [64, 64]  # the header is there
    with pytest.raises(UserError, match=name):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.jpg"
    if content is not None:
        path.write_bytes(content)
    for read in (read_image, image_size, lambda p: image_fields(p)["image"].value()):
        with pytest.raises(UserError, match=r"x\.jpg"):
            read(path)
    if content is None:
        with pytest.raises(UserError, match=r"x\.jpg"):
            image_fields(path)["image"].identity()


def test_fields_follow_from_the_bytes_and_from_upright(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", RGB)
    fields, turned = image_fields(path), image_fields(path, upright=True)
    assert (fields["image"].value() == RGB).all()
    assert fields["size"].value().tolist() == [6, 9]
    assert len({f.identity() for f in (*fields.values(), *turned.values())}) == 2
    before = fields["image"].identity()
    saved(path, RGB[::-1])
    assert image_fields(path)["image"].identity() != before


def test_a_verdict_on_a_sound_image(tmp_path: Path) -> None:
    verdict = examine(saved(tmp_path / "a.png", RGB))
    assert (verdict.fault, verdict.size, verdict.mode, verdict.bits, verdict.orientation) == ("", (6, 9), "RGB", 8, 1)
    assert verdict.thumbnail.shape == (SIDE, SIDE)
    assert verdict.hash == examine(saved(tmp_path / "b.png", RGB)).hash
    assert verdict.hash != examine(saved(tmp_path / "c.png", RGB[::-1])).hash


def test_a_verdict_sees_what_the_file_was(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = examine(saved(tmp_path / "a.jpg", RGB, exif=exif))
    assert (turned.orientation, turned.size) == (8, (6, 9))
    wide = RGB[..., 0].astype(np.uint16) * 256
    assert [examine(saved(tmp_path / f"b.{end}", wide)).bits for end in ("png", "tif")] == [16, 16]
    assert examine(saved(tmp_path / "c.jpg", RGB, "CMYK")).mode == "CMYK"
    assert examine(saved(tmp_path / "d.png", RGB, "L")).mode == "L"
    assert examine(saved(tmp_path / "e.png", RGB, "1")).bits == 1
    colour = cv2_png(np.full((6, 9, 3), 999, np.uint16), tmp_path / "f.png")  # Pillow writes no such file
    assert (examine(colour).bits, examine(colour).mode) == (16, "RGB")


def cv2_png(image: Any, path: Path) -> Path:
    import cv2

    assert cv2.imwrite(str(path), image)
    return path


def test_a_verdict_on_what_cannot_be_read(tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.jpg", np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8))
    (tmp_path / "b.jpg").write_bytes(whole.read_bytes()[:2000])
    assert "truncated" in examine(tmp_path / "b.jpg").fault
    (tmp_path / "c.jpg").write_text("no image")
    assert examine(tmp_path / "c.jpg").fault == "it is no image that Pillow knows"
    assert examine(tmp_path / "none.jpg").fault == "No such file or directory"
    assert "32 bits" in examine(saved(tmp_path / "d.tif", RGB[..., 0].astype(np.float32))).fault
    for file in ("b.jpg", "c.jpg", "none.jpg", "d.tif"):  # and read_image says the same of them
        with pytest.raises(UserError):
            read_image(tmp_path / file)
