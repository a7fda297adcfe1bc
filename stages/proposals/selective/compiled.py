"""How the kernels of selective search are compiled: once, kept on disk, without the interpreter's lock."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
from numba.core import event

LOCK = threading.Lock()
kept = True  # whether there is a folder that compiled code can be kept in


def kernel(function: Callable[..., Any]) -> Any:
    """A function compiled at its first call.

    nogil: images and colour spaces run in threads beside each other. cache: numba keeps the machine code in
    __pycache__, or in the user's cache folder where that cannot be written, until the function's own file changes (a
    change in this file, or of a constant from another, does not count: touch the kernels' files). No fastmath: sums of
    integers are vectorised without it, and nothing then depends on the order of additions. In the kernels indices are
    unsigned where it counts: numba lets a negative one count from the end, which costs a test at each access.
    """
    global kept  # noqa: PLW0603
    how: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **how)
    except RuntimeError:  # neither folder can be written: every process compiles for itself
        kept = False
        return numba.njit(function, **how)


class _Compilations(event.Listener):
    """Says at the first compilation of one of our kernels what the user waits for."""

    begun = 0.0

    def on_start(self, event: Any) -> None:
        ours = event.data["dispatcher"].py_func.__module__.startswith(__package__)
        if ours and not self.begun:
            self.begun = time.perf_counter()
            warnings.warn("compiling selective search for this machine: some 20 s, once", stacklevel=1)

    def on_end(self, event: Any) -> None:
        pass


@contextmanager
def told() -> Iterator[None]:
    """Kernels that are compiled in here, and not found on disk, are told to the user, with the time that it took."""
    compilations = _Compilations()
    with LOCK, event.install_listener("numba:compile", compilations):
        yield
    if compilations.begun:
        took = time.perf_counter() - compilations.begun
        after = "and kept for the next time" if kept else "for this process: no cache folder can be written"
        warnings.warn(f"compiled in {took:.0f} s, {after}", stacklevel=1)
