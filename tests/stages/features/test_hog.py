"""HOG of warped boxes, held to scikit-image on crops made another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.stages.features.hog import HOG, NORMS, cut, feature_length, places, warp
from rcnn.stages.record import Record
from skimage.feature import hog
from skimage.transform import resize


def drawn(height: int = 90, width: int = 120, seed: int = 0) -> Any:
    """Smooth colour, so that two ways of resizing see the same image."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((height // 8, width // 8, 3))
    return (255 * resize(coarse, (height, width), order=3)).clip(0, 255).astype(np.uint8)


def features(image: Any, boxes: Any, **params: Any) -> Any:
    stage = HOG(**{"window": (32, 32), "context": 0, "storage": "float32", **params})
    stage.validate()
    return stage([Record("a", {"image": image, "boxes": np.array(boxes, np.float32).reshape(-1, 4)})])[0][
        "features.hog"
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_a_box_of_the_windows_size_is_scikit_images_hog_of_the_crop(norm: str) -> None:
    image = drawn()
    found = features(image, [[10, 20, 42, 52]], norm=norm)
    expected = hog(image[20:52, 10:42].astype(float), 9, (8, 8), (2, 2), norm, channel_axis=-1)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    assert found.max() > 0.1


def test_grey_sees_light_alone() -> None:
    image = drawn()
    grey, colour = (features(image, [[10, 20, 42, 52]], colour=colour)[0] for colour in (False, True))
    expected = hog(image[20:52, 10:42] @ [0.299, 0.587, 0.114], 9, (8, 8), (2, 2), "L2-Hys")
    assert similar(grey, expected) > 0.99  # whole grey levels
    assert similar(grey, colour) < 0.95


def similar(a: Any, b: Any) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_context_and_another_shape_of_window() -> None:
    image = drawn()
    stage: dict[str, Any] = {"window": (48, 32), "context": 1, "cell": 4, "block": 3, "orientations": 6}
    found = features(image, [[40, 30, 64, 70]], **stage)  # 24 by 40 pixels, 4 more on each side
    expected = hog(image[26:74, 36:68].astype(float), 6, (4, 4), (3, 3), "L2-Hys", channel_axis=-1)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)
    assert found.shape[1] == feature_length((48, 32), 4, 3, 6) == len(expected)


@pytest.mark.parametrize("box", [[8, 4, 72, 68], [10, 10, 26, 26], [3, 5, 115, 25], [50, 2, 58, 88]])
def test_larger_smaller_and_oblong_boxes_agree_with_another_resize(box: list[int]) -> None:
    image = drawn()
    x0, y0, x1, y1 = box
    resized = resize(image[y0:y1, x0:x1].astype(float), (32, 32), order=1, mode="edge", anti_aliasing=True)
    expected = hog(resized, 9, (8, 8), (2, 2), "L2-Hys", channel_axis=-1)
    found = features(image, [box])[0]
    assert similar(found, expected) > 0.97


def test_what_shrinks_is_averaged_also_where_the_other_axis_grows() -> None:
    stripes = np.zeros((8, 64, 1), np.float32)
    stripes[:, ::2] = 2.0
    np.testing.assert_array_equal(warp(stripes[..., 0], (32, 16)), np.ones((32, 16)))


def test_what_grows_has_no_steps() -> None:
    ramp = np.tile(np.arange(4, dtype=np.float32), (4, 1))
    assert np.diff(warp(ramp, (32, 32))[0]).max() == 1 / 8  # of a grey level


@pytest.mark.parametrize("side", [7, 31, 64, 90])
def test_a_flat_region_has_no_gradient(side: int) -> None:
    image = np.full((90, 90, 3), (77, 131, 203), np.uint8)
    assert (features(image, [[0, 0, side, side], [3, 0, 20, side]], context=1) == 0).all()


def test_places_are_the_boxes_with_the_margin() -> None:
    found = places([[10, 20, 42, 52], [0, 0, 8, 8], [5, 5, 5, 5]], (64, 32), 8)
    assert found.tolist() == [[-6, 15, 58, 57], [-4, -1, 12, 9], [5, 5, 6, 6]]
    assert places(np.zeros((0, 4)), (64, 32), 8).shape == (0, 4)


@pytest.mark.parametrize(
    "place",
    [(-3, -4, 5, 6), (6, 5, 12, 11), (-9, -9, -4, -2), (10, 9, 14, 30), (-2, 2, 20, 4), (-8, 0, 1, 3), (3, 7, 4, 8)],
)
def test_outside_the_image_its_edge_goes_on(place: tuple[int, int, int, int]) -> None:
    image = np.random.default_rng(0).random((8, 10, 3)).astype(np.float32)
    x0, y0, x1, y1 = place
    rows, columns = np.arange(y0, y1).clip(0, 7), np.arange(x0, x1).clip(0, 9)
    np.testing.assert_array_equal(cut(image, place), image[rows[:, None], columns])


def test_a_box_beside_the_image_sees_no_gradient() -> None:
    found = features(drawn(), [[-60, -50, -10, -20], [0, 0, 40, 40]])
    assert (found[0] == 0).all()
    assert (found[1] != 0).any()


def test_one_by_one_is_as_all_at_once_and_no_box_is_normal() -> None:
    image = drawn()
    boxes = [[1.5, 2.25, 60, 41], [0, 0, 120, 90], [100, 70, 140, 95], [30, 30, 30, 30]]
    together = features(image, boxes)
    for row, box in zip(together, boxes):
        np.testing.assert_array_equal(row, features(image, [box])[0])
    assert np.isfinite(together).all()
    assert features(image, []).shape == (0, together.shape[1])


def test_the_papers_window_is_the_default_and_half_precision_is_near() -> None:
    record = Record("a", {"image": drawn(), "boxes": np.array([[5, 5, 60, 88]], np.float32)})
    half, full = (HOG(storage=storage)([record])[0]["features.hog"] for storage in ("float16", "float32"))
    assert half.shape == (1, 3780)
    assert (half.dtype, full.dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(half, full, atol=1e-3)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"window": (60, 64)}, "window is .* whole cells of 8"),
        ({"window": (64,)}, "window is"),
        ({"window": (0, 64)}, "window is"),
        ({"window": (8, 64), "context": 0}, "smaller than a block"),
        ({"window": (32, 64), "context": 2}, "context 2 leaves nothing"),
        ({"context": -1}, "context is -1"),
        ({"cell": 0}, "cell is 0"),
        ({"norm": "L3"}, "norm is 'L3'"),
        ({"storage": "int8"}, "storage is 'int8'"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        HOG(**params).validate()
    HOG().validate()


@pytest.mark.realdata
def test_people_are_nearer_to_each_other_than_to_what_is_beside_them(data_root: Path) -> None:
    """The mean of eight people in four images tells the others from windows of the same size beside them."""
    from rcnn.stages.datasets.spec import open_dataset

    data = open_dataset(f"coco:{data_root}/data/pennfudan/annotations/instances_val.json")
    people, others = [], []
    for i in range(4):
        record = data[i]
        boxes = record["truth_boxes"]
        shift = (boxes[:, 2] - boxes[:, 0])[:, None] * np.array([1.5, 0, 1.5, 0], np.float32)
        people.append(HOG()([Record("a", {"image": record["image"], "boxes": boxes})])[0]["features.hog"])
        others.append(HOG()([Record("a", {"image": record["image"], "boxes": boxes - shift})])[0]["features.hog"])
    for i in range(4):
        mean = np.concatenate(people[:i] + people[i + 1 :]).astype(np.float32).mean(0)
        assert (people[i] @ mean).mean() > (others[i] @ mean).mean()
