"""What is told of the compiling of selective search."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event

from ... import kernels

LOCK = threading.Lock()


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
        after = "and kept for the next time" if kernels.kept else "for this process: no cache folder can be written"
        warnings.warn(f"compiled in {took:.0f} s, {after}", stacklevel=1)
