"""The `rcnn` command. Nothing heavy is imported before a command needs it, so that --help is instant."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors import UserError
from .commands import cache as cache_commands
from .commands import compare as compare_command
from .commands import data as data_command
from .commands import doctor as doctor_command
from .commands import grid as grid_command
from .commands import plan as plan_command
from .commands import proposals as proposals_command
from .options import (
    Allow,
    CacheDir,
    Data,
    Device,
    Jobs,
    Json,
    Recipe,
    RunOrRecipe,
    Seed,
    Sets,
    Strict,
    Swaps,
    emit,
    make_run,
    open_data,
    params_of,
    pipeline_of,
    same_classes,
    say,
    shard_of,
    told,
)

STOPPED = (130, 143)  # by Ctrl-C, by SIGTERM
LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # of writes that a file system refuses


class Verbs(TyperGroup):
    """The commands. Ctrl-C is an exit status, so that main says what it means."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(STOPPED[0]) from None


app = typer.Typer(
    cls=Verbs,
    help="The R-CNN family as one staged pipeline of swappable stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def recipes() -> None:
    """List the recipes."""
    from . import recipes as found

    for name in found.__all__:
        print(f"{name:12} {(getattr(found, name).__doc__ or '').splitlines()[0]}")


@app.command()
def show(recipe: RunOrRecipe, sets: Sets = [], swaps: Swaps = [], allow: Allow = []) -> None:
    """Print the steps of a recipe or RUN, what each reads and gives, and its parameters."""
    pipeline = pipeline_of(recipe, sets, swaps, allow=allow)
    for step in pipeline:
        stage = pipeline.stage(step.name)
        print(f"{step.name}: {type(step.stage).__name__}{'' if step.keep else '  (not kept in the cache)'}")
        print(f"  reads {', '.join(stage.needs)}  gives {', '.join(stage.gives) or 'a state'}")
        if stage.learns:
            print(f"  learns from {', '.join(stage.learns)}")
        for name, value in params_of(step.stage).items():
            print(f"  {step.name}__{name} = {value!r}")


@app.command()
def train(
    recipe: Recipe,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the trained RUN.")],
    sets: Sets = [],
    swaps: Swaps = [],
    device: Device = "auto",
    jobs: Jobs = None,
    seed: Seed = None,
    cache: CacheDir = None,
    strict: Strict = False,
) -> None:
    """Train a recipe on a data set and keep what detection needs in a RUN folder."""
    from . import saved
    from .report import cost_table

    pipeline = pipeline_of(recipe, sets, swaps, seed)
    records = open_data(data, strict, cache, jobs)
    run = make_run(pipeline, device, jobs, cache)
    saved.prepare(out)
    run.fit(records)
    saved.save(pipeline, out)
    say(cost_table(run))
    say(f"trained {pipeline.name} on {len(records)} images; the RUN is in {out}")


@app.command()
def detect(
    run: Annotated[Path, typer.Argument(help="A trained RUN folder.")],
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json and the pictures.")] = Path("detections"),
    min_score: Annotated[float | None, typer.Option(help="Draw all from this score on. [default: the best 5]")] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
    as_json: Json = False,
    allow: Allow = [],
) -> None:
    """Detect objects in images: COCO results JSON, and pictures."""
    from ..cache import files
    from ..stages.datasets.folder import Files
    from . import pictures
    from .results import coco_results

    pipeline = pipeline_of(str(run), allow=allow)
    records = Files(images)
    work = make_run(pipeline, device, jobs, cache)
    files.make_folder(out)  # refused now, if it cannot be made, not after the work
    rows: list[dict[str, Any]] = []
    for number, record in enumerate(work.over(records, pipeline.outputs), 1):
        rows += coco_results(record, number, pipeline.classes, pipeline.category_ids)
        name = f"{number:06d}-{Path(record.id).stem}.png"
        pictures.detections(record, pipeline.classes, out / "pictures" / name, min_score)
    files.write_text(out / "results.json", json.dumps(rows))
    if as_json:
        print(json.dumps(rows))
    say(f"{len(rows)} detections in {len(records)} images: results.json and pictures are in {out}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A trained RUN folder.")],
    data: Data,
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
    as_json: Json = False,
    allow: Allow = [],
    strict: Strict = False,
) -> None:
    """Measure a RUN on an annotated data set: VOC AP (11-point and area), COCO AP, and which step lost what."""
    from . import measure
    from .report import ap_table, cost_table, lost_table

    pipeline = pipeline_of(str(run), allow=allow)
    records = open_data(data, strict, cache, jobs)
    same_classes(pipeline, records, run)
    work = make_run(pipeline, device, jobs, cache)
    results, objects = measure.read_all(work.over(records, pipeline.outputs))
    found = {**measure.evaluate(results, records), "objects": objects}
    if as_json:
        print(json.dumps(found))
        return
    say(cost_table(work))
    emit(ap_table(found))
    if objects:
        emit(lost_table(objects))


@app.command(name="run")
def run_steps(
    recipe: RunOrRecipe,
    data: Data,
    only: Annotated[str | None, typer.Option(help="Run this step alone, on what the cache holds.")] = None,
    until: Annotated[str | None, typer.Option(help="Run all steps up to and with this one.")] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only every N-th image, from the I-th (0-based).")] = "0/1",
    sets: Sets = [],
    swaps: Swaps = [],
    device: Device = "auto",
    jobs: Jobs = None,
    seed: Seed = None,
    cache: CacheDir = None,
    allow: Allow = [],
    strict: Strict = False,
) -> None:
    """Run any step, or all, over a data set and leave what they give in the cache.

    A step that learns does so on the whole data set, whatever the shard.
    """
    from .report import cost_table

    if only and until:
        raise UserError("--only and --until name a last step each: give one of them")
    pipeline = pipeline_of(recipe, sets, swaps, seed, allow)
    records = open_data(data, strict, cache, jobs)
    indices = shard_of(shard, len(records))
    last = only or until or pipeline.steps[-1].name
    work = make_run(pipeline, device, jobs, cache)
    fields = told(lambda: pipeline.stage(last).gives)
    if not pipeline.keys:
        work.fit(records, fields, only=only)
    for _record in work.over(records, fields, only=only, indices=indices):
        pass
    say(cost_table(work))


@app.command(name="stage")
def one_stage(
    recipe: RunOrRecipe,
    step: Annotated[str, typer.Argument(help="The step to look at.")],
    images: Annotated[list[Path], typer.Argument(help="Images.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("stage"),
    sets: Sets = [],
    swaps: Swaps = [],
    device: Device = "auto",
    seed: Seed = None,
    cache: CacheDir = None,
    allow: Allow = [],
) -> None:
    """Run one step, with what it needs, on images; print what it gave, and draw it."""
    from ..stages.datasets.folder import Files
    from . import pictures
    from .results import describe

    pipeline = pipeline_of(recipe, sets, swaps, seed, allow)
    fields = told(lambda: pipeline.stage(step).gives)
    work = make_run(pipeline, device, 1, cache)
    if not pipeline.keys:
        work.fit_apart(fields)
    for number, record in enumerate(Files(images), 1):  # each alone, to be looked at
        done = work.one(record, fields)
        print(f"{record.id}: " + "; ".join(describe(name, done[name]) for name in fields))
        place = out / f"{number:06d}-{Path(record.id).stem}-{step}.png"
        pictures.step(done, fields, pipeline.classes, place)
        say(f"drawn: {place}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the trained RUN and the report.")] = Path("demo"),
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
) -> None:
    """Train and evaluate R-CNN on drawn shapes, in minutes, with nothing to download."""
    from .demo import demo as main_job

    say(f"the report is in {main_job(out, device, jobs, cache)}")


app.command()(compare_command.compare)
app.command()(data_command.data)
app.command()(grid_command.grid)
app.command()(proposals_command.proposals)

app.command()(plan_command.plan)
app.command()(doctor_command.doctor)
cache_app = typer.Typer(help="Look into the cache, compare, check and clear it.", no_args_is_help=True)
for command in (
    cache_commands.ls,
    cache_commands.show,
    cache_commands.why,
    cache_commands.diff,
    cache_commands.verify,
    cache_commands.prune,
):
    cache_app.command()(command)
app.add_typer(cache_app, name="cache")


def main() -> None:
    """Run the command; what a user did wrong, or a disk refused, is one sentence on stderr and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="rcnn: %(message)s")
    warnings.formatwarning = lambda message, *_args, **_more: f"rcnn: {message}\n"
    warnings.filterwarnings("ignore", r"\d+ tasks ")  # of joblib, which is told to stop when the run is
    try:
        _to_the_last_byte()
    except UserError as error:
        print(f"rcnn: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in LOST:
            raise
        print(f"rcnn: cannot write {error.filename or 'what was asked for'}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code in STOPPED:
            print("rcnn: stopped; what was computed is kept, and the same command goes on from there", file=sys.stderr)
        raise


def _to_the_last_byte() -> None:
    """The command with all that it prints, which a full disk may refuse as late as in the flush."""
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- Python would try again, and complain, at its exit
            raise
