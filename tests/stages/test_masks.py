from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco
from rcnn.errors import UserError
from rcnn.stages import masks

HEIGHT, WIDTH = 23, 31


def runs_of(mask: Any) -> list[int]:
    """Brute force: lengths of runs in column-major order, starting with zeros."""
    runs, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(0)
            value = not value
        runs[-1] += 1
    return runs


@pytest.fixture(params=["noise", "box", "empty", "full", "one"])
def mask(request: pytest.FixtureRequest) -> Any:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    if request.param == "noise":
        mask = np.random.default_rng(0).random((HEIGHT, WIDTH)) < 0.3
    elif request.param == "box":
        mask[3:9, 5:20] = True
    elif request.param == "full":
        mask[:] = True
    elif request.param == "one":
        mask[-1, -1] = True
    return mask


def test_decode_gives_back_what_was_encoded(mask: Any) -> None:
    rle = masks.encode(mask)
    assert isinstance(rle["counts"], bytes)
    assert masks.decode(rle).dtype == bool
    assert (masks.decode(rle) == mask).all()
    assert masks.area_of(rle) == mask.sum()


def test_any_nonzero_value_is_the_object(mask: Any) -> None:
    assert masks.encode(mask.astype(np.uint8) * 255) == masks.encode(mask)


def test_encode_refuses_a_stack_of_masks() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\)"):
        masks.encode(np.zeros((2, 3, 4)))


def test_box_is_half_open_and_tight(mask: Any) -> None:
    box = masks.box_of(masks.encode(mask))
    assert box.dtype == np.float32
    y, x = np.nonzero(mask)
    assert box.tolist() == ([x.min(), y.min(), x.max() + 1, y.max() + 1] if mask.any() else [0, 0, 0, 0])


def test_both_kinds_of_rle_are_the_bitmap(mask: Any) -> None:
    runs = {"size": [HEIGHT, WIDTH], "counts": runs_of(mask)}
    packed = masks.encode(mask)
    text = {"size": [HEIGHT, WIDTH], "counts": packed["counts"].decode()}
    for segmentation in (runs, packed, text):
        assert (masks.decode(masks.from_coco(segmentation, HEIGHT, WIDTH)) == mask).all()


def test_polygons_are_joined_as_pycocotools_joins_them() -> None:
    polygons = [[2, 3, 12.5, 3, 12.5, 9, 2, 9], [8, 5, 25, 6, 20, 20.5]]
    expected = coco.decode(coco.merge(coco.frPyObjects(polygons, HEIGHT, WIDTH)))
    assert (masks.decode(masks.from_coco(polygons, HEIGHT, WIDTH)) == expected).all()
    assert expected.any()


def test_a_polygon_of_two_points_is_not_taken_for_a_box() -> None:
    polygon = [2, 3, 12, 3, 12, 9]
    alone = masks.from_coco([polygon], HEIGHT, WIDTH)
    assert masks.from_coco([[5, 5, 20, 20], polygon], HEIGHT, WIDTH) == alone
    assert masks.from_coco([polygon, [5, 5, 20, 20]], HEIGHT, WIDTH) == alone


@pytest.mark.parametrize(
    "segmentation",
    [
        [],
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [1, 2, 3, 4, 5, 6],
        "polygon",
        None,
        {"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]},
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH - 1]},
        {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH, 1]},
        {"size": [HEIGHT, WIDTH], "counts": [-1, HEIGHT * WIDTH + 1]},
        {"size": [HEIGHT, WIDTH], "counts": "34"},
        {"size": [HEIGHT, WIDTH], "counts": masks.encode(np.ones((40, 40)))["counts"]},
        {"size": [HEIGHT, WIDTH]},
    ],
)
def test_what_is_no_mask_of_the_image_is_refused(segmentation: Any) -> None:
    with pytest.raises(UserError):
        masks.from_coco(segmentation, HEIGHT, WIDTH)
