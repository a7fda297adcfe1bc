"""How this process keeps the memory that nets free, and what it does when there is none."""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Callable
from functools import cache

from ...errors import UserError

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


def in_batches(work: Callable[[slice], None], count: int, size: int, what: str) -> int:
    """Call work on slices of `count` things, `size` at a time; the size that went.

    A slice that does not fit into the memory of the device is halved, as often as it takes, with a warning.
    what: the things, for messages. UserError if not even one fits.
    """
    start = 0
    while start < count:
        lacking = _lacks_memory(work, slice(start, min(start + size, count)))
        if not lacking:
            start += size
        elif size == 1:
            raise UserError(f"not even one of {count} {what} fits into memory: {lacking}")
        else:
            warnings.warn(f"out of memory with {size} {what} at once; going on with {size // 2}", stacklevel=2)
            size //= 2
    return size


def _lacks_memory(work: Callable[[slice], None], part: slice) -> str:
    """Do the work; why it did not fit into memory, or nothing."""
    try:
        work(part)
        return ""
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError, as the CPU's is
        if not out_of_memory(error):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    _release()  # only now are the tensors gone that the error's frames held
    return reason


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was asked for in vain, of a GPU or of the system."""
    import torch

    said = (  # torch gives these refusals, of the system and of a full GPU's libraries, no class of their own
        "DefaultCPUAllocator",
        "not enough memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_ALLOC_FAILED",
    )
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or any(one in str(error) for one in said)


def _release() -> None:
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
