"""Anchors: the boxes that a region proposal network refines (Ren, He, Girshick, Sun: Faster R-CNN, section 3.1.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..boxes import overlap


def base_anchors(sides: Sequence[float], ratios: Sequence[float]) -> Any:
    """Boxes (A 4) round 0 of each side's area and each ratio (height to width), the ratios of the first side first."""
    side, ratio = (
        np.repeat(np.asarray(sides, np.float64), len(ratios)),
        np.tile(np.asarray(ratios, np.float64), len(sides)),
    )
    half = np.stack([side / np.sqrt(ratio), side * np.sqrt(ratio)], 1) / 2  # A 2, x and y
    return np.concatenate([-half, half], 1)


def anchors_on(base: Any, cells: Sequence[int], cells_a_pixel: Any, enlarged: Any) -> Any:
    """The anchors of a map, (h w A) 4 float32 in pixels of the image: row by row, those of a cell together.

    base: A 4, in pixels of what the net saw. cells: h and w. cells_a_pixel: 2, x and y. enlarged: 2, pixels that the
    net saw to a pixel of the image, x and y. An anchor is centred on the middle of its cell's stride, as the authors'.
    """
    rows, columns = np.arange(cells[0]) + 0.5, np.arange(cells[1]) + 0.5
    y, x = np.meshgrid(rows / cells_a_pixel[1], columns / cells_a_pixel[0], indexing="ij")  # h w
    centres = np.stack([x, y, x, y], -1).reshape(-1, 1, 4)
    return (centres + base / np.tile(np.asarray(enlarged, np.float64), 2)).reshape(-1, 4).astype(np.float32)


def inside(boxes: Any, size: Sequence[int]) -> Any:
    """Which boxes (n 4) no border of an image of (H, W) cuts."""
    return (boxes[:, :2] >= 0).all(1) & (boxes[:, 2] <= size[1]) & (boxes[:, 3] <= size[0])


def label_anchors(anchors: Any, truth: Any, positive: float, negative: float, best: bool) -> tuple[Any, Any]:
    """Labels (n: 1 object, 0 background, -1 neither) of anchors (n 4), and the truth (T 4) that each overlaps most.

    positive: IoU from which on an anchor is an object. negative: IoU, with every truth, below which it is background.
    best: whether the anchors of the highest IoU with a truth are objects too, all of them if several are (3.1.2).
    """
    labels = np.full(len(anchors), -1, np.int64)
    if not len(truth):
        return np.zeros(len(anchors), np.int64), np.zeros(len(anchors), np.int64)
    iou = overlap(anchors, truth)  # n T
    most = iou.max(1)
    labels[most < negative] = 0
    if best:
        highest = iou.max(0)
        labels[((iou >= highest - 1e-6) & (highest > 0)).any(1)] = 1
    labels[most >= positive] = 1
    return labels, iou.argmax(1)
