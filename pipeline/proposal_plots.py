"""Curves of `rcnn proposals`: recall against the number of boxes, and against IoU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .pictures import save
from .proposal_report import CURVE_AT, short

PANELS: dict[str, Callable[[dict[str, Any]], float]] = {
    "recall at IoU 0.5": lambda row: row["recall"]["0.5"],
    "recall at IoU 0.7": lambda row: row["recall"]["0.7"],
    "average best overlap (ABO)": lambda row: row["abo"],
}
MARKERS = "osD^vP*X"


def against_boxes(found: dict[str, Any], path: Path) -> None:
    """Draw recall at IoU 0.5 and 0.7 and ABO against the mean number of boxes an image, a line a stage.

    found: as `proposal_report.as_json` gives it. Where a stage has no more boxes its line ends.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(PANELS))
    for axes, (title, value) in zip(panels, PANELS.items()):
        for i, one in enumerate(found["stages"]):
            rows = one["by_boxes"]
            axes.plot([r["used"] for r in rows], [value(r) for r in rows], label=_label(one), **_style(i, one))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # powers would be formulas, which `save` draws as they are written
        _finish(axes, title, "boxes an image, mean")
    _legend(figure, panels[0], found)
    save(figure, path)


def against_iou(found: dict[str, Any], path: Path) -> None:
    """Draw recall of the first CURVE_AT boxes against IoU (Hosang et al. 2015, figure 7), a line a stage."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for i, one in enumerate(found["stages"]):
        (row,) = (row for row in one["by_boxes"] if row["boxes"] == CURVE_AT)
        label = f"{_label(one)}: AR {row['ar']:.3f}, {row['used']:.0f} boxes"
        curve = one["recall_by_iou"]
        axes.plot(curve["iou"], curve["recall"], label=label, **{**_style(i, one), "marker": ""})
    axes.set_xlim(0.5, 1)
    _finish(axes, f"recall of the first {CURVE_AT} boxes", "IoU")
    _legend(figure, axes, found, columns=1)
    save(figure, path)


def _style(i: int, one: dict[str, Any]) -> dict[str, Any]:
    return {
        "color": f"C{i % 10}",
        "marker": MARKERS[i % len(MARKERS)],
        "markersize": 4.5,
        "linestyle": "-" if one["ranked"] else "--",
    }


def _label(one: dict[str, Any]) -> str:
    return short(one["stage"]) + ("" if one["ranked"] else " (not ranked)")


def _finish(axes: Any, title: str, below: str) -> None:
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(below)
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)


def _legend(figure: Any, axes: Any, found: dict[str, Any], columns: int = 3) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)), fontsize=9)
    figure.suptitle(f"{found['objects']} objects in {found['images']} images", fontsize=10)
