"""Detections as others read them: COCO results JSON, and one line of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..stages.masks import rle_of
from ..stages.record import Record
from .wrap import host


def coco_results(
    record: Record, image_id: int, classes: Sequence[str], category_ids: Sequence[int] = ()
) -> list[dict[str, Any]]:
    """COCO's results format (bbox = [x, y, width, height]), `file_name` and `category` beside the numbers.

    Detections with masks have a `segmentation` too, a compressed RLE; then the record holds `size`.
    classes: names of labels 1..K. category_ids: their COCO numbers; the labels themselves if there are none.
    """
    numbers = tuple(category_ids) or range(1, len(classes) + 1)
    boxes, scores, labels = (host(record[f"det_{name}"]) for name in ("boxes", "scores", "labels"))
    masks = list(_segmentations(record)) if "det_masks" in record else [{}] * len(labels)
    return [
        {
            "image_id": image_id,
            "file_name": record.id,
            "category_id": int(numbers[label - 1]),
            "category": classes[label - 1],
            "bbox": [round(float(v), 3) for v in (x0, y0, x1 - x0, y1 - y0)],
            "score": float(score),
            **mask,
        }
        for (x0, y0, x1, y1), score, label, mask in zip(boxes.tolist(), scores, labels.tolist(), masks)
    ]


def _segmentations(record: Record) -> Iterator[dict[str, Any]]:
    """Of each detection its mask as COCO's JSON has it."""
    height, width = (int(side) for side in host(record["size"]))
    for mask, box in zip(host(record["det_masks"]), host(record["det_boxes"])):
        rle = rle_of(mask, box, height, width)
        yield {"segmentation": {"size": [height, width], "counts": rle["counts"].decode()}}


def describe(name: str, value: Any) -> str:
    """A field in a few words: name, shape, dtype and range."""
    array = np.asarray(host(value))
    shape = " x ".join(map(str, array.shape))
    span = f", {array.min():.4g} to {array.max():.4g}" if array.size else ""
    return f"{name} {shape} {array.dtype}{span}"
