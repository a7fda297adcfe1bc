"""What differs between two trained pipelines: their steps and parameters, and what they learned from."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..cache import inputs
from ..cache.files import Unreadable
from ..cache.keys import digest_file
from ..cache.store import log
from ..stages.stage import NamedFile, Ref, Stage
from .pipeline import Again, Pipeline
from .run import Run


class Part(NamedTuple):
    """A step as far as it changes numbers, in words: equal words, equal method.

    kind: its class. params: parameter -> value. unusual: those that are not the class's default.
    """

    kind: str
    params: Mapping[str, str]
    unusual: Mapping[str, str]


Parts = Mapping[str, Part]  # step -> what it does
Data = Mapping[str, Mapping[str, str]]  # image id -> field -> hash


class Method(NamedTuple):
    """What made a trained pipeline's numbers.

    keys: of the steps that learned. data: of those whose shelf is there, what they learned from: image id -> field of
    the data set -> hash.
    """

    parts: Parts
    keys: Mapping[str, str]
    data: Mapping[str, Data]


def method_of(run: Run) -> Method:
    """The method of a run's trained pipeline, with the training data where its cache still tells of them."""
    return Method(parts(run.pipeline), dict(run.pipeline.keys), learned_from(run))


def changes(before: Method, after: Method) -> list[str]:
    """What was changed from one to the other, a line a change; never empty."""
    data = _other_data(before, after) or _other_inputs(before, after)
    return [*step_changes(before.parts, after.parts), *data] or ["nothing"]


# -- steps -----------------------------------------------------------------------------------------------


def parts(pipeline: Pipeline) -> dict[str, Part]:
    """What each step of a pipeline does, in words that are equal where its numbers would be."""
    return {step.name: _part(step.stage, step.fields) for step in pipeline}


def _part(stage: Stage | Again, fields: Mapping[str, str]) -> Part:
    if isinstance(stage, Again):
        return Part(f"{stage.step} again", stage.fields, {})
    signature = inspect.signature(type(stage)).parameters
    keyed = {n: v for n, v in stage.key_params().items() if n in signature or not isinstance(v, dict)}
    params = {name: _word(stage, name, value) for name, value in keyed.items()}  # without what other steps tell
    params |= {f"fields.{name}": other for name, other in fields.items()}
    unusual = [n for n, v in stage.get_params().items() if _word(stage, n, v) != _plain(signature[n].default)]
    return Part(type(stage).__name__, params, {name: params[name] for name in unusual if name in params})


def _word(stage: Stage, name: str, value: Any) -> str:
    """A parameter's value; a file by its content, a name of weights by the name wherever it is kept."""
    if isinstance(value, Ref):
        return f"state of {value.step}"
    if isinstance(value, NamedFile):
        return value.name
    if name in stage.files and isinstance(value, (str, Path)) and Path(value).is_file():
        return f"file {digest_file(value)[:8]}"
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_plain, value))})"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def step_changes(old: Parts, new: Parts) -> list[str]:
    """How the steps of two pipelines differ, a line a change; empty if they do not."""
    both = [name for name in new if name in old]
    swapped = [name for name in both if old[name].kind != new[name].kind]
    lines = [f"{name}: {_title(old[name], new[name])} -> {_title(new[name], old[name])}" for name in swapped]
    lines += _parameter_changes(old, new, [name for name in both if name not in swapped])
    lines += [f"+ {name}: {_title(new[name])}" for name in _only_in(new, old)]
    lines += [f"- {name}: {_title(old[name])}" for name in _only_in(old, new)]
    moved = both != [name for name in old if name in new]
    return [*lines, f"order: {', '.join(new)}"] if moved else lines


def _parameter_changes(old: Parts, new: Parts, names: list[str]) -> list[str]:
    """Steps in which the same parameter changed in the same way share a line."""
    where: dict[tuple[str, str, str], list[str]] = {}
    for step in names:
        for name in {**old[step].params, **new[step].params}:
            was, word = (side[step].params.get(name, "not there") for side in (old, new))
            if was != word:
                where.setdefault((name, was, word), []).append(f"{step}.{name}")
    return [f"{', '.join(places)}: {was} -> {word}" for (_, was, word), places in where.items()]


def _title(part: Part, other: Part | None = None) -> str:
    """A class with the parameters that are worth telling: not the default, and not as in the other."""
    told = {n: word for n, word in part.unusual.items() if other is None or other.params.get(n) != word}
    return part.kind + (f"({', '.join(f'{name}={word}' for name, word in told.items())})" if told else "")


def _only_in(some: Parts, others: Parts) -> list[str]:
    """Steps that the others lack, without those that only repeat one of these."""
    names = [name for name in some if name not in others]
    return [name for name in names if some[name].kind not in {f"{step} again" for step in names}]


# -- training data ---------------------------------------------------------------------------------------


def learned_from(run: Run) -> dict[str, Data]:
    """What of the training data each step learned from, where the cache still tells."""
    keys = run.pipeline.keys if run.store else {}
    told = {name: _told(run.shelf(name).path) for name in keys if not run.pipeline.step(name).apart}
    return {name: _own(one) for name, one in told.items() if one}


def _told(shelf: Path) -> inputs.Inputs | None:
    try:
        return inputs.read(shelf)
    except Unreadable as error:
        log.warning("%s; other training data will not be noticed", error)
        return None


def _own(learned: inputs.Inputs) -> Data:
    """The data set's own fields: no step made them."""
    made = learned.made_by
    return {id: {k: v for k, v in fields.items() if k not in made} for id, fields in learned.images.items()}


def _other_data(before: Method, after: Method) -> list[str]:
    """Whether the first step that both learned saw other training data, as far as the cache tells."""
    old, new = next(((before.data[name], after.data[name]) for name in after.data if name in before.data), ({}, {}))
    if old.keys() != new.keys():
        return [f"training data: {len(old)} images -> {len(new)}, {len(old.keys() & new.keys())} of them in both"]
    other = sum(_unlike(fields, new[id]) for id, fields in old.items())
    return [f"training data: {other} of {len(old)} images are other or otherwise annotated"] if other else []


def _unlike(a: Mapping[str, str], b: Mapping[str, str]) -> bool:
    return any(a[field] != b[field] for field in a.keys() & b.keys())


def _other_inputs(before: Method, after: Method) -> list[str]:
    """Whether a step that learns, with nothing changed in it or before it, learned something else."""
    for (old_name, old), (name, new) in zip(before.parts.items(), after.parts.items()):
        if (old_name, old) != (name, new):
            break
        if before.keys.get(name) != after.keys.get(name):
            return [f"{name}: the same method, learned from other inputs (data, device or version)"]
    return []
