"""Two shelves compared, image by image and field by field: what a numeric change changed.

Fields of equal hash are taken as equal unread; of the others one array of each side is in memory at a time.
After the command of the authors of R-CNN that compares two feature caches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from . import files, layout
from .store import Entry, Shelf

Held = Entry | files.Opened
Read = Callable[[str], tuple[np.ndarray, np.ndarray]]  # both sides of a field
BLOCK = 1 << 20  # elements that are compared at once
STATE = "state"  # stands for the image of what was learned


class Change(NamedTuple):
    """How far two arrays are apart. Of arrays of two shapes only the shapes are told, of two dtypes those too.

    largest, mean: absolute difference. relative: the largest over the largest |a|. equal: share of equal elements.
    """

    image: str
    field: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    dtypes: tuple[str, str]
    largest: float
    mean: float
    relative: float
    equal: float

    @property
    def same_shape(self) -> bool:
        return self.shapes[0] == self.shapes[1]


def compare(a: np.ndarray, b: np.ndarray, image: str = "", name: str = "") -> Change:
    """How far two arrays are apart; NaN equals NaN, and differs without bound from any number."""
    shapes, dtypes = (a.shape, b.shape), (a.dtype.name, b.dtype.name)
    if a.shape != b.shape:
        return Change(image, name, shapes, dtypes, np.nan, np.nan, np.nan, np.nan)
    largest = total = top = equal = 0.0
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    for i in range(0, flat_a.size, BLOCK):
        x, y = flat_a[i : i + BLOCK], flat_b[i : i + BLOCK]
        apart, same = _apart(x, y)
        largest, total = max(largest, float(apart.max())), total + float(apart.sum())
        top = max(top, float(np.abs(x.astype(np.float64)).max(where=np.isfinite(x), initial=0)))
        equal += int(same.sum())
    n = max(a.size, 1)
    relative = 0.0 if largest == 0 else largest / top if top else np.inf
    return Change(image, name, shapes, dtypes, largest, total / n, relative, equal / n if a.size else 1.0)


def _apart(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The absolute difference of each element, and whether it is equal."""
    with np.errstate(invalid="ignore"):  # infinity less infinity
        u, v = x.astype(np.float64), y.astype(np.float64)
        apart = np.abs(u - v)
    same = (x == y) | (np.isnan(u) & np.isnan(v))
    return np.where(same, 0.0, np.where(np.isnan(apart), np.inf, apart)), same


@dataclass
class Tally:
    """One field over all images that both shelves have: how many are alike, and how far the others are apart."""

    identical: int = 0
    differing: int = 0
    other_shape: int = 0  # among those that differ
    other_dtype: int = 0
    largest: float = 0.0
    relative: float = 0.0
    total: float = 0.0  # of absolute differences
    equal: float = 0.0  # elements
    elements: int = 0  # of arrays of one shape

    def add(self, change: Change) -> None:
        """Count an array that is not the same bits."""
        self.differing += 1
        self.other_dtype += change.dtypes[0] != change.dtypes[1]
        if not change.same_shape:
            self.other_shape += 1
            return
        n = int(np.prod(change.shapes[0], dtype=np.int64))
        self.largest, self.relative = max(self.largest, change.largest), max(self.relative, change.relative)
        self.total, self.equal, self.elements = (
            self.total + change.mean * n,
            self.equal + change.equal * n,
            self.elements + n,
        )

    def add_same(self, elements: int) -> None:
        """Count an array that is."""
        self.identical += 1
        self.equal, self.elements = self.equal + elements, self.elements + elements

    def to_json(self) -> dict[str, Any]:
        counts = ("identical", "differing", "other_shape", "other_dtype")
        told = {name: getattr(self, name) for name in counts}
        if not self.elements:
            return {**told, "largest": None, "relative": None, "mean": None, "equal": None}
        mean, equal = self.total / self.elements, self.equal / self.elements
        return {**told, "largest": self.largest, "relative": self.relative, "mean": mean, "equal": equal}


@dataclass
class Difference:
    """Two shelves compared.

    only_a, only_b: images that one shelf alone has. unread: image or file -> why it could not be compared.
    fields: those that both have. worst: the `limit` largest changes of each field, other shapes first.
    """

    only_a: list[str] = field(default_factory=list)
    only_b: list[str] = field(default_factory=list)
    identical: int = 0  # images
    differing: int = 0
    fields: dict[str, Tally] = field(default_factory=dict)
    worst: list[Change] = field(default_factory=list)
    unread: dict[str, str] = field(default_factory=dict)
    fields_a: list[str] = field(default_factory=list)  # that one shelf alone has
    fields_b: list[str] = field(default_factory=list)
    learned: tuple[bool, bool] = (False, False)

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        apart = (self.only_a, self.only_b, self.unread, self.fields_a, self.fields_b)
        changed = any(tally.differing for tally in self.fields.values())
        return not any(apart) and not changed and self.learned[0] == self.learned[1]

    def to_json(self) -> dict[str, Any]:
        told = {
            **{name: value for name, value in vars(self).items() if name not in ("fields", "worst")},
            "fields": {name: tally.to_json() for name, tally in self.fields.items()},
            "worst": [change._asdict() for change in self.worst],
            "same": self.same,
        }
        return _finite(told)


def diff(a: Shelf, b: Shelf, image: str | None = None, limit: int = 10) -> Difference:
    """Compare what two shelves hold of every image (or of one), and, unless of one, what they learned."""
    found = Difference()
    for entry, other in _pairs(a, b, image, found):
        try:
            changed = _compare_fields(found, entry.id, entry, other, partial(_both, a, b, entry, other), limit)
        except (files.Unreadable, files.Replaced, UserError) as error:
            found.unread[entry.id] = str(error)
            continue
        found.differing += changed
        found.identical += not changed
    if image is None:
        _compare_states(a.path, b.path, found, limit)
    found.only_a.sort()
    found.only_b.sort()
    found.worst.sort(key=lambda change: (change.field, _size(change)))
    return found


def _both(a: Shelf, b: Shelf, one: Entry, other: Entry, name: str) -> tuple[np.ndarray, np.ndarray]:
    return a.read(one, [name])[name], b.read(other, [name])[name]


def _pairs(a: Shelf, b: Shelf, image: str | None, found: Difference) -> Iterator[tuple[Entry, Entry]]:
    if image is not None:
        one, other = a.find(image), b.find(image)
        found.only_a += [image] if one and not other else []
        found.only_b += [image] if other and not one else []
        yield from [(one, other)] if one and other else []
        return
    alike, others = set(), dict[str, None]()
    for entry in a.entries():
        if match := b.find(entry.id, entry.inputs):
            alike.add(entry.id)
            yield entry, match
        else:
            others[entry.id] = None
    theirs = {entry.id for entry in b.entries()}
    for id in (id for id in others if id not in alike):  # made from other things on both sides: the newest of each
        one, other = a.find(id), b.find(id)
        if one and other:
            yield one, other
    found.only_a += [id for id in others if id not in theirs]
    found.only_b += [id for id in theirs if id not in alike and id not in others]


def _compare_fields(found: Difference, image: str, one: Held, other: Held, read: Read, limit: int) -> bool:
    """Count the fields that both have; whether any differs."""
    _note_lone(one.slots, other.slots, found)
    changed = False
    for name in (name for name in one.slots if name in other.slots):
        tally = found.fields.setdefault(name, Tally())
        if one.digests[name] == other.digests[name]:
            tally.add_same(int(np.prod(one.slots[name].shape, dtype=np.int64)))
            continue
        change = compare(*read(name), image, name)
        tally.add(change)
        _remember(found, change, limit)
        changed = True
    return changed


def _note_lone(one: Any, other: Any, found: Difference) -> None:
    for names, lone in ((one.keys() - other.keys(), found.fields_a), (other.keys() - one.keys(), found.fields_b)):
        lone.extend(sorted(name for name in names if name not in lone))


def _remember(found: Difference, change: Change, limit: int) -> None:
    """Keep the change if it is among the worst of its field."""
    mine = sorted([change, *(one for one in found.worst if one.field == change.field)], key=_size)
    found.worst = [one for one in found.worst if one.field != change.field] + mine[:limit]


def _size(change: Change) -> tuple[bool, float, str]:
    return change.same_shape, -change.largest if change.same_shape else 0.0, change.image


def _compare_states(a: Path, b: Path, found: Difference, limit: int) -> None:
    one, other = _opened(a, found), _opened(b, found)
    found.learned = (one is not None, other is not None)
    if one is None or other is None:
        return
    try:
        _compare_fields(found, STATE, one, other, lambda name: (_array(a, one, name), _array(b, other, name)), limit)
    except (files.Unreadable, files.Replaced, FileNotFoundError, UserError) as error:
        found.unread[STATE] = str(error)


def _opened(shelf: Path, found: Difference) -> files.Opened | None:
    try:
        return files.open_header(layout.learned(shelf))
    except FileNotFoundError:
        return None
    except (files.Unreadable, UserError) as error:
        found.unread[STATE] = str(error)
        return None


def _array(shelf: Path, opened: files.Opened, name: str) -> np.ndarray:
    path = layout.learned(shelf)
    arrays = files.read_arrays(path, {name: opened.slots[name]}, opened)
    files.check(path, arrays, opened.digests)
    return arrays[name]


def _finite(value: Any) -> Any:
    """The value without NaN and infinity, which JSON does not know: None and "inf"."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else "inf"
    return value
