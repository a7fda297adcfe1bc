"""The best of the proposals that another stage gave."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..record import Record
from ..stage import Stage


class Best(Stage):
    """The first boxes of more, so that a detector learns from many and uses few (Faster R-CNN, section 3.3).

    top: how many; 300.

    Reads boxes.all (R 4) and objectness.all (R), best first; writes boxes and objectness.
    """

    needs = ("boxes.all", "objectness.all")
    gives = ("boxes", "objectness")

    def __init__(self, top: int = 300):
        self.top = top

    def validate(self) -> None:
        if self.top < 1:
            raise ValueError(f"top is {self.top}; it is at least 1")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [{name: record[f"{name}.all"][: self.top] for name in self.gives} for record in records]
