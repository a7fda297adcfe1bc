"""Trained RUNs measured on the same images: accuracy, paired intervals, objects lost, and what differs in them.

Results go in, plain JSON-able rows come out; compare_tables.py draws tables from these rows alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..stages.record import Records
from . import measure
from .changes import Method, changes, method_of
from .progress import Bars
from .report import METRICS, cost_words
from .run import Run
from .wrap import Clock

CLAIMS = {name: METRICS[name] for name in ("voc_area", "voc_11pt")}  # those that measure.bootstrap resamples
AGAINST = ("first", "previous")


class Measured(NamedTuple):
    """One RUN on the images.

    results: image id -> detections. masks: these with masks, if any. scores: of measure.scored. clock: what was called
    for it.
    """

    name: str
    method: Method
    results: measure.Results
    masks: measure.Results | None
    scores: Mapping[str, Any]
    clock: Clock


def measured(name: str, run: Run, records: Records) -> Measured:
    """Detections of a trained pipeline through its cache, and how good they are."""
    found = measure.scored(run.over(records, run.pipeline.outputs), records)
    return Measured(name, method_of(run), found.results, found.masks, found.scores, run.clock)


def measure_all(
    names: Sequence[str],
    paths: Sequence[Path],
    work: Callable[[Path], Run],
    records: Records,
    tell: Callable[[str], None],
) -> list[Measured]:
    """All RUNs on the same images, one after another, for a net may be large.

    work: the Run of a folder. tell: is told what each cost.
    """
    found = []
    for name, path in zip(names, paths):
        found.append(measured(name, work(path), records))
        tell(f"{name}: {cost_words(found[-1].clock)}")
    return found


# -- what cannot be compared -----------------------------------------------------------------------------


def run_names(paths: Sequence[str | Path]) -> list[str]:
    """A name for each folder: its own, with as much of its path as tells it apart.

    UserError for less than two, and for one given twice.
    """
    if len(paths) < 2:
        raise UserError("name two RUNs at least: the first is what the others are held against")
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


def refuse_without_objects(records: Records) -> None:
    """UserError if there is nothing to find in the images, told before any is run."""
    if all(truth.ignored.all() for truth in measure.read_truths(records).values()):
        raise UserError("there is no object in these images, so nothing to compare by")


# -- rows ------------------------------------------------------------------------------------------------


def compare(
    runs: Sequence[Measured],
    records: Records,
    against: Sequence[int | None],
    metric: str = "voc_area",
    *,
    resamples: int = 1000,
    by_class: bool = False,
) -> dict[str, Any]:
    """How the RUNs compare, ready for JSON.

    against: for each RUN the position of the one that it is held against, or None. metric: one of CLAIMS.
    resamples: of the images, for intervals of 95 %. by_class: an interval for each class too.
    Each row of "runs" has its metrics (by class too), the objects lost by step and, where it is held against
    another, the difference (measure.bootstrap's; of masks, where both have them, over COCO's IoUs) and what changed.
    "left_out": what of the data was not measured.
    UserError if there is no object in the images.
    """
    truths = measure.read_truths(records)
    masks = measure.read_mask_truths(records) if any(run.masks for run in runs) else None
    rows = []
    with Bars(sys.stderr.isatty()) as bars:
        bars.start("bootstrap", len(runs))
        for run, base in zip(runs, against):
            row: dict[str, Any] = {"run": run.name, **run.scores, "against": None, "difference": None,
                                   "mask_difference": None, "changed": []}  # fmt: skip
            if base is not None:
                other = runs[base]
                row |= {"against": other.name, "changed": changes(other.method, run.method)}
                row["difference"] = measure.bootstrap(other.results, run.results, truths, metric, n=resamples)
                if masks and run.masks and other.masks:
                    row["mask_difference"] = measure.bootstrap(
                        other.masks, run.masks, masks, metric, iou=measure.COCO_IOUS, n=resamples
                    )
                if by_class:
                    row["by_class"] = class_differences(other, run, truths, records.classes, metric, resamples)
            rows.append(row)
            bars.advance("bootstrap")
    objects = int(sum((~truth.ignored).sum() for truth in truths.values()))
    data = {"images": len(truths), "objects": objects, "left_out": measure.left_out(records)}
    return {"metric": metric, "resamples": resamples, **data, "runs": rows}


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
