"""How this process keeps the memory that nets free."""

from __future__ import annotations

import ctypes
import os
from functools import cache

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
KEPT = 1 << 30  # bytes that stay with the process after they were freed, at most
AHEAD = 64 << 20  # bytes that are asked for at a time


@cache
def reuse_freed_memory() -> bool:
    """Let glibc keep up to 1 GiB of freed memory for the next forward; whether it does.

    By default it gives the large blocks of every forward back to the system, which zeroes them again page by page:
    SqueezeNet took 257 crops a second so and 461 with the blocks kept, VGG16 30 and 52 (2 cores, one run each of
    benchmarks/extraction.py). It is for the whole process, changes no number, and does nothing where MALLOC_*
    variables say otherwise or libc is another.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    asked = ((M_TRIM_THRESHOLD, KEPT), (M_MMAP_THRESHOLD, KEPT), (M_TOP_PAD, AHEAD))
    taken = [mallopt(option, size) == 1 for option, size in asked]  # every one is asked for, whatever the others say
    return all(taken)
