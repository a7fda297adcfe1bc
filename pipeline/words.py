"""How words become objects: recipes, stages, data sets, runs; and how what was found becomes words again."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..stages.nets import ranks
from .tables import WIDTH, Table, drawn

if TYPE_CHECKING:
    from ..cache.store import Store
    from ..stages.record import Records
    from .pipeline import Pipeline
    from .run import Run


def pipeline_of(
    name: str, sets: Sequence[str] = (), swaps: Sequence[str] = (), seed: int | None = None, allow: Sequence[str] = ()
) -> Pipeline:
    """The pipeline of a RUN folder or a recipe, with stages swapped and parameters set."""
    from . import recipes as found
    from . import saved

    if (Path(name) / "recipe.json").is_file() or (Path(name).is_dir() and name not in found.__all__):
        if sets or swaps or seed is not None:
            raise UserError(f"{name} is trained: its steps and parameters are what they are")
        return saved.load(name, allow)
    return recipe_of(name, sets, swaps, seed)


def recipe_of(name: str, sets: Sequence[str] = (), swaps: Sequence[str] = (), seed: int | None = None) -> Pipeline:
    """The pipeline of a recipe, whatever folders there are, with stages swapped and parameters set."""
    from . import recipes as found

    values = dict(assignment(text) for text in sets)
    of_steps = {key: value for key, value in values.items() if "__" in key}
    of_recipe = {key: value for key, value in values.items() if "__" not in key}
    if name not in found.__all__:
        raise UserError(f"{name!r} is neither a trained RUN folder nor a recipe; recipes: {', '.join(found.__all__)}")
    pipeline: Pipeline = told(lambda: getattr(found, name)(**_known(name, getattr(found, name), of_recipe)))
    for text in swaps:
        _swap(pipeline, text, of_steps)
    if seed is not None:
        seeded = {key: seed for key in pipeline.get_params() if key.endswith("__random_state")}
        of_steps = {**seeded, **of_steps}
    return told(lambda: pipeline.set_params(**of_steps))


def _swap(pipeline: Pipeline, text: str, values: dict[str, Any]) -> None:
    """Put the stage of `STEP=module.Class` into a step, made with the values that --set gives for it."""
    step, equals, path = text.partition("=")
    if not equals:
        raise UserError(f"--swap {text}: write STEP=CLASS, as in proposals=sliding_window.SlidingWindow")
    kind = stage_class(path, text)
    names = kind.param_names()
    own = {key: key.removeprefix(f"{step}__") for key in values if key.startswith(f"{step}__")}
    given = {name: values.pop(key) for key, name in own.items() if name in names}
    if missing := [f"--set {step}__{name}=..." for name in lacking(kind, given)]:
        raise UserError(f"--swap {text}: {kind.__name__} needs {' '.join(missing)} too")
    try:
        pipeline.swap(step, kind(**given))
    except (ValueError, TypeError) as error:
        raise UserError(f"--swap {text}: {error}") from error


def stage_class(path: str, text: str, option: str = "--swap") -> Any:
    """The class that a whole path names, or `file.Class` in any room of stages/; `option text` is what asked for it."""
    import importlib
    import pkgutil

    from .. import stages

    module, _, name = path.rpartition(".")
    inside = [found.name for found in pkgutil.walk_packages(stages.__path__, f"{stages.__name__}.")]
    for candidate in (m for m in (*inside, module) if module and f".{m}".endswith(f".{module}")):
        try:
            kind = getattr(importlib.import_module(candidate), name, None)
        except ImportError as error:
            raise UserError(f"{option} {text}: {candidate} cannot be imported: {error}") from error
        if hasattr(kind, "param_names"):
            return kind
    raise UserError(f"{option} {text}: there is no stage {path!r}; name it as sliding_window.SlidingWindow")


def lacking(kind: Callable[..., Any], given: Collection[str]) -> list[str]:
    """The parameters of a stage's class that have no default and are not among these names."""
    parameters = inspect.signature(kind).parameters
    return [name for name, one in parameters.items() if one.default is one.empty and name not in given]


def _known(name: str, recipe: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    from ..stages.stage import refuse_types

    names = list(inspect.signature(recipe).parameters)
    for key in values:
        if key not in names:
            raise UserError(
                f"--set {key}: recipe {name} has no such parameter; it has {', '.join(names)}, "
                f"and its steps' are written step__parameter (rcnn show {name})"
            )
    told(lambda: refuse_types(recipe, values))
    return values


def assignment(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: write step__parameter=value")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = {"True": True, "False": False, "None": None}.get(value, value)
    return key, tuple(parsed) if isinstance(parsed, list) else parsed


def told(make: Callable[[], Any]) -> Any:
    """make(), a ValueError of it told as the user's mistake that it is."""
    try:
        return make()
    except ValueError as error:
        raise UserError(str(error)) from error


def open_data(spec: str, strict: bool = False, cache: Path | None = None, jobs: int | None = None) -> Records:
    """The usable part of the data set that a spec names; what is left out is said in one line.

    strict: leave nothing out but stop. cache: where verdicts on image files are kept; None for the default.
    UserError for a spec that cannot be opened, and where nothing remains.
    """
    from ..stages.datasets.spec import open_dataset
    from .usable import Usable, counted

    records = _usable(open_dataset(spec), spec, strict, cache, jobs)
    if isinstance(records, Usable) and records.left_out and ranks.rank() == 0:
        lost, first = counted(records.lost), records.left_out[0]
        say(f"{spec}: left out: {lost} (rcnn data lists them); the first: {first}")
    return records


def open_images(
    paths: Sequence[Path], strict: bool = False, cache: Path | None = None, jobs: int | None = None
) -> Records:
    """The usable ones of image files and of folders of them; each of the others is said. Otherwise as open_data."""
    from ..stages.datasets.folder import Files

    records = _usable(Files(paths), "the images", strict, cache, jobs)
    for sentence in getattr(records, "left_out", ()):
        say(f"left out: {sentence}")
    return records


def _usable(data: Records, name: str, strict: bool, cache: Path | None, jobs: int | None) -> Records:
    from ..cache.store import Store
    from .processes import cores
    from .usable import Usable, counted, usable

    records = usable(data, Store(cache), jobs or cores())
    if strict and isinstance(records, Usable) and records.left_out:
        lost, first = counted(records.lost), records.left_out[0]
        raise UserError(f"{name}: {lost} cannot be used (--strict); the first: {first}")
    return records


def make_run(pipeline: Pipeline, device: str, jobs: int | None, cache: Path | None) -> Run:
    from .run import DEFAULT, Run

    return Run(pipeline, cache=cache or DEFAULT, device=device, jobs=jobs)


def shard_of(text: str, n: int) -> range:
    first, slash, count = text.partition("/")
    if not (slash and first.isdigit() and count.isdigit() and int(first) < int(count)):
        raise UserError(f"--shard {text}: write I/N with 0 <= I < N")
    return range(int(first), n, int(count))


def same_classes(pipeline: Pipeline, records: Records, run: Path) -> None:
    if not records.classes:
        raise UserError("the data set has no annotations to measure against")
    if tuple(records.classes) != pipeline.classes:
        choice = f"; #{','.join(pipeline.classes)} behind its name takes those alone"
        raise UserError(
            f"{run} knows the classes {', '.join(pipeline.classes)}; "
            f"the data set has {', '.join(records.classes) or 'none'}"
            f"{choice if set(pipeline.classes) <= set(records.classes) else ''}"
        )


def store_of(cache: Path | None) -> Store:
    from ..cache.store import Store

    if cache is not None and not cache.is_dir():
        raise UserError(f"there is no cache {cache}")
    return Store(cache)


def params_of(stage: Any) -> dict[str, Any]:
    return stage.get_params() if hasattr(stage, "get_params") else stage.fields


# -- back to words -------------------------------------------------------------------------------------------


def say(what: str | Table) -> None:
    """Print on stderr."""
    _print(_console(stderr=True), what, soft_wrap=True)


def emit(what: str | Table) -> None:
    """Print on stdout: what was asked for."""
    out = _console()
    if not out.is_terminal:
        out.width = WIDTH  # a table in a file is not to be narrow
    _print(out, what)


def _console(**options: Any) -> Any:
    """Text is printed as it is: a class, or a file, may well be named "[red]" or ":car:"."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, **options)


def _print(console: Any, what: str | Table, soft_wrap: bool = False) -> None:
    if isinstance(what, Table):
        console.print(drawn(what, console.width))
    else:
        console.print(what, soft_wrap=soft_wrap)
