"""Anchors: the boxes that a region proposal network refines (Ren, He, Girshick, Sun: Faster R-CNN, section 3.1.1).

Here they are in pixels of the image as the net sees it, enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..boxes import overlap

STYLES = ("paper", "torchvision")
SIDES, RATIOS = (128.0, 256.0, 512.0), (0.5, 1.0, 2.0)  # section 3.1.1
PYRAMID_SIDES = (32.0, 64.0, 128.0, 256.0, 512.0)  # of P2 to P6 (Lin et al., FPN, section 4.1)


def base_anchors(sides: Sequence[float], ratios: Sequence[float], style: str = "paper") -> Any:
    """Boxes (A 4) round 0 of each ratio (height to width) and each side's area, the sides of the first ratio first.

    style: "torchvision" rounds their borders to whole pixels.
    """
    root = np.sqrt(np.repeat(np.asarray(ratios, np.float32), len(sides)))
    side = np.tile(np.asarray(sides, np.float32), len(ratios))
    half = np.stack([1 / root * side, root * side], 1) / 2  # A 2, x and y
    return np.concatenate([-half, half], 1).round() if style == "torchvision" else np.concatenate([-half, half], 1)


def anchors_on(base: Any, cells: Sequence[int], stride: Sequence[float], style: str = "paper") -> Any:
    """The anchors of a map, (h w A) 4 float32: row by row, those of a cell together.

    base: A 4. cells: h and w. stride: 2, pixels from a cell to the next, x and y. An anchor is centred on the middle of
    its cell's stride, as in the authors' code; in the style "torchvision" on its corner.
    """
    middle = 0.0 if style == "torchvision" else 0.5
    rows, columns = (np.arange(n, dtype=np.float32) + np.float32(middle) for n in cells)
    y, x = np.meshgrid(rows * np.float32(stride[1]), columns * np.float32(stride[0]), indexing="ij")  # h w
    return (np.stack([x, y, x, y], -1).reshape(-1, 1, 4) + base).reshape(-1, 4)


def nearest_overlap(boxes: Any, sides: Sequence[float], ratios: Sequence[float], stride: float) -> Any:
    """IoU of each box (N 4) with the anchor that overlaps it most, N, on a map that has no end.

    For each shape that is the anchor in the cell whose middle is nearest to the box's.
    """
    base = base_anchors(sides, ratios)  # A 4
    half = (boxes[:, 2:] - boxes[:, :2]) / 2  # N 2
    off = np.abs((boxes[:, :2] + half) % stride - stride / 2)  # N 2, from the middle of the nearest cell
    low, high = ((off + side * half)[:, None] for side in (-1, 1))  # N 1 2
    inner = np.clip(np.minimum(high, base[:, 2:]) - np.maximum(low, base[:, :2]), 0, None).prod(2)  # N A
    union = (2 * half).prod(1)[:, None] + (base[:, 2:] - base[:, :2]).prod(1) - inner
    return (inner / union).max(1)


def inside(boxes: Any, size: Sequence[float]) -> Any:
    """Which boxes (n 4) no border of an image of (H, W) cuts."""
    return (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] <= size[1]) & (boxes[:, 3] <= size[0])


def label_anchors(anchors: Any, truth: Any, positive: float, negative: float, best: bool) -> tuple[Any, Any]:
    """Labels (n: 1 object, 0 background, -1 neither) of anchors (n 4), and the truth (T 4) that each overlaps most.

    positive: IoU from which on an anchor is an object. negative: IoU, with every truth, below which it is background.
    best: whether the anchors of the highest IoU with a truth are objects too, all of them if several are (3.1.2).
    """
    if not len(truth) or not len(anchors):
        return np.zeros(len(anchors), np.int64), np.zeros(len(anchors), np.int64)
    iou = overlap(anchors, truth)  # n T
    most = iou.max(1)
    labels = np.full(len(anchors), -1, np.int64)
    labels[most < negative] = 0
    if best:
        highest = iou.max(0)
        labels[((iou >= highest) & (highest > 0)).any(1)] = 1
    labels[most >= positive] = 1
    return labels, iou.argmax(1)
