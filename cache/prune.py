"""Keeping a cache within a budget: what was used longest ago goes first.

Whole shelves in the order of their last use, of the last one only as many files as must go, oldest first; what was
learned, small and dear, only when all entries are gone. A shelf that a live run uses stays. A whole shelf is renamed
before it is deleted, so that nobody sees half of one.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from . import files, layout, use
from .verify import Finding, leftovers, strays, useless_packs

UNITS = {letter: 1000**i for i, letter in enumerate("kmgt", 1)}
SECONDS = {"h": 3600, "d": 86400, "w": 604800}


def parse_size(text: str) -> int:
    """Bytes of "20GB", "1.5 T" (powers of 1000) or "512MiB" (of 1024). UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", text.strip().lower())
    if not found:
        raise UserError(f"{text!r} is no size: write 20GB, 1.5T or 512MiB")
    number, letter, binary = found.groups()
    unit = UNITS.get(letter, 1)
    return int(float(number) * (1024 ** ("kmgt".index(letter) + 1) if binary else unit))


def parse_age(text: str) -> float:
    """Seconds of "12h", "30d" or "6w". UserError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([hdw])", text.strip().lower())
    if not found:
        raise UserError(f"{text!r} is no age: write 12h, 30d or 6w")
    return float(found[1]) * SECONDS[found[2]]


class File(NamedTuple):
    """An entry or a pack, and when it was written, in nanoseconds since 1970."""

    path: Path
    nbytes: int
    written: int


@dataclass(frozen=True)
class Holding:
    """A shelf as prune sees it: when it was last used (ns), its entries and packs, its bytes, if it learned."""

    path: Path
    used: int
    entries: Sequence[File]
    nbytes: int
    learned: bool


class Removal(NamedTuple):
    """A shelf to remove: whole, or just these files of it."""

    holding: Holding
    entries: Sequence[File]
    whole: bool

    @property
    def nbytes(self) -> int:
        return self.holding.nbytes if self.whole else sum(file.nbytes for file in self.entries)


class Removed(NamedTuple):
    """What went of a shelf: bytes, image entries, and whether the whole shelf did."""

    shelf: str
    nbytes: int
    images: int
    whole: bool


def holding(shelf: Path) -> Holding:
    """A shelf as it is now."""
    found = list(files.walk(shelf))
    entries = [
        File(path, stat.st_size, stat.st_mtime_ns)
        for path, stat in found
        if layout.is_pack(path) or layout.is_entry(shelf, path)
    ]
    learned = any(layout.learned(shelf, name).exists() for name in (layout.STATE, layout.CHECKPOINT))
    return Holding(shelf, use.last_use(shelf), entries, sum(stat.st_size for _path, stat in found), learned)


def plan(free: Sequence[Holding], excess: int, before: int = 0) -> list[Removal]:
    """What is to go of shelves that nobody uses, so that `excess` bytes go.

    before: shelves last used before this time (ns) go whatever the excess.
    """
    order = sorted(free, key=lambda one: one.used)
    removals = [Removal(one, one.entries, True) for one in order if one.used < before]
    excess -= sum(removal.nbytes for removal in removals)
    kept = [one for one in order if one.used >= before]
    for one in kept:
        if excess > 0:
            removals.append(_entries(one, excess))
            excess -= removals[-1].nbytes
    if excess > 0:  # every entry is planned to go, and it is not enough
        removals += [Removal(one, (), True) for one in _states(kept, excess)]
    return [removal for removal in removals if removal.nbytes]


def _entries(one: Holding, excess: int) -> Removal:
    """As many files of a shelf as must go, oldest first; the whole of it if it learned nothing and all must."""
    gone, total = [], 0
    for file in sorted(one.entries, key=lambda file: file.written):
        if total >= excess:
            break
        gone.append(file)
        total += file.nbytes
    return Removal(one, gone, len(gone) == len(one.entries) and not one.learned)


def _states(kept: Sequence[Holding], excess: int) -> Iterator[Holding]:
    """Shelves, emptied of their entries, of which what was learned must go too."""
    for one in kept:
        if one.learned and excess > 0:
            nbytes = one.nbytes - sum(file.nbytes for file in one.entries)
            excess -= nbytes
            yield Holding(one.path, one.used, (), nbytes, True)


@dataclass(frozen=True)
class Pruned:
    """What prune did, or would do: shelves, leftovers, bytes before and left, bytes that live runs use."""

    removed: Sequence[Removed]
    leftovers: Sequence[Finding]
    before: int
    left: int
    in_use: int

    def to_json(self) -> dict[str, Any]:
        return {
            "removed": [one._asdict() for one in self.removed],
            "leftovers": [{"path": str(one.path), "why": one.why, "nbytes": one.nbytes} for one in self.leftovers],
            "before": self.before,
            "left": self.left,
            "in_use": self.in_use,
        }


def prune(
    root: Path,
    max_size: int | None = None,
    *,
    older_than: float | None = None,
    step: str | None = None,
    dry_run: bool = False,
) -> Pruned:
    """Remove what no live run uses until the cache holds at most `max_size` bytes. One process at a time.

    older_than: seconds; shelves not used for so long go whatever the size. step: remove shelves of this step alone.
    dry_run: remove nothing, and say what would go.
    """
    from filelock import FileLock

    try:
        if dry_run:
            return _prune(root, max_size, older_than, step, dry_run=True)
        (root / layout.RUNS).mkdir(exist_ok=True)
        with FileLock(root / layout.RUNS / "prune"):
            return _prune(root, max_size, older_than, step, dry_run=False)
    except OSError as error:
        where = error.filename or root
        raise UserError(f"cannot prune the cache: {where}: {error.strerror or error}") from error


def _prune(root: Path, max_size: int | None, older_than: float | None, step: str | None, *, dry_run: bool) -> Pruned:
    before = files.folder_size(root)
    runs = use.live_runs(root)
    mine = [path for path in layout.shelves(root) if step in (None, layout.step_of(path))]
    free = [path for path in mine if not use.in_use(path, runs)]
    lost = [*_useless(root, free)]
    if not dry_run:
        lost = [finding for finding in lost if _discard(finding.path)]
    excess = before - sum(finding.nbytes for finding in lost) - max_size if max_size is not None else 0
    oldest = time.time_ns() - int(older_than * 1e9) if older_than is not None else 0
    gone = {finding.path for finding in lost}
    todo = plan([_without(holding(path), gone) for path in free], excess, oldest)
    removed = _sum(_told(removal) if dry_run else _carry_out(root, removal) for removal in todo)
    nbytes = sum(one.nbytes for one in lost) + sum(one.nbytes for one in removed)
    left = before - nbytes if dry_run else files.folder_size(root)
    return Pruned(removed, lost, before, left, sum(files.folder_size(path) for path in mine if path not in free))


def _without(one: Holding, gone: set[Path]) -> Holding:
    """A shelf without the files that are counted already: in a dry run they are still there."""
    entries = [file for file in one.entries if file.path not in gone]
    double = sum(files.size(path) for path in gone if one.path in path.parents)
    return Holding(one.path, one.used, entries, one.nbytes - double, one.learned)


def _useless(root: Path, free: Iterable[Path]) -> Iterator[Finding]:
    """What is of no use to anyone. Not a shelf that just lost its about.json: that goes by its last use."""
    yield from (finding for finding in strays(root) if layout.is_removed(finding.path))
    for shelf in free:
        packs = set(useless_packs(shelf))
        yield from (one for one in leftovers(shelf) if not layout.is_pack(one.path) or one.path in packs)


def _told(removal: Removal) -> Removed:
    images = sum(_images(file.path) for file in removal.entries)
    return Removed(removal.holding.path.name, removal.nbytes, images, removal.whole)


def _carry_out(root: Path, removal: Removal) -> Removed:
    """Remove what is still there, unless a run has begun to use the shelf; what went in truth."""
    shelf = removal.holding.path
    if use.in_use(shelf, use.live_runs(root)):
        return Removed(shelf.name, 0, 0, False)
    told = _told(removal)
    if removal.whole:
        return told if _discard(shelf) else Removed(shelf.name, 0, 0, False)
    nbytes = images = 0
    for file in removal.entries:
        held = _images(file.path)
        if _discard(file.path):
            nbytes, images = nbytes + file.nbytes, images + held
    return Removed(shelf.name, nbytes, images, False)


def _images(path: Path) -> int:
    """How many image entries a file holds."""
    if not layout.is_pack(path):
        return 1
    try:
        return len(files.open_header(path).header["entries"])
    except (FileNotFoundError, UserError, files.Unreadable, KeyError):
        return 0


def _discard(path: Path) -> bool:
    """Remove a file, or a whole folder at one blow; whether it was still there."""
    try:
        if not path.is_dir():
            os.unlink(path)
            return True
        aside = layout.aside(path)
        os.rename(path, aside)
    except FileNotFoundError:
        return False
    shutil.rmtree(aside, onerror=_unless_gone)
    return True


def _unless_gone(_function: Any, _path: str, error: Any) -> None:
    if not isinstance(error[1], FileNotFoundError):  # another process removes it too
        raise error[1]


def _sum(parts: Iterable[Removed]) -> list[Removed]:
    """One row a shelf."""
    rows: dict[str, Removed] = {}
    for part in parts:
        known = rows.get(part.shelf, Removed(part.shelf, 0, 0, False))
        rows[part.shelf] = Removed(
            part.shelf, known.nbytes + part.nbytes, known.images + part.images, known.whole or part.whole
        )
    return [row for row in rows.values() if row.nbytes]
