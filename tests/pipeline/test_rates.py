"""Notes of what steps cost."""

from __future__ import annotations

from pathlib import Path

from rcnn.cache.store import Store
from rcnn.pipeline import rates
from rcnn.pipeline.rates import Cost


def test_a_shelf_that_was_taken_away_is_not_made_again_for_a_note(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf("step", "0" * 12)
    rates.note(shelf, "call", Cost(3, 1.5))
    assert not shelf.path.exists()
    shelf.describe({"step": "step"}, {})
    rates.note(shelf, "call", Cost(3, 1.5))
    assert rates.noted(shelf) == {"call": Cost(3, 1.5)}
