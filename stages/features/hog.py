"""Histograms of oriented gradients of warped boxes (Dalal and Triggs, CVPR 2005), computed by scikit-image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..record import Record
from ..stage import Stage

NORMS = ("L1", "L1-sqrt", "L2", "L2-Hys")  # section 6.4
STORAGE = ("float16", "float32")


def places(boxes: Any, window: Sequence[int], margin: int) -> np.ndarray:
    """What each window takes of the image: R 4 int64, x0, y0, x1, y1, half-open, at least one pixel each way.

    boxes: R 4, pixels. window: height and width, pixels. margin: pixels of the window outside the box on every
    side. A place may reach beyond the image.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    size = np.array([window[1], window[0]])
    half = (boxes[:, 2:] - boxes[:, :2]) / 2 * (size / (size - 2 * margin))  # R 2
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    first, last = np.rint(centre - half), np.rint(centre + half)
    return np.concatenate([first, np.maximum(last, first + 1)], 1).astype(np.int64)  # R 4


def cut(image: Any, place: Sequence[int]) -> Any:
    """The pixels of one place (x0, y0, x1, y1), the image's edge replicated outside it: zeros would be a contour."""
    import cv2

    x0, y0, x1, y1 = place
    top, bottom, rows = _inside(y0, y1, image.shape[0])
    left, right, columns = _inside(x0, x1, image.shape[1])
    part = image[rows, columns]
    if not (top or bottom or left or right):
        return part
    return cv2.copyMakeBorder(part, top, bottom, left, right, cv2.BORDER_REPLICATE)


def warp(pixels: Any, window: Sequence[int]) -> Any:
    """Pixels (h w or h w 3, float32) as a window: averaged along an axis that shrinks, bilinear along one that grows.

    In two steps, as OpenCV averages only where both axes shrink. Rounded to 1/256 of a grey level: the rounding
    errors of a flat region would be a gradient, and normalised to be as strong as any.
    """
    import cv2

    height, width = pixels.shape[:2]
    smaller = min(width, window[1]), min(height, window[0])
    averaged = cv2.resize(pixels, smaller, interpolation=cv2.INTER_AREA)
    return np.rint(cv2.resize(averaged, (window[1], window[0])) * 256) / 256


def feature_length(window: Sequence[int], cell: int, block: int, orientations: int) -> int:
    """F: the values of one window."""
    down, across = (side // cell - block + 1 for side in window)
    return down * across * block**2 * orientations


class HOG(Stage):
    """Histograms of oriented gradients of each box, warped to a window (Dalal and Triggs 2005, section 6).

    window: height and width of the window, pixels; (128, 64), the paper's for standing people. A square one
        serves classes of any shape. It fixes the length: 3,780 values, or 1,764 for (64, 64).
    context: cells of the window around the box on every side; 2, the paper's 16 pixels.
    cell: side of a cell, pixels; 8.
    block: side of a block, cells; 2. Blocks step by one cell.
    orientations: bins over 180 degrees; 9.
    norm: of a block, "L1", "L1-sqrt", "L2" or "L2-Hys", the default.
    colour: whether each pixel's gradient is that of the channel where it is largest; True. Else grey.
    storage: "float16" or "float32", the features' type.

    The paper's votes are interpolated between cells and weighted by a Gaussian over the block; scikit-image's
    are neither. Outside the image its edge is replicated.

    Reads image and boxes, writes features.hog (R F).
    """

    needs = ("image", "boxes")
    gives = ("features.hog",)
    parallel = True  # about a millisecond a box

    def __init__(
        self,
        window: Sequence[int] = (128, 64),  # section 6.5
        context: int = 2,  # section 6.5: 8 pixels less cost 6 % of the detections
        cell: int = 8,  # section 6.3
        block: int = 2,  # section 6.4
        orientations: int = 9,  # section 6.3: more bins gain little
        norm: str = "L2-Hys",  # section 6.4
        colour: bool = True,  # section 6.1: grey costs 1.5 %
        storage: str = "float16",
    ):
        self.window = window
        self.context = context
        self.cell = cell
        self.block = block
        self.orientations = orientations
        self.norm = norm
        self.colour = colour
        self.storage = storage

    def validate(self) -> None:
        for name, least in {"context": 0, "cell": 1, "block": 1, "orientations": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least {least}")
        for name, known in {"norm": NORMS, "storage": STORAGE}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(known)}")
        if len(self.window) != 2 or min(self.window) < 1 or any(side % self.cell for side in self.window):
            raise ValueError(f"window is {self.window}, not a height and a width in whole cells of {self.cell} pixels")
        cells = min(self.window) // self.cell
        if cells < self.block:
            raise ValueError(f"window {self.window} is smaller than a block of {self.block} x {self.block} cells")
        if cells <= 2 * self.context:
            raise ValueError(f"context {self.context} leaves nothing of the box in {cells} cells of the window")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [{"features.hog": self._features(record["image"], record["boxes"])} for record in records]

    def _features(self, image: Any, boxes: Any) -> Any:
        length = feature_length(self.window, self.cell, self.block, self.orientations)
        features = np.empty((len(boxes), length), self.storage)  # R F
        for row, window in zip(features, self._windows(image, boxes)):
            row[:] = self._describe(window)
        return features

    def _windows(self, image: Any, boxes: Any) -> Iterator[Any]:
        """The windows, one after another, in float32: whole numbers would leave steps in what grows."""
        pixels = (image if self.colour else _grey(image)).astype(np.float32)
        for place in places(boxes, self.window, self.context * self.cell).tolist():
            yield warp(cut(pixels, place), self.window)

    def _describe(self, window: Any) -> Any:
        from skimage.feature import hog

        return hog(
            window,
            orientations=self.orientations,
            pixels_per_cell=(self.cell, self.cell),
            cells_per_block=(self.block, self.block),
            block_norm=self.norm,
            channel_axis=-1 if self.colour else None,
        )


def _inside(first: int, last: int, limit: int) -> tuple[int, int, slice]:
    """Along one axis: pixels missing before and after, and the ones there are; the nearest where there is none."""
    there = slice(min(max(first, 0), limit - 1), max(min(last, limit), 1))
    before = min(max(-first, 0), last - first - 1)
    return before, (last - first) - before - (there.stop - there.start), there


def _grey(image: Any) -> Any:
    import cv2

    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
