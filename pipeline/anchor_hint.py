"""Which anchors fit a data set: how well those of Faster R-CNN overlap its objects, and which sides would do better."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..stages.proposals.anchors import RATIOS, SIDES, nearest_overlap

STRIDE = 16  # pixels, of VGG16's and SqueezeNet's maps
SCALE, LONGEST = 600, 1000  # of the image, as the recipe enlarges it
CANDIDATES = (16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0)
COVERED = 0.5  # IoU from which on a proposal covers an object
MOST = 20_000  # objects that are looked at


def hint(boxes: Any, sizes: Any) -> dict[str, Any]:
    """How many objects have an anchor of IoU 0.5 or more with the paper's sides, and with the three that serve best.

    boxes: N 4, pixels. sizes: N 2, height and width of their images. Of more than 20,000 an even sample is taken.
    """
    some = np.linspace(0, len(boxes) - 1, min(len(boxes), MOST)).astype(np.int64)
    sizes = np.asarray(sizes, np.float64)[some]
    by = np.minimum(SCALE / sizes.min(1), LONGEST / sizes.max(1))
    found = {
        side: nearest_overlap(boxes[some] * by[:, None], (side,), RATIOS, STRIDE) for side in {*CANDIDATES, *SIDES}
    }  # side -> N

    def of(sides: Sequence[float]) -> Any:
        return np.max([found[side] for side in sides], axis=0)

    best = max(combinations(CANDIDATES, 3), key=lambda sides: float(of(sides).mean()))
    return {
        "scale": SCALE,
        "longest": LONGEST,
        "stride": STRIDE,
        "paper": {"sides": list(SIDES), "covered": float((of(SIDES) >= COVERED).mean())},
        "best": {"sides": list(best), "covered": float((of(best) >= COVERED).mean())},
    }
