"""Bins of RoI pooling and spatial pyramids: worked examples, torchvision and adaptive pooling as oracles, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.stages.nets.bins import bin_max, pyramid_bins, roi_bins, table_max
from torchvision.ops import roi_pool

FOUR = torch.arange(16.0).reshape(1, 4, 4)


def boxes_on(rng: Any, count: int, size: tuple[int, int], beyond: float = 0.0) -> Any:
    limit = np.array([size[1], size[0]])
    corners = rng.uniform(-beyond, limit + beyond, (count, 2, 2))
    return np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)


def test_the_worked_example_of_roi_pooling() -> None:
    """Of the book that torchvision's operator is shown in: a 4 x 4 map at a tenth of the image."""
    boxes = np.array([[0, 0, 20, 20], [0, 10, 30, 30]], np.float32) * np.float32(0.1)
    found = bin_max(FOUR, roi_bins(boxes, 2, (4, 4)))[..., 0]
    assert found.tolist() == [[5, 6, 9, 10], [9, 11, 13, 15]]


def test_rounding_to_half_open_ends_is_another_rule() -> None:
    """The same book's other edition has it, and 0, 1, 4, 5 and 4, 6, 8, 10: it loses the last row and column."""
    boxes = np.array([[0, 0, 20, 20], [0, 10, 30, 30]], np.float32) * np.float32(0.1)
    assert (bin_max(FOUR, roi_bins(boxes, 2, (4, 4)))[..., 0] > torch.tensor([[0, 1, 4, 5], [4, 6, 8, 10]])).all()


@pytest.mark.parametrize("grid", [1, 2, 3, 7])
def test_roi_pooling_of_whole_cells_is_adaptive_pooling_of_the_crop(grid: int) -> None:
    """The reference module of a tutorial: shares of the map, rounded outwards, cropped and pooled adaptively."""
    rng = np.random.default_rng(grid)
    features = torch.from_numpy(rng.normal(size=(3, 14, 19)).astype(np.float32))
    shares = np.sort(rng.random((50, 2, 2)), 1).reshape(50, 4)  # x0 y0 x1 y1
    first = np.floor(shares[:, :2] * [19, 14]).astype(int)
    last = np.ceil(shares[:, 2:] * [19, 14]).astype(int)  # half-open
    plain = [torch.nn.functional.adaptive_max_pool2d(features[:, y0:y1, x0:x1], grid)
             for (x0, y0), (x1, y1) in zip(first, last)]  # fmt: skip
    found = bin_max(features, roi_bins(np.concatenate([first, last - 1], 1), grid, (14, 19)))
    torch.testing.assert_close(found.transpose(1, 2).reshape(50, 3, grid, grid), torch.stack(plain), rtol=0, atol=0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("grid", [1, 2, 6, 7])
def test_roi_pooling_is_torchvisions(seed: int, grid: int) -> None:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 30)), int(rng.integers(1, 30)))
    features = torch.from_numpy(rng.normal(size=(3, *size)).astype(np.float32))
    boxes = boxes_on(rng, 60, size, beyond=3)
    plain = roi_pool(features[None], [torch.from_numpy(boxes)], grid, 1.0)
    bins = roi_bins(boxes, grid, size)
    torch.testing.assert_close(bin_max(features, bins).transpose(1, 2).reshape(plain.shape), plain, rtol=0, atol=0)
    torch.testing.assert_close(table_max(features, torch.from_numpy(bins)), bin_max(features, bins), rtol=0, atol=0)


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_a_pyramid_is_adaptive_pooling_of_each_window(n: int) -> None:
    rng = np.random.default_rng(n)
    features = torch.from_numpy(rng.normal(size=(4, 17, 23)).astype(np.float32))
    boxes = boxes_on(rng, 40, (17, 23), beyond=2)
    found = bin_max(features, pyramid_bins(boxes, (n,), (17, 23)))
    for box, bins in zip(boxes, found):
        x0, y0 = (int(np.clip(np.floor(v) + 1, 0, limit - 1)) for v, limit in zip(box[:2], (23, 17)))
        x1, y1 = (int(np.clip(np.ceil(v) - 1, a, limit - 1)) for v, a, limit in zip(box[2:], (x0, y0), (23, 17)))
        plain = torch.nn.functional.adaptive_max_pool2d(features[:, y0 : y1 + 1, x0 : x1 + 1], n)
        torch.testing.assert_close(bins.T.reshape(plain.shape), plain, rtol=0, atol=0)


def test_a_pyramid_has_a_row_for_each_bin_of_each_level() -> None:
    bins = pyramid_bins(np.array([[0.5, 0.5, 9.5, 7.5]]), (6, 3, 2, 1), (12, 12))
    assert bins.shape == (1, 50, 4)
    assert (bins[..., 1::2] > bins[..., ::2]).all()
    assert bins[0, -1].tolist() == [1, 8, 1, 10]  # from floor(0.5) + 1 to ceil(9.5) - 1, both included


def test_no_boxes_and_bins_off_the_map() -> None:
    assert bin_max(FOUR, roi_bins(np.zeros((0, 4)), 2, (4, 4))).shape == (0, 4, 1)
    assert table_max(FOUR, torch.zeros(0, 4, 4, dtype=torch.int64)).shape == (0, 4, 1)
    assert bin_max(FOUR + 1, roi_bins(np.array([[50, 50, 60, 60]]), 2, (4, 4))).sum() == 0


@pytest.mark.parametrize("pool", ["roi_pool", "table"])
def test_gradients_go_through_the_largest_cell(pool: str) -> None:
    """By finite differences, on values so far apart that a step changes no largest one."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.permutation(2 * 7 * 9).reshape(2, 7, 9)).double().requires_grad_()
    boxes = boxes_on(rng, 5, (7, 9))
    if pool == "table":
        bins = torch.from_numpy(roi_bins(boxes, 3, (7, 9)))
        assert torch.autograd.gradcheck(lambda one: table_max(one, bins), features, eps=0.1)
    else:
        places = torch.from_numpy(boxes).double()
        assert torch.autograd.gradcheck(lambda one: roi_pool(one[None], [places], 3, 1.0), features, eps=0.1)
