"""The `rcnn` command. Nothing heavy is imported before a command needs it, so that --help is instant."""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UserError

if TYPE_CHECKING:
    from ..cache.store import Store
    from ..stages.record import Records
    from .pipeline import Pipeline
    from .run import Run

app = typer.Typer(
    help="The R-CNN family as one staged pipeline of swappable stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Look into the cache.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Recipe = Annotated[str, typer.Argument(help="A recipe's name; `rcnn recipes` lists them.")]
RunOrRecipe = Annotated[str, typer.Argument(metavar="RUN|RECIPE", help="A trained RUN folder, or a recipe.")]
Data = Annotated[str, typer.Option(help="voc:DIR:SPLIT, coco:FILE.json[:IMAGES], folder:DIR or shapes:N[:SEED].")]
Sets = Annotated[list[str], typer.Option("--set", metavar="STEP__PARAM=VALUE", help="Change a parameter.")]
Swaps = Annotated[
    list[str],
    typer.Option("--swap", metavar="STEP=CLASS", help="Another stage for a step: proposals=precomputed.Precomputed."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Worker processes for CPU stages. [default: all cores]")]
Seed = Annotated[int | None, typer.Option(help="random_state of every step that has one.")]
CacheDir = Annotated[Path | None, typer.Option("--cache", help="Cache folder. [default: $RCNN_CACHE]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Allow = Annotated[list[str], typer.Option(help="Another module whose stages the RUN may name.")]


@app.command()
def recipes() -> None:
    """List the recipes."""
    from . import recipes as found

    for name in found.__all__:
        print(f"{name:12} {(getattr(found, name).__doc__ or '').splitlines()[0]}")


@app.command()
def show(recipe: RunOrRecipe, sets: Sets = [], swaps: Swaps = [], allow: Allow = []) -> None:
    """Print the steps of a recipe or RUN, what each reads and gives, and its parameters."""
    pipeline = _pipeline(recipe, sets, swaps, allow=allow)
    for step in pipeline:
        stage = pipeline.stage(step.name)
        print(f"{step.name}: {type(step.stage).__name__}{'' if step.keep else '  (not kept in the cache)'}")
        print(f"  reads {', '.join(stage.needs)}  gives {', '.join(stage.gives) or 'a state'}")
        if stage.learns:
            print(f"  learns from {', '.join(stage.learns)}")
        for name, value in _params_of(step.stage).items():
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
) -> None:
    """Train a recipe on a data set and keep what detection needs in a RUN folder."""
    from . import saved
    from .report import cost_table

    pipeline = _pipeline(recipe, sets, swaps, seed)
    records = _open(data)
    run = _run(pipeline, device, jobs, cache)
    saved.prepare(out)
    run.fit(records)
    saved.save(pipeline, out)
    _say(cost_table(run))
    _say(f"trained {pipeline.name} on {len(records)} images; the RUN is in {out}")


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

    pipeline = _pipeline(str(run), allow=allow)
    records = Files(images)
    work = _run(pipeline, device, jobs, cache)
    files.make_folder(out)  # refused now, if it cannot be made, not after the work
    rows: list[dict[str, Any]] = []
    for number, record in enumerate(work.over(records, pipeline.outputs), 1):
        rows += coco_results(record, number, pipeline.classes, pipeline.category_ids)
        name = f"{number:06d}-{Path(record.id).stem}.png"
        pictures.detections(record, pipeline.classes, out / "pictures" / name, min_score)
    files.write_text(out / "results.json", json.dumps(rows))
    if as_json:
        print(json.dumps(rows))
    _say(f"{len(rows)} detections in {len(records)} images: results.json and pictures are in {out}")


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="A trained RUN folder.")],
    data: Data,
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
    as_json: Json = False,
    allow: Allow = [],
) -> None:
    """Measure a RUN on an annotated data set: VOC AP (11-point and area), COCO AP, and which step lost what."""
    from . import measure
    from .report import ap_table, cost_table, lost_table

    pipeline = _pipeline(str(run), allow=allow)
    records = _open(data)
    _same_classes(pipeline, records, run)
    work = _run(pipeline, device, jobs, cache)
    results, objects = measure.read_all(work.over(records, pipeline.outputs))
    found = {**measure.evaluate(results, records), "objects": objects}
    if as_json:
        print(json.dumps(found))
        return
    _say(cost_table(work))
    _print(ap_table(found))
    if objects:
        _print(lost_table(objects))


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
) -> None:
    """Run any step, or all, over a data set and leave what they give in the cache.

    A step that learns does so on the whole data set, whatever the shard.
    """
    from .report import cost_table

    if only and until:
        raise UserError("--only and --until name a last step each: give one of them")
    pipeline = _pipeline(recipe, sets, swaps, seed, allow)
    records = _open(data)
    indices = _shard(shard, len(records))
    last = only or until or pipeline.steps[-1].name
    work = _run(pipeline, device, jobs, cache)
    fields = _told(lambda: pipeline.stage(last).gives)
    if not pipeline.keys:
        work.fit(records, fields, only=only)
    for _record in work.over(records, fields, only=only, indices=indices):
        pass
    _say(cost_table(work))


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

    pipeline = _pipeline(recipe, sets, swaps, seed, allow)
    fields = _told(lambda: pipeline.stage(step).gives)
    work = _run(pipeline, device, 1, cache)
    if not pipeline.keys:
        work.fit_apart(fields)
    for number, record in enumerate(Files(images), 1):  # each alone, to be looked at
        done = work.one(record, fields)
        print(f"{record.id}: " + "; ".join(describe(name, done[name]) for name in fields))
        place = out / f"{number:06d}-{Path(record.id).stem}-{step}.png"
        pictures.step(done, fields, pipeline.classes, place)
        _say(f"drawn: {place}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the trained RUN and the report.")] = Path("demo"),
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
) -> None:
    """Train and evaluate R-CNN on drawn shapes, in minutes, with nothing to download."""
    from .demo import demo as main_job

    _say(f"the report is in {main_job(out, device, jobs, cache)}")


@cache_app.command("ls")
def cache_ls(cache: CacheDir = None, as_json: Json = False) -> None:
    """List what the cache holds: step, key, images, size."""
    from .report import cache_rows, cache_table

    store = _store(cache)
    rows = cache_rows(store)
    if as_json:
        print(json.dumps(rows))
    else:
        _print(cache_table(rows, store.root))


@cache_app.command("show")
def cache_show(
    name: Annotated[str, typer.Argument(help="A shelf, as `rcnn cache ls` names it, or its beginning.")],
    image: Annotated[str | None, typer.Argument(help="An image id: show its entry.")] = None,
    cache: CacheDir = None,
) -> None:
    """Show how a shelf was made, or one image's entry in it."""
    store = _store(cache)
    found = [shelf for shelf in store.shelves() if shelf.path.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(shelf.path.name for shelf in found) or "none"
        raise UserError(f"{len(found)} shelves of {store.root} begin with {name!r}: {names}")
    if image is None:
        print(json.dumps(found[0].about(), indent=1))
        return
    entry = found[0].find(image)
    if entry is None:
        raise UserError(f"{found[0].path.name} has no entry of image {image!r}")
    print(f"{entry.id}: {entry.path}")
    for field, slot in entry.slots.items():
        shape = " x ".join(map(str, slot.shape))
        print(f"  {field}: {slot.dtype} {shape} ({slot.nbytes:,} bytes)")


STOPPED = 130  # the status that typer gives to Ctrl-C


def main() -> None:
    """Run the command; what a user did wrong is one sentence on stderr and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="rcnn: %(message)s")
    warnings.formatwarning = lambda message, *_args, **_more: f"rcnn: {message}\n"
    try:
        app()
    except UserError as error:
        print(f"rcnn: {error}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == STOPPED:
            print("rcnn: stopped; what was computed is kept, and the same command goes on from there", file=sys.stderr)
        raise


# -- from words to objects --------------------------------------------------------------------------


def _pipeline(
    name: str, sets: Sequence[str] = (), swaps: Sequence[str] = (), seed: int | None = None, allow: Sequence[str] = ()
) -> Pipeline:
    """The pipeline of a RUN folder or a recipe, with stages swapped and parameters set."""
    from . import recipes as found
    from . import saved

    values = dict(_assignment(text) for text in sets)
    of_steps = {key: value for key, value in values.items() if "__" in key}
    of_recipe = {key: value for key, value in values.items() if "__" not in key}
    if (Path(name) / "recipe.json").is_file() or (Path(name).is_dir() and name not in found.__all__):
        if values or swaps or seed is not None:
            raise UserError(f"{name} is trained: its steps and parameters are what they are")
        return saved.load(name, allow)
    if name not in found.__all__:
        raise UserError(f"{name!r} is neither a trained RUN folder nor a recipe; recipes: {', '.join(found.__all__)}")
    pipeline: Pipeline = _told(lambda: getattr(found, name)(**_known(name, getattr(found, name), of_recipe)))
    for text in swaps:
        _swap(pipeline, text, of_steps)
    if seed is not None:
        seeded = {key: seed for key in pipeline.get_params() if key.endswith("__random_state")}
        of_steps = {**seeded, **of_steps}
    return _told(lambda: pipeline.set_params(**of_steps))


def _swap(pipeline: Pipeline, text: str, values: dict[str, Any]) -> None:
    """Put the stage of `STEP=module.Class` into a step, made with the values that --set gives for it."""
    step, equals, path = text.partition("=")
    if not equals:
        raise UserError(f"--swap {text}: write STEP=CLASS, as in proposals=sliding_window.SlidingWindow")
    kind = _stage_class(path, text)
    names = kind.param_names()
    own = {key: key.removeprefix(f"{step}__") for key in values if key.startswith(f"{step}__")}
    given = {name: values.pop(key) for key, name in own.items() if name in names}
    try:
        pipeline.swap(step, kind(**given))
    except (ValueError, TypeError) as error:
        raise UserError(f"--swap {text}: {error}") from error


def _stage_class(path: str, text: str) -> Any:
    """The class that a whole path names, or `file.Class` in any room of stages/."""
    import importlib
    import pkgutil

    from .. import stages

    module, _, name = path.rpartition(".")
    inside = [found.name for found in pkgutil.walk_packages(stages.__path__, f"{stages.__name__}.")]
    for candidate in (m for m in (*inside, module) if module and f".{m}".endswith(f".{module}")):
        try:
            kind = getattr(importlib.import_module(candidate), name, None)
        except ImportError as error:
            raise UserError(f"--swap {text}: {candidate} cannot be imported: {error}") from error
        if hasattr(kind, "param_names"):
            return kind
    raise UserError(f"--swap {text}: there is no stage {path!r}; name it as sliding_window.SlidingWindow")


def _known(name: str, recipe: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    import inspect

    from ..stages.stage import refuse_types

    names = list(inspect.signature(recipe).parameters)
    for key in values:
        if key not in names:
            raise UserError(
                f"--set {key}: recipe {name} has no such parameter; it has {', '.join(names)}, "
                f"and its steps' are written step__parameter (rcnn show {name})"
            )
    _told(lambda: refuse_types(recipe, values))
    return values


def _assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: write step__parameter=value")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = {"True": True, "False": False, "None": None}.get(value, value)
    return key, tuple(parsed) if isinstance(parsed, list) else parsed


def _told(make: Callable[[], Any]) -> Any:
    """make(), a ValueError of it told as the user's mistake that it is."""
    try:
        return make()
    except ValueError as error:
        raise UserError(str(error)) from error


def _open(spec: str) -> Records:
    from ..stages.datasets.spec import open_dataset

    records = open_dataset(spec)
    left_out = getattr(records, "left_out", [])
    if left_out:
        _say(f"{spec}: annotations left out: {len(left_out)}; the first: {left_out[0]}")
    return records


def _run(pipeline: Pipeline, device: str, jobs: int | None, cache: Path | None) -> Run:
    from .run import DEFAULT, Run

    return Run(pipeline, cache=cache or DEFAULT, device=device, jobs=jobs)


def _shard(text: str, n: int) -> range:
    first, slash, count = text.partition("/")
    if not (slash and first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise UserError(f"--shard {text}: write I/N with 0 <= I < N")
    return range(int(first), n, int(count))


def _same_classes(pipeline: Pipeline, records: Records, run: Path) -> None:
    if not records.classes:
        raise UserError("the data set has no annotations to measure against")
    if tuple(records.classes) != pipeline.classes:
        raise UserError(
            f"{run} knows the classes {', '.join(pipeline.classes)}; "
            f"the data set has {', '.join(records.classes) or 'none'}"
        )


def _store(cache: Path | None) -> Store:
    from ..cache.store import Store

    if cache is not None and not cache.is_dir():
        raise UserError(f"there is no cache {cache}")
    return Store(cache)


def _params_of(stage: Any) -> dict[str, Any]:
    return stage.get_params() if hasattr(stage, "get_params") else stage.fields


def _say(what: Any) -> None:
    from rich.console import Console

    Console(stderr=True, highlight=False, soft_wrap=True).print(what)


def _print(what: Any) -> None:
    from rich.console import Console

    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = 120  # a table in a file is not to be cut
    out.print(what)
