"""The losses of the nets that a RUN trained, against the steps of their descent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .pictures import save
from .pipeline import Pipeline

SMOOTH = 50  # steps that a point of a line is the mean of


def curves(pipeline: Pipeline, name: str) -> dict[str, dict[str, Any]]:
    """For each step that learned by descent its losses by name, a number a step. UserError if there is none."""
    found = {}
    for step in pipeline:
        stage: Any = step.stage
        history = vars(stage).get("history_")
        rounds: str = getattr(stage, "rounds", "")
        if history is not None and rounds:  # SVMs have a history of another kind
            values = np.asarray(history).reshape(len(history), -1)
            names = getattr(stage, "losses", ("loss",))
            found[step.name] = dict(zip(names, values.T))
    if not found:
        raise UserError(f"{name} has no losses: no step of it learned by descent")
    return found


def smoothed(values: Any, width: int = SMOOTH) -> Any:
    """The mean of each value and those before it, of `width` at most."""
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def draw(found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A panel for each step, a line for each loss, smoothed over the values themselves in pale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5 * len(found), 4.2), dpi=120, layout="constrained")
    for axes, (step, losses) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items()):
        for name, values in losses.items():
            steps = np.arange(1, len(values) + 1)
            (line,) = axes.plot(steps, smoothed(values), label=name)
            axes.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.6)
        axes.set_title(step, fontsize=10)
        axes.set_xlabel(f"step; lines are means of {SMOOTH}")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    save(figure, path)
