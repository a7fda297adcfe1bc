"""Who uses the cache, and when: a lock held by every live run, and a stamp on each shelf.

The lock is a file that stays locked as long as the run lives; the system unlocks it when a process dies.
A shelf is in use if it was opened since the oldest live run began. Access times of files are no guide: most
systems keep them late or not at all.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from . import files, layout

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger("rcnn.cache")
MARGIN = 10 * 10**9  # ns: times of files lag behind the clock, and clocks of two machines differ


def lease(root: Path) -> BaseFileLock | None:
    """A lock that says "a run lives" until it is released, forgotten, or its process dies.

    None where nothing may be written: there nothing can be removed either.
    """
    from filelock import FileLock

    path = root / layout.RUNS / layout.lease_name()
    unborn = path.with_suffix(".new")  # which no other run takes for that of a dead one before it is locked
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(unborn)
        lock.acquire(timeout=0)
        unborn.rename(path)
    except OSError as error:
        log.debug("%s: no lock for this run: %s", root, error)
        return None
    live_runs(root)  # clears away those of dead ones
    return lock


def live_runs(root: Path) -> list[int]:
    """When each live run began, in nanoseconds since 1970; what dead ones left is removed."""
    return [began for path, began in layout.leases(root) if not _dead(path)]


def _dead(path: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(path, timeout=0):
            path.unlink(missing_ok=True)
    except (Timeout, OSError):  # held; or another user's, which cannot be known to be dead
        return False
    return True


def stamp(shelf: Path) -> None:
    """Note that a shelf, if it is there, is opened now."""
    with suppress(OSError):  # a cache that may not be written is not pruned; a full disk makes the order less exact
        if shelf.is_dir():
            (shelf / layout.USED).touch()
            os.utime(shelf / layout.USED)


def last_use(shelf: Path) -> int:
    """When a shelf was last opened, in nanoseconds since 1970; last changed, if nothing tells; 0 if it is gone."""
    for name in (layout.USED, layout.ABOUT, "."):
        with suppress(FileNotFoundError):
            return files.stat(shelf / name).st_mtime_ns
    return 0


def in_use(shelf: Path, runs: Iterable[int]) -> bool:
    """Whether one of the live runs (`live_runs`) may be using a shelf."""
    return last_use(shelf) >= min(runs, default=1 << 63) - MARGIN
