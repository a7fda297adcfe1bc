"""The cache on disk: a folder of shelves, one shelf for each step and method.

    <root>/<step>-<12 hex>/about.json           what it was made with
                          /state.safetensors    what was learned, if anything is
                          /checkpoint.safetensors  while it is being learned
                          /ab/<hash of id>.safetensors  one image's entry
                          /packs/<name>.safetensors     many small entries in one file

An entry's header holds the image id, a hash of all it was made from (`inputs`) and a hash of each field.
Any number of processes may fill one cache: entries are renamed into place, packs are written before the
entries that they hold are removed, and about.json is changed under a lock.
"""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from . import files
from .keys import digest

log = logging.getLogger("rcnn.cache")
SMALL = 64 * 1024  # bytes under which an entry is packed with others
FORMAT = 1


def default_root() -> Path:
    """$RCNN_CACHE, else the user's cache folder."""
    if place := os.environ.get("RCNN_CACHE"):
        return Path(place)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rcnn"


@dataclass(frozen=True)
class Entry:
    """One image's fields on disk: what they were made from, their hashes, and where they lie."""

    id: str
    inputs: str
    digests: Mapping[str, str]
    path: Path
    slots: Mapping[str, files.Slot] = field(repr=False)

    @property
    def nbytes(self) -> int:
        return sum(slot.nbytes for slot in self.slots.values())


class Store:
    """A cache folder.

    verify: check the hash of what is read at its first reading in this process (default yes).
    """

    def __init__(self, root: str | Path | None = None, *, verify: bool = True):
        self.root = Path(root) if root else default_root()
        self.verify = verify

    def shelf(self, step: str, key: str) -> Shelf:
        """The shelf of a step made by the method with this key (only its first 12 digits are used)."""
        return Shelf(self.root / f"{step}-{key[:12]}", verify=self.verify)

    def shelves(self) -> list[Shelf]:
        """All shelves, oldest first."""
        if not self.root.is_dir():
            return []
        found = [path.parent for path in self.root.glob("*/about.json")]
        return [Shelf(path, verify=self.verify) for path in sorted(found, key=lambda p: p.stat().st_ctime)]


class Shelf:
    """What one step, by one method, gave for each image; and what it learned."""

    def __init__(self, path: Path, *, verify: bool = True):
        self.path = path
        self.verify = verify
        self._checked: set[str] = set()
        self._packs: dict[Path, dict[str, Entry]] = {}

    def __repr__(self) -> str:
        return f"Shelf({self.path})"

    # -- entries -------------------------------------------------------------------------------------

    def find(self, id: str) -> Entry | None:
        """The entry of an image, or None. A damaged one is named in a warning and counts as none."""
        try:
            return _open(self._place(id), id)
        except FileNotFoundError:
            return self._packed(id)
        except files.Unreadable as error:
            log.warning("%s; it is made again", error)
            return None

    def read(self, entry: Entry, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Fields of an entry. Unreadable if its file was damaged, or removed, since it was found."""
        names = tuple(names)
        try:
            arrays = files.read_arrays(entry.path, {name: entry.slots[name] for name in names})
        except FileNotFoundError as error:  # packed, by this process or another
            again = self.find(entry.id)
            if again is None or again.inputs != entry.inputs or again.path == entry.path:
                raise files.Unreadable(f"{entry.path} was removed") from error
            return self.read(again, names)
        if self.verify:
            mark = f"{entry.id}\0{entry.inputs}\0"
            unchecked = {name: array for name, array in arrays.items() if mark + name not in self._checked}
            files.check(entry.path, unchecked, entry.digests)
            self._checked.update(mark + name for name in unchecked)
        return arrays

    def write(self, id: str, inputs: str, arrays: Mapping[str, np.ndarray]) -> Entry:
        """Store an image's fields, in the place of what was there."""
        path = self._place(id)
        opened = files.write(path, arrays, {"id": id, "inputs": inputs, "format": FORMAT})
        self._checked.update(f"{id}\0{inputs}\0{name}" for name in arrays)
        return Entry(id, inputs, opened.digests, path, opened.slots)

    def remove(self, entry: Entry) -> None:
        """Forget a damaged entry: its file goes; a damaged pack goes with all that it holds."""
        entry.path.unlink(missing_ok=True)
        self._packs.pop(entry.path, None)

    def entries(self) -> Iterator[Entry]:
        """All entries, each image once. A damaged file is named in a warning and passed over."""
        seen = set()
        for path in self.path.glob("[0-9a-f][0-9a-f]/*.safetensors"):
            try:
                entry = _open(path)
            except (FileNotFoundError, files.Unreadable) as error:
                log.warning("%s", error)
                continue
            seen.add(entry.id)
            yield entry
        self._load_packs()
        for pack in list(self._packs.values()):
            for id, entry in pack.items():
                if id not in seen:
                    seen.add(id)
                    yield entry

    def pack(self) -> int:
        """Put loose small entries into one file, for there may be thousands; returns how many."""
        loose = [p for p in self.path.glob("[0-9a-f][0-9a-f]/*.safetensors") if p.stat().st_size < SMALL]
        if len(loose) < 16:
            return 0
        arrays: dict[str, np.ndarray] = {}
        heads: list[dict[str, str]] = []
        for path in loose:
            try:
                entry = _open(path)
                fields = files.read_arrays(path, entry.slots)
                files.check(path, fields, entry.digests)
            except (FileNotFoundError, files.Unreadable):
                continue  # another process packed it, or it will be named and made again when it is read
            arrays.update({f"{len(heads)}/{name}": array for name, array in fields.items()})
            heads.append({"id": entry.id, "inputs": entry.inputs})
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.safetensors"  # the newest pack sorts last
        files.write(self.path / "packs" / name, arrays, {"entries": heads, "format": FORMAT})
        for path in loose:
            path.unlink(missing_ok=True)
        return len(heads)

    def _place(self, id: str) -> Path:
        name = digest(id)
        return self.path / name[:2] / f"{name}.safetensors"

    def _packed(self, id: str) -> Entry | None:
        for _attempt in range(2):
            for pack in reversed(self._packs.values()):
                if id in pack:
                    return pack[id]
            if not self._load_packs():
                break
        return None

    def _load_packs(self) -> bool:
        """Read the headers of packs that this process does not know yet; whether there were any."""
        new = [path for path in sorted(self.path.glob("packs/*.safetensors")) if path not in self._packs]
        for path in new:
            try:
                self._packs[path] = _pack_entries(path, files.open_header(path))
            except files.Unreadable as error:
                log.warning("%s; what it held is made again", error)
                self._packs[path] = {}
        return bool(new)

    # -- what is learned -----------------------------------------------------------------------------

    def load_state(self, name: str = "state") -> dict[str, np.ndarray] | None:
        """A learned state (or "checkpoint"), or None if there is none. A damaged one is named and is none."""
        path = self.path / f"{name}.safetensors"
        try:
            return files.read(path)
        except FileNotFoundError:
            return None
        except files.Unreadable as error:
            log.warning("%s; it is learned again", error)
            return None

    def save_state(self, state: Mapping[str, np.ndarray], name: str = "state") -> None:
        files.write(self.path / f"{name}.safetensors", state, {"format": FORMAT})

    def drop_state(self, name: str) -> None:
        (self.path / f"{name}.safetensors").unlink(missing_ok=True)

    # -- about ---------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """What the shelf was made with; empty if it is new. UserError if about.json is damaged."""
        path = self.path / "about.json"
        try:
            return json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}); remove its folder to make it again") from error

    def describe(self, about: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write about.json, or add an environment (software, device, threads) that also filled the shelf."""
        from filelock import FileLock

        known = self.about()
        if known and environment in known["filled_by"]:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / "about.lock"):
                filled = self.about().get("filled_by", [])
                files.write_json(self.path / "about.json", {**about, "filled_by": [*filled, environment]})
        except OSError as error:
            raise UserError(f"cannot write the cache at {self.path}: {error.strerror or error}") from error

    def size(self) -> int:
        """Bytes on disk."""
        return files.folder_size(self.path)


def _open(path: Path, id: str | None = None) -> Entry:
    header, digests, slots = files.open_header(path)
    if id is not None and header["id"] != id:
        raise files.Unreadable(f"{path} is damaged: it is of image {header['id']!r}, not {id!r}")
    return Entry(header["id"], header["inputs"], digests, path, slots)


def _pack_entries(path: Path, opened: files.Opened) -> dict[str, Entry]:
    slots: dict[str, dict[str, files.Slot]] = {}
    for name, slot in opened.slots.items():
        place, _, field_name = name.partition("/")
        slots.setdefault(place, {})[field_name] = slot
    entries = {}
    for number, head in enumerate(opened.header["entries"]):
        mine = slots.get(str(number), {})
        digests = {name: opened.digests[f"{number}/{name}"] for name in mine}
        entries[head["id"]] = Entry(head["id"], head["inputs"], digests, path, mine)
    return entries
