"""What a pipeline puts round a stage: a clock and a cache, objects with a stage's face.

The stage sees neither. Both take records that hold everything known so far, hand the stage just what it
declares, and give back its fields.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from ..cache.files import Replaced, Unreadable
from ..cache.keys import digest, digest_value, inputs_key
from ..cache.store import Entry, Shelf, log
from ..stages.record import Lazy, Record
from ..stages.stage import Stage
from .processes import side_by_side

Fields = dict[str, Any]
IN_MEMORY = 1 << 20  # bytes up to which fields just computed stay in memory rather than being read back


@dataclass
class Tally:
    """What a step cost in this run: images computed and their seconds, images only taken from the cache."""

    computed: int = 0
    seconds: float = 0.0
    fit_seconds: float = 0.0
    reused: int = 0
    resumed: bool = False  # its fit went on from a checkpoint: fit_seconds are not all
    seen: set[str] = field(default_factory=set)  # images counted: a fit takes the same ones many times

    def count(self, id: str, seconds: float | None = None) -> None:
        """An image was computed in so many seconds; or, without seconds, taken from the cache."""
        if seconds is not None:
            self.computed += 1
            self.seconds += seconds
        elif id not in self.seen:
            self.reused += 1
        self.seen.add(id)


@dataclass
class Clock:
    """Tallies by step. A cache hit is counted, never timed."""

    tallies: dict[str, Tally] = field(default_factory=dict)

    def __getitem__(self, step: str) -> Tally:
        return self.tallies.setdefault(step, Tally())

    def calls(self) -> int:
        """How many images any stage was called on, and fits, in this run."""
        return sum(tally.computed + (tally.fit_seconds > 0) for tally in self.tallies.values())


class Timed:
    """A stage with a clock. What it gives is held to FIELDS.

    name: of the step. jobs: worker processes for a stage whose images cost that much.
    """

    def __init__(self, name: str, stage: Stage, clock: Clock, jobs: int = 1):
        self.name = name
        self.stage = stage
        self.clock = clock
        self.jobs = jobs

    def __call__(self, records: Sequence[Record]) -> list[Fields]:
        return list(self.stream(records))

    def stream(self, records: Sequence[Record]) -> Iterator[Fields]:
        """The fields of each record, in order, each as soon as it is there."""
        views = [record.only(self.stage.needs, self.reader) for record in records]
        if self.stage.arrays == "numpy":
            views = [view_on_host(view) for view in views]
        for record, (fields, seconds) in zip(records, self._results(views), strict=True):
            self.clock[self.name].count(record.id, seconds)
            self._check(record, fields)
            yield fields

    @property
    def reader(self) -> str:
        return f"step {self.name!r} ({type(getattr(self.stage, 'stage', self.stage)).__name__})"

    def _results(self, views: list[Record]) -> Iterator[tuple[Fields, float]]:
        parts = [views[i : i + self.stage.chunk] for i in range(0, len(views), self.stage.chunk)]
        jobs = self.jobs if self.stage.parallel else 1
        if parts:
            self.stage.prepare()  # once, not in each worker at the same time
        return chain.from_iterable(side_by_side(partial(measured, self.stage), parts, jobs))

    def _check(self, record: Record, fields: Fields) -> None:
        if set(fields) != set(self.stage.gives):
            declared, given = sorted(self.stage.gives), sorted(fields)
            raise ValueError(f"image {record.id!r}: {self.reader} declares {declared} and gives {given}")
        record.add(fields, self.reader)


def measured(stage: Stage, views: list[Record]) -> list[tuple[Fields, float]]:
    """A few images through a stage, and the seconds that each took, device work included.

    ValueError unless the stage gives a result for each.
    """
    for view in views:
        for name in view:
            view[name]  # reading and decoding inputs is not the stage's time
    stage.prepare()  # on no image's clock; a worker may be new
    start = time.perf_counter()
    try:
        found = stage(views)
    except Exception as error:
        error.add_note(f"on {', '.join(repr(view.id) for view in views)}, in {views[0].reader}")
        raise
    if len(found) != len(views):  # else each image after the lost one would get its neighbour's
        raise ValueError(f"{views[0].reader} gave {len(found)} results for {len(views)} images")
    synchronise(value for fields in found for value in fields.values())
    seconds = (time.perf_counter() - start) / len(views)
    return [(fields, seconds) for fields in found]


def synchronise(values: Iterable[Any]) -> None:
    """Wait until tensors on an accelerator are there."""
    for value in values:
        if getattr(value, "is_cuda", False):
            import torch

            torch.cuda.synchronize(value.device)
            return


class Cached:
    """A step whose fields are kept on a shelf, one entry an image.

    An entry is valid when its header's hash of all it was made from is that of today's inputs.
    """

    def __init__(self, step: Timed, shelf: Shelf, begin: Callable[[], None]):
        self.step = step
        self.shelf = shelf
        self.begin = begin  # called before the first entry is written, and when the shelf was taken away
        self._begun = False

    def __call__(self, records: Sequence[Record]) -> list[Fields]:
        return list(self.stream(records))

    def stream(self, records: Sequence[Record]) -> Iterator[Fields]:
        """The fields of each record, in order: from the shelf where valid, else computed and kept."""
        inputs = [inputs_digest(record, self.step.stage.needs) for record in records]
        entries = [self._valid(record.id, key) for record, key in zip(records, inputs, strict=True)]
        fresh = self.step.stream([r for r, entry in zip(records, entries, strict=True) if entry is None])
        for record, key, entry in zip(records, inputs, entries, strict=True):
            if entry is not None:
                self.step.clock[self.step.name].count(record.id)
                yield self._lazies(record, entry)
            else:
                yield self._keep(record, key, next(fresh))

    def has(self, record: Record) -> bool:
        """Whether a valid entry is there, so that nothing need be computed."""
        return self._valid(record.id, inputs_digest(record, self.step.stage.needs)) is not None

    def _valid(self, id: str, inputs: str) -> Entry | None:
        entry = self.shelf.find(id, inputs)
        return entry if entry is not None and set(entry.slots) == set(self.step.stage.gives) else None

    def _keep(self, record: Record, inputs: str, fields: Fields) -> Fields:
        if not self._begun:
            self.begin()
            self._begun = True
        arrays = {name: host(value) for name, value in fields.items()}
        entry = self.shelf.write(record.id, inputs, arrays)
        if not self.shelf.labelled():  # `rcnn cache prune` took it away
            self.begin()
        if entry.nbytes > IN_MEMORY:
            return self._lazies(record, entry)
        return {name: Lazy(partial(_itself, fields[name]), partial(_token, entry, name)) for name in fields}

    def _lazies(self, record: Record, entry: Entry) -> Fields:
        return {
            name: Lazy(partial(self._load, record, entry, name), partial(_token, entry, name)) for name in entry.slots
        }

    def _load(self, record: Record, entry: Entry, name: str) -> np.ndarray:
        try:
            return self.shelf.read(entry, [name])[name]
        except Replaced:  # by another environment's, or removed: the shelf stays as it is
            (fields,) = self.step([record])
            return host(fields[name])
        except Unreadable as error:
            log.warning("%s; it is made again", error)
            (fields,) = self.step([record])
            arrays = {key: host(value) for key, value in fields.items()}
            self.shelf.write(record.id, entry.inputs, arrays)
            return arrays[name]

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process, which reads entries: no way back to the run, whose bars cannot travel."""
        return {"step": self.step, "shelf": self.shelf, "begin": _nothing, "_begun": False}


class Derived:
    """A step whose fields are not kept: made from their inputs when something reads them.

    key: gives that of the method, from which with its inputs the fields' identity follows without computing them.
    """

    def __init__(self, step: Timed, key: Callable[[], str]):
        self.step = step
        self.key = key

    def __call__(self, records: Sequence[Record]) -> list[Fields]:
        return list(self.stream(records))

    def stream(self, records: Sequence[Record]) -> Iterator[Fields]:
        for record in records:
            made = Lazy(partial(self._make, record), partial(self._identity, record))
            yield {
                name: Lazy(partial(_part, made, name), partial(_part_token, made, name))
                for name in self.step.stage.gives
            }

    def has(self, record: Record) -> bool:
        return True

    def _make(self, record: Record) -> Fields:
        (fields,) = self.step([record])
        return fields

    def __getstate__(self) -> dict[str, Any]:
        """For a worker process, which makes values and asks for no identity."""
        return {"step": self.step, "key": _nothing}

    def _identity(self, record: Record) -> bytes:
        return digest(self.key(), inputs_digest(record, self.step.stage.needs)).encode()


def inputs_digest(record: Record, names: Iterable[str]) -> str:
    """A hash of what these fields of a record hold, without making those whose identity is known."""
    return inputs_key(field_digests(record, names))


def field_digests(record: Record, names: Iterable[str]) -> dict[str, str]:
    """The same, a hash for each field."""
    values = {name: record.raw(name) for name in names}
    return {
        name: value.fingerprint(digest) if isinstance(value, Lazy) else digest_value(host(value))
        for name, value in values.items()
    }


def host(value: Any) -> Any:
    """A tensor as a numpy array (bfloat16, which numpy lacks, as float32); anything else as it is."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    return value


def view_on_host(view: Record) -> Record:
    """The same view, its tensors as numpy arrays when they are read."""
    fields = {}
    for name in view:
        raw = view.raw(name)
        fields[name] = Lazy(partial(_host_value, raw), _nothing) if isinstance(raw, Lazy) else host(raw)
    return Record(view.id, fields, view.reader)


def _host_value(lazy: Lazy) -> Any:
    return host(lazy.value())


def _itself(value: Any) -> Any:
    return value


def _nothing() -> Any:
    raise AssertionError("asked of a copy made for reading alone")


def _token(entry: Entry, name: str) -> bytes:
    return entry.digests[name].encode()


def _part(made: Lazy, name: str) -> Any:
    return made.value()[name]


def _part_token(made: Lazy, name: str) -> bytes:
    return f"{made.fingerprint(digest)}/{name}".encode()
