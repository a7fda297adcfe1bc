"""The contract of a stage; it is scikit-learn's, over records.

The constructor only stores its parameters, name for name. `fit` learns from a lazy, re-iterable sequence of
records; what is learned ends with `_` and is an array, a number or an nn.Module. Calling the stage on a few
records returns new fields for each and changes nothing. A stage is handed just the fields that it declares.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from types import UnionType
from typing import Any, ClassVar, Protocol, Self, Union, get_args, get_origin, get_type_hints

from .record import Record, Records

State = dict[str, Any]  # name -> array or tensor


@dataclass(frozen=True)
class Ref:
    """The state of another step of the pipeline, taken by reference: `weights=Ref("pretrain")`."""

    step: str


class NamedFile(str):
    """A file with the weights that a name stands for: it is read as a file, and keyed by the name.

    A RUN folder keeps such files, so that it needs no network and still reads what was cached under the name.
    """

    name: str

    def __new__(cls, path: str, name: str) -> NamedFile:
        made = super().__new__(cls, path)
        made.name = name
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return NamedFile, (str(self), self.name)


class Checkpoint(Protocol):
    """What `fit` is handed to save, to resume in mid-fit, and to say how far it is."""

    def load(self) -> State | None:
        """What was saved last, or None at a first start."""

    def save(self, make: Callable[[], State], *, now: bool = False) -> None:
        """Save make() if a save is due (or now). What is loaded must lead to the same result."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Say that `done` of `total` units of the fit's work are over."""


class NoCheckpoint:
    """Saves nothing and says nothing."""

    def load(self) -> State | None:
        return None

    def save(self, make: Callable[[], State], *, now: bool = False) -> None:
        pass

    def progress(self, done: int, total: int, text: str = "") -> None:
        pass


class Stage:
    """One method of one paper.

    Class attributes (or properties, where they follow from parameters):
        needs: fields that a call reads.
        gives: fields that a call returns, every one, for every record.
        learns: fields that only `fit` reads besides `needs` (truth, for instance).
        version: raised when the same parameters give other numbers than before.
        speed: parameters that change only speed; they are in no cache key.
        files: parameters that may name a file; keys take its content, not its path.
        arrays: "numpy" if a call wants numpy arrays; "torch" if it takes tensors too and gives tensors on
            its own device.
        chunk: how many images a call takes at once, at most (1: an image's regions are a batch already).
        parallel: whether an image costs a core so much that worker processes pay (over 50 ms or so).
        rounds: the parameter that says how many rounds a fit takes, where each costs as much as the next (steps, say).
        distributed: whether the processes of torchrun share a fit (nets.ranks); else the first one does it for all.
        ranked: whether the first of the boxes that it gives are the best ones, so that they can be cut.
    """

    needs: Sequence[str] = ()
    gives: Sequence[str] = ()
    learns: Sequence[str] = ()
    version: ClassVar[int] = 1
    speed: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    arrays: ClassVar[str] = "numpy"
    chunk: ClassVar[int] = 1
    parallel: ClassVar[bool] = False
    rounds: ClassVar[str] = ""
    distributed: ClassVar[bool] = False
    ranked: ClassVar[bool] = True

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        """New fields for each record. A stage that only gives a state (pre-training) gives no fields."""
        raise NotImplementedError(f"{type(self).__name__} gives a state, not fields")

    def prepare(self) -> None:
        """What is slow before a first call and serves every process (compiling, say); it may be called again."""

    def fit(self, records: Records, checkpoint: Checkpoint) -> None:
        """Learn from records, in canonical order, each holding `needs` and `learns`."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing")

    def check_processes(self, count: int) -> None:
        """UserError if so many processes cannot share the fit of a `distributed` stage."""

    def work(self, images: int) -> float:
        """What a fit on so many images costs, to be set against another fit of the same class; images, if no more."""
        return images

    def check_types(self) -> None:
        """ValueError, naming the parameter, if a value is of another type than the constructor states."""
        refuse_types(type(self).__init__, self.get_params())

    def validate(self) -> None:
        """Raise ValueError, in one sentence that names the parameter, if a parameter cannot be meant."""

    # -- parameters ------------------------------------------------------------------------------------

    @classmethod
    def param_names(cls) -> list[str]:
        return list(inspect.signature(cls).parameters)

    def get_params(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.param_names()}

    def set_params(self, **params: Any) -> Self:
        """Change parameters by name. ValueError for a name that is none."""
        names = self.param_names()
        for name, value in params.items():
            if name not in names:
                raise ValueError(f"{type(self).__name__} has no parameter {name!r}; it has {', '.join(names)}")
            setattr(self, name, value)
        return self

    def key_params(self) -> dict[str, Any]:
        """The parameters that change the numbers, as a cache key takes them."""
        return {name: value for name, value in self.get_params().items() if name not in self.speed}

    def clone(self) -> Self:
        """A stage with the same parameters that has learned nothing."""
        return type(self)(**self.get_params())

    def __repr__(self) -> str:
        defaults = {n: p.default for n, p in inspect.signature(type(self)).parameters.items()}
        said = (f"{n}={v!r}" for n, v in self.get_params().items() if not _same(v, defaults[n]))
        return f"{type(self).__name__}({', '.join(said)})"

    # -- what is learned -------------------------------------------------------------------------------

    @property
    def learned(self) -> bool:
        """Whether this stage has a fit at all."""
        return type(self).fit is not Stage.fit

    def state(self) -> State:
        """All learned attributes; those of an nn.Module `net_` are named `net_.<parameter>`."""
        state: State = {}
        for name, value in vars(self).items():
            if name.startswith("_") or not name.endswith("_"):
                continue
            if hasattr(value, "state_dict"):
                state.update({f"{name}.{key}": tensor for key, tensor in value.state_dict().items()})
            else:
                state[name] = value
        return state

    def state_for(self, step: str) -> State:
        """What a later step of this name takes, whose parameter is a Ref to this one: by default all."""
        return self.state()

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become what gave this state. Modules are made by `build_modules` and filled."""
        modules: dict[str, dict[str, Any]] = {}
        for key, value in state.items():
            name, dot, rest = key.partition(".")
            if dot:
                modules.setdefault(name, {})[rest] = value
            else:
                setattr(self, name, value.item() if getattr(value, "ndim", None) == 0 else value)
        if modules:
            self.build_modules(state)
            import torch

            for name, arrays in modules.items():
                tensors = {key: torch.as_tensor(value) for key, value in arrays.items()}
                getattr(self, name).load_state_dict(tensors)

    def build_modules(self, state: Mapping[str, Any]) -> None:
        """Set the nn.Module attributes that `state` fills, of the right shapes."""
        raise NotImplementedError(f"{type(self).__name__} learns no module")

    def named(self, param: str) -> State:
        """The tensors behind a `files` parameter that holds a name (of published weights), not a file."""
        raise NotImplementedError(f"{type(self).__name__} knows no {param} by name")

    # -- states of other steps -------------------------------------------------------------------------

    def refs(self) -> dict[str, Ref]:
        """The parameters that take another step's state."""
        return {name: value for name, value in self.get_params().items() if isinstance(value, Ref)}

    def bind(self, name: str, state: Callable[[], State], key: str) -> None:
        """Hand over the state, of this key, that the parameter `name`, a Ref, refers to."""
        bound = self.__dict__.setdefault("_bound", {})
        if name not in bound or bound[name][0] != key:
            bound[name] = (key, state())

    def given(self, name: str) -> Any:
        """The parameter's value; the state it refers to where it is a Ref."""
        value = getattr(self, name)
        if not isinstance(value, Ref):
            return value
        try:
            return self.__dict__.get("_bound", {})[name][1]
        except KeyError:
            raise RuntimeError(f"{type(self).__name__}: the state of step {value.step!r} was not handed over") from None

    def __getstate__(self) -> dict[str, Any]:
        """What a joblib worker gets: nothing that was only built for speed (names starting with `_`)."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_") or name == "_bound"}


def refuse_types(function: Callable[..., Any], values: Mapping[str, Any]) -> None:
    """ValueError, naming the parameter, if one of these arguments is of another type than the function states."""
    hints = get_type_hints(function)
    for name, value in values.items():
        if name in hints and not _is(value, hints[name]):
            said = inspect.signature(function).parameters[name].annotation
            raise ValueError(f"{name} is {value!r}, not {said}")


def _is(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_is(value, one) for one in get_args(hint))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is not None:  # a sequence of something
        inner = [one for one in get_args(hint) if one is not Ellipsis]
        return isinstance(value, (list, tuple)) and all(any(_is(v, one) for one in inner) for v in value)
    return isinstance(value, (str, PathLike) if hint is str else hint)


def _same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and bool(a == b)
