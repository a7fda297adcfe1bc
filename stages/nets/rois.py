"""The boxes of an image that training draws from, and what each of them is to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..boxes import encode
from ..sample import best_truths, training_boxes, truth_overlaps, usable_truths


class RoIs(NamedTuple):
    """The boxes of an image to draw from.

    box: R 4, pixels. label: R, 0 is background. object: R, which of the annotated ones it is, -1 for background.
    truth: R 4, the box of this object, or its own. foreground, background: indices.
    """

    box: Any
    label: Any
    object: Any
    truth: Any
    foreground: Any
    background: Any


def label_rois(record: Any, difficult: bool, foreground: float, background: Sequence[float]) -> RoIs:
    """What each annotated box and proposal of an image is to training.

    foreground: IoU with an object from which on a box is one. background: least and largest IoU of those that are none
    (Fast R-CNN, section 2.3: the least one stands for mining hard examples); if no box lies there, all under the
    largest. A box that lies so much in a crowd, or on an object that does not count, is neither.
    """
    boxes = training_boxes(record)
    usable = usable_truths(record, difficult)  # T
    best, iou = best_truths(boxes, record["truth_boxes"][usable])  # R, R
    near = truth_overlaps(boxes, record["truth_boxes"], record["truth_crowd"])[:, ~usable].max(1, initial=0)
    positive = iou >= foreground
    rest = ~positive & (near < foreground) & (iou < background[1])
    hard = rest & (iou >= background[0])
    label, object = np.zeros(len(boxes), np.int64), np.full(len(boxes), -1, np.int64)
    truth = boxes.copy()
    if usable.any():
        object[positive] = np.flatnonzero(usable)[best[positive]]
        label[positive] = record["truth_labels"][object[positive]]
        truth[positive] = record["truth_boxes"][object[positive]]
    return RoIs(boxes, label, object, truth, np.flatnonzero(positive), np.flatnonzero(hard if hard.any() else rest))


def sample(rois: RoIs, count: int, share: float, generator: Any) -> Any:
    """Indices of `count` RoIs, at most, a `share` of them foreground, at most, without one coming twice."""
    return draw(rois.foreground, rois.background, count, share, generator)


def draw(positive: Any, negative: Any, count: int, share: float, generator: Any) -> Any:
    """`count` of these, at most, a `share` of them positive, at most; negative ones fill what these leave."""
    import torch

    def some(of: Any, most: int) -> Any:
        return of[torch.randperm(len(of), generator=generator)[: max(most, 0)].numpy()]

    few = some(positive, round(count * share))
    return np.concatenate([few, some(negative, count - len(few))])


def drawn_count(rois: RoIs, count: int, share: float) -> int:
    """How many `sample` draws."""
    positive = min(len(rois.foreground), round(count * share))
    return positive + min(len(rois.background), max(count - positive, 0))


def drawable(rois: RoIs) -> Any:
    """Indices of the RoIs that can be drawn, rising."""
    return np.sort(np.concatenate([rois.foreground, rois.background]))


class RoISummary(NamedTuple):
    """What is kept of an image's RoIs from the first pass: how many boxes, how many can be drawn, and what boxes learn.

    targets: n 4, the deltas of its foreground.
    """

    boxes: int
    drawn: int
    targets: Any

    @classmethod
    def of(cls, rois: RoIs) -> RoISummary:
        targets = encode(rois.box[rois.foreground], rois.truth[rois.foreground])
        return cls(len(rois.box), len(rois.foreground) + len(rois.background), targets)


def target_statistics(targets: Sequence[Any], mirrored: bool) -> dict[str, Any]:
    """Mean and deviation (4 each) of deltas (n 4 an image; section 2.3: targets are normalised).

    mirrored: whether each stands for its mirror image too.
    """
    known = np.concatenate(list(targets)).astype(np.float64)
    if mirrored:
        known = np.concatenate([known, known * [-1, 1, 1, 1]])
    return {
        "target_mean": known.mean(0).astype(np.float32),
        "target_std": np.maximum(known.std(0), 0.01).astype(np.float32),
    }


def mirror(boxes: Any, width: int) -> Any:
    """Boxes (n 4, pixels) in the mirror image of one so many pixels wide."""
    out = boxes.copy()
    out[:, 0], out[:, 2] = width - boxes[:, 2], width - boxes[:, 0]
    return out
