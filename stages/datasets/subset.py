"""Parts of a data set: some of its records, and some of its classes."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...errors import UserError
from ..record import Lazy, Record, Records
from .problem import Problem, Source, left_out


class Subset(Records):
    """Some of the records of a data set, in canonical order; all other attributes are the data set's own.

    indices: positions in `records`, each once. IndexError for one that is not there.
    """

    def __init__(self, records: Records, indices: Iterable[int]):
        self.records = records
        self.indices = sorted({range(len(records))[i] for i in indices})
        self.classes = records.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.records[self.indices[index]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "records":  # asked for before __init__, when unpickled
            raise AttributeError(name)
        return getattr(self.records, name)

    @property
    def source(self) -> Callable[[int], Source]:
        """Position -> Source, where the data set has that."""
        return partial(_source_at, self.records.source, self.indices)  # type: ignore[attr-defined]


class Chosen(Subset):
    """A data set with some of its classes; objects of the others are as if never annotated. Images stay.

    names: the classes that are labels 1..K, in this order.
    category_ids, problems and left_out follow, where the data set has them. UserError for a name that it has
    not, with the nearest that it has, and for one named twice.
    """

    def __init__(self, records: Records, names: Sequence[str]):
        super().__init__(records, range(len(records)))
        old = [_position(name, records.classes) for name in names]
        if len(set(old)) < len(old):
            raise UserError(f"the classes {', '.join(names)} name one twice")
        self.classes = tuple(names)
        self._labels = np.zeros(len(records.classes) + 1, np.int64)  # old label -> new one, 0 for none
        self._labels[np.add(old, 1)] = np.arange(1, len(old) + 1)
        others = set(records.classes) - set(names)  # of an unknown class is what may have been meant for one of ours
        self.problems: list[Problem] = [p for p in getattr(records, "problems", ()) if p.label not in others]
        self.left_out = left_out(self.problems)
        if hasattr(records, "category_ids"):
            self.category_ids = tuple(records.category_ids[i] for i in old)

    def __getitem__(self, index: Any) -> Any:
        record = self.records[index]
        labels = self._labels[record["truth_labels"]]  # T
        return keep_truths(record, labels > 0, truth_labels=labels[labels > 0])

    @property
    def source(self) -> Callable[[int], Source]:
        """Position -> Source, where the data set has that."""
        return partial(_chosen_source, self.records, self.records.source, self._labels)  # type: ignore[attr-defined]


def keep_truths(record: Record, keep: Any, **instead: Any) -> Record:
    """The record with those of its truths that `keep` (T, bool) says, and with the fields `instead`."""
    held = {name: record.raw(name) for name in record}
    some = {name: _kept(value, keep) for name, value in held.items() if name.startswith("truth_") and not keep.all()}
    return Record(record.id, {**held, **some, **instead}, record.reader)


def _kept(value: Any, keep: Any) -> Any:
    if isinstance(value, Lazy):
        return Lazy(partial(_kept_of, value, keep), partial(_identity, value, keep))
    return value[keep] if hasattr(value, "shape") else [one for one, kept in zip(value, keep) if kept]


def _kept_of(lazy: Lazy, keep: Any) -> Any:
    return _kept(lazy.value(), keep)


def _identity(lazy: Lazy, keep: Any) -> bytes:
    return lazy.identity() + b" of which " + np.asarray(keep, bool).tobytes()


def _source_at(source: Callable[[int], Source], indices: Sequence[int], index: int) -> Source:
    return source(indices[index])


def _chosen_source(records: Records, source: Callable[[int], Source], labels: Any, index: int) -> Source:
    found = source(index)
    kept = labels[records[index]["truth_labels"]] > 0 if found.objects else ()
    return found._replace(objects=tuple(name for name, keep in zip(found.objects, kept) if keep))


def _position(name: str, classes: Sequence[str]) -> int:
    if name in classes:
        return list(classes).index(name)
    near = difflib.get_close_matches(name, classes, 5, 0.5) or [c for c in classes if name.lower() in c.lower()][:5]
    hint = f"near ones: {', '.join(near)}" if near else f"there are {', '.join(classes) or 'none'}"
    raise UserError(f"there is no class {name!r} in the data set; {hint}")
