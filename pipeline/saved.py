"""A trained RUN folder: recipe.json and states, all that detection needs, in one movable folder.

RUN/recipe.json              steps, classes, parameters, class names, keys
    states/<step>.safetensors what each step learned
    files/...                the weight files that parameters name
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..cache import files
from ..cache.keys import digest_file, digest_state
from ..errors import UserError
from ..stages.stage import NamedFile, Ref, Stage
from .fitting import on_host
from .pipeline import Again, Pipeline, Step

FORMAT = 1


def save(pipeline: Pipeline, folder: str | Path) -> None:
    """Write a fitted pipeline. UserError if the folder cannot be written or holds something else."""
    folder = Path(folder)
    prepare(folder)
    files.sweep(folder)
    for name, key in pipeline.keys.items():
        files.write(folder / "states" / f"{name}.safetensors", on_host(pipeline.stage(name).state()), {"key": key})
    recipe = {
        "format": FORMAT,
        "name": pipeline.name,
        "classes": list(pipeline.classes),
        "category_ids": list(pipeline.category_ids),
        "outputs": list(pipeline.outputs),
        "keys": pipeline.keys,
        "steps": [_step_json(step, folder) for step in pipeline],
    }
    files.write_json(folder / "recipe.json", recipe)


def prepare(folder: Path) -> None:
    """Make the folder of a run. UserError if it cannot be made, or something else is there.

    A folder whose saving was cut short, so that recipe.json, written last, is missing, is one of a run.
    """
    if not (folder / "recipe.json").is_file() and folder.is_dir() and not all(map(_ours, folder.iterdir())):
        raise UserError(f"{folder} is there already and is no trained run")
    files.make_folder(folder)


def _ours(path: Path) -> bool:
    return path.name in ("states", "files") or path.suffix == ".tmp"


def load(folder: str | Path, allow: Sequence[str] = ()) -> Pipeline:
    """The pipeline of a RUN folder. Its classes come from rcnn itself, or from modules named in `allow`.

    UserError if the folder is no trained run, is damaged, or names a class from elsewhere.
    """
    folder = Path(folder).resolve()
    try:
        recipe = json.loads((folder / "recipe.json").read_text())
        if recipe.get("format") != FORMAT:
            raise UserError(f"{folder} is of format {recipe.get('format')}; this version reads {FORMAT}")
        steps = [_step(row, folder, allow) for row in recipe["steps"]]
        pipeline = Pipeline(steps, name=recipe["name"], outputs=recipe["outputs"])
        pipeline.classes, pipeline.keys = tuple(recipe["classes"]), dict(recipe["keys"])
        pipeline.category_ids = tuple(recipe["category_ids"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{folder} is no trained run: it has no recipe.json") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'recipe.json'} is damaged, or of another version: {error}") from error
    for name, key in pipeline.keys.items():
        pipeline.stage(name).load_state(_state(folder / "states" / f"{name}.safetensors", key))
    return pipeline


def _state(path: Path, key: str) -> dict[str, Any]:
    try:
        if files.open_header(path).header.get("key") != key:
            raise UserError(f"{path} was learned in another training than recipe.json tells of")
        return files.read(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing from the trained run") from error
    except files.Unreadable as error:
        raise UserError(str(error)) from error


def _step_json(step: Step, folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"name": step.name, "keep": step.keep, "apart": step.apart}
    if isinstance(step.stage, Again):
        return {**row, "again": step.stage.step, "fields": step.stage.fields}
    if step.fields:
        row["fields"] = dict(step.fields)
    stage = step.stage
    params = {name: _param_json(stage, name, value, folder) for name, value in stage.get_params().items()}
    named = {"class": f"{type(stage).__module__}.{type(stage).__qualname__}", "version": stage.version}
    return {**row, **named, "params": params}


def _param_json(stage: Stage, name: str, value: Any, folder: Path) -> Any:
    if isinstance(value, Ref):
        return {"$state": value.step}
    if name not in stage.files or not isinstance(value, (str, Path)):
        return value
    if Path(value).is_file():
        kept = f"files/{digest_file(value)}{Path(value).suffix}"
        files.copy(Path(value), folder / kept)
        return {"$file": kept, "$name": value.name} if isinstance(value, NamedFile) else {"$file": kept}
    told = stage.key_params()[name]  # "DEFAULT" may mean other weights in the version that reads this
    state = on_host(stage.named(name))  # weights known by a name are kept too: a run needs no network
    kept = f"files/{digest_state(state)}.safetensors"
    files.write(folder / kept, state, {"name": told})
    return {"$file": kept, "$name": told}


def _step(row: dict[str, Any], folder: Path, allow: Sequence[str]) -> Step:
    more = {"keep": row["keep"], "apart": row["apart"]}
    if "again" in row:
        return Step(row["name"], Again(row["again"], **row["fields"]), **more)
    module, _, name = row["class"].rpartition(".")
    if module.split(".")[0] != "rcnn" and module not in allow:
        raise UserError(f"{folder} names {row['class']}, which is not of rcnn; say --allow {module} if you trust it")
    try:
        kind = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{folder} names {row['class']}, which cannot be imported: {error}") from error
    if not (isinstance(kind, type) and issubclass(kind, Stage)):
        raise UserError(f"{folder} names {row['class']}, which is no stage")
    if (was := row.get("version", 1)) != kind.version:
        saved = f"was saved with version {was} of {name}" if "version" in row else "was saved before versions were kept"
        now = f"this is version {kind.version} of {name}, which gives other numbers than those before"
        warnings.warn(f"{folder}: step {row['name']!r} {saved}; {now}", stacklevel=2)
    stage = kind(**{key: _param(value, folder) for key, value in row["params"].items()})
    return Step(row["name"], stage, fields=row.get("fields", {}), **more)


def _param(value: Any, folder: Path) -> Any:
    if isinstance(value, dict) and "$state" in value:
        return Ref(value["$state"])
    if isinstance(value, dict) and "$file" in value:
        path = str(folder / value["$file"])
        return NamedFile(path, value["$name"]) if "$name" in value else path
    return tuple(value) if isinstance(value, list) else value
