"""Selective search (Uijlings, van de Sande, Gevers, Smeulders, IJCV 2013), grouped by OpenCV contrib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import UserError
from ..boxes import clip
from ..record import Record
from ..stage import Stage

# Colour spaces, similarities (Colour, Texture, Size, Fill, summed) and k of the initial segmentation: the
# paper, table 7. R-CNN's authors ran "fast". OpenCV's own presets have other k (150, 300, 450 for "fast").
MODES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...]]] = {
    "single": (("HSV",), ("CTSF",), (100,)),
    "fast": (("HSV", "Lab"), ("CTSF", "TSF"), (50, 100)),
    "quality": (("HSV", "Lab", "rgI", "H", "I"), ("CTSF", "TSF", "F", "S"), (50, 100, 150, 300)),
}
WIDEST = 10_000  # pixels; the search takes hours and gigabytes long before
SIGMA = 0.8  # smoothing before the segmentation, in R-CNN's and the paper's code
MEASURES = {"C": "Color", "T": "Texture", "S": "Size", "F": "Fill"}


def selective_search(
    image: Any, rng: np.random.Generator, *, mode: str, width: int | None, min_side: float, top: int | None
) -> tuple[Any, Any]:
    """Boxes (R 4, pixels of `image`) in falling rank and their objectness (R, 1 - rank / R).

    image: H W 3 uint8 RGB. rng: draws the ranks. mode, width, min_side, top: as in `SelectiveSearch`.
    """
    height, full_width = image.shape[:2]
    small = resize(image, width)
    rects = group(small, mode)  # R 4, (x0, y0, w, h)
    rects = rects[rects[:, 2:].min(1) >= min_side]
    rects = rects[random_rank(rects, rng)[:top]]
    back = np.tile([full_width / small.shape[1], height / small.shape[0]], 2)
    corners = np.concatenate([rects[:, :2], rects[:, :2] + rects[:, 2:]], 1)  # R 4
    boxes = clip((corners * back).astype(np.float32), (height, full_width))
    return boxes, (1 - np.arange(len(boxes)) / max(len(boxes), 1)).astype(np.float32)


def resize(image: Any, width: int | None) -> Any:
    """The image at a width in pixels, its shape kept; as it is if `width` is None."""
    if width is None:
        return image
    cv2, _ = _opencv()
    height, full_width = image.shape[:2]
    scale = width / max(full_width, height / 4)  # an image taller than four widths would grow without bound
    size = max(round(full_width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def group(image: Any, mode: str) -> Any:
    """All distinct boxes (R 4, int x0, y0, w, h) of a mode's hierarchies, in no meaningful order.

    OpenCV orders them by level * rand(). That rand() is the C library's: one state for the whole process,
    which cv2.setRNGSeed does not reach and which other threads advance; and it puts the smallest regions
    first, where the paper puts them last. The set of boxes depends on the image alone, so the set is what
    is taken: np.unique sorts it.
    """
    _, segmentation = _opencv()
    colours, similarities, ks = MODES[mode]
    search = segmentation.createSelectiveSearchSegmentation()
    bgr = np.ascontiguousarray(image[..., ::-1])
    search.setBaseImage(bgr)
    for colour in colours:
        search.addImage(_in_colour(bgr, colour))
    for k in ks:  # the smallest segment has k pixels, in the paper's code too
        search.addGraphSegmentation(segmentation.createGraphSegmentation(SIGMA, k, k))
    measures = {
        letter: getattr(segmentation, f"createSelectiveSearchSegmentationStrategy{name}")()
        for letter, name in MEASURES.items()
    }
    for letters in similarities:
        summed = (measures[letter] for letter in letters)
        search.addStrategy(segmentation.createSelectiveSearchSegmentationStrategyMultiple(*summed))
    return np.unique(np.asarray(search.process()).reshape(-1, 4), axis=0)


def random_rank(rects: Any, rng: np.random.Generator) -> Any:
    """An order (R) of boxes in which large ones tend to come first (section 5.1: sort by RND * i).

    The paper's i is a box's place in its hierarchy, 1 at the root. A region is never smaller than the ones
    it was merged from, so the place by falling area respects every hierarchy at once. Best overlap at 500
    boxes, mean of 55 people in 20 images of PennFudan: 0.67 so, 0.48 in OpenCV's order.
    """
    place = np.empty(len(rects))
    place[np.argsort(-rects[:, 2] * rects[:, 3], kind="stable")] = np.arange(1, len(rects) + 1)
    return np.argsort(rng.random(len(rects)) * place, kind="stable")


class SelectiveSearch(Stage):
    """Region proposals by selective search, as R-CNN used it (section 2.1, and its authors' code).

    mode: "single", "fast" (R-CNN's) or "quality", of rising count and cost.
    width: the image is searched at this width in pixels (500, R-CNN's code); None = as it is.
    min_side: boxes with a side under this many pixels, at the search width, are dropped (20, R-CNN's code).
    top: how many of the best ranked are kept; None = all.
    random_state: seeds the ranks, together with the image id.

    Reads `image`; writes `boxes` and `objectness` (falling with the rank, in (0, 1]). The result follows
    from the image, its id and the parameters: not from earlier calls, nor from threads.
    UserError if OpenCV contrib is not installed.
    """

    needs = ("image",)
    gives = ("boxes", "objectness")
    parallel = True  # seconds an image

    def __init__(
        self,
        mode: str = "fast",
        width: int | None = 500,
        min_side: float = 20,
        top: int | None = 2000,
        random_state: int = 0,
    ):
        self.mode = mode
        self.width = width
        self.min_side = min_side
        self.top = top
        self.random_state = random_state

    def validate(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}, not one of {', '.join(MODES)}")
        for name in ("width", "top"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, not 1 or more, or None")
        if self.width is not None and self.width > WIDEST:
            raise ValueError(f"width is {self.width}, above {WIDEST}")
        if self.min_side < 0:
            raise ValueError(f"min_side is {self.min_side}, not 0 or more")
        if self.random_state < 0:
            raise ValueError(f"random_state is {self.random_state}, not 0 or more")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [self._propose(record) for record in records]

    def _propose(self, record: Record) -> dict[str, Any]:
        rng = np.random.default_rng([self.random_state, *record.id.encode("utf-8", "surrogateescape")])
        params = self.get_params()
        del params["random_state"]
        return dict(zip(self.gives, selective_search(record["image"], rng, **params)))


def _in_colour(bgr: Any, colour: str) -> Any:
    """A uint8 image (H W 3 or H W) in one of the paper's colour spaces (section 3.2)."""
    cv2, _ = _opencv()
    if colour == "rgI":
        share = 255 * bgr / np.maximum(bgr.sum(-1, keepdims=True), 1)
        return np.dstack([share[..., 2], share[..., 1], _in_colour(bgr, "I")]).astype(np.uint8)
    if colour == "H":
        return np.ascontiguousarray(_in_colour(bgr, "HSV")[..., 0])
    codes = {"HSV": cv2.COLOR_BGR2HSV, "Lab": cv2.COLOR_BGR2Lab, "I": cv2.COLOR_BGR2GRAY}
    return cv2.cvtColor(bgr, codes[colour])


def _opencv() -> tuple[Any, Any]:
    """cv2 and its ximgproc.segmentation. UserError where contrib is missing."""
    try:
        import cv2

        return cv2, cv2.ximgproc.segmentation
    except (ImportError, AttributeError):
        raise UserError(
            "selective search needs OpenCV's contrib modules: pip install opencv-contrib-python-headless"
        ) from None
