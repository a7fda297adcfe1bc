"""What steps cost in earlier runs: rates.json on each shelf, from which `rcnn plan` tells what the next will cost."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import NamedTuple

from ..cache import files, layout
from ..cache.store import Shelf
from ..errors import UserError

KINDS = ("call", "fit")  # an image through a step; what a step learned from so many images


class Cost(NamedTuple):
    """So many images took so many seconds: of one core for a step that runs in worker processes."""

    images: int
    seconds: float


def note(shelf: Shelf, kind: str, cost: Cost) -> None:
    """Keep on the shelf what was measured, unless more images were measured before.

    A note is a help, no result: where it cannot be written, or the shelf was taken away, there is none.
    """
    known = noted(shelf)
    if shelf.labelled() and cost.images and (kind not in known or known[kind].images <= cost.images):
        with suppress(UserError):
            files.write_json(shelf.path / layout.RATES, {**known, kind: cost})


def noted(shelf: Shelf) -> dict[str, Cost]:
    """What was measured, "call" and "fit"; nothing where there is no note or it cannot be read."""
    try:
        held = json.loads((shelf.path / layout.RATES).read_text())
        return {kind: Cost(int(held[kind][0]), float(held[kind][1])) for kind in KINDS if kind in held}
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return {}
