"""The only box maths. Boxes are float32 (x0, y0, x1, y1), half-open; overlap and NMS are torchvision's.

Every function takes numpy arrays or torch tensors and gives the same kind back.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# Of dw and dh: beyond, a net's error would overflow. Detectron's and torchvision's bound
LARGEST_GROWTH = math.log(1000 / 16)


def overlap(a: Any, b: Any) -> Any:
    """Intersection over union, R x T, of boxes a (R 4) and b (T 4), as torchvision.ops.box_iou."""
    import torch
    from torchvision.ops import box_iou

    if isinstance(a, torch.Tensor):
        return box_iou(a, b)
    return box_iou(torch.from_numpy(np.asarray(a, np.float32)), torch.from_numpy(np.asarray(b, np.float32))).numpy()


def coverage(boxes: Any, others: Any) -> Any:
    """Share of the area of each box (R 4) that lies inside each other box (T 4), R x T; 0 for a box without area.

    COCO's overlap with a crowd. With areas a and b and IoU o the intersection is o (a + b) / (1 + o).
    """
    lib = _lib(boxes)
    iou, own = overlap(boxes, others), area(boxes)[:, None]  # R T, R 1
    inside = iou * (own + area(others)) / (1 + iou)  # R T
    return lib.clip(inside / lib.where(own > 0, own, 1), 0, 1)


def encode(boxes: Any, targets: Any) -> Any:
    """Deltas (dx, dy, dw, dh), ... 4, that turn boxes into targets (R-CNN, appendix C, eqs. 6-9)."""
    lib = _lib(boxes)
    w, h, x, y = _centred(boxes)
    tw, th, tx, ty = _centred(targets)
    return lib.stack([(tx - x) / w, (ty - y) / h, lib.log(tw / w), lib.log(th / h)], -1)  # ... 4


def decode(boxes: Any, deltas: Any, largest: float | None = None) -> Any:
    """Boxes (... 4) moved by deltas (... 4), the inverse of `encode` (R-CNN, appendix C, eqs. 1-4).

    largest: what dw and dh are cut to.
    """
    lib = _lib(boxes)
    w, h, x, y = _centred(boxes)
    x, y = x + deltas[..., 0] * w, y + deltas[..., 1] * h
    grown = deltas[..., 2:] if largest is None else lib.clip(deltas[..., 2:], None, largest)
    w, h = w * lib.exp(grown[..., 0]), h * lib.exp(grown[..., 1])
    return lib.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)  # ... 4


def clip(boxes: Any, size: Any) -> Any:
    """Boxes (... 4) cut at the border of an image of size (H, W)."""
    lib = _lib(boxes)
    height, width = int(size[0]), int(size[1])
    x, y = lib.clip(boxes[..., 0::2], 0, width), lib.clip(boxes[..., 1::2], 0, height)
    return lib.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], -1)


def area(boxes: Any) -> Any:
    """Areas (...) in square pixels of boxes (... 4)."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _centred(boxes: Any) -> tuple[Any, Any, Any, Any]:
    w, h = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    return w, h, boxes[..., 0] + w / 2, boxes[..., 1] + h / 2


def _lib(boxes: Any) -> Any:
    if isinstance(boxes, np.ndarray):
        return np
    import torch

    return torch
