"""Every file of a shelf read and held against what it says of itself; and what no reader will ever want.

What is checked: all bytes of entries, packs, states and checkpoints; that an entry is where its image's belongs;
inputs.json and, in about.json, whatever goes into the key, against the key. about.json's `recipe`, `made` and
`filled_by` are for people; nothing vouches for them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from . import files, inputs, layout
from .keys import digest_value
from .store import FORMAT

METHOD = ("class", "version", "parameters", "again", "reads")  # of about.json: what the method key is made of


class Finding(NamedTuple):
    """A file, or folder, that is not as it should be.

    kind: "damaged"; "unread", if the system would not let it be read; "left over", if no reader wants it.
    """

    path: Path
    kind: str
    why: str
    nbytes: int


def damages(shelf: Path, advance: Callable[[int], None] = lambda nbytes: None) -> Iterator[Finding]:
    """Read every file of a shelf and name the damaged ones; those that vanish meanwhile are passed over.

    advance: called with the bytes of each file that was read.
    """
    for path, stat in files.walk(shelf):
        place = path.relative_to(shelf).as_posix()
        try:
            _check(shelf, place)
        except FileNotFoundError:
            continue
        except files.Unreadable as error:
            yield Finding(path, "damaged", str(error).removeprefix(f"{path} is damaged: "), stat.st_size)
        except UserError as error:
            yield Finding(path, "unread", str(error).removeprefix(f"cannot read {path}: "), stat.st_size)
        advance(stat.st_size)


def _check(shelf: Path, place: str) -> None:
    path = shelf / place
    if place == layout.ABOUT:
        _check_about(shelf)
    elif place == layout.INPUTS:
        _check_inputs(shelf)
    elif path.name.startswith("."):
        return  # being written
    elif layout.is_entry(shelf, path):
        _check_entry(shelf, path, files.examine(path))
    elif layout.is_pack(path):
        _check_pack(path, files.examine(path))
    elif path in (layout.learned(shelf), layout.learned(shelf, layout.CHECKPOINT)):
        files.examine(path)


def _check_entry(shelf: Path, path: Path, opened: files.Opened) -> None:
    header = opened.header
    _refuse(path, header.get("format") != FORMAT or "inputs" not in header, "it is of another format")
    place = shelf / layout.entry_name(header["id"], header["inputs"])
    _refuse(path, path != place, f"it is of image {header['id']!r}, whose place is another")


def _check_pack(path: Path, opened: files.Opened) -> None:
    header = opened.header
    _refuse(path, header.get("format") != FORMAT or "entries" not in header, "it is of another format")
    held = {name.partition("/")[0] for name in opened.slots}
    known = {str(number) for number in range(len(header["entries"]))}
    _refuse(path, not held <= known, "it holds fields of no image")


def _check_about(shelf: Path) -> None:
    path = shelf / layout.ABOUT
    about = _json(path)
    try:
        _check_words(path, about)
    except (KeyError, TypeError, AttributeError) as error:
        raise files.Unreadable(f"{path} is damaged: it lacks {error}") from error


def _check_words(path: Path, about: dict[str, Any]) -> None:
    name = f"{about['step']}-{about['key'][:12]}"
    _refuse(path, name != path.parent.name, f"it is of the shelf {name}")
    method = digest_value({part: about[part] for part in METHOD})
    _refuse(path, method != about["method_key"], "its method is not that of its key")
    for key, told in about.get("unkept", {}).items():
        _refuse(path, digest_value({part: told[part] for part in METHOD}) != key, f"its method {key} is another")


def _check_inputs(shelf: Path) -> None:
    read = inputs.read(shelf)
    try:
        about = _json(shelf / layout.ABOUT)
        key = inputs.state_key(about["method_key"], about["classes"], read) if read else ""
    except (FileNotFoundError, UserError, files.Unreadable, KeyError, TypeError):
        return  # about.json is named by itself, and nothing else tells the key
    _refuse(shelf / layout.INPUTS, bool(read) and key != about["key"], "its hashes are not those of the state's key")


def _json(path: Path) -> dict[str, Any]:
    try:
        with files.told(path):
            held = json.loads(path.read_bytes())
    except ValueError as error:
        raise files.Unreadable(f"{path} is damaged: {error}") from error
    _refuse(path, not isinstance(held, dict), "it is no JSON object")
    return held


def _refuse(path: Path, broken: bool, why: str) -> None:
    if broken:
        raise files.Unreadable(f"{path} is damaged: {why}")


# -- what nobody wants -------------------------------------------------------------------------------------


def leftovers(shelf: Path) -> Iterator[Finding]:
    """What killed processes left half-written a day ago, checkpoints beside a state, packs that newer entries hide."""
    for path, stat in files.halves(shelf):
        yield Finding(path, "left over", "half-written by a process that was killed", stat.st_size)
    checkpoint = layout.learned(shelf, layout.CHECKPOINT)
    if checkpoint.exists() and layout.learned(shelf).exists():
        yield Finding(checkpoint, "left over", "the fit that it was for is finished", files.size(checkpoint))
    for path, hidden, held in _hidden(shelf):
        why = f"newer entries hide {'all' if hidden == held else hidden} of its {held} entries"
        yield Finding(path, "left over", why, files.size(path))


def useless_packs(shelf: Path) -> Iterator[Path]:
    """Packs of which newer ones, or loose entries, hide all."""
    return (path for path, hidden, held in _hidden(shelf) if hidden == held)


def _hidden(shelf: Path) -> Iterator[tuple[Path, int, int]]:
    """Packs of which newer packs or loose entries hide a part, or all; how many entries, and of how many."""
    seen = {path.relative_to(shelf).as_posix() for path in layout.entries(shelf)}
    for path in sorted(layout.packs(shelf), reverse=True):
        try:
            held = [layout.entry_name(head["id"], head["inputs"]) for head in files.open_header(path).header["entries"]]
        except (FileNotFoundError, UserError, files.Unreadable, KeyError):
            continue  # gone, or named as damaged
        if hidden := sum(name in seen for name in held):
            yield path, hidden, len(held)
        seen.update(held)


def strays(root: Path) -> Iterator[Finding]:
    """Folders of a cache that are no shelf any more: without about.json, or whose removal was cut short."""
    for path in sorted(path for path in root.glob("*") if layout.is_removed(path) and path.is_dir()):
        yield Finding(path, "left over", "its removal was cut short", files.folder_size(path))
    for path in layout.shelves(root):
        written = any(file.suffix != ".lock" for file, _stat in files.walk(path))
        if written and not (path / layout.ABOUT).exists():
            why = "it has no about.json, so that no list shows it; the next run of its method writes it"
            yield Finding(path, "left over", why, files.folder_size(path))


def remove(finding: Finding) -> bool:
    """Delete a damaged file, so that it is made again; whether it was still there."""
    try:
        os.unlink(finding.path)
    except FileNotFoundError:
        return False
    return True
