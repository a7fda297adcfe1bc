"""`rcnn grid`: a recipe trained for every value of a parameter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..options import (
    ByClass,
    CacheDir,
    Data,
    Device,
    Jobs,
    Json,
    Markdown,
    Metric,
    Recipe,
    Resamples,
    Seed,
    Sets,
    Strict,
    Swaps,
)
from ..words import make_run, open_data, recipe_of, say
from .compare import one_output, show

if TYPE_CHECKING:
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
    strict: Strict = False,
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
    from .. import grid as grids
    from ..fitting import refuse_to_learn

    one_output(as_json, as_markdown)
    sides.refuse_metric(metric)
    points = grids.points([grids.axis(text) for text in axes])
    grids.refuse_twice(sets, points)

    def make(values: Values) -> Pipeline:
        own = [grids.as_set(key, value) for key, value in values.items()]
        return recipe_of(recipe, [*sets, *own], swaps, seed)

    def work(values: Values) -> Run:
        return make_run(make(values), device, jobs, cache)

    grids.refuse(work, points)
    default = grids.default_point(make, points)
    train, images = (open_data(spec, strict, cache, jobs) for spec in (data, test))
    grids.refuse_data(train, images)
    for values in points:
        refuse_to_learn(pipeline := make(values), train, pipeline.taught(pipeline.outputs))
    places = grids.prepare(out, points) if out else [None] * len(points)
    measured = grids.train_all(work, points, places, train, images, say)
    options = {"metric": metric, "resamples": resamples, "by_class": by_class}
    found = {"data": data, "test": test, **grids.found(recipe, points, default, measured, images, **options)}
    show(found, grids.tables(found), "grid", out, as_json, as_markdown)
