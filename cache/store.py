"""The cache on disk: a folder of shelves, one shelf for each step and method.

    <root>/<step>-<12 hex>/about.json           what it was made with
                          /state.safetensors    what was learned, if anything is
                          /inputs.json          from what: a hash of every field of every image
                          /used                 when a run last opened the shelf
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
FEW, MANY = 16, 1000  # loose small entries from which on packing pays, and the most in one pack: 64 MB
FORMAT = 1


def default_root() -> Path:
    """$RCNN_CACHE, else the user's cache folder."""
    if place := os.environ.get("RCNN_CACHE"):
        return Path(place)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "rcnn"


@dataclass(frozen=True)
class Entry:
    """One image's fields on disk: what they were made from, their hashes, and where they lie.

    opened: what its own file says of itself; None in a pack, which is never changed once written.
    """

    id: str
    inputs: str
    digests: Mapping[str, str]
    path: Path
    slots: Mapping[str, files.Slot] = field(repr=False)
    opened: files.Opened | None = field(default=None, repr=False)

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
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"the cache {self.root} is a file, not a folder")

    def shelf(self, step: str, key: str) -> Shelf:
        """The shelf of a step made by the method with this key (only its first 12 digits are used)."""
        return Shelf(self.root / f"{step}-{key[:12]}", verify=self.verify)

    def shelves(self) -> list[Shelf]:
        """All shelves, oldest first."""
        if not self.root.is_dir():
            return []
        found = sorted(_stats(self.root.glob("*/about.json")), key=lambda pair: pair[1].st_ctime)
        return [Shelf(path.parent, verify=self.verify) for path, _stat in found]


class Shelf:
    """What one step, by one method, gave for each image; and what it learned."""

    def __init__(self, path: Path, *, verify: bool = True):
        self.path = path
        self.verify = verify
        self._checked: set[tuple[Path, str]] = set()
        self._packs: dict[Path, dict[str, Entry]] = {}
        self._damaged: list[Path] = []
        self._order: list[Path] = []  # of packs, the newest first

    def __repr__(self) -> str:
        return f"Shelf({self.path})"

    # -- entries -------------------------------------------------------------------------------------

    def find(self, id: str, inputs: str | None = None) -> Entry | None:
        """The entry of an image (made from these inputs, if given), or None.

        A damaged one is named in a warning and counts as none.
        """
        try:
            entry: Entry | None = _open(self._place(id), id)
        except FileNotFoundError:
            entry = self._packed(id, inputs)
        except files.Unreadable as error:
            log.warning("%s; it is made again", error)
            return None
        return entry if entry is not None and inputs in (None, entry.inputs) else None

    def read(self, entry: Entry, names: Iterable[str]) -> dict[str, np.ndarray]:
        """Fields of an entry. Unreadable if its file is damaged; Replaced if another entry took its place."""
        names = tuple(names)
        try:
            arrays = files.read_arrays(entry.path, {name: entry.slots[name] for name in names}, entry.opened)
        except FileNotFoundError as error:  # packed, by this process or another; or removed
            self._forget(entry.path)
            again = self.find(entry.id, entry.inputs)
            if again is None or again.digests != entry.digests or again.path == entry.path:
                raise files.Replaced(f"{entry.path} was removed") from error
            return self.read(again, names)
        if self.verify:
            new = {
                name: array for name, array in arrays.items() if (entry.path, entry.digests[name]) not in self._checked
            }
            files.check(entry.path, new, entry.digests)
            self._checked.update((entry.path, entry.digests[name]) for name in new)
        return arrays

    def write(self, id: str, inputs: str, arrays: Mapping[str, np.ndarray]) -> Entry:
        """Store an image's fields, in the place of what was there."""
        path = self._place(id)
        opened = files.write(path, arrays, {"id": id, "inputs": inputs, "format": FORMAT})
        return Entry(id, inputs, opened.digests, path, opened.slots, opened)

    def remove(self, entry: Entry) -> None:
        """Forget a damaged entry. One in a pack stays there, hidden as soon as a new one is written."""
        if entry.opened is not None:
            entry.path.unlink(missing_ok=True)

    def entries(self) -> Iterator[Entry]:
        """All entries, each image once. A damaged file is named in a warning and passed over."""
        seen = set()
        for path in self._loose():
            try:
                entry = _open(path)
            except FileNotFoundError:
                continue  # packed meanwhile
            except files.Unreadable as error:
                log.warning("%s", error)
                continue
            seen.add(entry.id)
            yield entry
        self._load_packs()
        for path in self._order:
            for id, entry in self._packs[path].items():
                if id not in seen:
                    seen.add(id)
                    yield entry

    def pack(self) -> int:
        """Put loose small entries into packs, for there may be thousands; returns how many.

        One process at a time; a second one leaves it to the first. Entries that cannot be packed are as good as they
        were: a full disk is told in a warning, and a cache that may only be read is not packed.
        """
        from filelock import FileLock, Timeout

        if not os.access(self.path, os.W_OK):
            return 0
        try:
            files.sweep(self.path)
            self._drop_damaged()
            small = [(path, stat) for path, stat in _stats(self._loose()) if stat.st_size < SMALL]
            if len(small) < FEW:
                return 0
            with FileLock(self.path / "pack.lock", timeout=0):
                return sum(self._pack(small[i : i + MANY]) for i in range(0, len(small), MANY))
        except Timeout:
            return 0
        except (OSError, UserError) as error:
            log.warning("%s is not packed: %s", self.path, error)
            return 0

    def _pack(self, small: list[tuple[Path, os.stat_result]]) -> int:
        arrays: dict[str, np.ndarray] = {}
        heads: list[dict[str, str]] = []
        packed = []
        for path, stat in small:
            try:
                entry = _open(path)
                fields = self.read(entry, entry.slots)
            except (FileNotFoundError, files.Replaced):
                continue
            except files.Unreadable as error:
                log.warning("%s; it stays where it is", error)
                continue
            arrays.update({f"{len(heads)}/{name}": array for name, array in fields.items()})
            heads.append({"id": entry.id, "inputs": entry.inputs})
            packed.append((path, stat.st_ino))
        if not heads:
            return 0
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.safetensors"  # the newest pack sorts last
        files.write(self.path / "packs" / name, arrays, {"entries": heads, "format": FORMAT})
        self._load_packs()
        inodes = dict(packed)
        for path, stat in _stats(inodes):
            if stat.st_ino == inodes[path]:  # else somebody wrote a newer one
                path.unlink(missing_ok=True)
        return len(heads)

    def _drop_damaged(self) -> None:
        """Remove the packs that were found damaged: a run has made again what it needed of them."""
        while self._damaged:
            path = self._damaged.pop()
            try:
                files.open_header(path)
            except FileNotFoundError:
                continue
            except files.Unreadable:  # and not of a later version
                path.unlink(missing_ok=True)

    def _loose(self) -> Iterable[Path]:
        return self.path.glob("[0-9a-f][0-9a-f]/*.safetensors")

    def _place(self, id: str) -> Path:
        name = digest(id)
        return self.path / name[:2] / f"{name}.safetensors"

    def _forget(self, pack: Path) -> None:
        """A pack that is gone holds nothing."""
        if self._packs.pop(pack, None) is not None:
            self._order.remove(pack)

    def _packed(self, id: str, inputs: str | None) -> Entry | None:
        found = self._in_packs(id)
        if (found is None or inputs not in (None, found.inputs)) and self._load_packs():
            found = self._in_packs(id)
        return found

    def _in_packs(self, id: str) -> Entry | None:
        """Its entry in the newest pack that has one."""
        for path in self._order:
            if id in self._packs[path]:
                return self._packs[path][id]
        return None

    def _load_packs(self) -> bool:
        """Read the headers of packs that this process does not know yet; whether there were any."""
        new = [path for path in self.path.glob("packs/*.safetensors") if path not in self._packs]
        for path in new:
            try:
                self._packs[path] = _pack_entries(path, files.open_header(path))
            except FileNotFoundError:
                continue
            except files.Unreadable as error:
                log.warning("%s; what it held is made again", error)
                self._packs[path] = {}
                self._damaged.append(path)
        self._order = sorted(self._packs, reverse=True)
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
            return dict(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError) as error:
            raise UserError(f"{path} is damaged: {error}; the next run that uses its shelf writes it anew") from error

    def described(self) -> bool:
        """Whether about.json is there and whole. A damaged one is named in a warning."""
        try:
            return bool(self.about())
        except UserError as error:
            log.warning("%s", error)
            return False

    def describe(self, about: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write about.json, or add an environment (software, device, threads) that also filled the shelf."""
        from filelock import FileLock

        if environment in self._filled_by():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / "about.lock"):
                filled = self._filled_by()
                if environment not in filled:
                    files.write_json(self.path / "about.json", {**about, "filled_by": [*filled, environment]})
        except OSError as error:
            raise UserError(f"cannot write the cache at {self.path}: {error.strerror or error}") from error

    def _filled_by(self) -> list[Any]:
        return self.about().get("filled_by", []) if self.described() else []

    def size(self) -> int:
        """Bytes on disk."""
        return files.folder_size(self.path)


def _open(path: Path, id: str | None = None) -> Entry:
    opened = files.open_header(path)
    header = opened.header
    if header.get("format") != FORMAT or "inputs" not in header:
        raise files.Unreadable(f"{path} is of another format")
    if id is not None and header["id"] != id:
        raise files.Unreadable(f"{path} is damaged: it is of image {header['id']!r}, not {id!r}")
    return Entry(header["id"], header["inputs"], opened.digests, path, opened.slots, opened)


def _pack_entries(path: Path, opened: files.Opened) -> dict[str, Entry]:
    if opened.header.get("format") != FORMAT:
        raise files.Unreadable(f"{path} is of another format")
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


def _stats(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Files with what the system knows of them; those that vanished are left out."""
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        yield path, stat
