"""Trained RUNs side by side on the same images: accuracy, paired intervals, objects lost, and what differs in them.

Results go in, plain JSON-able rows come out, and the tables are drawn from these rows alone.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cache import inputs
from ..cache.files import Unreadable
from ..cache.keys import digest_file
from ..cache.store import log
from ..errors import UserError
from ..stages.record import Records
from ..stages.stage import NamedFile, Ref, Stage
from . import measure
from .pipeline import Again, Pipeline
from .progress import Bars
from .run import Run
from .tables import LINE, Table
from .wrap import Clock

METRICS = {
    "voc_11pt": "VOC 11-point AP",
    "voc_area": "VOC area AP",
    "coco_ap50": "COCO AP50",
    "coco_ap": "COCO AP",
    "coco_ap75": "COCO AP75",
}
CLAIMS = {name: METRICS[name] for name in ("voc_area", "voc_11pt")}  # those that measure.bootstrap resamples
AGAINST = ("first", "previous")
DIFFERENCE_HEAD = ["difference", "low", "high", "order"]
WHAT_CHANGED = "what changed: steps and parameters, and training data where the cache knows those of both"


class Part(NamedTuple):
    """A step as far as it changes numbers, in words: equal words, equal method.

    kind: its class. params: parameter -> value. unusual: those that are not the class's default.
    """

    kind: str
    params: Mapping[str, str]
    unusual: Mapping[str, str]


Data = Mapping[str, Mapping[str, str]]  # image id -> field -> hash


class Measured(NamedTuple):
    """One RUN on the images.

    parts: step -> Part. keys: of the steps that learned. data: of those whose shelf is there, what they learned from:
    image id -> field of the data set -> hash. results: image id -> detections. scores: of measure.evaluate, with
    "objects" lost by step. clock: what was called for it.
    """

    name: str
    parts: Mapping[str, Part]
    keys: Mapping[str, str]
    data: Mapping[str, Data]
    results: measure.Results
    scores: Mapping[str, Any]
    clock: Clock


def measured(name: str, run: Run, records: Records) -> Measured:
    """Detections of a trained pipeline through its cache, and how good they are."""
    results, objects = measure.read_all(run.over(records, run.pipeline.outputs))
    scores = {**measure.evaluate(results, records), "objects": objects}
    return Measured(name, parts(run.pipeline), dict(run.pipeline.keys), learned_from(run), results, scores, run.clock)


def run_names(paths: Sequence[str | Path]) -> list[str]:
    """A name for each folder: its own, with as much of its path as tells it apart. UserError for one given twice."""
    places = [Path(os.path.abspath(path)).parts for path in paths]
    for place, path in zip(places, paths):
        if places.count(place) > 1:
            raise UserError(f"{path} is named twice: a RUN is compared with others")
    return ["/".join(_told_apart(place, places)) for place in places]


def _told_apart(place: tuple[str, ...], places: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    ends = (place[-n:] for n in range(1, len(place) + 1))
    return next(end for end in ends if sum(other[-len(end) :] == end for other in places) == 1)


def bases(against: str, n: int) -> list[int | None]:
    """For each of n RUNs, the one that it is held against. UserError unless `against` is one of AGAINST."""
    if against not in AGAINST:
        raise UserError(f"--against {against}: it is {' or '.join(AGAINST)}")
    return [None, *([0] * (n - 1) if against == "first" else range(n - 1))]


def refuse_metric(metric: str) -> None:
    """UserError unless a metric has a bootstrap."""
    if metric not in CLAIMS:
        raise UserError(f"--metric {metric}: intervals are made for {' and '.join(CLAIMS)}")


def learned_from(run: Run) -> dict[str, Data]:
    """What of the training data each step learned from, where the cache still tells."""
    keys = run.pipeline.keys if run.store else {}
    told = {name: _told(run.shelf(name).path) for name in keys if not run.pipeline.step(name).apart}
    return {name: _own(one) for name, one in told.items() if one}


def _told(shelf: Path) -> inputs.Inputs | None:
    try:
        return inputs.read(shelf)
    except Unreadable as error:
        log.warning("%s; other training data will not be noticed", error)
        return None


def _own(learned: inputs.Inputs) -> Data:
    """The data set's own fields: no step made them."""
    made = learned.made_by
    return {id: {k: v for k, v in fields.items() if k not in made} for id, fields in learned.images.items()}


def refuse_without_objects(records: Records) -> None:
    """UserError if there is nothing to find in the images, told before any is run."""
    if all(truth.ignored.all() for truth in measure.read_truths(records).values()):
        raise UserError("there is no object in these images, so nothing to compare by")


# -- what differs ----------------------------------------------------------------------------------------


def parts(pipeline: Pipeline) -> dict[str, Part]:
    """What each step of a pipeline does, in words that are equal where its numbers would be."""
    return {step.name: _part(step.stage) for step in pipeline}


def _part(stage: Stage | Again) -> Part:
    if isinstance(stage, Again):
        return Part(f"{stage.step} again", stage.fields, {})
    params = {name: _word(stage, name, value) for name, value in stage.key_params().items()}
    signature = inspect.signature(type(stage)).parameters
    unusual = [n for n, v in stage.get_params().items() if _word(stage, n, v) != _plain(signature[n].default)]
    return Part(type(stage).__name__, params, {name: params[name] for name in unusual if name in params})


def _word(stage: Stage, name: str, value: Any) -> str:
    """A parameter's value; a file by its content, a name of weights by the name wherever it is kept."""
    if isinstance(value, Ref):
        return f"state of {value.step}"
    if isinstance(value, NamedFile):
        return value.name
    if name in stage.files and isinstance(value, (str, Path)) and Path(value).is_file():
        return f"file {digest_file(value)[:8]}"
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_plain, value))})"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def changes(before: Measured, after: Measured) -> list[str]:
    """What was changed from one RUN to another, a line a change; never empty."""
    old, new = before.parts, after.parts
    both = [name for name in new if name in old]
    swapped = [name for name in both if old[name].kind != new[name].kind]
    lines = [f"{name}: {_title(old[name], new[name])} -> {_title(new[name], old[name])}" for name in swapped]
    lines += _parameter_changes(old, new, [name for name in both if name not in swapped])
    lines += [f"+ {name}: {_title(new[name])}" for name in _only_in(new, old)]
    lines += [f"- {name}: {_title(old[name])}" for name in _only_in(old, new)]
    if both != [name for name in old if name in new]:
        lines.append(f"order: {', '.join(new)}")
    return [*lines, *(_other_data(before, after) or _other_inputs(before, after))] or ["nothing"]


def _parameter_changes(old: Mapping[str, Part], new: Mapping[str, Part], names: Sequence[str]) -> list[str]:
    """Steps in which the same parameter changed in the same way share a line."""
    where: dict[tuple[str, str, str], list[str]] = {}
    for step in names:
        for name in {**old[step].params, **new[step].params}:
            was, word = (side[step].params.get(name, "not there") for side in (old, new))
            if was != word:
                where.setdefault((name, was, word), []).append(f"{step}.{name}")
    return [f"{', '.join(places)}: {was} -> {word}" for (_, was, word), places in where.items()]


def _title(part: Part, other: Part | None = None) -> str:
    """A class with the parameters that are worth telling: not the default, and not as in the other."""
    told = {n: word for n, word in part.unusual.items() if other is None or other.params.get(n) != word}
    return part.kind + (f"({', '.join(f'{name}={word}' for name, word in told.items())})" if told else "")


def _only_in(some: Mapping[str, Part], others: Mapping[str, Part]) -> list[str]:
    """Steps that the others lack, without those that only repeat one of these."""
    names = [name for name in some if name not in others]
    return [name for name in names if some[name].kind not in {f"{step} again" for step in names}]


def _other_data(before: Measured, after: Measured) -> list[str]:
    """Whether the first step that both learned saw other training data, as far as the cache tells."""
    for old, new in ((before.data[name], after.data[name]) for name in after.data if name in before.data):
        if old.keys() != new.keys():
            common = len(old.keys() & new.keys())
            return [f"training data: {len(old)} images -> {len(new)}, {common} of them in both"]
        other = sum(_unlike(fields, new[id]) for id, fields in old.items())
        return [f"training data: {other} of {len(old)} images are other or otherwise annotated"] if other else []
    return []


def _unlike(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    return any(a[field] != b[field] for field in a.keys() & b.keys())


def _other_inputs(before: Measured, after: Measured) -> list[str]:
    """Whether a step that learns, with nothing changed in it or before it, learned something else."""
    for (old_name, old), (name, new) in zip(before.parts.items(), after.parts.items()):
        if (old_name, old) != (name, new):
            break
        if before.keys.get(name) != after.keys.get(name):
            return [f"{name}: the same method, learned from other inputs (data, device or version)"]
    return []


# -- rows ------------------------------------------------------------------------------------------------


def compare(
    runs: Sequence[Measured],
    records: Records,
    against: Sequence[int | None],
    metric: str = "voc_area",
    *,
    resamples: int = 1000,
    by_class: bool = False,
    bars: Bars | None = None,
) -> dict[str, Any]:
    """How the RUNs compare, ready for JSON.

    against: for each RUN the position of the one that it is held against, or None. metric: one of CLAIMS.
    resamples: of the images, for intervals of 95 %. by_class: an interval for each class too.
    Each row of "runs" has its metrics (by class too), the objects lost by step and, where it is held against
    another, the difference (measure.bootstrap's) and what changed.
    UserError if there is no object in the images.
    """
    bars = bars or Bars(False)
    truths = measure.read_truths(records)
    rows = []
    with bars:
        bars.start("bootstrap", len(runs))
        for run, base in zip(runs, against):
            row: dict[str, Any] = {"run": run.name, **run.scores, "against": None, "difference": None, "changed": []}
            if base is not None:
                other = runs[base]
                row |= {"against": other.name, "changed": changes(other, run)}
                row["difference"] = measure.bootstrap(other.results, run.results, truths, metric, n=resamples)
                if by_class:
                    row["by_class"] = class_differences(other, run, truths, records.classes, metric, resamples)
            rows.append(row)
            bars.advance("bootstrap")
    objects = int(sum((~truth.ignored).sum() for truth in truths.values()))
    return {"metric": metric, "resamples": resamples, "images": len(truths), "objects": objects, "runs": rows}


def class_differences(
    before: Measured, after: Measured, truths: measure.Truths, classes: Sequence[str], metric: str, resamples: int
) -> dict[str, dict[str, Any] | None]:
    """Class -> measure.bootstrap of it alone; None where there is no object of it."""
    found: dict[str, dict[str, Any] | None] = {}
    for label, name in enumerate(classes, 1):
        mine = only(truths, label)
        sides = (only(before.results, label), only(after.results, label))
        there = any((~truth.ignored).any() for truth in mine.values())
        found[name] = measure.bootstrap(*sides, mine, metric, n=resamples) if there else None
    return found


def only(side: Mapping[str, Any], label: int) -> dict[str, Any]:
    """What is of one class in each image's Detections or Truth."""
    return {name: type(one)(*(field[one.labels == label] for field in one)) for name, one in side.items()}


# -- tables ----------------------------------------------------------------------------------------------


def tables(found: Mapping[str, Any], head: str = "RUN") -> list[Table]:
    """All tables of what `compare` found. head: of the column that names the RUNs."""
    return [
        accuracy_table(found, head),
        *difference_tables(found, head),
        *lost_tables(found, head),
        *class_tables(found),
    ]


def difference_tables(found: Mapping[str, Any], head: str = "RUN") -> list[Table]:
    """Empty where nothing is held against another."""
    return [difference_table(found, head)] if any(row["difference"] for row in found["runs"]) else []


def lost_tables(found: Mapping[str, Any], head: str = "RUN") -> list[Table]:
    """Empty where no RUN has the fields to count by."""
    return [lost_table(found, head)] if any(row["objects"] for row in found["runs"]) else []


def class_tables(found: Mapping[str, Any]) -> list[Table]:
    """A table for each RUN whose classes were held against another's."""
    return [class_table(found, row) for row in found["runs"] if "by_class" in row]


def accuracy_table(found: Mapping[str, Any], head: str = "RUN") -> Table:
    """A row a RUN, a column a metric."""
    rows = [[row["run"], *(_number(row["metrics"].get(name)) for name in METRICS)] for row in found["runs"]]
    title = f"accuracy on the same {found['images']} images, {found['objects']} objects, mean over classes"
    return Table(title, [head, *METRICS.values()], rows)


def difference_table(found: Mapping[str, Any], head: str = "RUN") -> Table:
    """A row a RUN: its AP, how it differs from the one that it is held against, and what was changed."""
    name = CLAIMS[found["metric"]]
    rows = [
        [r["run"], _number(r["metrics"][found["metric"]]), *_difference(r["difference"]), LINE.join(r["changed"])]
        for r in found["runs"]
    ]
    title = f"difference in {name}, {against_words(found)}"
    caption = f"{interval_words(found)}\n{WHAT_CHANGED}"
    return Table(title, [head, name, *DIFFERENCE_HEAD, "what changed"], rows, caption, (5, 6))


def lost_table(found: Mapping[str, Any], head: str = "RUN") -> Table:
    """A row a RUN: how many objects were found, and how many each step lost."""
    rows = [[row["run"], *(_share(row["objects"], fate) for fate in measure.ERRORS)] for row in found["runs"]]
    caption = "at IoU 0.5; classified low: no covering proposal scores above 0"
    return Table("where objects were lost", [head, *measure.ERRORS], rows, caption)


def class_table(found: Mapping[str, Any], row: Mapping[str, Any]) -> Table:
    """A row a class: objects, AP of both RUNs, the difference."""
    metric, base = found["metric"], next(one for one in found["runs"] if one["run"] == row["against"])
    rows = [
        [
            name,
            str(mine["truths"]),
            _number(base["per_class"][name][metric]),
            _number(mine[metric]),
            *_difference(row["by_class"][name]),
        ]
        for name, mine in row["per_class"].items()
    ]
    head = ["class", "objects", base["run"], row["run"], *DIFFERENCE_HEAD]
    caption = f"{interval_words(found)}; of {len(rows)} such intervals some miss the truth by chance"
    return Table(f"{CLAIMS[metric]} by class: {row['run']} against {base['run']}", head, rows, caption, (7,))


def against_words(found: Mapping[str, Any]) -> str:
    """Against which RUN the differences are, in words."""
    others = {row["against"] for row in found["runs"]} - {None}
    return f"against {next(iter(others))}" if len(others) == 1 else "each against the one above"


def interval_words(found: Mapping[str, Any]) -> str:
    """What low and high are, for a caption."""
    return f"low to high: 95 % of {found['resamples']} paired resamples of the images; resolved: it excludes 0"


def _difference(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["", "", "", ""]
    said = "resolved" if found["resolved"] else "not resolved"
    return [*(f"{found[name]:+.3f}" for name in ("difference", "low", "high")), said]


def _share(counts: Mapping[str, int], fate: str) -> str:
    return f"{counts[fate]} ({100 * counts[fate] / sum(counts.values()):.0f} %)" if counts else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def cost_words(clock: Clock) -> str:
    """What was called, in one line."""
    if not clock.calls():
        return "no stage was called: all is from the cache"
    fits = [f"fit {name} ({t.fit_seconds:.1f} s)" for name, t in clock.tallies.items() if t.fit_seconds]
    calls = [f"{name} on {t.computed} images ({t.seconds:.1f} s)" for name, t in clock.tallies.items() if t.computed]
    return ", ".join([*fits, *calls])
