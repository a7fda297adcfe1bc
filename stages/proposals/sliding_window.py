"""Dense windows over scales and aspect ratios: the proposals that need no image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..record import Record
from ..stage import Stage


def windows(size: Any, side: float, ratio: float, stride: float) -> Any:
    """All windows (R 4, float32, row by row) of one shape inside an image of size (H, W).

    side: square root of the area, in pixels. ratio: height / width. stride: largest step between
    neighbours, as a share of the window's own width and height. The outermost windows touch the border
    on all sides; a shape that does not fit gives none.
    """
    height, width = side * ratio**0.5, side / ratio**0.5
    tops, lefts = _starts(int(size[0]), height, stride), _starts(int(size[1]), width, stride)
    y, x = (grid.ravel() for grid in np.meshgrid(tops, lefts, indexing="ij"))
    return np.stack([x, y, x + width, y + height], -1).astype(np.float32)


def _starts(length: int, window: float, stride: float) -> Any:
    """Evenly spaced places for a window on a line, both ends included; none if it is longer than the line."""
    room = length - window
    if room < 0:
        return np.zeros(0)
    return np.linspace(0, room, int(np.ceil(room / (stride * window))) + 1)


class SlidingWindow(Stage):
    """Dense windows, the proposals of the detectors before R-CNN (Dalal and Triggs, CVPR 2005, section 6).

    scales: square roots of the windows' areas, pixels. ratios: height / width.
    stride: largest step, as a share of the window's width and height.
    top: how many are kept, the largest first; None = all.

    Reads `size`; writes `boxes` and `objectness` (falling with the rank, which is by size alone).
    """

    needs = ("size",)
    gives = ("boxes", "objectness")
    ranked = False  # by size alone, whatever the image shows

    def __init__(
        self,
        scales: Sequence[float] = (32, 64, 128, 256, 512),
        ratios: Sequence[float] = (0.5, 1, 2),
        stride: float = 0.25,
        top: int | None = None,
    ):
        self.scales = scales
        self.ratios = ratios
        self.stride = stride
        self.top = top

    def validate(self) -> None:
        for name in ("scales", "ratios"):
            values = getattr(self, name)
            if not values or min(values) <= 0:
                raise ValueError(f"{name} is {values!r}, not a row of positive numbers")
        if self.stride <= 0:
            raise ValueError(f"stride is {self.stride}, not a positive share of the window")
        if self.top is not None and self.top < 1:
            raise ValueError(f"top is {self.top}, not 1 or more, or None")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [dict(zip(self.gives, self._propose(record["size"]))) for record in records]

    def _propose(self, size: Any) -> tuple[Any, Any]:
        shapes = [(side, ratio) for side in sorted(self.scales, reverse=True) for ratio in self.ratios]
        boxes = np.concatenate([windows(size, side, ratio, self.stride) for side, ratio in shapes])
        boxes = boxes[: self.top]
        return boxes, (1 - np.arange(len(boxes)) / max(len(boxes), 1)).astype(np.float32)
