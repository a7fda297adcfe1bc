"""Two shelves compared: known differences are told as they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rcnn.cache import diff as diffs
from rcnn.cache.diff import compare, diff
from rcnn.cache.store import Shelf, Store


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Shelf, Shelf]:
    return Store(tmp_path).shelf("step", "a" * 12), Store(tmp_path).shelf("step", "b" * 12)


def boxes(*rows: list[float], dtype: Any = np.float32) -> dict[str, np.ndarray]:
    return {"boxes": np.array(rows, dtype).reshape(-1, 4)}


def test_two_equal_shelves_are_the_same(pair: tuple[Shelf, Shelf]) -> None:
    for shelf in pair:
        for i in range(3):
            shelf.write(f"{i}", shelf.path.name, boxes([0, 0, i, i]))
        shelf.save_state({"w_": np.ones(3)})
    found = diff(*pair)
    assert found.same
    assert (found.identical, found.differing) == (3, 0)
    assert found.fields["boxes"].identical == 3
    assert found.to_json()["fields"]["boxes"]["equal"] == 1.0


def test_every_known_difference_is_told(pair: tuple[Shelf, Shelf]) -> None:
    a, b = pair
    a.write("same", "in", boxes([1, 2, 3, 4]))
    b.write("same", "in", boxes([1, 2, 3, 4]))
    a.write("moved", "in", boxes([0, 0, 8, 4], [0, 0, 1, 1]))
    b.write("moved", "in", boxes([0, 0, 8, 6], [0, 0, 1, 1]))
    a.write("more", "in", boxes([0, 0, 1, 1]))
    b.write("more", "in", boxes([0, 0, 1, 1], [0, 0, 2, 2]))
    a.write("mine", "in", boxes())
    b.write("theirs", "in", boxes())
    b.save_state({"w_": np.ones(3)})
    found = diff(a, b)
    assert not found.same
    assert (found.only_a, found.only_b, found.identical, found.differing) == (["mine"], ["theirs"], 1, 2)
    assert found.learned == (False, True)
    tally = found.to_json()["fields"]["boxes"]
    assert tally == {
        "identical": 1,
        "differing": 2,
        "other_shape": 1,
        "other_dtype": 0,
        "largest": 2.0,
        "relative": 0.25,
        "mean": 2 / 12,  # over the 12 numbers of the two images of one shape
        "equal": 11 / 12,
    }
    assert [(one.image, one.shapes, one.largest) for one in found.worst if one.same_shape] == [
        ("moved", ((2, 4), (2, 4)), 2.0)
    ]
    assert found.worst[0].image == "more"
    json.loads(json.dumps(found.to_json(), allow_nan=False))


def test_the_worst_are_named_and_no_more_than_asked_for(pair: tuple[Shelf, Shelf]) -> None:
    a, b = pair
    for i in range(30):
        a.write(f"{i}", "in", boxes([0, 0, 1, 1]))
        b.write(f"{i}", "in", boxes([0, 0, 1, 1 + (i * 7) % 30]))
    assert [one.largest for one in diff(a, b, limit=4).worst] == [29, 28, 27, 26]
    nothing = diff(a, b, limit=0)
    assert not nothing.worst
    assert not nothing.same


def test_one_image_alone(pair: tuple[Shelf, Shelf]) -> None:
    for i, shelf in enumerate(pair):
        shelf.write("x", "in", boxes([0, 0, 1, 1 + i]))
        shelf.write("y", "in", boxes([0, 0, 1, 9 + i]))
        shelf.save_state({"w_": np.full(3, i)})
    found = diff(*pair, image="x")
    assert [(one.image, one.largest) for one in found.worst] == [("x", 1)]
    assert not diff(*pair, image="z").fields


def test_states_are_compared_array_by_array(pair: tuple[Shelf, Shelf]) -> None:
    a, b = pair
    a.save_state({"w_": np.array([1.0, 2.0, -4.0]), "same_": np.ones(2), "old_": np.ones(1)})
    b.save_state({"w_": np.array([1.0, 2.0, -3.0]), "same_": np.ones(2), "new_": np.ones(1)})
    found = diff(a, b)
    (change,) = found.worst
    assert (change.field, change.largest, change.relative, change.equal) == ("w_", 1.0, 0.25, 2 / 3)
    assert (found.fields_a, found.fields_b) == (["old_"], ["new_"])


def test_other_storage_is_told(pair: tuple[Shelf, Shelf]) -> None:
    a, b = pair
    a.write("x", "in", {"features.fc7": np.array([[0.1, 0.5]], np.float32)})
    b.write("x", "in", {"features.fc7": np.array([[0.1, 0.5]], np.float16)})
    (change,) = diff(a, b).worst
    assert change.dtypes == ("float32", "float16")
    assert change.equal == 0.5
    assert 0 < change.largest < 1e-4


def test_a_damaged_entry_is_named_and_the_others_are_compared(pair: tuple[Shelf, Shelf]) -> None:
    a, b = pair
    for i in "xy":
        a.write(i, "in", boxes([0, 0, 1, 1]))
        entry = b.write(i, "in", boxes([0, 0, 1, 2]))
    raw = bytearray(entry.path.read_bytes())
    raw[-1] ^= 1
    entry.path.write_bytes(raw)
    found = diff(a, Shelf(b.path))
    assert list(found.unread) == ["y"]
    assert str(entry.path) in found.unread["y"]
    assert [one.image for one in found.worst] == ["x"]


ARRAYS = st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_]).flatmap(
    lambda dtype: hnp.arrays(dtype, st.tuples(st.integers(0, 5), st.integers(0, 5)), elements=_elements(dtype))
)


def _elements(dtype: Any) -> Any:
    if np.issubdtype(dtype, np.floating):
        return st.floats(-100, 100, width=np.dtype(dtype).itemsize * 8)  # type: ignore[arg-type]
    return st.booleans() if dtype is np.bool_ else st.integers(0, 100)


@settings(deadline=None)
@given(ARRAYS, st.data())
def test_against_numpy_at_small_sizes(a: np.ndarray, data: Any) -> None:
    b = data.draw(hnp.arrays(a.dtype, a.shape, elements=_elements(a.dtype.type)))
    found = compare(a, b)
    apart = np.abs(a.astype(float) - b.astype(float))
    assert found.largest == apart.max(initial=0)
    assert found.mean == pytest.approx(apart.mean() if apart.size else 0)
    assert found.equal == ((a == b).mean() if a.size else 1)
    top = np.abs(a.astype(float)).max(initial=0)
    assert found.relative == (0 if not apart.max(initial=0) else apart.max() / top if top else np.inf)


def test_large_arrays_go_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(7, 11)), rng.normal(size=(7, 11))
    whole = compare(a, b)
    monkeypatch.setattr(diffs, "BLOCK", 10)
    parts = compare(a, b)
    assert parts._replace(mean=0) == whole._replace(mean=0)
    assert parts.mean == pytest.approx(whole.mean)


def test_nan_is_nan_and_infinity_infinity() -> None:
    nan, inf = np.nan, np.inf
    same = compare(np.array([nan, inf, -inf, 1]), np.array([nan, inf, -inf, 1]))
    assert (same.largest, same.equal) == (0, 1)
    apart = compare(np.array([nan, inf, 2.0]), np.array([1.0, -inf, 2.0]))
    assert (apart.largest, apart.equal) == (inf, 1 / 3)


def test_entries_of_the_same_inputs_are_compared_else_the_newest(pair: tuple[Shelf, Shelf]) -> None:
    a, b = pair
    for inputs, side in {"train": 1, "val": 2}.items():
        a.write("both", inputs, boxes([0, 0, 1, side]))
        b.write("both", inputs, boxes([0, 0, 1, side]))
    for shelf, (old, new) in ((a, (1, 2)), (b, (3, 4))):
        for seconds in (old, new):  # made from what another step gave
            entry = shelf.write("other", f"in{seconds}", boxes([0, 0, 1, seconds]))
            os.utime(entry.path, (seconds, seconds))
    found = diff(a, b)
    assert (found.identical, found.differing, found.only_a, found.only_b) == (2, 1, [], [])
    assert [(one.image, one.largest) for one in found.worst] == [("other", 2)]  # 4 against 2
