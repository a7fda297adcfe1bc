"""The loop: chunks of images through all steps, a barrier only before a fit.

Keys (see ARCHITECTURE.md):
    method key: class, version, keyed parameters, content of parameter files, states and methods it reads.
    state key:  the method key, the class names, and every field that fit reads of every image.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import inputs as cache_inputs
from ..cache import use
from ..cache.inputs import Inputs
from ..cache.keys import digest_file, digest_value
from ..cache.store import Shelf, Store
from ..errors import UserError
from ..stages.record import Record, Records
from ..stages.stage import NamedFile, NoCheckpoint, Ref, Stage, State
from . import rates
from .pipeline import Again, Pipeline, Step
from .progress import Bars
from .rates import Cost
from .usable import usable
from .wrap import Cached, Clock, Derived, Timed, field_digests, host, log

DEFAULT = "default"
CHUNK = 16  # images that are in memory at once, at least


class Run:
    """A pipeline at work: with a cache, a device, worker processes and a clock.

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
        self.jobs = jobs or cores()
        self.checkpoint_every = checkpoint_every
        self.bars = Bars(sys.stderr.isatty() if progress is None else progress)
        self.clock = Clock()
        self._lease: Any = None  # held as long as this Run lives
        self._revision = pipeline.revision
        self._method_keys: dict[str, str] = {}
        self._wrapped: dict[str, Cached | Derived] = {}
        self._usable: dict[str, Records] = {}
        if device not in (None, "auto"):
            from ..stages.nets.precision import device_of

            device_of(str(device))  # refused before any work
        if device is not None:
            for step in pipeline:
                if isinstance(step.stage, Stage) and "device" in step.stage.param_names():
                    step.stage.set_params(device=device)  # what is learned stays; with it precision "auto" may change

    # -- use -------------------------------------------------------------------------------------------

    def fit(self, data: Records, fields: Iterable[str] | None = None, *, only: str | None = None) -> None:
        """Learn every step that these fields (default: the outputs) need, or load what was learned before.

        only: compute nothing but this step, as in `over`.
        UserError if there are no images, or no classes where a step learns from them.
        """
        names = self.pipeline.taught(fields or self.pipeline.outputs)
        if not len(data):
            raise UserError("the data set has no images")
        if not data.classes and not all(self.pipeline.step(name).apart for name in names):
            raise UserError("the data set has no annotations to learn from")
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
                    step.shelf.pack()  # this one knows which packs it found damaged
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
        for record, fields in zip(records, step.stream(records)):
            done.append(record.add(fields, f"step {name!r}"))
            self.bars.advance(name, reused=self.clock[name].reused)
        return done

    def wrapped(self, name: str) -> Cached | Derived:
        """The step with its clock and cache round it."""
        self._refresh()
        if name not in self._wrapped:
            stage = self.pipeline.stage(name)
            self._bind(name)
            timed = Timed(name, stage, self.clock, self.jobs)
            if self.store is None or not self.pipeline.step(name).keep:
                self._wrapped[name] = Derived(timed, partial(self.key, name))
            else:
                self._use(self.shelf(name), partial(self._describe, name))
                self._wrapped[name] = Cached(timed, self.shelf(name), partial(self._describe, name))
        return self._wrapped[name]

    def _refresh(self) -> None:
        """Forget keys and wrapped steps if the pipeline was given other parameters or learned again."""
        if self._revision != self.pipeline.revision:
            self._revision = self.pipeline.revision
            self._method_keys, self._wrapped = {}, {}

    def _bind(self, name: str) -> None:
        stage = self.pipeline.method(name)
        for param, ref in stage.refs().items():
            stage.bind(param, self.pipeline.stage(ref.step).state, self.pipeline.keys[ref.step])

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
        self._bind(name)
        key = cache_inputs.state_key(self.method_key(name), records.classes, self._inputs(name, records))
        state = self.store.shelf(name, key).load_state() if self.store else None
        if state is not None:
            self.pipeline.stage(name).load_state(state)
            self.pipeline.keys[name] = key
        return state is not None

    def _learn(self, name: str, data: Records, only: str | None = None) -> None:
        step = self.pipeline.step(name)
        if name in self.pipeline.keys:
            return
        if step.apart and step.data is None:
            raise UserError(f"step {name!r} learns from data of its own, which a RUN does not hold: train the recipe")
        stage = self.pipeline.stage(name)
        records = FitRecords(self, name, data)
        records.prepare(only)
        self._bind(name)
        inputs = self._inputs(name, records)
        key = cache_inputs.state_key(self.method_key(name), records.classes, inputs)
        shelf = self.store.shelf(name, key) if self.store else None
        if shelf:
            self._use(shelf, partial(self._describe, name, key, records.classes))
        state = shelf.load_state() if shelf else None
        if state is None:
            self._fit(step, stage, records, shelf, key, inputs)
        else:
            stage.load_state(state)
        self.pipeline.keys[name] = key

    def _fit(
        self, step: Step, stage: Stage, records: FitRecords, shelf: Shelf | None, key: str, inputs: Inputs
    ) -> None:
        text = f"fit {step.name}"
        self.bars.start(text, len(records))
        start = time.perf_counter()
        if shelf is None:
            stage.fit(records, NoCheckpoint())
        else:
            self._describe(step.name, key, records.classes)
            cache_inputs.write(shelf.path, inputs)
            resumed = (shelf.path / "checkpoint.safetensors").exists()
            stage.fit(records, ShelfCheckpoint(shelf, partial(self.bars.update, text), self.checkpoint_every))
            shelf.save_state(on_host(stage.state()))
            self._describe(step.name, key, records.classes)  # again, if the shelf was taken away meanwhile
            shelf.drop_state("checkpoint")
            if not resumed:  # else these are not all its seconds
                rates.note(shelf, "fit", Cost(len(records), time.perf_counter() - start))
        self.clock[step.name].fit_seconds += time.perf_counter() - start

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
        return self.pipeline.keys[name] if self.pipeline.stage(name).learned else self.method_key(name)

    def shelf(self, name: str) -> Shelf:
        """The step's shelf. Only where there is a cache."""
        assert self.store is not None
        return self.store.shelf(name, self.key(name))

    def method_key(self, name: str) -> str:
        """Class, version, keyed parameters, and keys of the states and the methods that the step reads."""
        self._refresh()
        if name not in self._method_keys:
            self._method_keys[name] = digest_value(self._method(name))
        return self._method_keys[name]

    def _method(self, name: str) -> dict[str, Any]:
        step, stage, doer = self.pipeline.step(name), self.pipeline.stage(name), self.pipeline.method(name)
        authors = self.pipeline.authors()
        read = () if step.apart else tuple(stage.needs)
        again: list[Any] = []
        if isinstance(step.stage, Again):  # of the step repeated only what it learned: the rest is in this method
            again = [self.pipeline.keys.get(step.stage.step, ""), step.stage.fields]
        return {
            "class": f"{type(doer).__module__}.{type(doer).__qualname__}",
            "version": doer.version,
            "parameters": {key: self._keyed(doer, key, value) for key, value in doer.key_params().items()},
            "again": again,
            "reads": {field: self.key(authors[field]) for field in read if field in authors},
        }

    def _keyed(self, stage: Stage, name: str, value: Any) -> Any:
        if isinstance(value, Ref):
            return {"state": self.pipeline.keys[value.step]}
        if name not in stage.files or not isinstance(value, (str, Path)):
            return value
        if isinstance(value, NamedFile):
            return value.name
        if Path(value).is_file():
            return {"content": digest_file(value)}
        if isinstance(value, Path) or Path(value).suffix:
            raise UserError(f"{name} of {type(stage).__name__}: there is no file {value}")
        return value

    def _inputs(self, name: str, records: FitRecords) -> Inputs:
        authors = {} if self.pipeline.step(name).apart else self.pipeline.authors()
        made_by = {field: self.key(authors[field]) for field in records.fields if field in authors}
        return Inputs({record.id: field_digests(record, record) for record in records}, made_by)

    # -- about.json ------------------------------------------------------------------------------------

    def _describe(self, name: str, key: str | None = None, classes: Sequence[str] = ()) -> None:
        assert self.store is not None
        key = key or self.key(name)
        about = {
            "step": name,
            "key": key,
            "recipe": self.pipeline.name,
            "method_key": self.method_key(name),
            **self._method(name),
            "classes": list(classes),
            "unkept": self._unkept(name),
            "made": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        shelf = self.store.shelf(name, key)
        shelf.describe(about, environment(self.device or "auto"))
        use.stamp(shelf.path)

    def _unkept(self, name: str) -> dict[str, Any]:
        """By key, the methods on the way to this step that have no shelf to tell of them."""
        stage, authors = self.pipeline.stage(name), self.pipeline.authors()
        fields = () if self.pipeline.step(name).apart else (*stage.needs, *stage.learns)
        found: dict[str, Any] = {}
        for author in sorted({authors[field] for field in fields if field in authors}):
            if not self.pipeline.step(author).keep and not self.pipeline.stage(author).learned:
                found[self.key(author)] = {"step": author, **self._method(author)}
                found.update(self._unkept(author))
        return found

    def _use(self, shelf: Shelf, describe: Callable[[], None]) -> None:
        """Note that this Run uses a shelf, so that `rcnn cache prune` spares it; write its about.json if it is lost or
        damaged, where it may be written.
        """
        assert self.store is not None
        self._lease = self._lease or use.lease(self.store.root)
        use.stamp(shelf.path)
        if os.access(shelf.path, os.W_OK) and not shelf.described():
            describe()


class FitRecords(Records):
    """What a fit is handed: each record with just the fields that the stage declares, made when asked for."""

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

    def prepare(self, only: str | None = None) -> None:
        """Fill the cache with what will be read, so that the fit itself streams; compute `only` that step, if given."""
        if self.steps:
            fields = [field for step in self.steps for field in self.run.pipeline.stage(step).gives]
            deque(self.run.over(self.data, fields, only=only), maxlen=0)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Any:
        record = self.data[self.order[index]]
        for name in self.steps:
            (fields,) = self.run.wrapped(name)([record])
            record = record.add(fields, f"step {name!r}")
        return record.only(self.fields, self.reader)


class ShelfCheckpoint:
    """Saves a fit's progress beside its state to be, at most every `every` seconds.

    A full disk ends the fit with a UserError, in place of hours that could be lost; what was saved before stays.
    """

    def __init__(self, shelf: Shelf, update: Callable[[int, int, str], None], every: float):
        self.shelf = shelf
        self.update = update
        self.every = every
        self._saved = time.monotonic()

    def load(self) -> State | None:
        return self.shelf.load_state("checkpoint")

    def save(self, make: Callable[[], State], *, now: bool = False) -> None:
        if now or time.monotonic() - self._saved >= self.every:
            self.shelf.save_state(on_host(make()), "checkpoint")
            self._saved = time.monotonic()

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.update(done, total, text)


def environment(device: str) -> dict[str, Any]:
    """What may change bits beside the method: software, the device that computes, its name, threads."""
    from importlib.metadata import PackageNotFoundError, version

    names = ("numpy", "torch", "torchvision", "scikit-learn", "pillow", "opencv-contrib-python-headless")
    software = {}
    for name in (*names, "opencv-contrib-python"):
        with suppress(PackageNotFoundError):
            software[name] = version(name)
    if "torch" not in sys.modules:
        return {"software": software, "device": "cpu", "threads": 1}
    import torch

    from ..stages.nets.precision import device_of

    place = device_of(device)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else "cpu"
    return {"software": software, "device": name, "threads": torch.get_num_threads()}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_host(state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A state as numpy arrays, numbers as arrays of no dimension."""
    return {name: np.asarray(host(value)) for name, value in state.items()}


def as_record(image: Any) -> Record:
    """The record of an image that is in no data set. UserError if a file cannot be read."""
    if isinstance(image, (str, Path)):
        from ..stages.datasets.folder import Files

        return Files([image])[0]
    array = np.ascontiguousarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UserError(f"an image is H W 3 uint8 RGB, not {array.dtype} {array.shape}")
    return Record("image", {"image": array, "size": np.array(array.shape[:2], np.int64)})
