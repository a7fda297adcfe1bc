"""Tables of what a run found and what it cost, for the terminal and as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.store import Store

if TYPE_CHECKING:
    from .run import Run

METRICS = {
    "voc_11pt": "VOC 11-point AP",
    "voc_area": "VOC area AP",
    "coco_ap50": "COCO AP50",
    "coco_ap": "COCO AP",
}  # the columns by class; every table names its metric


def ap_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """A row a class and one for all, a column a metric."""
    rows = [
        [name, str(row["truths"]), *(_number(row.get(metric)) for metric in METRICS)]
        for name, row in found["per_class"].items()
    ]
    total = sum(row["truths"] for row in found["per_class"].values())
    return [*rows, ["mean over classes", str(total), *(_number(found["metrics"].get(m)) for m in METRICS)]]


def cost_rows(run: Run) -> list[list[str]]:
    """A row a step: images computed, seconds for each, images from the cache alone, seconds of its fit."""
    return [
        [
            name,
            str(tally.computed),
            f"{tally.seconds / tally.computed:.3f}" if tally.computed else "",
            str(tally.reused),
            f"{tally.fit_seconds:.1f}" if tally.fit_seconds else "",
        ]
        for name, tally in run.clock.tallies.items()
    ]


STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "th,td{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child{text-align:left}"
    "table.total tr:last-child td{font-weight:600}"
    "img{width:31%;margin:.5%;vertical-align:top;border:1px solid #ddd}"
    "code{background:#f4f4f4;padding:0 .3em}"
)
AP_HEAD = ["class", "objects", *METRICS.values()]
COST_HEAD = ["step", "computed", "s an image", "from cache", "fit, s"]
LOST_HEAD = ["objects", "number", "share"]
CACHE_HEAD = ["shelf", "images", "megabytes", "learned", "made"]


def ap_table(found: Mapping[str, Any]) -> Any:
    """Average precision by class, for the terminal."""
    more = {k: v for k, v in found["metrics"].items() if k not in METRICS}
    caption = ", ".join(f"{name} {_number(value)}" for name, value in more.items())
    return _table("average precision", AP_HEAD, ap_rows(found), caption)


def lost_table(counts: Mapping[str, int]) -> Any:
    """Which step lost how many objects, for the terminal."""
    caption = "at IoU 0.5; classified low: no covering proposal scores above 0"
    return _table("where objects were lost", LOST_HEAD, lost_rows(counts), caption)


def lost_rows(counts: Mapping[str, int]) -> list[list[str]]:
    """A row a fate: objects, and their share."""
    total = max(sum(counts.values()), 1)
    return [[fate, str(n), f"{100 * n / total:.1f} %"] for fate, n in counts.items()]


def cost_table(run: Run) -> Any:
    """What each step cost in this run, for the terminal."""
    calls = run.clock.calls()
    caption = "no stage was called: all is from the cache" if calls == 0 else "a cache hit is counted, never timed"
    return _table("cost by step", COST_HEAD, cost_rows(run), caption)


def cache_rows(store: Store) -> list[dict[str, Any]]:
    """What the cache holds: a row a shelf."""
    return [
        {
            "shelf": shelf.path.name,
            "images": sum(1 for _entry in shelf.entries()),
            "bytes": shelf.size(),
            "learned": (shelf.path / "state.safetensors").exists(),
            "made": shelf.about().get("made", "") if shelf.described() else "",
            "path": str(shelf.path),
        }
        for shelf in store.shelves()
    ]


def cache_table(rows: Sequence[Mapping[str, Any]], root: Path) -> Any:
    """What the cache holds, for the terminal."""
    total = sum(row["bytes"] for row in rows)
    return _table(f"cache in {root}", CACHE_HEAD, cache_cells(rows), f"{total / 1e6:,.1f} MB in all")


def cache_cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    return [[r["shelf"], str(r["images"]), _mb(r["bytes"]), "yes" if r["learned"] else "", r["made"]] for r in rows]


def _mb(n: int) -> str:
    return f"{n / 1e6:,.1f}"


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML page that needs nothing from elsewhere."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><style>{STYLE}</style>"
    title = escape(title)
    return f"{head}<title>{title}</title><h1>{title}</h1>\n" + "\n".join(parts) + "\n</html>\n"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], *, plain: bool = True) -> str:
    """A table; its last row stands out unless it is `plain`."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table class={'plain' if plain else 'total'}><tr>{top}</tr>\n{body}</table>"


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Any:
    from rich.table import Table

    table = Table(title=title, caption=caption)
    for column, name in enumerate(head):
        table.add_column(name, justify="left" if column == 0 else "right", no_wrap=column == 0)
    for row in rows:
        table.add_row(*row)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
