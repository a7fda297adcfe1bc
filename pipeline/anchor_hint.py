"""Which anchors fit a data set: how well those of Faster R-CNN overlap its objects, and which sides would do better."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..stages.proposals.anchors import base_anchors

SIDES = (128.0, 256.0, 512.0)  # Faster R-CNN, section 3.1.1
RATIOS = (0.5, 1.0, 2.0)
STRIDE = 16  # pixels, of VGG16's and SqueezeNet's maps
SCALE, LONGEST = 600, 1000  # of the image, as the recipe enlarges it
CANDIDATES = (16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0)
POSITIVE = 0.5  # IoU from which on a proposal covers an object
MOST = 20_000  # objects that are looked at


def hint(boxes: Any, sizes: Any) -> dict[str, Any]:
    """How many objects have an anchor of IoU 0.5 or more with the paper's sides, and with the three that serve best.

    boxes: N 4, pixels. sizes: N 2, height and width of their images. Of more than 20,000 an even sample is taken.
    """
    some = np.linspace(0, len(boxes) - 1, min(len(boxes), MOST)).astype(np.int64)
    sizes = np.asarray(sizes, np.float64)[some]
    by = np.minimum(SCALE / sizes.min(1), LONGEST / sizes.max(1))
    found = {side: best_overlap(boxes[some] * by[:, None], (side,)) for side in {*CANDIDATES, *SIDES}}  # side -> N

    def of(sides: Sequence[float]) -> Any:
        return np.max([found[side] for side in sides], axis=0)

    best = max(combinations(CANDIDATES, 3), key=lambda sides: float(of(sides).mean()))
    return {
        "scale": SCALE,
        "longest": LONGEST,
        "stride": STRIDE,
        "paper": {"sides": list(SIDES), "covered": float((of(SIDES) >= POSITIVE).mean())},
        "best": {"sides": list(best), "covered": float((of(best) >= POSITIVE).mean())},
    }


def best_overlap(boxes: Any, sides: Sequence[float]) -> Any:
    """IoU of each box (N 4, enlarged pixels) with the anchor that overlaps it most, N.

    For each shape that is the anchor in the cell whose centre is nearest: a box is as far from it as cells allow.
    """
    base = base_anchors(sides, RATIOS)  # A 4
    half = (boxes[:, 2:] - boxes[:, :2]) / 2  # N 2
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    off = np.abs(centre % STRIDE - STRIDE / 2)  # N 2, from the middle of the nearest cell
    low, high = ((off + side * half)[:, None] for side in (-1, 1))  # N 1 2
    inner = np.clip(np.minimum(high, base[:, 2:]) - np.maximum(low, base[:, :2]), 0, None).prod(2)  # N A
    areas = (2 * half).prod(1)[:, None] + (base[:, 2:] - base[:, :2]).prod(1) - inner
    return (inner / areas).max(1)
