"""`rcnn compare`: trained RUNs side by side on the same images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UserError
from ..options import Allow, ByClass, CacheDir, Data, Device, Jobs, Json, Markdown, Metric, Resamples, Strict
from ..words import emit, make_run, open_data, same_classes, say

if TYPE_CHECKING:
    from ..run import Run
    from ..tables import Table


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Trained RUN folders, two or more.")],
    data: Data,
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
    """
    from ...cache import files
    from .. import compare as sides
    from .. import compare_tables, saved

    one_output(as_json, as_markdown)
    sides.refuse_metric(metric)
    names, bases = sides.run_names(runs), sides.bases(against, len(runs))
    records = open_data(data, strict, cache, jobs)

    def work(path: Path) -> Run:
        pipeline = saved.load(path, allow)
        same_classes(pipeline, records, path)
        return make_run(pipeline, device, jobs, cache)

    for path in runs:
        work(path)  # all are refused before any is run, and forgotten: a net may be large
    sides.refuse_without_objects(records)
    if out:
        files.make_folder(out)
    measured = sides.measure_all(names, runs, work, records, say)
    found = {"data": data, **sides.compare(measured, records, bases, metric, resamples=resamples, by_class=by_class)}
    show(found, compare_tables.tables(found), "compare", out, as_json, as_markdown)


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
