"""Every file of a shelf read and held against what it says of itself; and what no reader will ever want.

What is checked: all bytes of entries, packs, states and checkpoints; that an entry is where its image's belongs;
inputs.json and, in about.json, whatever goes into the key, against the key. about.json's `recipe`, `made` and
`filled_by` are for people; nothing vouches for them.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import files, inputs
from .keys import digest, digest_value
from .store import FORMAT

METHOD = ("class", "version", "parameters", "again", "reads")  # of about.json: what the method key is made of
SHELF = re.compile(r"(?P<step>\w+)-(?P<key>[0-9a-f]{12})")
ENTRY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}\.safetensors")
REMOVED = ".removed-"  # begins the name of a shelf that is being removed
DAY = 86400.0


class Finding(NamedTuple):
    """A file, or folder, that is not as it should be.

    kind: "damaged"; "unread", if the system would not let it be read; "left over", if no reader wants it.
    """

    path: Path
    kind: str
    why: str
    nbytes: int


def shelves(root: Path) -> list[Path]:
    """The folders of all shelves by name, with or without about.json."""
    return sorted(path for path in root.glob("*") if SHELF.fullmatch(path.name) and path.is_dir())


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
        except OSError as error:
            yield Finding(path, "unread", error.strerror or str(error), stat.st_size)
        advance(stat.st_size)


def _check(shelf: Path, place: str) -> None:
    path = shelf / place
    if place == "about.json":
        _check_about(shelf)
    elif place == inputs.NAME:
        _check_inputs(shelf)
    elif path.name.startswith("."):
        return  # being written
    elif ENTRY.fullmatch(place):
        _check_entry(path, files.examine(path))
    elif is_pack(path):
        _check_pack(path, files.examine(path))
    elif place in ("state.safetensors", "checkpoint.safetensors"):
        files.examine(path)


def is_pack(path: Path) -> bool:
    """Whether a file of a shelf is a pack."""
    return path.parent.name == "packs" and path.suffix == ".safetensors" and not path.name.startswith(".")


def _check_entry(path: Path, opened: files.Opened) -> None:
    header = opened.header
    _refuse(path, header.get("format") != FORMAT or "inputs" not in header, "it is of another format")
    _refuse(path, digest(header["id"]) != path.stem, f"it is of image {header['id']!r}, whose place is another")


def _check_pack(path: Path, opened: files.Opened) -> None:
    header = opened.header
    _refuse(path, header.get("format") != FORMAT or "entries" not in header, "it is of another format")
    held = {name.partition("/")[0] for name in opened.slots}
    known = {str(number) for number in range(len(header["entries"]))}
    _refuse(path, not held <= known, "it holds fields of no image")


def _check_about(shelf: Path) -> None:
    path = shelf / "about.json"
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
        about = _json(shelf / "about.json")
        key = inputs.state_key(about["method_key"], about["classes"], read) if read else ""
    except (OSError, files.Unreadable, KeyError, TypeError):
        return  # about.json is named by itself, and nothing else tells the key
    _refuse(shelf / inputs.NAME, bool(read) and key != about["key"], "its hashes are not those of the state's key")


def _json(path: Path) -> dict[str, Any]:
    try:
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
    for path, stat in files.walk(shelf):
        if path.name.startswith(".") and path.suffix == ".tmp" and time.time() - stat.st_mtime > DAY:
            yield Finding(path, "left over", "half-written by a process that was killed", stat.st_size)
    checkpoint = shelf / "checkpoint.safetensors"
    if checkpoint.exists() and (shelf / "state.safetensors").exists():
        yield Finding(checkpoint, "left over", "the fit that it was for is finished", files.size(checkpoint))
    yield from _hidden(shelf)


def _hidden(shelf: Path) -> Iterator[Finding]:
    """Packs of which newer packs or loose entries hide a part, or all: the latter are of no use."""
    found = [path for path, _stat in files.walk(shelf)]
    seen = {path.name for path in found if ENTRY.fullmatch(path.relative_to(shelf).as_posix())}
    for path in sorted((path for path in found if is_pack(path)), reverse=True):
        try:
            held = [f"{digest(head['id'])}.safetensors" for head in files.open_header(path).header["entries"]]
        except (OSError, files.Unreadable, KeyError):
            continue  # gone, or named as damaged
        hidden = [name for name in held if name in seen]
        if hidden:
            why = f"newer entries hide {'all' if len(hidden) == len(held) else len(hidden)} of its {len(held)} entries"
            yield Finding(path, "left over", why, files.size(path))
        seen.update(held)


def strays(root: Path) -> Iterator[Finding]:
    """Folders of a cache that are no shelf any more: without about.json, or whose removal was cut short."""
    for path in sorted(path for path in root.glob(f"{REMOVED}*") if path.is_dir()):
        yield Finding(path, "left over", "its removal was cut short", files.folder_size(path))
    for path in shelves(root):
        if not (path / "about.json").exists() and any(file.suffix != ".lock" for file, _stat in files.walk(path)):
            why = "it has no about.json, so that no list shows it; the next run of its method writes it"
            yield Finding(path, "left over", why, files.folder_size(path))


def remove(finding: Finding) -> bool:
    """Delete a damaged file, so that it is made again; whether it was still there."""
    try:
        os.unlink(finding.path)
    except FileNotFoundError:
        return False
    return True
