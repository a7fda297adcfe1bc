"""What a run found and what it cost: rows, as tables for the terminal or as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache.store import Store
from .tables import LINE, Table, number, size
from .usable import counted

if TYPE_CHECKING:
    from .run import Run
    from .wrap import Clock

METRICS = {
    "voc_11pt": "VOC 11-point AP",
    "voc_area": "VOC area AP",
    "coco_ap50": "COCO AP50",
    "coco_ap": "COCO AP",
    "coco_ap75": "COCO AP75",
}  # the columns; every table names its metric
MASK_METRICS = {
    "mask_coco_ap": "mask AP",
    "mask_coco_ap50": "mask AP50",
    "mask_coco_ap75": "mask AP75",
    "mask_coco_ap_small": "small",
    "mask_coco_ap_medium": "medium",
    "mask_coco_ap_large": "large",
}  # COCO's, of masks
ALL_CACHED = "no stage was called: all is from the cache"
LOST_CAPTION = "at IoU 0.5; classified low: no covering proposal scores above 0"
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "th,td{padding:.25rem .8rem;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child,.words{text-align:left}td,p{white-space:pre-line}"
    "table.total tr:last-child td{font-weight:600}"
    "img{width:31%;margin:.5%;vertical-align:top;border:1px solid #ddd}"
    "table.pictures{table-layout:fixed;width:100%}table.pictures td,table.pictures th{padding:.2rem;text-align:center}"
    "table.pictures img{width:100%;margin:0}"
    "code{background:#f4f4f4;padding:0 .3em}"
)


def ap_table(found: Mapping[str, Any]) -> Table:
    """Average precision: a row a class and one for all, a column a metric. found: `measure.scored`'s, and left_out."""
    rows = [[name, str(row["truths"]), *_metrics(row)] for name, row in found["per_class"].items()]
    total = sum(row["truths"] for row in found["per_class"].values())
    rows.append(["mean over classes", str(total), *_metrics(found["metrics"])])
    others = {name: value for name, value in found["metrics"].items() if name not in METRICS}
    more = ", ".join(f"{name} {number(value)}" for name, value in others.items() if not name.startswith("mask_"))
    caption = LINE.join(filter(None, [more, found.get("masks_left_out", ""), left_out_words(found["left_out"])]))
    return Table("average precision", ["class", "objects", *METRICS.values()], rows, caption)


def mask_tables(found: Mapping[str, Any]) -> list[Table]:
    """The same of masks, COCO's numbers; empty where none were measured."""
    if not set(MASK_METRICS) <= found["metrics"].keys():
        return []
    rows = [[name, *_metrics(row, MASK_METRICS)] for name, row in found["per_class"].items()]
    rows.append(["mean over classes", *_metrics(found["metrics"], MASK_METRICS)])
    caption = f"VOC area AP of masks, IoU 0.5: {number(found['metrics']['mask_voc_area'])}"
    return [Table("average precision of masks", ["class", *MASK_METRICS.values()], rows, caption)]


def _metrics(values: Mapping[str, float | None], names: Mapping[str, str] = METRICS) -> list[str]:
    return [number(values.get(name)) for name in names]


def left_out_words(left: Mapping[str, Any]) -> str:
    """What a measurement left out, of `measure.left_out`, for a caption; "" if nothing."""
    if not left["first"]:
        return ""
    lost = counted({"object": left["objects"], "image": left["images"]})
    return LINE.join([f"left out, and so not measured: {lost}; the first:", *left["first"]])


def lost_table(counts: Mapping[str, int]) -> Table:
    """Which step lost how many objects: a row a fate."""
    total = max(sum(counts.values()), 1)
    rows = [[fate, str(n), f"{100 * n / total:.1f} %"] for fate, n in counts.items()]
    return Table("where objects were lost", ["objects", "number", "share"], rows, LOST_CAPTION)


def cost_table(run: Run) -> Table:
    """What this run cost: a row a step with images computed, seconds for each, images reused, seconds of its fit."""
    rows = [
        [
            name,
            str(tally.computed),
            f"{tally.seconds / tally.computed:.3f}" if tally.computed else "",
            str(tally.reused),
            f"{tally.fit_seconds:.1f}" if tally.fit_seconds else "",
        ]
        for name, tally in run.clock.tallies.items()
    ]
    caption = "a cache hit is counted, never timed" if run.clock.calls() else ALL_CACHED
    return Table("cost by step", ["step", "computed", "s an image", "from cache", "fit, s"], rows, caption)


def cost_words(clock: Clock) -> str:
    """What was called, in one line."""
    if not clock.calls():
        return ALL_CACHED
    fits = [f"fit {name} ({t.fit_seconds:.1f} s)" for name, t in clock.tallies.items() if t.fit_seconds]
    calls = [f"{name} on {t.computed} images ({t.seconds:.1f} s)" for name, t in clock.tallies.items() if t.computed]
    return ", ".join([*fits, *calls])


def cache_rows(store: Store) -> list[dict[str, Any]]:
    """What the cache holds: a row a shelf."""
    return [
        {
            "shelf": shelf.path.name,
            "images": len({entry.id for entry in shelf.entries()}),
            "bytes": shelf.size(),
            "learned": (shelf.path / "state.safetensors").exists(),
            "made": shelf.about().get("made", "") if shelf.described() else "",
            "path": str(shelf.path),
        }
        for shelf in store.shelves()
    ]


def cache_table(rows: Sequence[Mapping[str, Any]], root: Path) -> Table:
    """What the cache holds. rows: of `cache_rows`."""
    cells = [[r["shelf"], str(r["images"]), size(r["bytes"]), "yes" if r["learned"] else "", r["made"]] for r in rows]
    total = f"{size(sum(row['bytes'] for row in rows))} in all"
    return Table(f"cache in {root}", ["shelf", "images", "size", "learned", "made"], cells, total)


def page(title: str, parts: Sequence[str]) -> str:
    """A whole HTML page that needs nothing from elsewhere."""
    head = f"<!doctype html><html lang=en><meta charset=utf-8><style>{STYLE}</style>"
    title = escape(title)
    return f"{head}<title>{title}</title><h1>{title}</h1>\n" + "\n".join(parts) + "\n</html>\n"


def html_table(table: Table, *, total: bool = False) -> str:
    """A table under its title; its last row stands out if it is a `total`."""
    kind = dict.fromkeys(table.words, " class=words")

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}{kind.get(i, '')}>{escape(cell)}</{tag}>" for i, cell in enumerate(cells))

    top = line(table.head, "th")
    body = "".join(f"<tr>{line(row, 'td')}</tr>\n" for row in table.rows)
    whole = f"<table class={'total' if total else 'plain'}><tr>{top}</tr>\n{body}</table>"
    return f"<h2>{escape(table.title[:1].upper() + table.title[1:])}</h2>\n{whole}\n<p>{escape(table.caption)}</p>"
