"""One file of named arrays and a header: safetensors, written whole or not at all.

A reader never sees half a file: it is written under a unique temporary name and renamed. The header holds
the xxh3 of every array, so a flipped bit is found when the file is checked.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np
from safetensors.numpy import save

from ..errors import UserError
from . import layout
from .keys import digest, digest_value

T = TypeVar("T")
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class Unreadable(Exception):
    """A file that is there and is not what was written; the message names it."""


class Replaced(Exception):
    """A file whose place another one has taken since it was looked at; the message names it."""


class Gone(UserError):
    """A folder that was removed while a file was written in it."""


@dataclass(frozen=True)
class Slot:
    """Where an array lies in a file."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Opened(NamedTuple):
    """A file's header, the hash of each array, and where each lies."""

    header: dict[str, Any]
    digests: dict[str, str]
    slots: dict[str, Slot]


def write(path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> Opened:
    """Write arrays and a JSON header. UserError if the disk is full or may not be written."""
    # safetensors writes the raw buffer, so an array that is not contiguous would come back wrong
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    digests = {name: digest_value(array) for name, array in contiguous.items()}
    text = json.dumps({"header": header, "digests": digests})

    def fill(temporary: Path) -> Opened:
        # not save_file, which makes files that nobody but their owner may read
        temporary.write_bytes(save(contiguous, {"rcnn": text, "xxh3": digest(text)}))
        return open_header(temporary)  # before others can replace it

    return _persist(path, fill)


def open_header(path: Path) -> Opened:
    """What a file says of itself.

    FileNotFoundError if there is no file; Unreadable if it is damaged; UserError if the system does not let it be read.
    That holds for all that reads a file here.
    """
    with _reading(path) as file:
        return _header(file, path)


def read_arrays(path: Path, slots: Mapping[str, Slot], opened: Opened | None = None) -> dict[str, np.ndarray]:
    """The arrays of these slots, read straight into memory of their own.

    opened: what the file said of itself; Replaced if it says otherwise now. None: the file never changes.
    """
    with _reading(path) as file:
        if opened is not None and _header(file, path) != opened:
            raise Replaced(f"{path} was replaced")
        return {name: _read(file, slot, path) for name, slot in slots.items()}


def check(path: Path, arrays: Mapping[str, np.ndarray], digests: Mapping[str, str]) -> None:
    """Unreadable unless each array has the hash that was noted when it was written."""
    for name, array in arrays.items():
        if digest_value(array) != digests[name]:
            raise Unreadable(f"{path} is damaged: the bits of {name!r} are not those that were written")


def read(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, checked. FileNotFoundError if there is no file; Unreadable if it is damaged."""
    with _reading(path) as file:
        opened = _header(file, path)
        arrays = {name: _read(file, slot, path) for name, slot in opened.slots.items()}
    check(path, arrays, opened.digests)
    return arrays


def examine(path: Path) -> Opened:
    """What a file says of itself, once every array was held against its hash; one array is in memory at a time.

    FileNotFoundError if there is no file; Unreadable if it is damaged.
    """
    with _reading(path) as file:  # once: another file may take its place meanwhile
        opened = _header(file, path)
        for name, slot in opened.slots.items():
            check(path, {name: _read(file, slot, path)}, opened.digests)
    return opened


def write_text(path: Path, text: str) -> None:
    """Write a small text file whole or not at all. UserError if it cannot be written."""
    _persist(path, lambda temporary: temporary.write_text(text))


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file whole or not at all. UserError if it cannot be written."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def sweep(path: Path, age: float = 86400) -> None:
    """Remove what killed processes left half-written below a folder, once it is `age` seconds old (a day)."""
    for file, _stat in halves(path, age):
        file.unlink(missing_ok=True)


def halves(path: Path, age: float = 86400) -> Iterator[tuple[Path, os.stat_result]]:
    """What killed processes left half-written below a folder `age` seconds (a day) ago, or longer."""
    for file, stat in walk(path):
        if layout.is_half(file) and time.time() - stat.st_mtime > age:
            yield file, stat


def make_folder(path: Path) -> None:
    """Make a folder and those above it. UserError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {path}: {error.strerror or error}") from error


def copy(source: Path, path: Path) -> None:
    """Copy a file whole or not at all. UserError if it cannot be read or written."""
    if path.exists() and path.samefile(source):
        return
    with renamed(path) as temporary:
        shutil.copyfile(source, temporary)


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """A unique temporary file that takes the place of `path` when all went well, and goes when not.

    UserError if it cannot be written; Gone, which is one, if its folder was removed meanwhile.
    """
    temporary = layout.half_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        kind = Gone if isinstance(error, FileNotFoundError) else UserError
        raise kind(f"cannot write {path}: {error.strerror or error}") from error


def _persist(path: Path, fill: Callable[[Path], T]) -> T:
    """Write a file by `fill`; once more, if `rcnn cache prune` took its shelf away meanwhile."""
    try:
        with renamed(path) as temporary:
            return fill(temporary)
    except Gone:
        with renamed(path) as temporary:
            return fill(temporary)


@contextmanager
def _reading(path: Path) -> Iterator[BinaryIO]:
    """The file, open; the system's refusals, but that there is none, as UserError."""
    with told(path), open(path, "rb") as file:
        yield file


@contextmanager
def told(path: Path) -> Iterator[None]:
    """What the system answers to reading a file or folder, in a sentence (UserError); FileNotFoundError stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def walk(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every file below a folder, by name; files and folders may come and go meanwhile."""
    for folder, folders, names in os.walk(path):  # not rglob, which fails at a folder that vanishes
        folders.sort()
        for name in sorted(names):
            file = Path(folder, name)
            with suppress(FileNotFoundError):
                yield file, stat(file)


def stat(path: Path) -> os.stat_result:
    """What the system knows of a file. FileNotFoundError if there is none; UserError if it does not tell."""
    with told(path):
        return path.stat()


def size(path: Path) -> int:
    """Bytes of a file; 0 if it is gone."""
    with suppress(FileNotFoundError):
        return stat(path).st_size
    return 0


def folder_size(path: Path) -> int:
    """Bytes of all files below a folder; others may come and go meanwhile."""
    return sum(stat.st_size for _file, stat in walk(path))


def _header(file: BinaryIO, path: Path) -> Opened:
    size = os.fstat(file.fileno()).st_size
    try:
        length = int.from_bytes(file.read(8), "little")
        if length > size:
            raise ValueError("it ends inside its header")
        raw = json.loads(file.read(length))
        said = raw.pop("__metadata__")
        if digest(said["rcnn"]) != said["xxh3"]:
            raise ValueError("the bits of its header are not those that were written")
        slots = {name: _slot(entry, 8 + length) for name, entry in raw.items()}
        end = max((slot.offset + slot.nbytes for slot in slots.values()), default=8 + length)
        if end != size:
            raise ValueError("it is cut short" if end > size else "it goes on after its end")
        said = json.loads(said["rcnn"])
        if said["digests"].keys() != slots.keys():
            raise ValueError("its header is of other arrays")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{path} is damaged: {error}") from error
    return Opened(said["header"], said["digests"], slots)


def _slot(entry: Mapping[str, Any], base: int) -> Slot:
    start, end = entry["data_offsets"]
    slot = Slot(np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"]), base + start)
    whole = all(type(n) is int and n >= 0 for n in (*slot.shape, start, end))  # one bit makes 0.4 of 0,4
    if not whole or slot.nbytes != end - start:
        raise ValueError("its header contradicts itself")
    return slot


def _read(file: BinaryIO, slot: Slot, path: Path) -> np.ndarray:
    file.seek(slot.offset)
    count = int(np.prod(slot.shape, dtype=np.int64))
    flat = np.fromfile(file, slot.dtype, count)
    if flat.size != count:
        raise Unreadable(f"{path} is damaged: it is cut short")
    return flat.reshape(slot.shape)
