"""`rcnn grid`: a recipe trained for every value of a parameter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...errors import UserError
from ..options import (
    CacheDir,
    Data,
    Device,
    Jobs,
    Json,
    Recipe,
    Seed,
    Sets,
    Swaps,
    make_run,
    open_data,
    pipeline_of,
    say,
)
from .compare import ByClass, Markdown, Metric, Resamples, one_output, show

if TYPE_CHECKING:
    from ...stages.record import Records
    from ..grid import Values
    from ..pipeline import Pipeline
    from ..run import Run


def grid(
    recipe: Recipe,
    axes: Annotated[
        list[str],
        typer.Argument(metavar="PARAM=V1,V2,...", help="A parameter, step__parameter or the recipe's own."),
    ],
    data: Data,
    test: Annotated[str, typer.Option(help="Data to measure each value on: a validation split, not the test set.")],
    sets: Sets = [],
    swaps: Swaps = [],
    metric: Metric = "voc_area",
    resamples: Resamples = 1000,
    by_class: ByClass = False,
    out: Annotated[Path | None, typer.Option(help="Folder for a RUN a value, grid.json and grid.md.")] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    seed: Seed = None,
    cache: CacheDir = None,
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Train a recipe for every value of a parameter, all combinations of several, and measure each on --test.

    R-CNN's own (section 2.3), and then which layer the classifier sees:

        rcnn grid rcnn classifier__negative_iou=0,0.1,0.2,0.3,0.4,0.5 --data SPEC --test SPEC

        rcnn grid rcnn layer=pool5,fc6,fc7 --data SPEC --test SPEC

    What values share is computed once. Differences are against the recipe's own value, with paired 95 % intervals.

    Every value is measured on --test, so the best number there is no test result: give a validation split, as in
    `--data voc:VOCdevkit:12_train --test voc:VOCdevkit:12_val`, and measure what was chosen on other images.
    """
    from .. import compare as sides
    from .. import grid as points_of
    from .. import saved

    one_output(as_json, as_markdown)
    sides.refuse_metric(metric)
    grid = points_of.points([points_of.axis(text) for text in axes])
    _refuse_twice(sets, grid[0])

    def make(values: Values) -> Pipeline:
        own = [points_of.as_set(key, value) for key, value in values.items()]
        return pipeline_of(recipe, [*sets, *own], swaps, seed)

    def work(values: Values) -> Run:
        return make_run(make(values), device, jobs, cache)

    points_of.refuse(work, grid)
    default = points_of.default_point(make, grid)
    train, images = (open_data(spec, cache=cache, jobs=jobs) for spec in (data, test))
    _refuse_classes(train, images)
    sides.refuse_without_objects(images)
    places = [out / points_of.folder(values) if out else None for values in grid]
    for place in places:
        if place:
            saved.prepare(place)
    measured = []
    for number, (values, place) in enumerate(zip(grid, places), 1):
        run, name = work(values), points_of.label(values)
        say(f"{points_of.folder(values)} ({number} of {len(grid)})")
        measured.append(points_of.trained(run, name, train, images, place))
        say(f"  {sides.cost_words(run.clock)}")
    options = {"metric": metric, "resamples": resamples, "by_class": by_class, "bars": run.bars}
    found = {"data": data, "test": test, **points_of.found(recipe, grid, default, measured, images, **options)}
    show(found, points_of.tables(found), "grid", out, as_json, as_markdown)


def _refuse_twice(sets: list[str], point: Values) -> None:
    for text in sets:
        if (key := text.partition("=")[0]) in point:
            raise UserError(f"{key} is an axis of the grid and set as well: leave --set {text} out")


def _refuse_classes(train: Records, test: Records) -> None:
    if not test.classes:
        raise UserError("the data set of --test has no annotations to measure against")
    if tuple(train.classes) != tuple(test.classes):
        raise UserError(
            f"--data has the classes {', '.join(train.classes) or 'none'}; --test has {', '.join(test.classes)}"
        )
