"""What hard negative mining keeps: each row once, whichever classes use it, as it came (float16, say)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import UserError
from ..record import Records
from ..sample import training_rows, usable_truths
from ..stage import State

HISTORY = (  # columns of history_, a row for each time that a class was trained
    "class",  # 1..K
    "image",  # position, in the canonical order, of the image after which it was trained
    "positives",  # annotated boxes of the class
    "held",  # negatives left over from the training before
    "added",  # negatives added since
    "evicted",  # negatives dropped after this training
    "hinge_positives",  # the terms of the objective, weighted (and squared, if so the loss) as they stand in it
    "hinge_negatives",
    "regulariser",
    "objective",
)
SLAB = 1024  # rows of one array: 19 MB of float16 at 9,216 features


class Slabs:
    """Rows (F each, of one float type) that come and go, in order, in arrays of SLAB rows.

    Nothing is copied to make room and a freed place is filled by the rows behind it, so the memory taken is that of the
    rows that are there, and how the rows are cut into blocks follows from their order alone.

    length: F; dtype: numpy's.
    """

    def __init__(self, length: int, dtype: Any):
        self.length = length
        self.dtype = np.dtype(dtype)
        self.count = 0
        self._slabs: list[Any] = []

    def __len__(self) -> int:
        return self.count

    def append(self, rows: Any) -> None:
        """Add rows, n F. UserError if they are of a wider type."""
        if not np.can_cast(rows.dtype, self.dtype, "safe"):
            raise UserError(f"features come as {rows.dtype} after others as {self.dtype}")
        while len(rows):
            slab, at = divmod(self.count, SLAB)
            if slab == len(self._slabs):
                self._slabs.append(np.empty((SLAB, self.length), self.dtype))
            taken = min(len(rows), SLAB - at)
            self._slabs[slab][at : at + taken] = rows[:taken]
            self.count += taken
            rows = rows[taken:]

    def blocks(self) -> list[Any]:
        """Views of the rows, SLAB of them each but for the last."""
        starts = range(0, self.count, SLAB)
        return [slab[: self.count - start] for slab, start in zip(self._slabs, starts)]

    def select(self, mine: Any) -> Iterator[Any]:
        """Copies of the rows that `mine` (N bool) says, a block at a time."""
        return (block[own] for block, own in self._with(mine) if own.any())

    def keep(self, kept: Any) -> None:
        """Let go of the rows that `kept` (N bool) does not say."""
        stay = int(np.argmin(kept)) // SLAB  # slabs before the first row that goes
        behind = self._with(kept)[stay:]
        self.count = stay * SLAB
        for block, own in behind:
            self.append(block[own])  # a copy, written where rows were read already
        del self._slabs[-(-self.count // SLAB) :]

    def _with(self, values: Any) -> list[tuple[Any, Any]]:
        return [(block, values[i * SLAB : (i + 1) * SLAB]) for i, block in enumerate(self.blocks())]


@dataclass
class Pool:
    """The negatives that are held: each row once, whichever classes hold it.

    keys: N 2, image and row; held: N K, by which class; rows: N F, in the order of keys.
    """

    keys: Any
    held: Any
    rows: Slabs

    @classmethod
    def empty(cls, classes: int, length: int, dtype: Any) -> Pool:
        return cls(np.zeros((0, 2), np.int64), np.zeros((0, classes), bool), Slabs(length, dtype))

    def add(self, image: int, wanted: Any, features: Any) -> Any:
        """Hold the rows of an image that classes want (R K bool), none twice. How many each class got, K."""
        at = np.flatnonzero(self.keys[:, 0] == image)
        known = self.keys[at, 1]
        added = wanted.sum(0) - (wanted[known] & self.held[at]).sum(0)  # K
        self.held[at] |= wanted[known]
        new = np.setdiff1d(np.flatnonzero(wanted.any(1)), known)
        if len(new):
            self.keys = np.concatenate([self.keys, np.stack([np.full_like(new, image), new], 1)])  # N 2
            self.held = np.concatenate([self.held, wanted[new]])  # N K
            self.rows.append(features[new])
        return added

    def rows_of(self, c: int) -> Iterator[Any]:
        """Copies of the rows that class c (from 0) holds, a block at a time."""
        return self.rows.select(self.held[:, c])

    def evict(self, c: int, easy: Any) -> None:
        """Class c lets go of those of its rows that are easy."""
        self.held[np.flatnonzero(self.held[:, c])[easy], c] = False

    def compact(self) -> None:
        """Forget the rows that no class holds."""
        kept = self.held.any(1)  # N
        if not kept.all():
            self.rows.keep(kept)
            self.keys, self.held = self.keys[kept], self.held[kept]

    def read(self, records: Records, layer: str) -> None:
        """Fetch the rows by their keys, each image once for each run of its rows."""
        starts = np.flatnonzero(np.diff(self.keys[:, 0], prepend=-1))
        for run in np.split(self.keys, starts[1:]) if len(starts) else []:
            self.rows.append(training_rows(records[int(run[0, 0])], layer, run[:, 1]))


@dataclass
class Positives:
    """The annotated boxes to learn from, those of each class together.

    rows: P F, class by class; counts: K.
    """

    rows: Any
    counts: Any

    @classmethod
    def read(cls, records: Records, layer: str, difficult: bool) -> Positives:
        rows, labels = [], []
        for record in records:
            use = usable_truths(record, difficult)  # T
            rows.append(record["truth_features." + layer][use])  # n F
            labels.append(record["truth_labels"][use])
        label = np.concatenate(labels)
        order = np.argsort(label, kind="stable")
        return cls(np.concatenate(rows)[order], np.bincount(label, minlength=len(records.classes) + 1)[1:])

    def of(self, c: int) -> Any:
        """A view of the rows of class c (from 0), n F."""
        end = int(self.counts[: c + 1].sum())
        return self.rows[end - int(self.counts[c]) : end]

    def members(self) -> Any:
        """Of which class each row is, P K bool."""
        return np.repeat(np.eye(len(self.counts), dtype=bool), self.counts, axis=0)


@dataclass
class Mining:
    """Where a fit stands: the SVMs, the negatives they hold and how many came since they were trained."""

    weights: Any  # F K
    bias: Any  # K, -inf before a class is trained
    added: Any  # K
    pool: Pool
    history: list[Any] = field(default_factory=list)
    done: int = 0  # images

    @classmethod
    def start(cls, positives: Positives) -> Mining:
        (_, length), classes = positives.rows.shape, len(positives.counts)
        pool = Pool.empty(classes, length, positives.rows.dtype)
        bias = np.full(classes, -np.inf, np.float32)
        return cls(np.zeros((length, classes), np.float32), bias, np.zeros(classes, np.int64), pool)

    @classmethod
    def resume(cls, state: State, positives: Positives, records: Records, layer: str) -> Mining:
        """The Mining that gave `arrays`; its rows are read again from the records."""
        saved = {name: np.array(value) for name, value in state.items()}
        mining = cls.start(positives)
        mining.weights, mining.bias, mining.added = saved["weights"], saved["bias"], saved["added"]
        mining.pool.keys, mining.pool.held = saved["keys"], saved["held"]
        mining.history, mining.done = list(saved["history"]), int(saved["done"][0])
        mining.pool.read(records, layer)
        return mining

    def arrays(self) -> State:
        """What a checkpoint keeps: everything but the rows."""
        return {
            "weights": self.weights,
            "bias": self.bias,
            "added": self.added,
            "keys": self.pool.keys,
            "held": self.pool.held,
            "history": history_table(self.history),
            "done": np.array([self.done]),
        }


def history_table(rows: Sequence[Any]) -> Any:
    """The history as one float64 array, a row for each training, a column for each name in HISTORY."""
    return np.array(rows, np.float64).reshape(-1, len(HISTORY))
