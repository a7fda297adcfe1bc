"""The keys under which the cache keeps what a pipeline makes.

method key: class, version, keyed parameters, content of parameter files, states and methods it reads.
state key:  the method key, the class names, and every field that fit reads of every image (`cache.inputs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..cache.inputs import Inputs
from ..cache.keys import digest_file, digest_value
from ..errors import UserError
from ..stages.stage import NamedFile, Ref, Stage
from .pipeline import Again, Pipeline


class Keys:
    """The keys of a pipeline's steps; each is worked out once, until the pipeline changes or learns again."""

    def __init__(self, pipeline: Pipeline):
        self.pipeline = pipeline
        self._revision = pipeline.revision
        self._method_keys: dict[str, str] = {}

    def key(self, name: str) -> str:
        """The key under which the cache keeps what a step gives."""
        return self.pipeline.keys[name] if self.pipeline.stage(name).learned else self.method_key(name)

    def method_key(self, name: str) -> str:
        """Class, version, keyed parameters, and keys of the states and the methods that the step reads."""
        if self._revision != self.pipeline.revision:
            self._revision, self._method_keys = self.pipeline.revision, {}
        if name not in self._method_keys:
            self._method_keys[name] = digest_value(self.method(name))
        return self._method_keys[name]

    def method(self, name: str) -> dict[str, Any]:
        """What the method key is a hash of, in words."""
        step, stage, doer = self.pipeline.step(name), self.pipeline.stage(name), self.pipeline.method(name)
        authors = self.pipeline.authors()
        read = () if step.apart else tuple(stage.needs)
        again: list[Any] = []
        if isinstance(step.stage, Again):  # of the step repeated only what it learned: the rest is in this method
            again = [self.pipeline.keys.get(step.stage.step, ""), step.stage.fields]
        return {
            "class": f"{type(doer).__module__}.{type(doer).__qualname__}",
            "version": doer.version,
            "parameters": {key: self._keyed(doer, key, value) for key, value in doer.key_params().items()},
            "again": again,
            **({"fields": dict(step.fields)} if step.fields else {}),
            "reads": {field: self.key(authors[field]) for field in read if field in authors},
        }

    def _keyed(self, stage: Stage, name: str, value: Any) -> Any:
        if isinstance(value, Ref):
            return {"state": self.pipeline.keys[value.step]}
        if name not in stage.files or not isinstance(value, (str, Path)):
            return value
        if isinstance(value, NamedFile):
            return value.name
        if Path(value).is_file():
            return {"content": digest_file(value)}
        if isinstance(value, Path) or Path(value).suffix:
            raise UserError(f"{name} of {type(stage).__name__}: there is no file {value}")
        return value

    def inputs(self, name: str, fields: Iterable[str], images: Mapping[str, Mapping[str, str]]) -> Inputs:
        """What a fit learns from: id -> field -> hash; and by which keys the fields that a step gave were made."""
        authors = {} if self.pipeline.step(name).apart else self.pipeline.authors()
        return Inputs(images, {field: self.key(authors[field]) for field in fields if field in authors})
