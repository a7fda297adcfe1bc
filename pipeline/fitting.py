"""What a fit is handed: records that are made anew from the cache, and a place for its progress."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cache.layout import CHECKPOINT
from ..cache.store import Shelf
from ..errors import UserError
from ..stages.nets import ranks
from ..stages.record import Record, Records
from ..stages.stage import State
from .wrap import field_digests, host, view_on_host

if TYPE_CHECKING:
    from .pipeline import Pipeline
    from .run import Run

Digests = dict[str, dict[str, str]]  # id -> field -> hash of what it holds


class FitRecords(Records):
    """What a fit is handed: each record with just the fields that the stage declares, made when asked for.

    UserError if two images have one id.
    """

    def __init__(self, run: Run, name: str, data: Records):
        self.run = run
        own = run.pipeline.step(name).data
        self.data = data if own is None else run.usable(name, own)
        self.classes = tuple(self.data.classes)
        stage = run.pipeline.stage(name)
        self.fields = (*stage.needs, *stage.learns)
        self.reader = f"fit of step {name!r} ({type(stage).__name__})"
        self.steps = [] if run.pipeline.step(name).apart else run.pipeline.needed(self.fields)
        ids = [record.id for record in self.data]
        self.order = sorted(range(len(ids)), key=ids.__getitem__)
        twice = [a for a, b in pairwise(self.order) if ids[a] == ids[b]]
        if twice:
            raise UserError(f"two images of the data set have the id {ids[twice[0]]!r}")

    def prepare(self, only: str | None = None) -> Digests:
        """Fill the cache with what will be read, so that the fit itself streams; what that is, in the order of ids.

        only: compute nothing that is kept but this step, as in `Run.over`.
        """
        fields = [field for step in self.steps for field in self.run.pipeline.stage(step).gives]
        if self.steps and ranks.count() > 1:  # each fills its share; then all is there
            share = range(len(self))[ranks.rank() :: ranks.count()]
            for _record in self.run.over(self.data, fields, only=only, indices=share):
                pass
            ranks.wait()
        return self._digests(self.run.over(self.data, fields, only=only) if self.steps else self.data)

    def digests(self) -> Digests:
        """The same of what is in the cache already; nothing is computed."""
        return self._digests(map(self._made, range(len(self))))

    def _digests(self, records: Iterable[Record]) -> Digests:
        views = (record.only(self.fields, self.reader) for record in records)
        return dict(sorted((view.id, field_digests(view, view)) for view in views))

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        return view_on_host(self._made(index))

    def _made(self, index: Any) -> Record:
        record = self.data[self.order[index]]
        for name in self.steps:
            (fields,) = self.run.wrapped(name)([record])
            record = record.add(fields, f"step {name!r}")
        return record.only(self.fields, self.reader)


class ShelfCheckpoint:
    """Saves a fit's progress beside its state to be, at most every `every` seconds.

    Of several processes that share the fit the first one saves. A full disk ends the fit with a UserError, in place of
    hours that could be lost; what was saved before stays.
    """

    def __init__(self, shelf: Shelf, update: Callable[[int, int, str], None], every: float):
        self.shelf = shelf
        self.update = update
        self.every = every
        self._saved = time.monotonic()

    def load(self) -> State | None:
        return self.shelf.load_state(CHECKPOINT)

    def save(self, make: Callable[[], State], *, now: bool = False) -> None:
        if ranks.rank():
            return
        if now or time.monotonic() - self._saved >= self.every:
            self.shelf.save_state(on_host(make()), CHECKPOINT)
            self._saved = time.monotonic()

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.update(done, total, text)


def on_host(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state as numpy arrays, numbers as arrays of no dimension."""
    return {name: np.asarray(host(value)) for name, value in state.items()}


def refuse_to_learn(pipeline: Pipeline, data: Records, names: Iterable[str]) -> None:
    """UserError if these steps cannot learn from the data: no image, no classes, or images without annotated masks."""
    own = [name for name in names if not pipeline.step(name).apart]
    if not len(data):
        raise UserError("the data set has no images")
    if not data.classes and own:
        raise UserError("the data set has no annotations to learn from")
    masked = next((name for name in own if "truth_masks" in pipeline.stage(name).learns), None)
    bare = [record.id for record in data if "truth_masks" not in record] if masked else []
    if bare:
        some = f"{len(bare)} of {len(data)} images have" if len(bare) > 1 else f"image {bare[0]!r} has"
        which = f"; the first is {bare[0]!r}" if len(bare) > 1 else ""
        hint = " (a VOC set gives them with :masks behind its spec)" if len(bare) == len(data) else ""
        raise UserError(f"step {masked!r} learns from annotated masks, and {some} none{which}{hint}")
