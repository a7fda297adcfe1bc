"""What an image costs, in bytes and seconds: by arithmetic, by a few images run now, by what the cache remembers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..cache.store import Store
from ..errors import UserError
from ..stages.nets.member import Member
from ..stages.record import Record, RecordList, Records, field_of
from ..stages.stage import NoCheckpoint, Ref, Stage
from . import rates
from .pipeline import SOURCES, Again, Pipeline, Step
from .rates import Cost
from .renamed import Renamed, RenamedRecords
from .run import Run
from .wrap import host, view_on_host

OF_TRUTH = 100  # images whose annotations are looked at for the mean number of objects


@dataclass(frozen=True)
class Sizes:
    """Bytes: as they are stored, and with every float field in float16 or float32. at_most: by arithmetic."""

    stored: float
    float16: float
    float32: float
    at_most: bool = True

    def times(self, images: int) -> Sizes:
        return replace(self, stored=self.stored * images, float16=self.float16 * images, float32=self.float32 * images)


# -- how much ----------------------------------------------------------------------------------------------


def letters(pipeline: Pipeline, data: Records) -> dict[str, float]:
    """The most (R, D), the mean (T) or the number (K) that shape letters stand for, as far as parameters say it."""
    found: dict[str, float] = {"K": len(data.classes)}
    if top := _params_of_author(pipeline, "boxes").get("top"):
        found["R"] = top
    last = _params_of_author(pipeline, "det_boxes")
    limits = [last.get("top_per_image"), (last.get("top_per_class") or 0) * len(data.classes)]
    if any(limits):
        found["D"] = min(limit for limit in limits if limit)
    return found | _objects(data)


def _params_of_author(pipeline: Pipeline, name: str) -> dict[str, Any]:
    author = pipeline.authors().get(name)
    return pipeline.method(author).get_params() if author else {}


def _objects(data: Records) -> dict[str, float]:
    """The mean number of objects an image, of some spread over the data."""
    places = (
        sorted(set(np.linspace(0, len(data) - 1, min(OF_TRUTH, len(data))).astype(int).tolist())) if len(data) else []
    )
    numbers = [len(record["truth_labels"]) for record in (data[i] for i in places) if "truth_labels" in record]
    return {"T": float(np.mean(numbers))} if numbers else {}


def by_arithmetic(stage: Stage, inner: Stage, known: Mapping[str, float]) -> Sizes | None:
    """Bytes an image of what a stage gives, at most; None if a letter of a shape is not known.

    inner: the stage that does the work, where `stage` is it under other names. known: of `letters`.
    """
    stored = sixteen = thirty_two = 0.0
    for outer, name in zip(stage.gives, inner.gives):
        what = field_of(outer)
        own = {"R": inner.get_params()["top"]} if "top" in inner.param_names() and "boxes" in inner.gives else {}
        values = _product(what.shape, {**known, **own, **_length(inner, name)})
        if values is None:
            return None
        free = what.dtype == "float"  # of any floating type
        each = np.dtype(inner.get_params().get("storage", "float32") if free else what.dtype).itemsize
        stored += values * each
        sixteen += values * (2 if free else each)
        thirty_two += values * (4 if free else each)
    return Sizes(stored, sixteen, thirty_two)


def _product(shape: str, known: Mapping[str, float]) -> float | None:
    factors = [float(letter) if letter.isdigit() else known.get(letter) for letter in shape.split()]
    return None if None in factors else float(np.prod([factor for factor in factors if factor is not None]))


def _length(stage: Stage, name: str) -> dict[str, float]:
    """F of a field of a stage with a frozen net; m of masks."""
    from ..stages.mask_heads.fcn import MaskHead
    from ..stages.nets.frozen import Frozen

    if isinstance(stage, MaskHead):
        return {"m": stage.size}

    if not isinstance(stage, Frozen) or not name.startswith("features."):
        return {}
    from ..stages.nets.backbones import lengths_of

    layer = name.removeprefix("features.")
    return {"F": lengths_of(stage.backbone, [layer], stage.get_params().get("pool", 6))[layer]}


# -- how long ----------------------------------------------------------------------------------------------


@dataclass
class Sample:
    """What a few images took: by step seconds and bytes of each."""

    images: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)
    rounds: dict[str, float] = field(default_factory=dict)  # of a fit in rounds: seconds of a unit of its work
    sizes: dict[str, list[Sizes]] = field(default_factory=dict)


def runnable(pipeline: Pipeline) -> Pipeline:
    """The steps that can run today. A net that waits for a fit has random weights: they take as long as others."""
    steps: list[Step] = []
    given = set(SOURCES)
    for step in pipeline:
        stage = pipeline.stage(step.name)
        doer = pipeline.method(step.name)
        lacking = not step.apart and bool(set(stage.needs) - given)
        idle = (stage.learned and step.name not in pipeline.keys) or lacking
        idle = idle or (isinstance(doer, Member) and doer.new and bool(_late(doer, pipeline)))
        idle = idle or any(_late(pipeline.method(one), pipeline) for one in getattr(doer, "members", ()))
        again = isinstance(step.stage, Again) and step.stage.step not in [done.name for done in steps]
        if not idle and not again:
            given |= set(stage.gives)
            steps.append(step if isinstance(step.stage, Again) else replace(step, stage=_unbound(step.stage, pipeline)))
    gives = [name for step in steps for name in pipeline.stage(step.name).gives]
    part = Pipeline(steps, name=pipeline.name, outputs=gives)
    part.classes = pipeline.classes
    for name in (step.name for step in steps if step.name in pipeline.keys):
        part.stage(name).load_state(pipeline.stage(name).state())
        part.keys[name] = pipeline.keys[name]
    return part


def _unbound(stage: Stage, pipeline: Pipeline) -> Stage:
    return stage.clone().set_params(**dict.fromkeys(_late(stage, pipeline)))


def _late(stage: Stage, pipeline: Pipeline) -> list[str]:
    """The parameters that take the state of a step that has not learned yet."""
    return [name for name, ref in stage.refs().items() if ref.step not in pipeline.keys]


def take_sample(pipeline: Pipeline, data: Records, steps: Iterable[str], n: int, device: str | None) -> Sample:
    """n images, spread over the data, through those of these steps that can run, without the cache."""
    part, sample = runnable(pipeline), Sample()
    present = [step.name for step in part]
    fields = [name for step in steps if step in present for name in part.stage(step).gives]
    if not (n and len(data) and fields):
        return sample
    run = Run(part, cache=None, device=device, jobs=1, progress=False)
    for i in np.linspace(0, len(data) - 1, min(n, len(data))).astype(int).tolist():
        before = {name: run.clock[name].seconds for name in present}
        done = run.one(data[i], fields)
        sample.images += 1
        for name in part.needed(fields):
            sample.seconds.setdefault(name, []).append(run.clock[name].seconds - before[name])
            sample.sizes.setdefault(name, []).append(_sizes(done, part.stage(name).gives))
    return sample


ROUNDS = 3  # that are tried of a fit; the first also builds what the others find there


def try_rounds(pipeline: Pipeline, data: Records, n: int, device: str | None) -> dict[str, float]:
    """Seconds of a unit of work of the fits that go in rounds, by step: a few rounds, on n images, kept nowhere."""
    part, found = runnable(pipeline), {}
    run = Run(part, cache=None, device=device, jobs=1, progress=False)
    for step in pipeline:
        stage = step.stage
        if not isinstance(stage, Stage) or not stage.rounds or step.name in pipeline.keys:
            continue
        own, outer = data if step.data is None else step.data, pipeline.stage(step.name)
        asked = [] if step.apart else [name for name in (*outer.needs, *outer.learns) if name not in SOURCES]
        if set(asked) - set(part.authors()):
            continue  # of what another fit gives first, nothing can be tried
        needed = part.needed(asked)
        fields = [name for before in needed for name in part.stage(before).gives]
        some = [own[i] for i in np.linspace(0, len(own) - 1, min(n, len(own))).astype(int).tolist()]
        made = [view_on_host(run.one(one, fields)) if fields else one for one in some]
        records: Records = RecordList(made, own.classes)
        if isinstance(outer, Renamed):
            records = RenamedRecords(records, outer)
        trial = _unbound(stage, pipeline).set_params(**{stage.rounds: ROUNDS})
        for param, ref in trial.refs().items():
            known = pipeline.stage(ref.step)
            trial.bind(param, partial(known.state_for, step.name), pipeline.keys[ref.step])
        found[step.name] = _seconds_of_work(trial, records)
    return {name: seconds for name, seconds in found.items() if seconds}


def _seconds_of_work(trial: Stage, records: Records) -> float:
    """Of a unit of a fit's work; 0 where these few records give nothing to learn from."""
    ticks = Ticks()
    try:
        trial.fit(records, ticks)
    except UserError:  # of records without an object, say: the plan then says that it does not know
        return 0.0
    each = [later - earlier for earlier, later in pairwise(ticks.times)]
    return float(np.median(each)) * len(ticks.times) / trial.work(len(records)) if each else 0.0


class Ticks(NoCheckpoint):
    """When a fit said that it went on."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.times.append(time.perf_counter())


def _sizes(record: Record, fields: Iterable[str]) -> Sizes:
    stored = sixteen = thirty_two = 0.0
    for name in fields:
        array = host(record[name])
        free = field_of(name).dtype == "float"
        stored += array.nbytes
        sixteen += array.size * 2 if free else array.nbytes
        thirty_two += array.size * 4 if free else array.nbytes
    return Sizes(stored, sixteen, thirty_two, at_most=False)


def mean_size(sizes: Sequence[Sizes]) -> Sizes | None:
    """The mean of what was seen."""
    if not sizes:
        return None
    rows = [(one.stored, one.float16, one.float32) for one in sizes]
    stored, sixteen, thirty_two = np.mean(rows, 0).tolist()
    return Sizes(stored, sixteen, thirty_two, at_most=False)


# -- how long, before ----------------------------------------------------------------------------------------


class Note(NamedTuple):
    """What a shelf's about.json and its rates tell."""

    about: Mapping[str, Any]
    costs: Mapping[str, Cost]


def notes(store: Store | None) -> list[Note]:
    """Of every shelf that has a rate, and tells what it is of. A damaged about.json is named in a warning."""
    noted = [(shelf, rates.noted(shelf)) for shelf in (store.shelves() if store else ())]
    return [Note(shelf.about(), costs) for shelf, costs in noted if costs and shelf.described()]


class Remembered(NamedTuple):
    """What earlier runs tell of a step: its cost, the stage as it was then, whether with other parameters."""

    cost: Cost
    stage: Stage
    other: bool


def remembered_cost(run: Run, name: str, kind: str, known: Iterable[Note], images: int = 0) -> Remembered | None:
    """What a step's images ("call"), or its fit, cost in earlier runs; of several the one nearest in images.

    An image: by the same class with the same parameters. A fit: by the same class, with those parameters if there is
    one. Files and states count as the same whatever they hold: they change no rate. known: of `notes`.
    """
    doer, again = run.pipeline.method(name), isinstance(run.pipeline.step(name).stage, Again)
    wanted = _comparable(_plain(doer.key_params()), doer)
    found: list[tuple[bool, float, Remembered]] = []
    for about, costs in known:
        cost = costs.get(kind)
        if cost is None or about.get("class") != f"{type(doer).__module__}.{type(doer).__qualname__}":
            continue
        params = _comparable(about.get("parameters", {}), doer)
        other = params != wanted
        if kind == "fit" or not (other or bool(about.get("again")) != again):
            then = doer.clone().set_params(**{key: params[key] for key in params if key in doer.param_names()})
            found.append((other, abs(np.log(cost.images / max(images, 1))), Remembered(cost, then, other)))
    return min(found, default=(False, 0.0, None), key=lambda one: one[:2])[2]


def _comparable(params: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    loose = {*stage.files, *stage.refs(), "random_state"}
    return {name: value for name, value in params.items() if name not in loose}


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as about.json has them."""
    return json.loads(
        json.dumps({name: value for name, value in params.items() if not isinstance(value, Ref)}, default=str)
    )
