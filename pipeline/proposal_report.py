"""Proposal stages side by side: recall and best overlaps against the number of boxes (`rcnn proposals`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..stages.record import Record, Records
from . import measure
from .measure import Overlaps
from .pipeline import Pipeline, Step
from .proposal_differences import against_first
from .proposal_differences import table as differences_table
from .report import left_out_words
from .run import Run
from .tables import LINE, Table, number
from .words import assignment, lacking, pipeline_of, stage_class, told
from .wrap import host

TOPS = (10, 30, 100, 300, 1000, 2000, None)  # numbers of boxes; None is all
PAIRED = (100, 300, 1000, 2000)  # at which stages are held against the first
IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)
CURVE_AT = 1000  # boxes at which recall is drawn against IoU (Hosang et al. 2015, figure 7)
CURVE = tuple(np.arange(50, 101) / 100)
MEANS = ("ar", "abo", "mabo")
STEP = "proposals"  # the recipes' name of the step, so that its entries serve both


@dataclass(frozen=True)
class Contender:
    """Something that gives boxes: its name in tables, a pipeline that ends with it, and whether it ranks them."""

    name: str
    pipeline: Pipeline
    ranked: bool


@dataclass(frozen=True)
class Coverage:
    """What a contender's boxes cover, and what they cost.

    counts, objects: of boxes and of objects, by image. computed: images whose boxes were computed in this run; seconds:
    of one core, for each of them, None if there was none or a step before was read from the cache.
    """

    name: str
    ranked: bool
    overlaps: Overlaps
    counts: Any
    objects: Any
    computed: int
    seconds: float | None


# -- words to contenders -----------------------------------------------------------------------------------


def contenders(texts: Sequence[str], allow: Sequence[str] = ()) -> list[Contender]:
    """One for each text, in that order. UserError if there is none, or two are the same."""
    if not texts:
        raise UserError("name what is to be compared: --with selective_search.SelectiveSearch, or a RUN folder")
    twice = [text for i, text in enumerate(texts) if text in texts[:i]]
    if twice:
        raise UserError(f"--with {twice[0]} is given twice")
    return [contender(text, allow) for text in texts]


def contender(text: str, allow: Sequence[str] = ()) -> Contender:
    """What `CLASS`, `RECIPE` or `RUN` names, with `:parameter=value,parameter=value` behind the first two.

    A comma parts two parameters only before `name=`, so that values may hold commas: scales=[32,64],stride=0.5.
    UserError if there is no such thing, or it gives no boxes.
    """
    from . import recipes

    first, _, rest = text.partition(":")
    if Path(text).is_dir():
        return _of_pipeline(text, pipeline_of(text, allow=allow))
    sets = _assignments(text, rest)
    if first in recipes.__all__:
        return _of_pipeline(text, pipeline_of(first, sets))
    stage, given = stage_class(first, text, "--with"), dict(map(assignment, sets))
    if missing := ",".join(f"{name}=..." for name in lacking(stage, given)):
        raise UserError(f"--with {text}: {stage.__name__} needs its parameters: {first}:{missing}")
    try:
        pipeline = Pipeline([Step(STEP, stage(**given))], name=STEP, outputs=("boxes",))
    except (ValueError, TypeError) as error:
        raise UserError(f"--with {text}: {error}") from error
    return _of_pipeline(text, pipeline)


def _assignments(text: str, rest: str) -> list[str]:
    parts = re.split(r",(?=[A-Za-z_]\w*=)", rest) if rest else []
    for part in parts:
        if not re.match(r"[A-Za-z_]\w*=", part):
            raise UserError(f"--with {text}: write CLASS:parameter=value,parameter=value")
    return parts


def _of_pipeline(text: str, pipeline: Pipeline) -> Contender:
    step = pipeline.authors().get("boxes")
    if step is None:
        raise UserError(f"--with {text}: no step of it gives boxes")
    part = told(lambda: pipeline[:step])
    ranked = pipeline.stage(step).ranked and "objectness" in part.outputs
    return Contender(text, part, ranked)


# -- measuring ---------------------------------------------------------------------------------------------


def measure_one(
    one: Contender, records: Records, indices: Sequence[int], cache: str | Path | None, **options: Any
) -> Coverage:
    """A contender's boxes on these images, through the cache, held against the truth.

    options: as Run takes them. UserError if the data has no truth, or a step before the boxes has not learned.
    """
    if not records.classes:
        raise UserError("the data set has no annotations to measure against")
    run = Run(one.pipeline, cache=cache, **options)
    fields = [name for name in one.pipeline.outputs if name in ("boxes", "objectness")]
    parts, counts = [], []
    for record in run.over(records, fields, indices=indices):
        boxes = ordered(record, one.ranked)
        (truth,) = measure.read_truths([record]).values()
        parts.append(measure.best_overlaps(boxes, truth, TOPS))
        counts.append(len(boxes))
    overlaps = measure.join(parts, TOPS)
    if not len(overlaps.labels):
        raise UserError("there is no object in these images to measure against (difficult and crowd do not count)")
    objects = np.array([len(part.labels) for part in parts])
    return Coverage(one.name, one.ranked, overlaps, np.array(counts), objects, *_cost(run, fields))


def ordered(record: Record, ranked: bool) -> Any:
    """The boxes (R 4) by falling objectness, equal ones as they stand; as they stand if they are not ranked."""
    boxes = host(record["boxes"])
    return boxes[np.argsort(-host(record["objectness"]), kind="stable")] if ranked else boxes


def _cost(run: Run, fields: Sequence[str]) -> tuple[int, float | None]:
    """Images whose boxes were computed, and the seconds of each by all steps that they need."""
    tallies = [run.clock[name] for name in run.pipeline.needed(fields) if run.pipeline.stage(name).gives]
    last = tallies[-1].computed
    known = last and all(tally.computed >= last for tally in tallies)
    return last, sum(tally.seconds / tally.computed for tally in tallies) if known else None


# -- what is printed ---------------------------------------------------------------------------------------


def as_json(found: Sequence[Coverage], records: Records, by_class: bool = False) -> dict[str, Any]:
    """All numbers; "boxes" is a number or "all". records: those that were measured, or of which a shard was."""
    return {
        "images": len(found[0].counts),
        "objects": len(found[0].overlaps.labels),
        "left_out": measure.left_out(records),
        "stages": [_json_of(one, records.classes if by_class else ()) for one in found],
        "against_first": against_first([(one.name, one.overlaps) for one in found], found[0].objects, TOPS, PAIRED),
    }


def _json_of(one: Coverage, classes: Sequence[str]) -> dict[str, Any]:
    row = {
        "stage": one.name,
        "ranked": one.ranked,
        "boxes_an_image": float(one.counts.mean()),
        "computed": one.computed,
        "seconds_an_image": one.seconds,
        "by_boxes": rows_of(one.overlaps, one.counts),
        "recall_by_iou": {"boxes": CURVE_AT, "iou": CURVE, "recall": recall_curve(one)},
    }
    if classes:
        row["by_class"] = {name: rows_of(part, one.counts) for name, part in of_classes(one, classes).items()}
    return row


def rows_of(overlaps: Overlaps, counts: Any) -> list[dict[str, Any]]:
    """A row for each number of boxes. "used": how many there were on the mean, of those asked for."""
    table = measure.recall_table(overlaps, IOUS, TOPS)
    return [
        {
            "boxes": top or "all",
            "used": float(np.minimum(counts, top or np.inf).mean()),
            "recall": {str(iou): share for iou, share in table["recall"][top].items()},
            **{name: table[name][top] for name in MEANS},
            "objects": table["truths"],
        }
        for top in TOPS
    ]


def of_classes(one: Coverage, classes: Sequence[str]) -> dict[str, Overlaps]:
    """The overlaps of the objects of each class that has some."""
    best, labels = one.overlaps
    present = [label for label in range(1, len(classes) + 1) if (labels == label).any()]
    return {classes[k - 1]: Overlaps(best[:, labels == k], labels[labels == k]) for k in present}


def recall_curve(one: Coverage) -> list[float]:
    """Recall at each IoU of CURVE, of the first CURVE_AT boxes."""
    row = one.overlaps.best[TOPS.index(CURVE_AT)]
    return [float((row >= iou).mean()) for iou in CURVE]


def tables(found: dict[str, Any]) -> list[Table]:
    """All tables of what `as_json` holds."""
    by_class = [class_table(found)] if "by_class" in found["stages"][0] else []
    return [cost_table(found), *recall_tables(found), *_pairs(found), *by_class]


def _pairs(found: dict[str, Any]) -> list[Table]:
    """How much more the other stages cover than the first, if there are others."""
    rows = [{**row, "stage": short(row["stage"])} for row in found["against_first"]]
    return [differences_table(rows, short(found["stages"][0]["stage"]))] if rows else []


def recall_tables(found: dict[str, Any]) -> list[Table]:
    """A table a stage: recall, AR and best overlaps by number of boxes."""
    head = ["boxes", "used", *(f"IoU {iou}" for iou in IOUS), "AR", "ABO", "MABO"]
    what = f"recall of {found['objects']} objects in {found['images']} images, and best overlaps"
    return [
        Table(
            f"{_starred(one)}: {what}",
            head,
            [[str(row["boxes"]), f"{row['used']:.0f}", *_shares(row, IOUS)] for row in one["by_boxes"]],
            _legend(found),
        )
        for one in found["stages"]
    ]


def cost_table(found: dict[str, Any]) -> Table:
    """How many boxes each stage gave and what they cost."""
    head = ["stage", "boxes an image", "images computed", "from cache", "s an image"]
    rows = []
    for one in found["stages"]:
        seconds = "" if one["seconds_an_image"] is None else number(one["seconds_an_image"])
        counts = (f"{one['boxes_an_image']:.0f}", str(one["computed"]), str(found["images"] - one["computed"]))
        rows.append([_starred(one), *counts, seconds])
    caption = "seconds of one core, of images computed in this run"
    return Table("proposals", head, rows, LINE.join(filter(None, [caption, left_out_words(found["left_out"])])))


def class_table(found: dict[str, Any]) -> Table:
    """Recall by class of the first CURVE_AT boxes."""
    shown = (0.5, 0.7)
    head = ["class", "objects", "stage", *(f"IoU {iou}" for iou in shown), "AR", "ABO"]
    rows = []
    for name in found["stages"][0]["by_class"]:
        for one in found["stages"]:
            (row,) = (row for row in one["by_class"][name] if row["boxes"] == CURVE_AT)
            first = (name, str(row["objects"])) if one is found["stages"][0] else ("", "")
            rows.append([*first, _starred(one), *_shares(row, shown)[:-1]])
    stages = len(found["stages"])
    sections = range(stages - 1, len(rows), stages)
    return Table(f"by class, the first {CURVE_AT} boxes", head, rows, _legend(found), (2,), sections)


def _shares(row: dict[str, Any], ious: Sequence[float]) -> list[str]:
    return [number(value) for value in (*(row["recall"][str(iou)] for iou in ious), *(row[n] for n in MEANS))]


def _legend(found: dict[str, Any]) -> str:
    said = "AR: recall averaged over IoU 0.5 to 1; ABO: mean best overlap; MABO: the mean over classes"
    unranked = any(not one["ranked"] for one in found["stages"])
    return said + ("\n* does not rank its boxes: the first ones are no better than others" if unranked else "")


def _starred(one: dict[str, Any]) -> str:
    return short(one["stage"]) + ("" if one["ranked"] else " *")


def short(name: str) -> str:
    """A stage's name in tables, without its module: `SelectiveSearch:mode=quality`; a folder's last part."""
    first, colon, rest = name.partition(":")
    return re.split(r"[./\\]", first.rstrip("/\\"))[-1] + colon + rest
