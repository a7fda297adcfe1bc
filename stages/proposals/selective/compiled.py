"""How the kernels of selective search are compiled: once, kept on disk, without the interpreter's lock."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba
from numba.core import event

# nogil: images and colour spaces run in threads beside each other. cache: numba keeps the machine code in __pycache__,
# or in the user's cache folder where that cannot be written, until the source changes. No fastmath: sums of integers
# are vectorised without it, and nothing then depends on the order of additions. Indices are unsigned where it counts:
# numba lets a negative one count from the end, which costs a test at each access.
kernel: Any = numba.njit(nogil=True, cache=True, error_model="numpy")


class _Compilations(event.Listener):
    """Says at the first compilation what the user waits for."""

    begun = 0.0

    def on_start(self, event: Any) -> None:
        if not self.begun:
            self.begun = time.perf_counter()
            warnings.warn("compiling selective search for this machine: some 20 s, once", stacklevel=2)

    def on_end(self, event: Any) -> None:
        pass


@contextmanager
def told() -> Iterator[None]:
    """Kernels that are compiled in here, and not found on disk, are told to the user, with the time that it took."""
    compilations = _Compilations()
    with event.install_listener("numba:compile", compilations):
        yield
    if compilations.begun:
        took = time.perf_counter() - compilations.begun
        warnings.warn(f"compiled in {took:.0f} s, and kept for the next time", stacklevel=2)
