"""The cache on disk: a folder of shelves, one shelf for each step and method; `layout` says where each thing lies.

An entry's header holds the image id, a hash of all it was made from (`inputs`) and a hash of each field. An image has
an entry for each of the inputs it was ever made from, so two data sets that share ids do not disturb one another.
Any number of processes may fill one cache: entries are renamed into place, packs are written before the
entries that they hold are removed, and about.json is changed under a lock.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from . import files, layout

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


Images = dict[str, dict[str, Entry]]  # id -> inputs -> entry


class Store:
    """A cache folder.

    verify: check the hash of what is read at its first reading in this process (default yes).
    """

    def __init__(self, root: str | Path | None = None, *, verify: bool = True):
        self.root = Path(root) if root else default_root()
        self.verify = verify
        with files.told(self.root):
            in_the_way = self.root.exists() and not self.root.is_dir()
        if in_the_way:
            raise UserError(f"the cache {self.root} is a file, not a folder")

    def shelf(self, step: str, key: str) -> Shelf:
        """The shelf of a step made by the method with this key (only its first 12 digits are used)."""
        return Shelf(self.root / layout.shelf_name(step, key), verify=self.verify)

    def shelves(self) -> list[Shelf]:
        """All shelves that tell what they are of, oldest first."""
        described = _stats(path / layout.ABOUT for path in layout.shelves(self.root))
        found = sorted(described, key=lambda pair: pair[1].st_ctime)
        return [Shelf(path.parent, verify=self.verify) for path, _stat in found]


class Shelf:
    """What one step, by one method, gave for each image; and what it learned."""

    def __init__(self, path: Path, *, verify: bool = True):
        self.path = path
        self.verify = verify
        self._checked: set[tuple[Path, str]] = set()
        self._packs: dict[Path, Images] = {}
        self._order: list[Path] = []  # of packs, the newest first
        self._damaged: list[Path] = []
        self._wrote = False  # since the last `pack`
        self._small: set[Path] = set()  # loose small entries that were met since then, as many as matter

    def __repr__(self) -> str:
        return f"Shelf({self.path})"

    # -- entries -------------------------------------------------------------------------------------

    def find(self, id: str, inputs: str | None = None) -> Entry | None:
        """The entry of an image that was made from these inputs, or None; without inputs its newest one.

        A damaged one is named in a warning and counts as none.
        """
        if inputs is None:
            return self._newest(id)
        try:
            return self._met(self._open(self.path / layout.entry_name(id, inputs)))
        except FileNotFoundError:
            return self._packed(id, inputs)
        except files.Unreadable as error:
            log.warning("%s; it is made again", error)
            return None

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
        """Store an image's fields, in the place of what was made from the same inputs before."""
        path = self.path / layout.entry_name(id, inputs)
        opened = files.write(path, arrays, {"id": id, "inputs": inputs, "format": FORMAT})
        self._wrote = True
        return Entry(id, inputs, opened.digests, path, opened.slots, opened)

    def remove(self, entry: Entry) -> None:
        """Forget a damaged entry. One in a pack stays there, hidden as soon as a new one is written."""
        if entry.opened is not None:
            entry.path.unlink(missing_ok=True)

    def entries(self) -> Iterator[Entry]:
        """All entries: of an image one for each of its inputs. A damaged file is named in a warning and passed over."""
        seen = set()
        for entry in self._readable(layout.entries(self.path)):
            seen.add((entry.id, entry.inputs))
            yield entry
        self._load_packs()
        for path in self._order:
            for entry in (entry for ones in self._packs[path].values() for entry in ones.values()):
                if (entry.id, entry.inputs) not in seen:
                    seen.add((entry.id, entry.inputs))
                    yield entry

    @property
    def untidy(self) -> bool:
        """Whether `pack` has something to do, as far as was met here: a write, a damaged pack, many small entries."""
        return self._wrote or bool(self._damaged) or len(self._small) >= FEW

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
            self._wrote, self._small = False, set()
            small = [(path, stat) for path, stat in _stats(layout.entries(self.path)) if stat.st_size < SMALL]
            small.sort(key=lambda pair: pair[1].st_mtime_ns)  # in a pack too the newest is the last
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
                entry = self._open(path)
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
        files.write(self.path / layout.pack_name(), arrays, {"entries": heads, "format": FORMAT})
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

    def _open(self, path: Path) -> Entry:
        opened = files.open_header(path)
        header = opened.header
        if header.get("format") != FORMAT or "inputs" not in header:
            raise files.Unreadable(f"{path} is of another format")
        id, inputs = header["id"], header["inputs"]
        if path != self.path / layout.entry_name(id, inputs):
            raise files.Unreadable(f"{path} is damaged: it is of image {id!r}, whose place is another")
        return Entry(id, inputs, opened.digests, path, opened.slots, opened)

    def _met(self, entry: Entry) -> Entry:
        if entry.nbytes < SMALL and len(self._small) < FEW:
            self._small.add(entry.path)
        return entry

    def _readable(self, paths: Iterable[Path]) -> Iterator[Entry]:
        """The entries in these files; a damaged one is named, one that was packed meanwhile is in a pack."""
        for path in paths:
            try:
                yield self._open(path)
            except FileNotFoundError:
                continue
            except files.Unreadable as error:
                log.warning("%s", error)

    def _newest(self, id: str) -> Entry | None:
        """Of an image's entries the loose one that was written last, else the last of the newest pack."""
        loose = sorted(_stats(layout.entries_of(self.path, id)), key=lambda pair: -pair[1].st_mtime_ns)
        if entry := next(self._readable(path for path, _stat in loose), None):
            return entry
        self._load_packs()
        held = (self._packs[path][id] for path in self._order if id in self._packs[path])
        return [*entries.values()][-1] if (entries := next(held, None)) else None

    def _forget(self, pack: Path) -> None:
        """A pack that is gone holds nothing."""
        if self._packs.pop(pack, None) is not None:
            self._order.remove(pack)

    def _packed(self, id: str, inputs: str) -> Entry | None:
        found = self._in_packs(id, inputs)
        return self._in_packs(id, inputs) if found is None and self._load_packs() else found

    def _in_packs(self, id: str, inputs: str) -> Entry | None:
        """Its entry in the newest pack that has one."""
        held = (self._packs[path].get(id, {}).get(inputs) for path in self._order)
        return next((entry for entry in held if entry is not None), None)

    def _load_packs(self) -> bool:
        """Read the headers of packs that this process does not know yet; whether there were any."""
        new = [path for path in layout.packs(self.path) if path not in self._packs]
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

    def load_state(self, name: str = layout.STATE) -> dict[str, np.ndarray] | None:
        """A learned state (or a checkpoint), or None if there is none. A damaged one is named and is none."""
        try:
            return files.read(layout.learned(self.path, name))
        except FileNotFoundError:
            return None
        except files.Unreadable as error:
            log.warning("%s; it is learned again", error)
            return None

    def save_state(self, state: Mapping[str, np.ndarray], name: str = layout.STATE) -> None:
        files.write(layout.learned(self.path, name), state, {"format": FORMAT})

    def drop_state(self, name: str) -> None:
        layout.learned(self.path, name).unlink(missing_ok=True)

    # -- about ---------------------------------------------------------------------------------------

    def about(self) -> dict[str, Any]:
        """What the shelf was made with; empty if it is new. UserError if about.json is damaged or cannot be read."""
        path = self.path / layout.ABOUT
        try:
            with files.told(path):
                about = json.loads(path.read_bytes())
            if not (isinstance(about, dict) and "step" in about):
                raise ValueError("it names no step")
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}; the next run that uses its shelf writes it anew") from error
        return about

    def described(self) -> bool:
        """Whether about.json is there and whole. A damaged one is named in a warning."""
        try:
            return bool(self.about())
        except UserError as error:
            log.warning("%s", error)
            return False

    def labelled(self) -> bool:
        """Whether about.json is there; nothing is read."""
        return (self.path / layout.ABOUT).exists()

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
                    files.write_json(self.path / layout.ABOUT, {**about, "filled_by": [*filled, environment]})
        except OSError as error:
            raise UserError(f"cannot write the cache at {self.path}: {error.strerror or error}") from error

    def _filled_by(self) -> list[Any]:
        return self.about().get("filled_by", []) if self.described() else []

    def size(self) -> int:
        """Bytes on disk."""
        return files.folder_size(self.path)


def _pack_entries(path: Path, opened: files.Opened) -> Images:
    if opened.header.get("format") != FORMAT:
        raise files.Unreadable(f"{path} is of another format")
    slots: dict[str, dict[str, files.Slot]] = {}
    for name, slot in opened.slots.items():
        place, _, field_name = name.partition("/")
        slots.setdefault(place, {})[field_name] = slot
    entries: Images = {}
    for number, head in enumerate(opened.header["entries"]):
        mine = slots.get(str(number), {})
        digests = {name: opened.digests[f"{number}/{name}"] for name in mine}
        entry = Entry(head["id"], head["inputs"], digests, path, mine)
        entries.setdefault(entry.id, {})[entry.inputs] = entry
    return entries


def _stats(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Files with what the system knows of them; those that vanished are left out."""
    for path in paths:
        try:
            stat = files.stat(path)
        except FileNotFoundError:
            continue
        yield path, stat
