"""The loop: chunks of images through all steps, a barrier only before a fit. Keys stand in keys.py."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..cache import layout
from ..cache.inputs import Inputs, state_key
from ..cache.store import Shelf, Store
from ..errors import UserError
from ..stages.nets import ranks
from ..stages.record import Record, Records
from ..stages.stage import NoCheckpoint, Stage
from . import rates
from .about import Shelves
from .fitting import Digests, FitRecords, ShelfCheckpoint, on_host, refuse_to_learn
from .keys import Keys
from .pipeline import Pipeline
from .processes import cores
from .progress import Bars
from .rates import Cost
from .usable import usable
from .wrap import Cached, Clock, Derived, Timed

log = logging.getLogger("rcnn.run")
DEFAULT = "default"
CHUNK = 16  # images that are in memory at once, at least


class Run:
    """A pipeline at work: with a cache, a device, worker processes and a clock.

    Until it is closed, or its process ends, `rcnn cache prune` spares what it uses; `with Run(...) as run` closes it.

    cache: folder; DEFAULT for $RCNN_CACHE or the user's cache folder; None for no cache.
    device: for stages made of torch ("auto", "cpu", "cuda", "cuda:1"); None leaves what they say.
    jobs: worker processes for stages whose images cost a core much; default: all cores.
    progress: draw progress bars on stderr; default: where stderr is a terminal.
    checkpoint_every: seconds of a fit, 20, that a killed run has to do again at most, where the fit saves its progress.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        cache: str | Path | None = DEFAULT,
        device: str | None = None,
        jobs: int | None = None,
        progress: bool | None = None,
        checkpoint_every: float = 20.0,
    ):
        self.pipeline = pipeline
        self.store = None if cache is None else Store(None if cache == DEFAULT else cache)
        self.device = device
        self.jobs = jobs or max(1, cores() // ranks.here())
        self.checkpoint_every = checkpoint_every
        self.bars = Bars((sys.stderr.isatty() if progress is None else progress) and ranks.rank() == 0)
        self.clock = Clock()
        self.keys = Keys(pipeline)
        self.shelves = Shelves(self.store, self.keys, device or "auto") if self.store else None
        self._revision = pipeline.revision
        self._wrapped: dict[str, Cached | Derived] = {}
        self._usable: dict[str, Records] = {}
        if device not in (None, "auto"):
            from ..stages.nets.precision import device_of

            device_of(str(device))  # refused before any work
        if device is not None:
            for step in pipeline:
                if isinstance(step.stage, Stage) and "device" in step.stage.param_names():
                    step.stage.set_params(device=device)  # what is learned stays; with it precision "auto" may change

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the cache. A Run that is used again takes hold of it again."""
        self._wrapped = {}
        if self.shelves:
            self.shelves.release()

    # -- use -------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Records,
        fields: Iterable[str] | None = None,
        *,
        steps: Iterable[str] = (),
        only: str | None = None,
    ) -> None:
        """Learn every step that these fields (default: the outputs) need, or load what was learned before.

        steps: more steps to learn, such as give a state and no field.
        only: compute nothing but this step, as in `over`.
        UserError if there are no images, or no classes or masks where a step learns from them.
        """
        names = self.pipeline.taught(self.pipeline.outputs if fields is None else fields, steps)
        refuse_to_learn(self.pipeline, data, names)
        if ranks.count() > 1 and self.store is None:
            raise UserError("processes that train together share what they make through a cache; there is none")
        for name in names:
            if self.pipeline.stage(name).distributed:
                self.pipeline.stage(name).check_processes(ranks.count())
        self.pipeline.classes, self.pipeline.keys = tuple(data.classes), {}
        self.pipeline.category_ids = tuple(getattr(data, "category_ids", ()))
        self.pipeline.revision += 1
        with self.bars:
            for name in names:
                self._learn(name, data, only)

    def fit_apart(self, fields: Iterable[str]) -> None:
        """Learn what these fields need and has data of its own. UserError if they need more than that."""
        for name in self.pipeline.taught(fields):
            data = self.pipeline.step(name).data
            if data is None:
                raise UserError(f"step {name!r} has learned nothing yet: train the recipe first, and name the RUN")
            with self.bars:
                self._learn(name, data)

    def over(
        self, data: Records, fields: Iterable[str], *, only: str | None = None, indices: Sequence[int] | None = None
    ) -> Iterator[Record]:
        """Every image's record with these fields, in order.

        only: compute nothing that is kept but this step; UserError if the cache lacks something that it needs.
        indices: of the images to take, default all.
        """
        steps = self.pipeline.needed(fields)
        self._check_learned(steps)
        for name in steps:
            self.wrapped(name)  # a weight file that is not there is missed now, not after hours
        order = range(len(data)) if indices is None else indices
        with self.bars:
            for name in steps:
                self.bars.start(name, len(order))
            size = max(CHUNK, 4 * self.jobs)
            for begin in range(0, len(order), size):
                yield from self._chunk(steps, [data[i] for i in order[begin : begin + size]], only)
        if self.store:
            for name in steps:
                if isinstance(step := self.wrapped(name), Cached):
                    if step.shelf.untidy:
                        step.shelf.pack()
                    rates.note(self.shelf(name), "call", Cost(self.clock[name].computed, self.clock[name].seconds))

    def one(self, image: Any, fields: Iterable[str] | None = None) -> Record:
        """One image (path, H W 3 uint8 RGB array or Record) with these fields (default: the outputs)."""
        wanted = tuple(fields or self.pipeline.outputs)
        record = image if isinstance(image, Record) else as_record(image)
        steps = self.pipeline.needed(wanted)
        self._check_learned(steps)
        for name in steps:
            (record,) = self._through(name, [record])
        for name in wanted:
            record[name]  # made now, so that what fails fails here
        return record

    # -- one step --------------------------------------------------------------------------------------

    def _chunk(self, steps: list[str], records: list[Record], only: str | None) -> Iterator[Record]:
        """A chunk of images through all steps: side by side up to the last step that is worth processes.

        From there on images go in groups of the largest `Stage.chunk` and are forgotten group by group, so that no
        more features than one group's are in memory.
        """
        worth = [i for i, name in enumerate(steps) if self.pipeline.stage(name).parallel]
        ahead = worth[-1] + 1 if worth else 0
        for name in steps[:ahead]:
            records = self._through(name, records, only)
        group = max([self.pipeline.stage(name).chunk for name in steps[ahead:]], default=1)
        while records:
            done, records[:group] = records[:group], []
            for name in steps[ahead:]:
                done = self._through(name, done, only)
            yield from done

    def _through(self, name: str, records: list[Record], only: str | None = None) -> list[Record]:
        step = self.wrapped(name)
        for record in records:
            absent = [field for field in self.pipeline.stage(name).needs if field not in record]
            if absent:
                raise UserError(
                    f"image {record.id!r}: step {name!r} needs {absent[0]!r}, which its data set does not give"
                )
        lacking = [r.id for r in records if not step.has(r)] if only not in (None, name) else []
        if lacking:
            raise UserError(
                f"image {lacking[0]!r}: step {only!r} alone cannot run, since the cache lacks "
                f"what step {name!r} gives; run with --until {name} first"
            )
        done = []
        for record, fields in zip(records, step.stream(records), strict=True):
            done.append(record.add(fields, f"step {name!r}"))
            self.bars.advance(name, reused=self.clock[name].reused)
        return done

    def wrapped(self, name: str) -> Cached | Derived:
        """The step with its clock and cache round it."""
        if self._revision != self.pipeline.revision:  # it was given other parameters, or learned again
            self._revision, self._wrapped = self.pipeline.revision, {}
        if name not in self._wrapped:
            stage = self.pipeline.stage(name)
            self._bind(name)
            timed = Timed(name, stage, self.clock, self.jobs)
            if self.shelves is None or not self.pipeline.step(name).keep:
                self._wrapped[name] = Derived(timed, partial(self.key, name))
            else:
                self._wrapped[name] = Cached(timed, self.shelves.use(name), partial(self.shelves.describe, name))
        return self._wrapped[name]

    def _bind(self, name: str) -> None:
        stage, own = self.pipeline.method(name), self.pipeline.origin(name)
        for param, ref in stage.refs().items():
            stage.bind(param, partial(self.pipeline.stage(ref.step).state_for, own), self.pipeline.keys[ref.step])

    def _check_learned(self, steps: Iterable[str]) -> None:
        authored = [field for step in steps for field in self.pipeline.stage(step).gives]
        missing = [name for name in self.pipeline.taught(authored) if name not in self.pipeline.keys]
        if missing:
            raise UserError(f"step {missing[0]!r} has learned nothing yet: train the pipeline first")

    # -- learning --------------------------------------------------------------------------------------

    def remembered(self, name: str, data: Records) -> bool:
        """Whether the cache holds what a step learns from this data; if so it is loaded. Nothing is computed.

        All that the fit reads must be in the cache.
        """
        records = FitRecords(self, name, data)
        self._recall(name, records, records.digests())
        return name in self.pipeline.keys

    def _learn(self, name: str, data: Records, only: str | None = None) -> None:
        step = self.pipeline.step(name)
        if name in self.pipeline.keys:
            return
        if step.apart and step.data is None:
            raise UserError(f"step {name!r} learns from data of its own, which a RUN does not hold: train the recipe")
        records = FitRecords(self, name, data)
        key = self._prepare(name, records, only)
        if ranks.agreed(name in self.pipeline.keys):  # else all learn it, or wait for the first, who does
            self._take(name, key)
            return
        if only not in (None, name):
            raise UserError(
                f"step {only!r} alone cannot run, since step {name!r} has not learned; run with --until {name} first"
            )
        if step.stage.distributed or ranks.rank() == 0:  # type: ignore[union-attr] # what learns is no Again
            self._fit(name, key, records)
        ranks.wait()
        self._take(name, key)

    def _take(self, name: str, key: str) -> None:
        """Load what another process learned, if this one has not, or not to the last."""
        if self.store and (ranks.rank() or name not in self.pipeline.keys):
            state = self.store.shelf(name, key).load_state()
            if state is None:
                raise UserError(f"step {name!r}: another process learned it, and {self.store.root} does not hold it; "
                                "processes that train together share one cache folder")  # fmt: skip
            self.pipeline.stage(name).load_state(state)
            self.pipeline.keys[name] = key

    def _prepare(self, name: str, records: FitRecords, only: str | None) -> str:
        """Make what a fit reads, note on its shelf what that is, load what was learned from it before; its key."""
        key, inputs = self._recall(name, records, records.prepare(only))
        if self.shelves:
            note = self.shelves.use_learned if name in self.pipeline.keys else self.shelves.begin
            note(name, key, records.classes, inputs)
        return key

    def _recall(self, name: str, records: FitRecords, digests: Digests) -> tuple[str, Inputs]:
        """Load what a step learns from these records, if the cache holds it; its key, and what that is made from."""
        self._bind(name)
        inputs = self.keys.inputs(name, records.fields, digests)
        key = state_key(self.method_key(name), records.classes, inputs)
        state = self.store.shelf(name, key).load_state() if self.store else None
        if state is not None:
            self.pipeline.stage(name).load_state(state)
            self.pipeline.keys[name] = key
        return key, inputs

    def _fit(self, name: str, key: str, records: FitRecords) -> None:
        stage, text, start = self.pipeline.stage(name), f"fit {name}", time.perf_counter()
        self.bars.start(text, len(records))
        if self.shelves is None:
            stage.fit(records, NoCheckpoint())
        else:
            shelf = self.shelves.use(name, key, records.classes)
            resumed = layout.learned(shelf.path, layout.CHECKPOINT).exists()
            stage.fit(records, ShelfCheckpoint(shelf, partial(self.bars.update, text), self.checkpoint_every))
            if ranks.rank():
                return
            shelf.save_state(on_host(stage.state()))
            self.shelves.describe(name, key, records.classes)  # again, if the shelf was taken away meanwhile
            shelf.drop_state(layout.CHECKPOINT)
            self.clock[name].resumed = resumed
            if not resumed:  # else these are not all its seconds
                rates.note(shelf, "fit", Cost(len(records), time.perf_counter() - start))
        self.clock[name].fit_seconds += time.perf_counter() - start
        self.pipeline.keys[name] = key

    def usable(self, name: str, data: Records) -> Records:
        """What can be used of the data of a step's own; what is left out is said once."""
        if name not in self._usable:
            self._usable[name] = usable(data, self.store, self.jobs)
            lost = getattr(self._usable[name], "left_out", [])
            if lost:
                log.warning("step %r: left out of its data: %d; the first: %s", name, len(lost), lost[0])
        return self._usable[name]

    # -- keys ------------------------------------------------------------------------------------------

    def key(self, name: str) -> str:
        """The key under which the cache keeps what a step gives."""
        return self.keys.key(name)

    def shelf(self, name: str) -> Shelf:
        """The step's shelf. Only where there is a cache."""
        assert self.store is not None
        return self.store.shelf(name, self.key(name))

    def method_key(self, name: str) -> str:
        """Class, version, keyed parameters, and keys of the states and the methods that the step reads."""
        return self.keys.method_key(name)


def as_record(image: Any) -> Record:
    """The record of an image that is in no data set. UserError if a file cannot be read."""
    if isinstance(image, (str, Path)):
        from ..stages.datasets.folder import Files

        return Files([image])[0]
    array = np.ascontiguousarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UserError(f"an image is H W 3 uint8 RGB, not {array.dtype} {array.shape}")
    return Record("image", {"image": array, "size": np.array(array.shape[:2], np.int64)})
