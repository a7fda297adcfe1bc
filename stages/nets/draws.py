"""What joint training draws from a data set: images, either side up, and RoIs of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError
from ..boxes import encode
from ..masks import TruthMasks
from ..record import Lazy, Records
from ..sample import training_rows
from .images import remembered
from .rois import RoIs, RoISummary, drawable, drawn_count, label_rois, mirror, sample, target_statistics

TRUTH = ("truth_boxes", "truth_labels", "truth_difficult", "truth_crowd")
HELD = 4096  # images whose RoIs are in memory: half a GB at 2000 boxes each
# Targets of boxes that are proposed in training cannot be measured before: mean and deviation of the authors' code
PROPOSED = {"target_mean": np.zeros(4, np.float32), "target_std": np.array([0.1, 0.1, 0.2, 0.2], np.float32)}


class Sampling(NamedTuple):
    """How RoIs are drawn: how many of an image, the share of objects, the IoUs of objects and background, difficult."""

    rois: int
    foreground: float
    foreground_iou: float
    background_iou: Sequence[float]
    difficult: bool


class Draws:
    """A data set as joint training sees it.

    image: whether members read the image. read: features of earlier steps that they read. proposed: whether a member
    gives the boxes, so that RoIs are drawn when it has (`sampled`). masks: whether members learn from masks. memory:
    GB of images or features that are kept.
    UserError if there is no object to learn from.
    """

    def __init__(self, records: Records, sampling: Sampling, *, image: bool, read: Sequence[str], proposed: bool,
                 memory: float, device: Any, masks: bool = False):  # fmt: skip
        self.masks = masks
        self.records, self.sampling, self.proposed, self.device = records, sampling, proposed, device
        self.rois = lru_cache(HELD)(self._rois)
        self.summaries = [self._summary(i) for i in range(len(records))]
        if not any(len(one.targets) for one in self.summaries):
            boxes, images = sum(one.boxes for one in self.summaries), len(self.summaries)
            none = "there is no object" if proposed else f"of {boxes} boxes none is on an object"
            raise UserError(f"Jointly: {none} in {images} images")
        self.usable = np.flatnonzero([one.drawn > 0 for one in self.summaries])
        self.images = remembered(self._image, len(records), memory) if image else None
        self.rows = {name: remembered(self._reader(name), len(records), memory / len(read)) for name in read}

    def first(self) -> int:
        """The first image with an object."""
        return next(i for i, one in enumerate(self.summaries) if len(one.targets))

    def statistics(self, mirrored: bool) -> dict[str, Any]:
        """Mean and deviation (4 each) of what boxes learn; mirrored: whether images are, too."""
        return dict(PROPOSED) if self.proposed else target_statistics([one.targets for one in self.summaries], mirrored)

    def shares(self, chosen: Sequence[int]) -> list[float]:
        """What the losses of each image of a batch, means over its RoIs, weigh in it."""
        if self.proposed:
            return [1 / len(chosen)] * len(chosen)
        counts = [drawn_count(self.rois(i), self.sampling.rois, self.sampling.foreground) for i in chosen]
        return [count / sum(counts) for count in counts]

    def of(self, i: int, mirrored: bool, generator: Any) -> dict[str, Any]:
        """The fields of image i: image and size, truth, and where no member proposes, features and sampled RoIs."""
        record = self.records[i]
        fields: dict[str, Any] = {name: record[name] for name in TRUTH}
        if self.masks:
            fields["truth_masks"] = TruthMasks(record["truth_masks"], mirrored)
        if self.images:
            image = self.images(i)
            fields |= {"image": image, "size": np.array(image.shape[:2])}
            if mirrored:
                fields["image"] = np.ascontiguousarray(image[:, ::-1])
                fields["truth_boxes"] = mirror(fields["truth_boxes"], image.shape[1])
        if self.proposed:
            return fields
        rois = self.rois(i)
        chosen = sample(rois, self.sampling.rois, self.sampling.foreground, generator)
        return {**fields, **self._features(i, chosen), **drawn(rois, chosen, image.shape[1] if mirrored else None)}

    def sampled(self, fields: Mapping[str, Any], generator: Any) -> dict[str, Any]:
        """RoIs of the boxes that a member proposed, and of the truth."""
        boxes = fields["boxes"]
        rois = self._label({**fields, "boxes": boxes.value() if isinstance(boxes, Lazy) else boxes})
        return drawn(rois, sample(rois, self.sampling.rois, self.sampling.foreground, generator), None)

    def _rois(self, i: int) -> RoIs:
        return self._label(self.records[i])

    def _label(self, fields: Mapping[str, Any]) -> RoIs:
        sampling = self.sampling
        return label_rois(fields, sampling.difficult, sampling.foreground_iou, sampling.background_iou)

    def _summary(self, i: int) -> RoISummary:
        if not self.proposed:
            return RoISummary.of(self.rois(i))
        record = self.records[i]
        alone = self._label({**{name: record[name] for name in TRUTH}, "boxes": np.zeros((0, 4), np.float32)})
        return RoISummary.of(alone)._replace(drawn=1)  # an image without objects has background

    def _image(self, i: int) -> Any:
        return np.asarray(self.records[i]["image"])

    def _reader(self, name: str) -> Any:
        layer = name.removeprefix("features.")
        return lambda i: training_rows(self.records[i], layer, drawable(self.rois(i)))

    def _features(self, i: int, chosen: Any) -> dict[str, Any]:
        """Of the chosen RoIs (n) the features of earlier steps, n F, on the device."""
        import torch

        at = np.searchsorted(drawable(self.rois(i)), chosen) if self.rows else None
        return {name: torch.from_numpy(rows(i)[at]).to(self.device, torch.float32) for name, rows in self.rows.items()}


def drawn(rois: RoIs, chosen: Any, mirrored_at: int | None) -> dict[str, Any]:
    """sampled_boxes (n 4, pixels), roi_labels (n), roi_objects (n: which annotated object, or -1), roi_targets (n 4).

    mirrored_at: the image's width if mirrored.
    """
    boxes, truth = rois.box[chosen], rois.truth[chosen]
    if mirrored_at is not None:
        boxes, truth = (mirror(one, mirrored_at) for one in (boxes, truth))
    label, targets = rois.label[chosen], np.zeros((len(chosen), 4), np.float32)
    targets[label > 0] = encode(boxes[label > 0].astype(np.float32), truth[label > 0].astype(np.float32))
    return {"sampled_boxes": boxes, "roi_labels": label, "roi_objects": rois.object[chosen], "roi_targets": targets}
