"""Images that training reads again and again, kept in memory as far as they fit."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

SAMPLE = 16  # images whose size in memory stands for all


def remembered(read: Callable[[int], Any], count: int, memory: float) -> Callable[[int], Any]:
    """`read`, with the arrays that it gave last kept: as many as `memory` GB hold at their mean size, at least one.

    read: gives the array of image i of `count`.
    """
    sample = range(0, count, -(-count // SAMPLE))
    size = sum(read(i).nbytes for i in sample) / len(sample)
    return lru_cache(maxsize=max(1, int(memory * 1e9 / max(size, 1))))(read)


def all_fit(images: Any, count: int) -> bool:
    """Whether all of `count` arrays are kept once they were read; images: what `remembered` gave."""
    return bool(images.cache_info().maxsize >= count)
