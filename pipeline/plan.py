"""What a run would compute, keep and cost, before anything starts (`rcnn plan`)."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import UserError
from ..stages.record import Record, Records, field_of
from ..stages.stage import Ref, Stage
from . import disk, rates
from .pipeline import SOURCES, Again, Pipeline, Step
from .rates import Cost
from .run import Run
from .wrap import host

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


@dataclass(frozen=True)
class Row:
    """One step on one data set, or its fit.

    use: "train", "test", "data" or "fit". images: of the data set. run: images to compute (of a fit: to learn from).
    waits: the fit that has not happened, without which the cache cannot be asked. size: what will be written, None
    if nothing is or it is not known. seconds: wall-clock, None if not known. rate: where they are from.
    """

    step: str
    use: str
    images: int
    run: int
    waits: str = ""
    kept: bool = True
    size: Sizes | None = None
    seconds: float | None = None
    rate: str = ""

    @property
    def reused(self) -> int:
        return self.images - self.run if self.kept else 0


@dataclass(frozen=True)
class Plan:
    """All rows, the room on the disk, and where the cache is."""

    rows: list[Row]
    free: int
    cache: str

    @property
    def sizes(self) -> Sizes:
        known = [row.size for row in self.rows if row.size]
        return Sizes(*(sum(getattr(size, name) for size in known) for name in ("stored", "float16", "float32")))

    @property
    def seconds(self) -> float:
        return sum(row.seconds or 0 for row in self.rows)

    @property
    def untimed(self) -> list[str]:
        """What will run and takes nobody knows how long."""
        return [
            row.step if row.use != "fit" else f"fit {row.step}" for row in self.rows if row.run and row.seconds is None
        ]

    @property
    def unsized(self) -> list[str]:
        """Steps that will write nobody knows how much."""
        return [row.step for row in self.rows if row.run and row.kept and row.use != "fit" and row.size is None]

    @property
    def fits(self) -> bool:
        return self.sizes.stored <= self.free


# -- what is there already ---------------------------------------------------------------------------------


def waiting(pipeline: Pipeline) -> dict[str, str]:
    """The steps whose key is not known yet -> the fit that has to happen first."""
    waits: dict[str, str] = {}
    authors = pipeline.authors()
    for step in pipeline:
        stage = pipeline.stage(step.name)
        before = [] if step.apart else [authors[f] for f in (*stage.needs, *stage.learns) if f in authors]
        before += [ref.step for ref in pipeline.method(step.name).refs().values()]
        before += [step.stage.step] if isinstance(step.stage, Again) else []
        blocked = [waits[name] for name in before if name in waits]
        if step.name not in pipeline.keys and (blocked or stage.learned):
            waits[step.name] = blocked[0] if blocked else step.name
    return waits


def reusable(run: Run, record: Record, steps: Sequence[str], waits: Mapping[str, str]) -> set[str]:
    """The steps for which the cache needs to compute nothing that it keeps of this image."""
    found: set[str] = set()
    if run.store is None or not run.store.root.is_dir():
        return found
    for name in steps:
        if name in waits or any(need not in record for need in run.pipeline.stage(name).needs):
            continue  # what it reads is to be computed first, and may come out different
        step = run.wrapped(name)
        if step.has(record):
            found.add(name)
            record = record.add(step([record])[0])  # names and hashes: nothing is made
    return found


def to_run(pipeline: Pipeline, steps: Sequence[str], found: set[str], read: Iterable[str]) -> set[str]:
    """The steps that will compute something for an image: kept ones that are not found; others if something reads them.

    read: the fields that are read in the end, or by a fit to come.
    """
    wanted, running = set(read), set()
    for name in reversed(steps):
        stage = pipeline.stage(name)
        if name not in found if pipeline.step(name).keep else wanted & set(stage.gives):
            running.add(name)
            wanted |= set(stage.needs)
    return running


def recall_fits(run: Run, data: Records) -> None:
    """Load every state that the cache holds for this data and that detection needs."""
    pipeline = run.pipeline
    for name in pipeline.taught(pipeline.outputs):
        step, stage, waits = pipeline.step(name), pipeline.stage(name), waiting(pipeline)
        if waits.get(name) != name or run.store is None or not run.store.root.is_dir():
            continue
        steps = [] if step.apart else pipeline.needed([*stage.needs, *stage.learns])
        if all(len(reusable(run, record, steps, waits)) == len(steps) for record in (data if steps else ())):
            run.remembered(name, data)


def counts(run: Run, data: Records, steps: Sequence[str], read: Iterable[str]) -> Counter[str]:
    """How many images each step will compute."""
    waits, read, total = waiting(run.pipeline), tuple(read), Counter(dict.fromkeys(steps, 0))
    with run.bars:
        run.bars.start("look", len(data))
        for record in data:
            total.update(to_run(run.pipeline, steps, reusable(run, record, steps, waits), read))
            run.bars.advance("look")
    return total


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
        values = _product(what.shape, {**known, **_length(inner, name)})
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
    """F of a field of a stage with a frozen net."""
    from ..stages.nets.frozen import Frozen

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
    sizes: dict[str, list[Sizes]] = field(default_factory=dict)


def runnable(pipeline: Pipeline) -> Pipeline:
    """The steps that can run today. A net that waits for a fit has random weights: they take as long as others."""
    steps: list[Step] = []
    given = set(SOURCES)
    for step in pipeline:
        stage = pipeline.stage(step.name)
        idle = (stage.learned and step.name not in pipeline.keys) or (not step.apart and set(stage.needs) - given)
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
    late = [name for name, ref in stage.refs().items() if ref.step not in pipeline.keys]
    return stage.clone().set_params(**dict.fromkeys(late))


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


def remembered_cost(run: Run, name: str, kind: str, images: int = 0) -> Cost | None:
    """What a step's images ("call"), or its fit, cost in earlier runs; of several the one nearest in images.

    An image: by the same class with the same parameters. A fit: by the same class, with those parameters if there is
    one. Files and states count as the same whatever they hold: they change no rate.
    """
    if run.store is None:
        return None
    doer, again = run.pipeline.method(name), isinstance(run.pipeline.step(name).stage, Again)
    wanted = _comparable(_plain(doer.key_params()), doer)
    found: list[tuple[bool, float, Cost]] = []
    for shelf in run.store.shelves():
        about, cost = shelf.about(), rates.noted(shelf).get(kind)
        if cost is None or about.get("class") != f"{type(doer).__module__}.{type(doer).__qualname__}":
            continue
        other = _comparable(about.get("parameters", {}), doer) != wanted
        if kind == "fit" or not (other or bool(about.get("again")) != again):
            found.append((other, abs(np.log(cost.images / max(images, 1))), cost))
    return min(found, default=(False, 0.0, None), key=lambda one: one[:2])[2]


def _comparable(params: Mapping[str, Any], stage: Stage) -> dict[str, Any]:
    loose = {*stage.files, *stage.refs(), "random_state"}
    return {name: value for name, value in params.items() if name not in loose}


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as about.json has them."""
    return json.loads(
        json.dumps({name: value for name, value in params.items() if not isinstance(value, Ref)}, default=str)
    )


# -- the plan ----------------------------------------------------------------------------------------------


def plan(run: Run, data: Records, test: Records | None = None, sample: int = 3) -> Plan:
    """What `train` on this data and `evaluate` on the test data would do; with a trained pipeline, only its use.

    sample: images run through the steps, without the cache, for their rates and sizes; 0: none.
    UserError if there is nothing to learn from.
    """
    trained = bool(run.pipeline.keys)
    if not trained:
        _check(run.pipeline, data)
        run.pipeline.classes = tuple(data.classes)
        recall_fits(run, data)
    jobs = _uses(run, data, test, trained)
    looked = [(use, records, counts(run, records, steps, read)) for use, records, steps, read in jobs]
    busy = [name for _use, _records, total in looked for name, n in total.items() if n]
    seen = take_sample(run.pipeline, data, dict.fromkeys(busy), sample, run.device)
    rows = _fits(run, data) if not trained else []
    for use, records, total in looked:
        known = letters(run.pipeline, records)
        rows += [_row(run, name, use, len(records), n, known, seen) for name, n in total.items()]
    assert run.store is not None
    rows.sort(key=lambda row: (row.use in ("test",), run.pipeline.index(row.step), row.use != "fit"))
    return Plan(rows, disk.free_bytes(run.store.root), str(run.store.root))


def _check(pipeline: Pipeline, data: Records) -> None:
    if not len(data):
        raise UserError("the data set has no images")
    if not data.classes and not all(pipeline.step(name).apart for name in pipeline.taught(pipeline.outputs)):
        raise UserError("the data set has no annotations to learn from; to plan the use of a RUN, name its folder")


def _uses(
    run: Run, data: Records, test: Records | None, trained: bool
) -> list[tuple[str, Records, list[str], tuple[str, ...]]]:
    """(use, records, steps, fields that are read in the end) of every pass over a data set."""
    pipeline = run.pipeline
    detect, outputs = pipeline.needed(pipeline.outputs), pipeline.outputs
    passes = [("data" if trained else "test", records, detect, outputs) for records in [test] if records is not None]
    if trained:
        return [("data", data, detect, outputs), *passes]
    taught = [name for name in pipeline.taught(outputs) if not pipeline.step(name).apart]
    fields = {name: (*pipeline.stage(name).needs, *pipeline.stage(name).learns) for name in taught}
    steps = pipeline.needed([f for name in taught for f in fields[name]])
    read = tuple(f for name in taught if name not in pipeline.keys for f in fields[name])
    return [("train", data, steps, read), *passes]


def _fits(run: Run, data: Records) -> list[Row]:
    rows = []
    for name in run.pipeline.taught(run.pipeline.outputs):
        images = len(run.pipeline.step(name).data or data)
        row = Row(name, "fit", images, 0 if name in run.pipeline.keys else images)
        cost = remembered_cost(run, name, "fit", images) if row.run else None
        if cost:
            seconds = cost.seconds * images / cost.images
            row = replace(row, seconds=seconds, rate=f"{duration(cost.seconds)} ({cost.images} before)")
        rows.append(row)
    return rows


def _row(run: Run, name: str, use: str, images: int, n: int, known: Mapping[str, float], seen: Sample) -> Row:
    stage, kept = run.pipeline.stage(name), run.pipeline.step(name).keep
    row = Row(name, use, images, n, waiting(run.pipeline).get(name, ""), kept)
    if not n:
        return row
    if kept:
        size = by_arithmetic(stage, run.pipeline.method(name), known) or mean_size(seen.sizes.get(name, []))
        row = replace(row, size=size and size.times(n))
    each, rate = _each(run, name, seen)
    if each is None:
        return row
    return replace(row, seconds=n * each / (run.jobs if stage.parallel else 1), rate=rate)


def _each(run: Run, name: str, seen: Sample) -> tuple[float | None, str]:
    """Seconds an image and where they are from. The lower median: the first image also builds the net."""
    if name in seen.seconds:
        each, where = statistics.median_low(seen.seconds[name]), f"{seen.images} now"
    elif cost := remembered_cost(run, name, "call"):
        each, where = cost.seconds / cost.images, f"{cost.images} before"
    else:
        return None, ""
    return each, f"{each:.3g} s ({where})"


# -- what is printed ---------------------------------------------------------------------------------------


def as_json(made: Plan) -> dict[str, Any]:
    """All of the plan; "seconds" and "bytes" are of what is known."""
    rows = [{**asdict(row), "reused": row.reused} for row in made.rows]
    whole = {"seconds": made.seconds, "bytes": asdict(made.sizes), "untimed": made.untimed, "unsized": made.unsized}
    return {"rows": rows, **whole, "free": made.free, "fits": made.fits, "cache": made.cache}


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def table(made: Plan, name: str) -> Any:
    """The plan, for the terminal."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    head = ("step", "for", "to run", "reused", "written", "float16", "float32", "time", "rate")
    grid = Table(title=escape(f"plan of {name}"), caption=escape(_caption(made)), box=box.SIMPLE_HEAD, pad_edge=False)
    for title in head:
        grid.add_column(title, justify="left" if title in ("step", "for", "rate") else "right", no_wrap=title != "rate")
    for i, row in enumerate(made.rows):
        last = i == len(made.rows) - 1 or (made.rows[i + 1].use == "test") != (row.use == "test")
        grid.add_row(*_cells(row), end_section=last)
    sizes = made.sizes
    total = (_size(sizes.stored), _size(sizes.float16), _size(sizes.float32), duration(made.seconds))
    grid.add_row("in all", "", "", "", *total, "")
    return grid


def _cells(row: Row) -> list[str]:
    run = f"all {row.run}" if row.waits and row.run else str(row.run)
    if row.use == "fit":
        run = str(row.run) if row.run else "learned"
        return [row.step, row.use, run, "", "", "", "", _time(row), row.rate]
    size = row.size
    sizes = [_size(getattr(size, name)) if size else "?" for name in ("stored", "float16", "float32")]
    sizes = ["not kept", "", ""] if not row.kept else sizes if row.run else ["", "", ""]
    return [row.step, row.use, run, str(row.reused) if row.kept else "", *sizes, _time(row), row.rate]


def _time(row: Row) -> str:
    return "" if not row.run else "?" if row.seconds is None else duration(row.seconds)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.0f} GB" if size >= 100 else f"{size:.3g} GB"


def _caption(made: Plan) -> str:
    lines = [f"{_size(made.free)} are free at {made.cache}"]
    if any(row.size and row.size.at_most for row in made.rows):
        lines.append("sizes at most, by arithmetic: as many boxes as the proposals may give, in every image")
    if waits := sorted({row.waits for row in made.rows if row.waits and row.run and row.use != "fit"}):
        lines.append(f"all: what follows the fit of {', '.join(waits)} has no key before it, so none is looked up")
    if any(row.run and not row.kept for row in made.rows):
        lines.append("not kept: made anew whenever it is read; its time is of once")
    if any(row.rate for row in made.rows):
        lines.append("rate: of an image, or a whole fit (of so many images, measured now or in runs before)")
    if made.untimed or made.unsized:
        lines.append("?: not known yet, and in no sum")
    return "\n".join(lines)
