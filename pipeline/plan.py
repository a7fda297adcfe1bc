"""What a run would compute, keep and cost, before anything starts (`rcnn plan`)."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..errors import UserError
from ..stages.record import Record, Records
from . import disk
from .fitting import refuse_to_learn
from .pipeline import Again, Pipeline
from .plan_cost import (
    Note,
    Sample,
    Sizes,
    by_arithmetic,
    letters,
    mean_size,
    notes,
    remembered_cost,
    take_sample,
    try_rounds,
)
from .run import Run


@dataclass(frozen=True)
class Rate:
    """So many images took so many seconds, now or before: each of them, or a fit of all.

    other: whether that fit was one with other parameters.
    """

    seconds: float
    images: int
    now: bool = False
    other: bool = False


@dataclass(frozen=True)
class Row:
    """One step on one data set, or its fit.

    use: "train", "test", "data" or "fit". images: of the data set. run: images to compute (of a fit: to learn from).
    waits: the fit that has not happened, without which the cache cannot be asked. size: what will be written, None
    if nothing is or it is not known. seconds: wall-clock, None if not known. rate: of what they are reckoned, None if
    not known.
    """

    step: str
    use: str
    images: int
    run: int
    waits: str = ""
    kept: bool = True
    size: Sizes | None = None
    seconds: float | None = None
    rate: Rate | None = None

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
    known = notes(run.store)
    if not trained and sample:
        seen.rounds.update(try_rounds(run.pipeline, data, sample, run.device))
    rows = _fits(run, data, seen, known) if not trained else []
    for use, records, total in looked:
        shapes = letters(run.pipeline, records)
        rows += [_row(run, name, use, len(records), n, shapes, seen, known) for name, n in total.items()]
    assert run.store is not None
    rows.sort(key=lambda row: (row.use in ("test",), run.pipeline.index(row.step), row.use != "fit"))
    return Plan(rows, disk.free_bytes(run.store.root), str(run.store.root))


def _check(pipeline: Pipeline, data: Records) -> None:
    taught = pipeline.taught(pipeline.outputs)
    if len(data) and not data.classes and not all(pipeline.step(name).apart for name in taught):
        raise UserError("the data set has no annotations to learn from; to plan the use of a RUN, name its folder")
    refuse_to_learn(pipeline, data, [name for name in taught if name not in pipeline.keys])


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


def _fits(run: Run, data: Records, seen: Sample, known: Sequence[Note]) -> list[Row]:
    rows = []
    for name in run.pipeline.taught(run.pipeline.outputs):
        images = len(run.pipeline.step(name).data or data)
        row = Row(name, "fit", images, 0 if name in run.pipeline.keys else images)
        rows.append(_timed_fit(run, row, seen, known) if row.run else row)
    return rows


def _timed_fit(run: Run, row: Row, seen: Sample, known: Sequence[Note]) -> Row:
    """What a fit of the same class cost, as much more as this one has to do; else some of its rounds, tried now."""
    work = run.pipeline.method(row.step).work(row.images)
    before = remembered_cost(run, row.step, "fit", known, row.images)
    if before and not (before.other and row.step in seen.rounds):
        cost, then, other = before
        seconds = cost.seconds * work / then.work(cost.images)
        return replace(row, seconds=seconds, rate=Rate(cost.seconds, cost.images, other=other))
    if row.step in seen.rounds:
        seconds = work * seen.rounds[row.step]
        return replace(row, seconds=seconds, rate=Rate(seconds, seen.images, now=True))
    return row


def _row(
    run: Run,
    name: str,
    use: str,
    images: int,
    n: int,
    shapes: Mapping[str, float],
    seen: Sample,
    known: Sequence[Note],
) -> Row:
    stage, kept = run.pipeline.stage(name), run.pipeline.step(name).keep
    row = Row(name, use, images, n, waiting(run.pipeline).get(name, ""), kept)
    if not n:
        return row
    if kept:
        size = by_arithmetic(stage, run.pipeline.method(name), shapes) or mean_size(seen.sizes.get(name, []))
        row = replace(row, size=size and size.times(n))
    rate = _rate(run, name, seen, known)
    if rate is None:
        return row
    return replace(row, seconds=n * rate.seconds / (run.jobs if stage.parallel else 1), rate=rate)


def _rate(run: Run, name: str, seen: Sample, known: Sequence[Note]) -> Rate | None:
    """Of an image of a step. The lower median: the first image also builds the net."""
    if name in seen.seconds:
        return Rate(statistics.median_low(seen.seconds[name]), seen.images, now=True)
    before = remembered_cost(run, name, "call", known)
    return Rate(before.cost.seconds / before.cost.images, before.cost.images) if before else None
