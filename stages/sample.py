"""The only sampling maths: labels by overlap, the rows that training sees, and the scale of features.

Pure functions on numpy arrays. In training an image's rows are its annotated boxes, then its proposals, as
in the authors' feature files; at use only the proposals exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import UserError
from .boxes import coverage, overlap
from .record import Records

SAMPLE = 200  # images, and rows of each, that the scale is measured on (rcnn_feature_stats.m)
CHUNK = 512  # rows converted to float32 at a time: 36 MB at 18,432 features


def truth_overlaps(boxes: Any, truth_boxes: Any, crowd: Any) -> Any:
    """Overlap of each box with each annotated box, R T: IoU, and for a crowd the share of the box inside it.

    A crowd stands for many objects, so the IoU with its whole box says little of one of them; COCO's evaluation
    ignores detections in a crowd by the same share. boxes: R 4 and truth_boxes: T 4, pixels; crowd: T bool.
    """
    overlaps = overlap(boxes, truth_boxes)  # R T
    overlaps[:, crowd] = coverage(boxes, truth_boxes[crowd])
    return overlaps


def class_overlaps(boxes: Any, truth_boxes: Any, truth_labels: Any, crowd: Any, classes: int) -> Any:
    """Best of `truth_overlaps` of each box with the annotated boxes of each class, R K; 0 where a class has none.

    boxes: R 4 and truth_boxes: T 4, pixels; truth_labels: T, 1..K; crowd: T bool; classes: K.
    """
    best = np.zeros((len(boxes), classes), np.float32)  # R K
    overlaps = truth_overlaps(boxes, truth_boxes, crowd)  # R T
    for column, label in enumerate(truth_labels):
        np.maximum(best[:, label - 1], overlaps[:, column], out=best[:, label - 1])
    return best


def best_truths(boxes: Any, truth_boxes: Any) -> tuple[Any, Any]:
    """Index of the annotated box that each box overlaps most, R, and that overlap, R; 0 and 0 without any.

    Of equal overlaps the first counts. boxes: R 4 and truth_boxes: T 4, pixels.
    """
    if not len(truth_boxes):
        return np.zeros(len(boxes), np.int64), np.zeros(len(boxes), np.float32)
    iou = overlap(boxes, truth_boxes)  # R T
    best = iou.argmax(1)  # R
    return best, iou[np.arange(len(boxes)), best]


def usable_truths(record: Any, difficult: bool) -> Any:
    """Which annotated boxes show one object to learn from, T: no crowd, and difficult ones if asked for."""
    return ~record["truth_crowd"] & (difficult | ~record["truth_difficult"])


def training_boxes(record: Any) -> Any:
    """Annotated boxes, then proposals, (T + R) 4; reads `truth_boxes` and `boxes`."""
    return np.concatenate([record["truth_boxes"], record["boxes"]])


def training_features(record: Any, layer: str) -> Any:
    """Features of the rows of `training_boxes`, (T + R) F; reads `truth_features.*` and `features.*`."""
    return np.concatenate([record["truth_features." + layer], record["features." + layer]])


def training_rows(record: Any, layer: str, rows: Any) -> Any:
    """These rows (n) of `training_features`, n F, without making the others."""
    truth, proposals = record["truth_features." + layer], record["features." + layer]
    annotated = rows < len(truth)
    out = np.empty((len(rows), proposals.shape[1]), np.result_type(truth, proposals))
    out[annotated] = truth[rows[annotated]]
    out[~annotated] = proposals[rows[~annotated] - len(truth)]
    return out  # n F


def feature_scale(records: Records, layer: str, norm: float, random_state: int) -> float:
    """The number that brings `training_features` to a mean L2 norm of `norm`, from a seeded sample of images and rows.

    Reads each sampled image once, in their order. norm: 20 in the paper's code, where C was first searched on features
    of about that norm. UserError if the sample has no row, or nothing but zeros.
    """
    rng = np.random.default_rng(random_state)
    sample = np.sort(rng.permutation(len(records))[:SAMPLE])
    norms = [row_norms(_some_rows(training_features(records[int(i)], layer), rng)) for i in sample]
    mean = float(np.concatenate(norms).mean()) if sum(map(len, norms)) else 0.0
    if not (np.isfinite(mean) and mean > 0):
        raise UserError(f"the features of {len(sample)} sampled images cannot be scaled: their mean norm is {mean}")
    return norm / mean


def row_norms(features: Any) -> Any:
    """L2 norm of each row, R float64, of features R F; float16 would overflow at 256."""
    return np.linalg.norm(features.astype(np.float32), axis=1).astype(np.float64)


def chunks(features: Any) -> Iterator[tuple[slice, Any]]:
    """Features R F in float32, CHUNK rows at a time, each with the slice of rows that it holds."""
    for start in range(0, len(features), CHUNK):
        rows = slice(start, start + CHUNK)
        yield rows, features[rows].astype(np.float32, copy=False)


def affine(features: Any, scale: float, weights: Any, bias: Any) -> Any:
    """features * scale @ weights + bias, R M float32; features R F of any float type, weights F M, bias M."""
    out = np.empty((len(features), weights.shape[1]), np.float32)
    for rows, block in chunks(features):
        out[rows] = block @ weights * np.float32(scale) + bias
    return out  # R M


def _some_rows(features: Any, rng: np.random.Generator) -> Any:
    return features[np.sort(rng.permutation(len(features))[:SAMPLE])]
