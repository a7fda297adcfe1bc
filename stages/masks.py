"""The only mask maths: compressed run lengths (RLE), bitmaps and COCO's polygons, all pycocotools'; grids over boxes.

A mask at rest is a compressed RLE, {"size": [H, W], "counts": bytes}; a record's `truth_masks` is a list of
them. A bitmap is H W bool and lives only while it is looked at. A detection's mask is a grid of m m probabilities over
its box, whatever the size of the image, until it is pasted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UserError

RLE = dict[str, Any]
NEAR = 1e-9  # of a share, so that rounding decides nothing where it is a half


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


def overlap(masks: Sequence[RLE], others: Sequence[RLE], crowd: Any) -> Any:
    """Intersection over union of masks, D T; with a crowd (T bool) the share of the mask inside it, as COCO has it."""
    from pycocotools import mask as coco

    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    return np.asarray(coco.iou(list(masks), list(others), np.asarray(crowd, np.uint8).tolist()))


def shares(bitmap: Any, boxes: Any, grid: int) -> Any:
    """Of each cell of a grid over each box the share that is of the object, n grid grid, in float64.

    bitmap: H W. boxes: n 4, pixels, with a size; what lies outside the image is not of the object. The integral of a
    bitmap is linear inside a pixel along x and along y, so the shares are exact but for rounding.
    """
    boxes = np.asarray(boxes, np.float64)
    rows, columns = (_pixels(boxes[:, at].min(), boxes[:, at + 2].max(), side)
                     for at, side in zip((1, 0), bitmap.shape))  # fmt: skip
    bitmap = bitmap[rows, columns]  # all that the boxes see
    height, width = bitmap.shape
    integral = np.zeros((height + 2, width + 2), np.int32)
    integral[1:-1, 1:-1] = bitmap.cumsum(0, np.int32).cumsum(1)
    integral[-1], integral[:, -1] = integral[-2], integral[:, -2]
    steps = np.linspace(0, 1, grid + 1)
    boxes = (boxes - [columns.start, rows.start, columns.start, rows.start])[:, :, None]  # n 4 1
    x, right = _between((boxes[:, 0] + (boxes[:, 2] - boxes[:, 0]) * steps), width)  # n grid+1
    y, down = _between((boxes[:, 1] + (boxes[:, 3] - boxes[:, 1]) * steps), height)
    x, right, y, down = x[:, None], right[:, None], y[:, :, None], down[:, :, None]
    above = integral[y, x] * (1 - right) + integral[y, x + 1] * right
    below = integral[y + 1, x] * (1 - right) + integral[y + 1, x + 1] * right
    inside = np.diff(np.diff(above * (1 - down) + below * down, axis=1), axis=2)  # n grid grid
    return inside / ((boxes[:, 2:] - boxes[:, :2]).prod(1)[:, None] / grid**2)


def _between(places: Any, end: int) -> tuple[Any, Any]:
    """The whole number under each place, kept in [0, end], and how far the place is on the way to the next."""
    places = places.clip(0, end)
    before = places.astype(np.int64)
    return before, places - before


class TruthMasks:
    """The annotated masks of an image, from either side.

    masks: T, RLE. mirrored: whether boxes are those of the image's mirror image.
    """

    def __init__(self, masks: Sequence[RLE], mirrored: bool = False):
        self.masks, self.mirrored = masks, mirrored

    def targets(self, objects: Any, boxes: Any, grid: int) -> Any:
        """What of each box is its object, n grid grid bool: cells of which half is (Mask R-CNN, section 3).

        objects: n, indices into the masks. boxes: n 4, pixels.
        """
        found = np.zeros((len(boxes), grid, grid), bool)
        for index in np.unique(objects):
            mine = objects == index
            bitmap = decode(self.masks[index])
            bitmap = bitmap[:, ::-1] if self.mirrored else bitmap
            found[mine] = shares(bitmap, boxes[mine], grid) >= 0.5 - NEAR
        return found


def pasted(mask: Any, box: Any, height: int, width: int) -> tuple[Any, slice, slice]:
    """The pixels of an image that are of a detection: a bitmap (h w bool), and the rows and columns that it fills.

    mask: m m, probabilities on a grid over box (4, pixels); between the middles of cells they are linear, and 0 beyond
    half a cell outside. A pixel is of the object from 0.5 on (Mask R-CNN, section 3.1).
    """
    x0, y0, x1, y1 = np.asarray(box, np.float64)
    rows, columns = _pixels(y0, y1, height), _pixels(x0, x1, width)
    down, right = _weights(rows, y0, y1, len(mask)), _weights(columns, x0, x1, mask.shape[1])
    return down @ np.asarray(mask, np.float32) @ right.T >= 0.5, rows, columns


def _pixels(start: float, end: float, most: int) -> slice:
    """The pixels that a stretch touches, of `most` in a row."""
    first = int(np.clip(np.floor(start), 0, most))
    return slice(first, max(first, int(np.clip(np.ceil(end), 0, most))))


def _weights(pixels: slice, start: float, end: float, grid: int) -> Any:
    """How much each of `grid` cells between two places has of the middles of these pixels, n grid float32."""
    places = (np.arange(pixels.start, pixels.stop) + 0.5 - start) / (end - start) * grid - 0.5
    return np.maximum(1 - np.abs(places[:, None] - np.arange(grid)), 0).astype(np.float32)


def rle_of(mask: Any, box: Any, height: int, width: int) -> RLE:
    """The compressed RLE, in an image of height x width pixels, of a detection's mask as `pasted` has it."""
    bitmap, rows, columns = pasted(mask, box, height, width)
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[rows, columns] = bitmap
    return encode(whole)


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
