"""What made two shelves differ, in one line: about.json against about.json, and on to the step where it began."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cache import files, inputs, layout
from ..cache.store import Shelf, Store
from ..errors import UserError

About = Mapping[str, Any]
NAMED = 3  # images that are named of those that differ
GONE = "(not there)"


class Side(NamedTuple):
    """A shelf's, or an unkept step's, method; and the cache in which the methods that it reads are found.

    unkept: by key, methods that have no shelf; path: the shelf's folder, if it has one.
    """

    about: About
    store: Store
    unkept: Mapping[str, About]
    path: Path | None = None

    def reads(self, key: str) -> Side | None:
        """The method of this key that this one reads, or None if the cache does not tell of it."""
        if key in self.unkept:
            return self._replace(about=self.unkept[key], path=None)
        found = [path.parent for path in self.store.root.glob(f"*-{key[:12]}/about.json")]
        return side(self.store, Shelf(found[0])) if found else None


def side(store: Store, shelf: Shelf) -> Side:
    """A shelf to be compared."""
    about = shelf.about()
    return Side(about, store, about.get("unkept", {}), shelf.path)


def why(a: Side, b: Side) -> str:
    """One line on what made two shelves differ, or that it is the same method."""
    name = a.about["step"]
    told = differences(a, b)
    if a.about["step"] != b.about["step"]:
        told = [f"of two steps, {name} and {b.about['step']}", *told]
    elif a.about["key"] == b.about["key"]:
        told = ["the same method" + (" and the same data" if (a.path / "state.safetensors").exists() else "")]  # type: ignore[operator]
    filled = _filled(a.about, b.about)
    return "; ".join([*told, *([f"filled by: {filled}"] if filled else [])])


def differences(a: Side, b: Side) -> list[str]:
    """What is different, that of the step itself first, then each cause further up by the shortest way to it."""
    told: list[str] = []
    known: list[list[str]] = []
    seen: set[tuple[str, str]] = set()
    level = [("", a, b)]
    while level:
        below = []
        for way, one, other in level:
            own = [*_own(one.about, other.about), *_data(one, other)]
            if own and own not in known:  # the same words of a second step are no second cause
                known.append(own)
                told += [f"{way}{', '.join(own)}"]
            for verb, key_a, key_b in _read(one, other):
                if key_a != key_b and (key_a, key_b) not in seen:
                    seen.add((key_a, key_b))
                    below.append((way, verb, one.reads(key_a), other.reads(key_b)))
        level = []
        for way, verb, up, other_up in below:
            if up is None or other_up is None:
                told.append(f"{_on(way)}{verb} a step of which this cache does not tell any more")
            else:
                level.append((f"{_on(way)}{verb} {_step(up, other_up)}, where ", up, other_up))
    return told or [_unknown(a, b)]


def _on(way: str) -> str:
    return way.removesuffix("where ") + "which " if way else ""


def _step(a: Side, b: Side) -> str:
    one, other = a.about["step"], b.about["step"]
    return one if one == other else f"{one} here and {other} there"


def _own(a: About, b: About) -> list[str]:
    """Class, version and parameters; those that stand for another step's state are told of that step."""
    told = [_change(part, a.get(part), b.get(part)) for part in ("class", "version") if a.get(part) != b.get(part)]
    one, other = a["parameters"], b["parameters"]
    for name in dict.fromkeys([*one, *other]):
        x, y = one.get(name, GONE), other.get(name, GONE)
        if x != y and not (_state(x) and _state(y)):
            told.append(_change(name, x, y))
    fields = (a.get("again") or ["", {}])[1], (b.get("again") or ["", {}])[1]
    fields = ({**fields[0], **a.get("fields", {})}, {**fields[1], **b.get("fields", {})})
    return told + ([_change("fields", *fields)] if fields[0] != fields[1] else [])


def _change(name: str, x: Any, y: Any) -> str:
    if _content(x) and _content(y):
        return f"the file of {name} has another content"
    return f"{name} {_word(x)} -> {_word(y)}"


def _state(value: Any) -> str:
    return value.get("state", "") if isinstance(value, dict) else ""


def _content(value: Any) -> str:
    return value.get("content", "") if isinstance(value, dict) else ""


def _word(value: Any) -> str:
    if _state(value) or _content(value):
        return "a learned state" if _state(value) else f"a file ({_content(value)[:6]})"
    return value if isinstance(value, str) else json.dumps(value)


def _read(a: Side, b: Side) -> Iterator[tuple[str, str, str]]:
    """How, and under which two keys, both methods take something of another step."""
    one, other = a.about["parameters"], b.about["parameters"]
    for name in one.keys() & other.keys():
        if _state(one[name]) and _state(other[name]):
            yield f"takes {name} of", _state(one[name]), _state(other[name])
    repeated = (a.about.get("again") or [""])[0], (b.about.get("again") or [""])[0]
    if all(repeated):
        yield "repeats", *repeated
    mine, theirs = _made_by(a), _made_by(b)
    for field in sorted(mine.keys() & theirs.keys()):
        yield "reads", mine[field], theirs[field]


def _made_by(one: Side) -> dict[str, str]:
    """Field -> key of the step that made it, of all that the method reads, also only to learn."""
    learned = _inputs(one)
    return {**one.about.get("reads", {}), **(learned.made_by if learned else {})}


# -- what was learned from -----------------------------------------------------------------------------------


def _inputs(one: Side) -> inputs.Inputs | None:
    try:
        return inputs.read(one.path) if one.path else None
    except files.Unreadable as error:
        raise UserError(f"{error}; `rcnn cache verify --remove` removes it") from error


def _data(a: Side, b: Side) -> list[str]:
    """How the data differ that two states were learned from, as far as no step made them."""
    told = []
    classes = a.about.get("classes", []), b.about.get("classes", [])
    if a.path and b.path and classes[0] != classes[1]:
        told.append(f"classes {', '.join(classes[0]) or 'none'} -> {', '.join(classes[1]) or 'none'}")
    one, other = _inputs(a), _inputs(b)
    return told + (list(_images(one, other)) if one and other else [])


def _images(a: inputs.Inputs, b: inputs.Inputs) -> Iterator[str]:
    more, fewer = [id for id in b.images if id not in a.images], [id for id in a.images if id not in b.images]
    yield from ([f"{_count(more)} more ({_some(more)})"] if more else [])
    yield from ([f"{_count(fewer)} fewer ({_some(fewer)})"] if fewer else [])
    known: set[str] = set()  # images whose change explains what was made from them
    for what, fields in _kinds(a, b):
        found = [
            id for id in a.images if id in b.images and id not in known and _apart(a.images[id], b.images[id], fields)
        ]
        if found:
            yield f"the {what} of {_count(found)} differ{'s' if len(found) == 1 else ''} ({_some(found)})"
        known |= set(found)


def _kinds(a: inputs.Inputs, b: inputs.Inputs) -> Iterator[tuple[str, list[str]]]:
    """Truth, the other fields of the data set, then what equal steps made of them."""
    fields = sorted({field for one in (a, b) for row in one.images.values() for field in row})
    made = [field for field in fields if field in a.made_by or field in b.made_by]
    own = [field for field in fields if field not in made]
    yield "truth", [field for field in own if field.startswith("truth")]
    for field in (field for field in own if not field.startswith("truth")):
        yield field, [field]
    for field in (field for field in made if a.made_by.get(field) == b.made_by.get(field)):
        yield field, [field]


def _apart(one: Mapping[str, str], other: Mapping[str, str], fields: Sequence[str]) -> bool:
    return any(one.get(field) != other.get(field) for field in fields)


def _count(ids: Sequence[str]) -> str:
    return f"{len(ids)} image{'s' if len(ids) > 1 else ''}"


def _some(ids: Sequence[str]) -> str:
    return ", ".join([*ids[:NAMED], *(["..."] if len(ids) > NAMED else [])])


def _unknown(a: Side, b: Side) -> str:
    """The keys differ and nothing that is kept tells why."""
    silent = [one.path.name for one in (a, b) if one.path and _inputs(one) is None]
    if a.about.get("method_key") != b.about.get("method_key") or not silent:
        return "nothing that the cache keeps tells what differs"
    return f"the same method on other data; which cannot be told, for {' and '.join(silent)} keeps no {layout.INPUTS}"


# -- trained RUN folders -------------------------------------------------------------------------------------


def why_runs(a: Path, b: Path, store: Store, allow: Sequence[str] = ()) -> str:
    """One line on what made two RUN folders differ: their steps, or else what the first of those was learned from.

    allow: modules whose stages they may name. UserError if one of them is no trained run.
    """
    from . import saved
    from .changes import parts, step_changes

    one, other = saved.load(a, allow), saved.load(b, allow)
    told = step_changes(parts(one), parts(other))
    unlike = [name for name, key in one.keys.items() if other.keys.get(name, key) != key]
    if unlike and not told:
        return f"{unlike[0]}: {_why_learned(unlike[0], one.keys, other.keys, store)}"
    return "; ".join(told) or "the same method and the same data"


def _why_learned(name: str, a: Mapping[str, str], b: Mapping[str, str], store: Store) -> str:
    shelves = [store.shelf(name, keys[name]) for keys in (a, b)]
    if not all(shelf.described() for shelf in shelves):
        return f"learned from other data, of which the cache {store.root} does not tell any more"
    return why(side(store, shelves[0]), side(store, shelves[1]))


def keys_of(run: Path) -> Mapping[str, str]:
    """Step -> key of what it learned, of a RUN folder. UserError if it is damaged."""
    try:
        return dict(json.loads((run / "recipe.json").read_text())["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{run / 'recipe.json'} is damaged: {error}") from error


# -- environments --------------------------------------------------------------------------------------------


def _filled(a: About, b: About) -> str:
    """What differs between the environments that filled two shelves; empty where one filled both."""
    one, other = (side.get("filled_by", []) for side in (a, b))
    if any(environment in other for environment in one):
        return ""
    return ", ".join(_change(name, x, y) for name, x, y in _unlike(_flat(one), _flat(other)))


def _unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*a, *b]):
        if a.get(name, GONE) != b.get(name, GONE):
            yield name, a.get(name, GONE), b.get(name, GONE)


def _flat(environments: Sequence[About]) -> dict[str, Any]:
    """Of the last of a shelf's environments each word by its name."""
    last = dict(environments[-1]) if environments else {}
    return {**last.pop("software", {}), **last}
