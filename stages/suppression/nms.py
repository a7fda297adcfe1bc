"""Greedy non-maximum suppression, class by class (R-CNN, section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import UserError
from ..boxes import LARGEST_GROWTH, area, clip, decode
from ..record import Record
from ..stage import Stage


def candidates(scores: Any, min_score: float | None, top: int | None) -> tuple[Any, Any]:
    """(region, class from 0) of each class's `top` best finite scores above min_score, best first.

    scores: R K. Equal scores keep the order of the regions.
    """
    import torch

    values, regions = scores.T.sort(dim=1, descending=True, stable=True)  # K R
    keep = values.isfinite() if min_score is None else values.isfinite() & (values > min_score)
    keep[:, len(scores) if top is None else top :] = False
    return regions[keep], torch.nonzero(keep)[:, 0]


def nms_per_class(boxes: Any, scores: Any, labels: Any, threshold: float) -> Any:
    """Indices of the boxes that no better box of the same class overlaps by more than `threshold`.

    One call per class: torchvision's batched_nms moves the classes apart in one float32 plane, which at 80
    classes costs the boxes their fractions and so decides overlaps near the threshold otherwise.
    """
    import torch
    from torchvision.ops import nms

    kept = [torch.zeros(0, dtype=torch.int64, device=boxes.device)]
    for label in labels.unique():
        index = torch.nonzero(labels == label)[:, 0]
        kept.append(index[nms(boxes[index], scores[index], threshold)])
    return torch.cat(kept)


def detect(
    boxes: Any,
    scores: Any,
    deltas: Any | None,
    size: Any,
    *,
    threshold: float = 0.3,
    min_score: float | None = None,
    top_per_class: int | None = 100,
    top_per_image: int | None = None,
) -> tuple[Any, Any, Any]:
    """Detections (boxes D 4, scores D, labels D in 1..K) by falling score, in the order of R-CNN's code.

    boxes: R 4. scores: R K. deltas: R K 4 or None. size: (H, W). Torch tensors in and out.
    """
    region, label = candidates(scores, min_score, top_per_class)
    found, score = boxes[region], scores[region, label]  # N 4, N
    if deltas is not None:
        found = decode(found, deltas[region, label], LARGEST_GROWTH)  # once, before suppression (appendix C)
    found = clip(found, size)
    real = area(found) > 0
    found, score, label = found[real], score[real], label[real]
    kept = nms_per_class(found, score, label, threshold)
    kept = kept[score[kept].sort(descending=True, stable=True).indices][:top_per_image]
    return found[kept], score[kept], label[kept] + 1  # 0 is background


class PerClassNMS(Stage):
    """Detections from scored proposals: box regression, then greedy NMS for each class by itself.

    threshold: a box is dropped if its IoU with a better one of its class is above this (0.3, R-CNN's code).
    min_score: only scores above this are looked at; None = all. -inf is always "not this class".
    top_per_class: best of each class and image that enter suppression (100, R-CNN's code); None = all.
    top_per_image: best over all classes that leave it (100 in Fast R-CNN); None = all.
    deltas: whether the boxes are moved by `deltas` first (R-CNN, appendix C), to 62.5 times a side at most.

    Reads `boxes`, `scores`, `size` and, if asked, `deltas`; writes `det_boxes`, `det_scores` and
    `det_labels` by falling score. Boxes that are empty inside the image are no detections.
    UserError if a box, score or delta is nan or infinite.
    """

    gives = ("det_boxes", "det_scores", "det_labels")
    version: ClassVar[int] = 2  # 2: dw and dh are cut

    def __init__(
        self,
        threshold: float = 0.3,
        min_score: float | None = None,
        top_per_class: int | None = 100,
        top_per_image: int | None = None,
        deltas: bool = True,
    ):
        self.threshold = threshold
        self.min_score = min_score
        self.top_per_class = top_per_class
        self.top_per_image = top_per_image
        self.deltas = deltas

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("boxes", "scores", "size") + (("deltas",) if self.deltas else ())

    def validate(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}, not an IoU from 0 to 1")
        for name in ("top_per_class", "top_per_image"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, not 1 or more, or None")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [self._detect(record) for record in records]

    def _detect(self, record: Record) -> dict[str, Any]:
        import torch

        names = [name for name in ("boxes", "scores", "deltas") if name in self.needs]
        given = {name: torch.as_tensor(record[name]) for name in names}
        for name, value in given.items():
            if not (value < torch.inf).all():  # -inf alone has a meaning, and nan is under nothing
                raise UserError(f"image {record.id!r}: {name} holds nan or infinity")
        found = detect(
            given["boxes"],
            given["scores"],
            given.get("deltas"),
            record["size"],
            threshold=self.threshold,
            min_score=self.min_score,
            top_per_class=self.top_per_class,
            top_per_image=self.top_per_image,
        )
        return {name: np.asarray(value.cpu()) for name, value in zip(self.gives, found)}
