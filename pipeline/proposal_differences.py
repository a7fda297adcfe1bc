"""How much more one proposal stage covers than another, with a paired bootstrap over images (`rcnn proposals`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .measure import Overlaps
from .tables import Table

IOUS = (0.5, 0.7, 0.9)
RESAMPLES = 1000


def difference(first: Any, second: Any, objects: Any, seed: int = 0) -> dict[str, Any]:
    """How much larger the recall of `second` is than that of `first`, 95 %.

    first, second: T, whether each object is covered; those of an image together. objects: N, how many each image has.
    Returns {"difference", "low", "high", "resolved": whether the interval excludes 0}. A resample without an object
    counts for nothing.
    """
    image = np.repeat(np.arange(len(objects)), objects)  # T
    gain = np.bincount(image, np.asarray(second, float) - np.asarray(first, float), len(objects))  # N
    drawn = np.random.default_rng(seed).multinomial(len(objects), np.full(len(objects), 1 / len(objects)), RESAMPLES)
    there = drawn @ np.asarray(objects)
    low, high = np.percentile((drawn @ gain)[there > 0] / there[there > 0], [2.5, 97.5])
    low, high = (0.0 if abs(end) < 1e-12 else float(end) for end in (low, high))  # sums of what cancels
    return {"difference": float(gain.sum() / len(image)), "low": low, "high": high, "resolved": low > 0 or high < 0}


def against_first(
    found: Sequence[tuple[str, Overlaps]], objects: Any, tops: Sequence[int | None], at: Sequence[int]
) -> list[dict[str, Any]]:
    """Rows of each stage but the first: its first boxes against as many of the first stage's, and against the most.

    found: names and overlaps, of `tops` boxes each. objects: N, of each image. at: numbers of boxes, among `tops`.
    """
    base = found[0][1].best
    rows = []
    for name, overlaps in found[1:]:
        for count in at:
            for other in dict.fromkeys((count, max(at))):
                one, two = base[tops.index(other)], overlaps.best[tops.index(count)]
                row = {str(iou): difference(one >= iou, two >= iou, objects) for iou in IOUS}
                rows.append({"stage": name, "boxes": count, "against_boxes": other, "recall": row})
    return rows


def table(rows: Sequence[dict[str, Any]], first: str) -> Table:
    """The rows, and what their intervals mean."""
    head = ["stage", "boxes", f"of {first}", *(f"IoU {iou}" for iou in IOUS)]
    lines = [[row["stage"], str(row["boxes"]), str(row["against_boxes"]), *map(_said, row["recall"].values())]
             for row in rows]  # fmt: skip
    said = "95 % of 1000 paired resamples of the images; * excludes 0, the others are not resolved"
    return Table(f"difference in recall, against {first}", head, lines, said, words=(3, 4, 5))


def _said(one: dict[str, Any]) -> str:
    return f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f}){' *' if one['resolved'] else ''}"
