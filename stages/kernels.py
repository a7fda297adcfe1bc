"""How the project's numba kernels are compiled: once, kept on disk, without the interpreter's lock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

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
