"""`rcnn compare`: trained RUNs side by side on the same images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UserError
from ..options import Allow, ByClass, CacheDir, Data, Device, Jobs, Json, Markdown, Metric, Resamples, Strict
from ..words import emit, make_run, open_data, recipe_of, same_classes, say

if TYPE_CHECKING:
    from ..run import Run
    from ..tables import Table


TIMED = 20  # images


def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN|RECIPE", help="Trained RUN folders, or recipes; two or more.")
    ],
    data: Data,
    test: Annotated[
        str | None, typer.Option(help="With recipes: the data to measure on; --data is learned from.")
    ] = None,
    sets: Annotated[
        list[str],
        typer.Option("--set", metavar="[RECIPE:]PARAM=VALUE", help="With recipes: of all of them, or of one."),
    ] = [],
    timed: Annotated[int | None, typer.Option("--times", min=1, help=f"With recipes: images to time; {TIMED}.")] = None,
    against: Annotated[str, typer.Option(help="Hold each RUN against the first, or the previous one.")] = "first",
    metric: Metric = "voc_area",
    resamples: Resamples = 1000,
    by_class: ByClass = False,
    out: Annotated[Path | None, typer.Option(help="Folder for compare.json and compare.md.")] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
    as_json: Json = False,
    as_markdown: Markdown = False,
    allow: Allow = [],
    strict: Strict = False,
) -> None:
    """Measure RUNs on the same images: accuracy, differences with paired 95 % intervals, what changed.

    A difference is resolved where its interval, of a paired bootstrap over the images, excludes 0; the others tell no
    order. `--against previous` makes the table of an ablation.

    Recipes are trained first, on --data, into a RUN each in --out, and measured on --test: also what they cost, in
    time (stage by stage and end to end), memory and disk, in the form of Fast R-CNN's table 4:

        rcnn compare rcnn sppnet fast --data SPEC --test SPEC --out DIR --set backbone=resnet18 --set fast:fc=[]
    """
    from ...cache import files
    from .. import compare as sides
    from .. import compare_tables, saved
    from ..recipes import __all__ as recipes

    one_output(as_json, as_markdown)
    sides.refuse_metric(metric)
    trained = any((Path(name) / "recipe.json").is_file() for name in runs)
    if test is not None or (not trained and all(name in recipes for name in runs)):
        if strange := [name for name in runs if name not in recipes]:
            raise UserError(f"{strange[0]} is no recipe: with --test all are; recipes: {', '.join(recipes)}")
        options = {"metric": metric, "resamples": resamples, "by_class": by_class}
        found, tables = of_recipes(
            runs, sets, timed or TIMED, data, test, out, device, jobs, cache, strict, against, options
        )
        show(found, tables, "compare", out, as_json, as_markdown)
        return
    if sets:
        raise UserError(f"--set {sets[0]}: a trained RUN is what it is; --set is for recipes")
    if timed:
        raise UserError(f"--times {timed}: RUNs are not timed; that is for recipes")
    paths = [Path(name) for name in runs]
    names, bases = sides.run_names(paths), sides.bases(against, len(paths))
    records = open_data(data, strict, cache, jobs)

    def work(path: Path) -> Run:
        pipeline = saved.load(path, allow)
        same_classes(pipeline, records, path)
        return make_run(pipeline, device, jobs, cache)

    for path in paths:
        work(path)  # all are refused before any is run, and forgotten: a net may be large
    sides.refuse_without_objects(records)
    if out:
        files.make_folder(out)
    measured = sides.measure_all(names, paths, work, records, say)
    found = {"data": data, **sides.compare(measured, records, bases, metric, resamples=resamples, by_class=by_class)}
    show(found, compare_tables.tables(found), "compare", out, as_json, as_markdown)


def of_recipes(
    names: Sequence[str], sets: Sequence[str], timed: int, data: str, test: str | None, out: Path | None, device: str,
    jobs: int | None, cache: Path | None, strict: bool, against: str, options: dict[str, Any],
) -> tuple[dict[str, Any], list[Table]]:  # fmt: skip
    """Recipes trained, measured and timed: what was found, and its tables."""
    from .. import compare as sides
    from .. import compare_tables, families, grid, saved
    from ..fitting import refuse_to_learn
    from ..times import environment

    families.refuse_names(names)
    bases = sides.bases(against, len(names))
    if test is None or out is None:
        raise UserError("recipes are trained on --data, kept in --out and measured on --test: give all three")

    def work(name: str) -> Run:
        return make_run(recipe_of(name, families.settings(name, sets, names)), device, jobs, cache)

    for name in names:
        work(name)  # all are refused before any is trained
    for unlike in families.unlike([work(name).pipeline for name in names]):
        say(f"not like with like: {unlike}")
    train, images = (open_data(spec, strict, cache, jobs) for spec in (data, test))
    grid.refuse_data(train, images)
    for name in names:
        pipeline = work(name).pipeline
        refuse_to_learn(pipeline, train, pipeline.taught(pipeline.outputs))
    places = [out / name for name in names]
    for place in places:
        saved.prepare(place)
    measured, costs = families.measure(names, places, work, train, images, timed, device, say)
    found = {"data": data, "test": test, "where": environment(device), "costs": costs, "published": families.PUBLISHED,
             **sides.compare(measured, images, bases, **options)}  # fmt: skip
    return found, [*compare_tables.tables(found, "recipe"), *families.tables(costs, found["where"])]


def one_output(as_json: bool, as_markdown: bool) -> None:
    """UserError if stdout is to hold two things."""
    if as_json and as_markdown:
        raise UserError("--json and --markdown both print on stdout: give one, or --out DIR, which gets both")


def show(
    found: Mapping[str, Any], tables: Sequence[Table], name: str, out: Path | None, as_json: bool, as_markdown: bool
) -> None:
    """Print what was found, as tables, markdown or JSON, and keep the latter two in a folder."""
    from ...cache import files
    from ..tables import markdown

    text = "\n".join(map(markdown, tables))
    if out:
        files.write_json(out / f"{name}.json", found)
        files.write_text(out / f"{name}.md", text)
        say(f"{name}.json and {name}.md are in {out}")
    if as_json or as_markdown:
        print(json.dumps(found) if as_json else text, end="\n" if as_json else "")
        return
    for table in tables:
        emit(table)
