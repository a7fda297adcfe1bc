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


# -- grids over boxes ----------------------------------------------------------------------------------


def test_shares_are_the_areas_of_cells_inside_the_object() -> None:
    rng = np.random.default_rng(0)
    bitmap = rng.random((HEIGHT, WIDTH)) < 0.4
    corners = rng.uniform(-4, 20, (12, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.3, 25, (12, 2))], 1)  # some go beyond the image
    found = masks.shares(bitmap, boxes, 5)
    assert found.shape == (12, 5, 5)
    for box, grid in zip(boxes, found):
        x, y = (np.linspace(box[i], box[i + 2], 6) for i in (0, 1))

        def lengths(edges: Any, count: int) -> Any:  # of each cell in each pixel
            low, high = edges[:-1, None], edges[1:, None]
            return (np.minimum(high, np.arange(1, count + 1)) - np.maximum(low, np.arange(count))).clip(0)

        areas = lengths(y, HEIGHT) @ bitmap @ lengths(x, WIDTH).T
        np.testing.assert_allclose(grid, areas / ((x[1] - x[0]) * (y[1] - y[0])), atol=1e-9)


def test_targets_are_the_same_from_either_side() -> None:
    bitmap = np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.5
    other = np.zeros((HEIGHT, WIDTH), bool)
    rles = [masks.encode(other), masks.encode(bitmap)]
    boxes = np.array([[3, 2, 20, 18], [0, 0, WIDTH, HEIGHT], [5, 5, 9, 9]], np.float32)
    objects = np.array([1, 1, 0])
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = WIDTH - boxes[:, [2, 0]]
    plain = masks.TruthMasks(rles).targets(objects, boxes, 6)
    turned = masks.TruthMasks(rles, mirrored=True).targets(objects, mirrored, 6)
    assert np.array_equal(plain, turned[:, :, ::-1])
    assert plain[:2].any()
    assert not plain[2].any()
    assert np.array_equal(plain[1], masks.shares(bitmap, boxes[1:2], 6)[0] >= 0.5)


def test_pasting_is_bilinear_between_the_middles_of_cells() -> None:
    """As torch's grid_sample with zeros outside, at the middles of pixels."""
    import torch
    import torch.nn.functional as F

    grid = np.random.default_rng(2).random((7, 7)).astype(np.float32)
    for box in ([3.3, 2.1, 25.7, 20.2], [-5, -3, 12, 30], [10, 10, 10.6, 10.4]):
        found, rows, columns = masks.pasted(grid, np.array(box, np.float32), HEIGHT, WIDTH)
        y, x = np.mgrid[rows, columns] + 0.5
        at = np.stack([(x - box[0]) / (box[2] - box[0]), (y - box[1]) / (box[3] - box[1])], -1) * 2 - 1
        plain = F.grid_sample(torch.from_numpy(grid)[None, None], torch.from_numpy(at)[None].float(),
                              align_corners=False)[0, 0].numpy()  # fmt: skip
        assert found.shape == plain.shape
        assert ((found == (plain >= 0.5)) | (np.abs(plain - 0.5) < 1e-5)).all()


def test_a_pasted_mask_gives_its_targets_back() -> None:
    """Shares of a box's cells, pasted into the box and cut at a half, are the object again, but for its edge."""
    y, x = np.mgrid[:200, :300]
    bitmap = (x - 140) ** 2 / 90**2 + (y - 90) ** 2 / 60**2 < 1
    box = masks.box_of(masks.encode(bitmap))
    (grid,) = masks.shares(bitmap, box[None], 28)
    rle = masks.rle_of(grid, box, 200, 300)
    assert rle["size"] == [200, 300]
    assert masks.overlap([rle], [masks.encode(bitmap)], [False])[0, 0] > 0.97


def test_nothing_is_pasted_outside_the_image() -> None:
    full = np.ones((4, 4), np.float32)
    assert masks.area_of(masks.rle_of(full, [-20, -20, -5, -5], HEIGHT, WIDTH)) == 0
    assert masks.area_of(masks.rle_of(full, [WIDTH + 3, 0, WIDTH + 9, 9], HEIGHT, WIDTH)) == 0
    beyond = masks.area_of(masks.rle_of(full, [-20, -20, WIDTH + 20, HEIGHT + 20], HEIGHT, WIDTH))
    assert beyond == HEIGHT * WIDTH


def test_overlap_with_a_crowd_is_the_share_inside() -> None:
    bitmap = np.zeros((HEIGHT, WIDTH), bool)
    bitmap[:10, :10] = True
    half = bitmap.copy()
    half[:5] = False
    a, b = masks.encode(half), masks.encode(bitmap)
    assert masks.overlap([a], [b, b], [False, True]).tolist() == [[0.5, 1.0]]
    assert masks.overlap([], [b], [False]).shape == (0, 1)
