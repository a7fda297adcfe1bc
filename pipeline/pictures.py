"""Pictures of what steps gave, drawn by matplotlib without a display."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import files
from ..stages.boxes import decode
from ..stages.masks import decode as decode_mask
from ..stages.masks import pasted
from ..stages.proposals.selective.regions import REGION_FIELDS, cut, mask
from ..stages.record import Record
from .wrap import host

MANY = 200  # boxes in one picture, at most
FIRST_REGIONS = 16
CUTS = (512, 256, 128, 64, 32, 16)  # regions that a tree is shown with: the last few are odd specks beside one
NO_PICTURE = ("objectness",)
DETECTED = ("det_boxes", "det_scores", "det_labels", "det_masks")  # in one picture
BEST = 5  # detections drawn where no score is asked for
INCH = 6.0
PIXELS = 1000  # of an image's side that are drawn, at least


def detections(
    record: Record, classes: Sequence[str], path: Path, min_score: float | None = None, truth: bool = False
) -> None:
    """Draw an image's detections with class and score, best on top.

    min_score: from which on; None: the best few, since with few examples all margins of an SVM are low.
    truth: draw the annotated boxes in dashed white too, and where detections have masks the outlines of annotated ones.
    """
    figure, (axes,) = _figure(record, 1)
    if truth:
        for box in host(record["truth_boxes"]):
            _box(axes, box, "white", dashed=True)
        for rle in record["truth_masks"] if {"truth_masks", "det_masks"} <= record.keys() else ():
            _outline(axes, decode_mask(rle))
    _draw_detections(axes, record, classes, min_score)
    save(figure, path)


def step(record: Record, fields: Sequence[str], classes: Sequence[str], path: Path) -> None:
    """Draw what a step gave for an image, a panel a field; what has no picture of its own is a matrix."""
    named = [field for field in fields if field.split(".")[0] not in (*NO_PICTURE, *DETECTED)]
    if set(DETECTED) & set(fields):
        named.append("det_boxes")
    figure, panels = _figure(record, len(named))
    for axes, field in zip(panels, named):
        _DRAW.get(field.split(".")[0], _draw_matrix)(axes, record, classes, field)
        axes.set_title(field, fontsize=9)
    save(figure, path)


def _draw_boxes(axes: Any, record: Record, classes: Sequence[str], field: str) -> None:
    boxes = host(record[field])
    for rank, box in reversed(list(enumerate(boxes[:MANY]))):  # the best drawn last, on top
        _box(axes, box, _shade(rank / max(1, min(MANY, len(boxes)) - 1)), width=0.8)
    axes.set_xlabel(f"the first {min(MANY, len(boxes))} of {len(boxes)}, best in yellow", fontsize=8)


def _draw_regions(axes: Any, record: Record, classes: Sequence[str], field: str) -> None:
    """Label maps, each segment in a colour; a tree at several heights; or the pixels of the first proposals."""
    fields = {name: host(record[name]) for name in REGION_FIELDS}
    tiles, said = _REGIONS[field](fields)
    axes.set_xlabel(said, fontsize=8)
    axes.images[0].remove()
    if tiles:
        axes.imshow(_mosaic(tiles), interpolation="none")


def _segment_tiles(fields: Mapping[str, Any]) -> tuple[list[Any], str]:
    maps = fields["regions.labels"]  # S h w
    return list(_shades(maps)[maps]), f"the segments of {len(maps)} segmentations: by colour space, then by k"


def _tree_tiles(fields: Mapping[str, Any]) -> tuple[list[Any], str]:
    shades = _shades(fields["regions.labels"])
    tiles = [shades[cut(fields, 0, 0, count)] for count in CUTS]
    return tiles, f"the first tree, on the first segmentation, when {', '.join(map(str, CUTS))} regions are left"


def _proposal_tiles(fields: Mapping[str, Any]) -> tuple[list[Any], str]:
    maps, map_of = fields["regions.labels"], fields["regions.nodes"][:FIRST_REGIONS, 0]
    shades = _shades(maps)
    tiles = [shades[maps[own]] * mask(fields, r)[..., None] for r, own in enumerate(map_of)]
    return tiles, f"the pixels of the first {len(tiles)} proposals"


_REGIONS = {"regions.labels": _segment_tiles, "regions.merges": _tree_tiles, "regions.nodes": _proposal_tiles}


def _shades(maps: Any) -> Any:
    """A colour (uint8) for each node of the largest tree over these label maps."""
    return np.random.default_rng(0).integers(40, 255, (2 * int(maps.max()) + 1, 3), np.uint8)


def _mosaic(tiles: list[Any]) -> Any:
    """Pictures of one size side by side, in rows that make a square of them."""
    across = int(np.ceil(len(tiles) ** 0.5))
    tiles = tiles + [np.zeros_like(tiles[0])] * (-len(tiles) % across)
    return np.concatenate([np.concatenate(tiles[start : start + across], 1) for start in range(0, len(tiles), across)])


def _draw_scores(axes: Any, record: Record, classes: Sequence[str], field: str) -> None:
    boxes, scores = host(record["boxes"]), host(record["scores"])
    for k in range(scores.shape[1] if len(scores) else 0):
        best = int(scores[:, k].argmax())
        _box(axes, boxes[best], _colour(k), f"{_class(classes, k + 1)} {scores[best, k]:.2f}")
    axes.set_xlabel("the best box of each class, before suppression", fontsize=8)


def _draw_deltas(axes: Any, record: Record, classes: Sequence[str], field: str) -> None:
    boxes, deltas = host(record["boxes"]), host(record["deltas"])
    for k in range(deltas.shape[1]):
        for box, moved in zip(boxes[:8], decode(boxes[:8], deltas[:8, k])):
            _box(axes, box, "white", width=0.8, dashed=True)
            _box(axes, moved, _colour(k), width=1.2)
    axes.set_xlabel("the first 8 boxes (dashed) and where each class moves them", fontsize=8)


def _draw_detected(axes: Any, record: Record, classes: Sequence[str], field: str) -> None:
    _draw_detections(axes, record, classes, None)


def _draw_matrix(axes: Any, record: Record, classes: Sequence[str], field: str) -> None:
    values = np.asarray(host(record[field]), np.float32)
    rows = values.reshape(len(values), -1)[:MANY]
    axes.clear()
    if rows.size:
        axes.imshow(rows[:, :: max(1, rows.shape[1] // 600)], aspect="auto", vmax=np.percentile(rows, 99.5))
    axes.set_ylabel("row", fontsize=8)
    axes.set_xlabel(f"{values.shape[0]} rows x {rows.shape[1]} values, thinned", fontsize=8)


_DRAW: dict[str, Callable[[Any, Record, Sequence[str], str], None]] = {
    "boxes": _draw_boxes,
    "regions": _draw_regions,
    "scores": _draw_scores,
    "deltas": _draw_deltas,
    "det_boxes": _draw_detected,
}


def _draw_detections(axes: Any, record: Record, classes: Sequence[str], min_score: float | None) -> None:
    boxes, scores, labels = (host(record[f"det_{name}"]) for name in ("boxes", "scores", "labels"))
    order = np.argsort(-scores, kind="stable")
    shown = order[:BEST] if min_score is None else order[scores[order] >= min_score][:MANY]
    for i in shown[::-1]:
        if "det_masks" in record:
            _mask(axes, host(record["det_masks"])[i], boxes[i], record["image"].shape, _colour(labels[i] - 1))
        _box(axes, boxes[i], _colour(labels[i] - 1), f"{_class(classes, labels[i])} {scores[i]:.2f}")
    which = "the best" if min_score is None else f"score from {min_score:g} on:"
    axes.set_xlabel(f"{which} {len(shown)} of {len(scores)} detections", fontsize=8)


def _figure(record: Record, n: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure

    image = record["image"]
    height, width = image.shape[:2]
    tall = INCH * float(np.clip(height / width, 0.3, 2.5))
    figure = Figure(figsize=(INCH * max(n, 1), tall + 0.6), dpi=120, layout="constrained")
    panels = list(figure.subplots(1, max(n, 1), squeeze=False)[0])
    by = _thinning(image.shape)
    for axes in panels:
        axes.imshow(image[::by, ::by], interpolation="none", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(record.id, fontsize=9)
    return figure, panels


def _thinning(shape: Sequence[int]) -> int:
    """Of how many pixels one is drawn, in rows and columns, so that a large image takes little memory."""
    return max(1, max(shape[:2]) // PIXELS)


def save(figure: Any, path: Path) -> None:
    """Write a matplotlib figure. UserError if it cannot be written."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a $ in the name of a class or an image is a $
    with files.renamed(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix(".") or "png")


def _box(axes: Any, box: Any, colour: Any, text: str = "", width: float = 1.8, dashed: bool = False) -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = (float(v) - 0.5 for v in box)  # imshow puts pixel centres at whole numbers
    style = "--" if dashed else "-"
    axes.add_patch(
        Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=colour, linewidth=width, linestyle=style)
    )
    if text:
        back = {"facecolor": colour, "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
        axes.text(
            x0, y0, text, fontsize=7, color=_readable(colour), bbox=back, verticalalignment="bottom", clip_on=True
        )


def _mask(axes: Any, mask: Any, box: Any, shape: Any, colour: Any) -> None:
    """A detection's mask over the image, half to be seen through."""
    found, rows, columns = pasted(mask, box, shape[0], shape[1])
    if found.any():
        found = found[:: (by := _thinning(shape)), ::by]
        tint = np.zeros((*found.shape, 4), np.uint8)
        tint[found] = [round(255 * value) for value in (*colour[:3], 0.5)]
        extent = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
        limits = axes.get_xlim(), axes.get_ylim()
        axes.imshow(tint, extent=extent, interpolation="none")
        axes.set_xlim(limits[0])
        axes.set_ylim(limits[1])


def _outline(axes: Any, bitmap: Any) -> None:
    """The edge of a mask, dotted."""
    by = _thinning(bitmap.shape)
    rows, columns = np.arange(0, bitmap.shape[0], by), np.arange(0, bitmap.shape[1], by)
    if 0 < bitmap.sum() < bitmap.size:
        axes.contour(columns, rows, bitmap[::by, ::by], [0.5], colors="white", linewidths=1.0, linestyles=":")


def _class(classes: Sequence[str], label: int) -> str:
    return classes[label - 1] if 0 < label <= len(classes) else str(label)


def _colour(k: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab20"]((k * 2 + k // 10) % 20)


def _readable(colour: Any) -> str:
    """Black or white, whichever stands out against a colour (luma of ITU-R BT.601)."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.55 else "white"


def _shade(fraction: float) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](1.0 - fraction)
