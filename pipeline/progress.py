"""Progress bars, one a step, on stderr: rich draws them, and only where stderr is a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self


class Bars:
    """A bar for each step of a run. Nested `with` blocks share the drawing.

    on: whether anything is drawn.
    """

    def __init__(self, on: bool):
        self.on = on
        self._depth = 0
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._depth += 1
        if self.on and self._depth == 1:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description:>20}", markup=False), BarColumn(), MofNCompleteColumn())
            more = (TimeRemainingColumn(), TextColumn("{task.fields[note]}", markup=False))
            self._bars = Progress(*columns, *more, console=Console(stderr=True, markup=False))
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._bars is not None and self._depth == 0:
            self._bars.stop()
            self._bars = None
            self._tasks = {}

    def start(self, name: str, total: int) -> None:
        """Begin a step of `total` images; its bar starts from zero."""
        if self._bars is not None:
            if name in self._tasks:
                self._bars.reset(self._tasks[name], total=total, note="")
            else:
                self._tasks[name] = self._bars.add_task(name, total=total, note="")

    def advance(self, name: str, *, reused: int = 0) -> None:
        """One more image is through."""
        if self._bars is not None and name in self._tasks:
            self._bars.update(self._tasks[name], advance=1, note=f"{reused} reused" if reused else "")

    def update(self, name: str, done: int, total: int, text: str = "") -> None:
        """So much of a fit is over."""
        if self._bars is not None and name in self._tasks:
            self._bars.update(self._tasks[name], completed=done, total=total, note=text)
