"""A trained RUN folder: recipe.json and states, all that detection needs, in one movable folder.

RUN/recipe.json              steps, classes, parameters, class names, keys
    states/<step>.safetensors what each step learned
    files/...                the weight files that parameters name
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cache import files
from ..cache.keys import digest_file
from ..errors import UserError
from ..stages.stage import Ref, Stage
from .pipeline import Again, Pipeline, Step
from .run import on_host

FORMAT = 1


def save(pipeline: Pipeline, folder: str | Path) -> None:
    """Write a fitted pipeline. UserError if the folder cannot be written or holds something else."""
    folder = Path(folder)
    if folder.exists() and not (folder / "recipe.json").is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and is no trained run")
    for step in pipeline:
        if step.name in pipeline.keys:
            state = on_host(pipeline.stage(step.name).state())
            files.write(folder / "states" / f"{step.name}.safetensors", state, {"key": pipeline.keys[step.name]})
    recipe = {
        "format": FORMAT,
        "name": pipeline.name,
        "classes": list(pipeline.classes),
        "outputs": list(pipeline.outputs),
        "keys": pipeline.keys,
        "steps": [_step_json(pipeline, step, folder) for step in pipeline],
    }
    files.write_json(folder / "recipe.json", recipe)


def refuse_other(folder: Path) -> None:
    """UserError if a run cannot be written to this folder because something else is there."""
    if not folder.exists() or (folder / "recipe.json").is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise UserError(f"{folder} is there already and is no trained run")


def load(folder: str | Path, allow: Sequence[str] = ()) -> Pipeline:
    """The pipeline of a RUN folder. Its classes come from rcnn itself, or from modules named in `allow`.

    UserError if the folder is no trained run, is damaged, or names a class from elsewhere.
    """
    folder = Path(folder)
    try:
        recipe = json.loads((folder / "recipe.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder} is no trained run: it has no recipe.json") from error
    except ValueError as error:
        raise UserError(f"{folder / 'recipe.json'} is damaged: {error}") from error
    if recipe.get("format") != FORMAT:
        raise UserError(f"{folder} is of format {recipe.get('format')}; this version reads {FORMAT}")
    steps = [_step(row, folder, allow) for row in recipe["steps"]]
    pipeline = Pipeline(steps, name=recipe["name"], outputs=recipe["outputs"])
    pipeline.classes, pipeline.keys = tuple(recipe["classes"]), dict(recipe["keys"])
    for name in pipeline.keys:
        pipeline.stage(name).load_state(_state(folder / "states" / f"{name}.safetensors"))
    return pipeline


def _state(path: Path) -> dict[str, Any]:
    try:
        return files.read(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing from the trained run") from error
    except files.Unreadable as error:
        raise UserError(str(error)) from error


def _step_json(pipeline: Pipeline, step: Step, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": step.name, "keep": step.keep}
    if isinstance(step.stage, Again):
        return {**row, "again": step.stage.step, "fields": step.stage.fields}
    stage = step.stage
    params = {name: _param_json(stage, name, value, folder, step.name) for name, value in stage.get_params().items()}
    return {**row, "class": f"{type(stage).__module__}.{type(stage).__qualname__}", "params": params}


def _param_json(stage: Stage, name: str, value: Any, folder: Path, step: str) -> Any:
    if isinstance(value, Ref):
        return {"$state": value.step}
    if name not in stage.files or not isinstance(value, str):
        return value
    if Path(value).is_file():
        kept = f"files/{digest_file(value)[:8]}-{Path(value).name}"
        (folder / "files").mkdir(parents=True, exist_ok=True)
        if not (folder / kept).exists():
            shutil.copyfile(value, folder / kept)
        return {"$file": kept}
    kept = f"files/{step}-{name}.safetensors"  # weights known by name are kept too: a run needs no network
    files.write(folder / kept, on_host(stage.named(name)), {"name": value})
    return {"$file": kept}


def _step(row: dict[str, Any], folder: Path, allow: Sequence[str]) -> Step:
    if "again" in row:
        return Step(row["name"], Again(row["again"], **row["fields"]), row["keep"])
    module, _, name = row["class"].rpartition(".")
    if module.split(".")[0] != "rcnn" and module not in allow:
        raise UserError(f"{folder} names {row['class']}, which is not of rcnn; say --allow {module} if you trust it")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{folder} names {row['class']}, which cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise UserError(f"{folder} names {row['class']}, which is no stage")
    return Step(row["name"], kind(**{key: _param(value, folder) for key, value in row["params"].items()}), row["keep"])


def _param(value: Any, folder: Path) -> Any:
    if isinstance(value, dict) and "$state" in value:
        return Ref(value["$state"])
    if isinstance(value, dict) and "$file" in value:
        return str(folder / value["$file"])
    return tuple(value) if isinstance(value, list) else value
