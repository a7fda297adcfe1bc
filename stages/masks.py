"""The only mask maths, all of it pycocotools': compressed run lengths (RLE), bitmaps and COCO's polygons.

A mask at rest is a compressed RLE, {"size": [H, W], "counts": bytes}; a record's `truth_masks` is a list of
them. A bitmap is H W bool and lives only while it is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UserError

RLE = dict[str, Any]


def encode(mask: Any) -> RLE:
    """The compressed RLE of a bitmap (H W, anything but 0 is the object). ValueError if it is not H W."""
    from pycocotools import mask as coco

    if np.ndim(mask) != 2:
        raise ValueError(f"a mask has shape (H, W), not {np.shape(mask)}")
    return dict(coco.encode(np.asfortranarray(np.asarray(mask) != 0, dtype=np.uint8)))


def decode(rle: RLE) -> Any:
    """The bitmap, H W bool, of a compressed RLE."""
    from pycocotools import mask as coco

    return np.ascontiguousarray(coco.decode(rle)).astype(bool)  # H W


def box_of(rle: RLE) -> Any:
    """The tightest half-open box, float32 (x0, y0, x1, y1), around a mask; zeros for an empty one."""
    from pycocotools import mask as coco

    x, y, w, h = coco.toBbox(rle)
    return np.array([x, y, x + w, y + h], np.float32)


def area_of(rle: RLE) -> float:
    """The number of pixels in a mask."""
    from pycocotools import mask as coco

    return float(coco.area(rle))


def from_coco(segmentation: Any, height: int, width: int) -> RLE:
    """The compressed RLE of a COCO `segmentation` in an image of height x width pixels.

    segmentation: a list of polygons [x, y, x, y, ..], or an RLE {"size", "counts"} whose counts are a list
        (uncompressed) or text (compressed). Polygon parts of fewer than three points have no area and are
        left out (pycocotools would take one of two points for a box).
    UserError if it is none of these, or does not fit the image.
    """
    if not isinstance(segmentation, Mapping):
        return _from_polygons(segmentation, height, width)
    if "counts" not in segmentation or list(segmentation.get("size", ())) != [height, width]:
        raise UserError(f"an RLE of size {segmentation.get('size')} is not one of a {height} x {width} image")
    if isinstance(segmentation["counts"], str | bytes):
        return _from_compressed(segmentation["counts"], height, width)
    return _from_runs(segmentation["counts"], height, width)


def _from_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> RLE:
    from pycocotools import mask as coco

    try:
        parts = [np.asarray(part, np.float64) for part in polygons]
    except (TypeError, ValueError):
        raise UserError("a segmentation is neither a list of polygons nor an RLE") from None
    if any(part.ndim != 1 or part.size % 2 or not np.isfinite(part).all() for part in parts):
        raise UserError("a polygon is not a row of x, y pairs")
    parts = [part for part in parts if part.size >= 6]
    if not parts:
        raise UserError("a segmentation has no polygon of three or more points")
    return dict(coco.merge(coco.frPyObjects([part.tolist() for part in parts], height, width)))


def _from_runs(counts: Sequence[int], height: int, width: int) -> RLE:
    from pycocotools import mask as coco

    runs = np.asarray(counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:  # pycocotools would not notice
        raise UserError(f"an RLE's runs sum to {runs.sum()}, not to the {height * width} pixels of the image")
    return dict(coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width))


def _from_compressed(counts: str | bytes, height: int, width: int) -> RLE:
    rle = {"size": [height, width], "counts": counts.encode() if isinstance(counts, str) else counts}
    # pycocotools notices runs that go beyond the image, and leaves memory as it was after runs that end too
    # early; so runs that fit must also be too long for an image of one pixel less.
    if not _fits(rle) or _fits({"size": [height * width - 1, 1], "counts": rle["counts"]}):
        raise UserError(f"a compressed RLE does not cover the {height * width} pixels of the image")
    return rle


def _fits(rle: RLE) -> bool:
    from pycocotools import mask as coco

    try:
        coco.decode(rle)
    except ValueError:
        return False
    return True
