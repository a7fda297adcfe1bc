"""Records: single assignment, declared fields only, lazy values made once."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
from rcnn.stages.record import FIELDS, Lazy, MissingField, Record, field_of

BOXES = np.zeros((3, 4), np.float32)


def test_a_field_is_written_once() -> None:
    record = Record("a", {"boxes": BOXES})
    with pytest.raises(ValueError, match="image 'a': step 'x' writes 'boxes', which is written already"):
        record.add({"boxes": BOXES}, "step 'x'")


def test_adding_changes_nothing() -> None:
    record = Record("a", {"boxes": BOXES})
    more = record.add({"objectness": np.zeros(3, np.float32)})
    assert list(record) == ["boxes"]
    assert list(more) == ["boxes", "objectness"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"boxes": np.zeros((3, 4))}, "'boxes' as float64, not float32"),
        ({"boxes": np.zeros((3, 5), np.float32)}, "4 = 4"),
        ({"boxes": np.zeros(4, np.float32)}, r"shape \(4,\), not \(R 4\)"),
        ({"boxes": BOXES, "objectness": np.zeros(2, np.float32)}, "R = 3"),
        ({"features.fc7": np.zeros((3, 8), np.int64)}, "as int64, not float"),
    ],
)
def test_what_does_not_fit_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Record("a", {}).add(fields)


def test_regions_agree_with_what_is_there() -> None:
    with pytest.raises(ValueError, match="R = 3"):
        Record("a", {"boxes": BOXES}).add({"scores": np.zeros((4, 2), np.float32)})


def test_only_what_is_declared_is_seen() -> None:
    view = Record("a", {"boxes": BOXES, "size": np.array([1, 2])}).only(["size"], "step 'nms' (NMS)")
    with pytest.raises(MissingField, match=r"image 'a': step 'nms' \(NMS\) reads 'boxes'"):
        view["boxes"]
    with pytest.raises(MissingField, match="needs 'scores', which nothing gives"):
        view.only(["scores"])


def test_a_lazy_value_is_made_once_for_all_readers() -> None:
    made = []
    record = Record("a", {"boxes": Lazy(lambda: made.append(1) or BOXES, lambda: b"boxes")})
    view = record.only(["boxes"])
    assert not made
    assert view["boxes"] is record["boxes"]
    assert made == [1]


def test_a_lazy_value_travels_unmade() -> None:
    lazy = Lazy(partial(np.zeros, 3), partial(bytes, 2))
    lazy.value()
    there = pickle.loads(pickle.dumps(lazy))
    assert not there.made
    assert np.array_equal(there.value(), np.zeros(3))


def test_every_field_says_what_it_is() -> None:
    for name, field in FIELDS.items():
        assert field.meaning, name
        assert field.shape, name
    assert field_of("features.fc7") is FIELDS["features.*"]
    with pytest.raises(KeyError, match="no field is named 'feature'"):
        field_of("feature")
