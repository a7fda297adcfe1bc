"""Warped crops against a per-pixel reading of the paper's procedure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rcnn.stages.nets import crops as module
from rcnn.stages.nets.crops import normalised, warp, windows

MEAN = (0.485, 0.456, 0.406)
NO_STD = (1 / 255,) * 3  # crops in 0..255 units


def matlab_round(x: float) -> int:
    return int(math.floor(abs(x) + 0.5) * (1 if x >= 0 else -1))


def oracle(image: np.ndarray, box: np.ndarray, side: int, padding: int, mode: str) -> np.ndarray:
    """One crop, pixel by pixel, in the released code's own terms: 1-based, inclusive, mean subtracted."""
    height, width = image.shape[:2]
    left, top, right, bottom = float(box[0]) + 1, float(box[1]) + 1, float(box[2]), float(box[3])
    if padding == 0 and mode == "warp":
        left, top, right, bottom = (matlab_round(v) for v in (left, top, right, bottom))
    else:
        half_w, half_h = (right - left + 1) / 2, (bottom - top + 1) / 2
        cx, cy = left + half_w, top + half_h
        if mode == "square":
            half_w = half_h = max(half_w, half_h)
        grow = side / (side - 2 * padding)
        left, right = matlab_round(cx - half_w * grow), matlab_round(cx + half_w * grow)
        top, bottom = matlab_round(cy - half_h * grow), matlab_round(cy + half_h * grow)
    crop = np.zeros((side, side, 3))
    spans = []
    for a, b, limit in ((left, right, width), (top, bottom, height)):
        full = b - a + 1
        ca, cb = max(1, a), min(limit, b)
        if cb < ca:
            return crop
        scale = side / full
        pad = matlab_round(max(0, 1 - a) * scale)
        length = min(matlab_round((cb - ca + 1) * scale), side - pad)
        if length <= 0:
            return crop
        spans.append((ca, cb - ca + 1, pad, length))
    (x0, nx, px, wx), (y0, ny, py, wy) = spans

    def taps(i: int, n: int, length: int) -> tuple[int, int, float]:
        at = min(max((i + 0.5) * n / length - 0.5, 0), n - 1)
        low = int(at)
        return low, min(low + 1, n - 1), at - low

    mean = 255 * np.array(MEAN)
    for i in range(wy):
        r0, r1, v = taps(i, ny, wy)
        for j in range(wx):
            c0, c1, u = taps(j, nx, wx)
            p = image[[[y0 - 1 + r0], [y0 - 1 + r1]], [[x0 - 1 + c0, x0 - 1 + c1]]].astype(float)  # 2 2 3
            value = (1 - v) * ((1 - u) * p[0, 0] + u * p[0, 1]) + v * ((1 - u) * p[1, 0] + u * p[1, 1])
            crop[py + i, px + j] = value - mean
    return crop


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def some_boxes(height: int, width: int, count: int, seed: int) -> np.ndarray:
    """Inside, over every border, fractional and whole, thin, empty and far outside."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(-0.3, 1.1, (count, 2)) * (width, height)
    b = a + rng.uniform(0.5, 60, (count, 2))
    boxes = np.concatenate([a, b], 1)
    boxes[::2] = np.round(boxes[::2])
    special = [[5, 5, 5, 9], [0, 0, width, height], [-90, 3, -50, 20], [width + 40, 0, width + 90, 9],
               [7, 7, 8, 8], [2.5, 3.5, 10.5, 12.5], [-500, -500, 4, 4]]  # fmt: skip
    return np.concatenate([boxes, special]).astype(np.float32)


@pytest.mark.parametrize("path", ["opencv", "torch"])
@pytest.mark.parametrize("mode", ["warp", "square"])
@pytest.mark.parametrize("padding", [0, 4, 16])
def test_the_warp_is_the_papers(path: str, mode: str, padding: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "torch":
        monkeypatch.setattr(module, "_cv2", lambda: None)
    else:
        pytest.importorskip("cv2")
    side, image = 48, drawn(50, 70)
    boxes = some_boxes(50, 70, 25, seed=padding)
    crops = warp(normalised(image, MEAN, NO_STD), windows(boxes, (50, 70), side, padding, mode), side)
    for box, crop in zip(boxes, crops):
        expected = oracle(image, box, side, padding, mode)
        np.testing.assert_allclose(crop.permute(1, 2, 0).numpy(), expected, atol=1e-3, err_msg=str(box))


def test_both_paths_agree_at_the_real_size() -> None:
    pytest.importorskip("cv2")
    image, boxes = normalised(drawn(375, 500), MEAN, NO_STD), some_boxes(375, 500, 20, seed=3)
    boxes[:, 2:] += np.random.default_rng(1).uniform(0, 300, (len(boxes), 2)).astype(np.float32)
    places = windows(boxes, (375, 500), 227)
    gap = module._warp_each(image, places, 227, torch.float32) - module._warp_all(image, places, 227)
    assert gap.abs().max() < 0.02  # pure noise, 500 pixels wide: float32 places are good to 1e-5 pixels and more


def test_no_padding_is_a_plain_crop() -> None:
    image = drawn(40, 40)
    crop = warp(normalised(image, (0, 0, 0), NO_STD), windows([[3, 5, 23, 25]], (40, 40), 20, 0), 20)[0]
    np.testing.assert_allclose(crop.permute(1, 2, 0), image[5:25, 3:23], atol=1e-3)


def test_windows_of_a_worked_example() -> None:
    """A 195-pixel box at 227 with context 16: scale 227/195 makes its window 227, plus one."""
    place = windows([[100, 100, 295, 295]], (600, 600), 227)[0].tolist()
    assert place == [84, 84, 312, 312, 0, 0, 227, 227]


def test_windows_of_no_boxes() -> None:
    assert windows(np.zeros((0, 4), np.float32), (10, 10), 8, 0).shape == (0, 8)


def test_crops_are_channels_last_of_the_asked_type() -> None:
    places = windows([[0, 0, 9, 9], [2, 2, 30, 30]], (20, 20), 16, 2)
    crops = warp(normalised(drawn(20, 20), MEAN, NO_STD), places, 16, torch.bfloat16)
    assert crops.dtype == torch.bfloat16
    assert crops.shape == (2, 3, 16, 16)
    assert crops.is_contiguous(memory_format=torch.channels_last)
