"""Worker processes: one pool for all, of processes that leave Ctrl-C to the one that began them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TypeVar

Part = TypeVar("Part")
Done = TypeVar("Done")


def side_by_side(function: Callable[[Part], Done], parts: Sequence[Part], jobs: int) -> Iterator[Done]:
    """What a function gives for each part, in order, each as soon as it is there.

    jobs: worker processes. One, or one part alone, is done here, part by part as it is asked for.
    """
    if jobs == 1 or len(parts) <= 1:
        return map(function, parts)
    from joblib import Parallel, delayed

    with _deaf():
        done: Iterator[Done] = Parallel(n_jobs=jobs, return_as="generator")(delayed(function)(part) for part in parts)
    return done


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that begin in here do not hear Ctrl-C, which a terminal sends to them too: this one ends them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which hears signals again when it is begun (Python's issue 33613)
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
