"""Who uses the cache, and when: a lock held by every live run, and a stamp on each shelf.

    <root>/.runs/<start>-<random>.lock   locked as long as the run lives; the system unlocks it when a process dies
    <root>/<shelf>/used                  its time is that of the shelf's last opening

A shelf is in use if it was opened since the oldest live run began. Access times of files are no guide: most
systems keep them late or not at all.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from filelock import BaseFileLock

log = logging.getLogger("rcnn.cache")
RUNS, USED = ".runs", "used"
MARGIN = 10 * 10**9  # ns: times of files lag behind the clock, and clocks of two machines differ


def lease(root: Path) -> BaseFileLock | None:
    """A lock that says "a run lives" until it is released, forgotten, or its process dies.

    None where nothing may be written: there nothing can be removed either.
    """
    from filelock import FileLock

    name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}.lock"
    try:
        (root / RUNS).mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / RUNS / name)
        lock.acquire(timeout=0)
    except OSError as error:
        log.debug("%s: no lock for this run: %s", root, error)
        return None
    live_runs(root)  # clears away those of dead ones
    return lock


def live_runs(root: Path) -> list[int]:
    """When each live run began, in nanoseconds since 1970; what dead ones left is removed."""
    return [int(path.name[:20]) for path in (root / RUNS).glob("*.lock") if not _dead(path)]


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
            (shelf / USED).touch()
            os.utime(shelf / USED)


def last_use(shelf: Path) -> int:
    """When a shelf was last opened, in nanoseconds since 1970; last changed, if nothing tells; 0 if it is gone."""
    for name in (USED, "about.json", "."):
        with suppress(FileNotFoundError):
            return (shelf / name).stat().st_mtime_ns
    return 0


def in_use(shelf: Path, runs: Iterable[int]) -> bool:
    """Whether one of the live runs (`live_runs`) may be using a shelf."""
    return last_use(shelf) >= min(runs, default=1 << 63) - MARGIN
