"""Detections as others read them: COCO results JSON, and one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..stages.record import Record
from .wrap import host


def coco_results(
    record: Record, image_id: int, classes: Sequence[str], category_ids: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """COCO's results format (bbox = [x, y, width, height]), `file_name` and `category` beside the numbers.

    classes: names of labels 1..K. category_ids: their COCO numbers; the labels themselves if there are none.
    """
    numbers = tuple(category_ids) or range(1, len(classes) + 1)
    boxes, scores, labels = (host(record[f"det_{name}"]) for name in ("boxes", "scores", "labels"))
    return [
        {
            "image_id": image_id,
            "file_name": record.id,
            "category_id": int(numbers[label - 1]),
            "category": classes[label - 1],
            "bbox": [round(float(v), 3) for v in (x0, y0, x1 - x0, y1 - y0)],
            "score": float(score),
        }
        for (x0, y0, x1, y1), score, label in zip(boxes.tolist(), scores, labels.tolist())
    ]


def describe(name: str, value: Any) -> str:
    """A field in a few words: name, shape, dtype and range."""
    array = np.asarray(host(value))
    shape = " x ".join(map(str, array.shape))
    span = f", {array.min():.4g} to {array.max():.4g}" if array.size else ""
    return f"{name} {shape} {array.dtype}{span}"
