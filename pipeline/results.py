"""Detections as others read them: COCO results JSON, and one line of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..stages.record import Record
from .wrap import host


def coco_results(record: Record, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """COCO's results format (bbox = [x, y, width, height]) with `file_name` beside `image_id`.

    category_ids: of labels 1..K; default the labels themselves.
    """
    boxes, scores, labels = (host(record[f"det_{name}"]) for name in ("boxes", "scores", "labels"))
    return [
        {
            "image_id": image_id,
            "file_name": record.id,
            "category_id": int(label) if category_ids is None else int(category_ids[label - 1]),
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
