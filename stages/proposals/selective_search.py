"""Selective search (Uijlings, van de Sande, Gevers, Smeulders, IJCV 2013), by our own kernels or by OpenCV contrib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError
from ..boxes import clip
from ..record import Record
from ..stage import Stage
from .selective.colours import COLOURS, as_rgb
from .selective.ranks import ranked, values_by_area, values_by_place
from .selective.regions import REGION_FIELDS, as_fields


class Mode(NamedTuple):
    """What is searched: every colour space with every k and every sum of similarities."""

    colours: tuple[str, ...]
    similarities: tuple[str, ...]  # letters: Colour, Texture, Size, Fill
    ks: tuple[float, ...]  # scale of the initial segmentation, and the pixels of its smallest segment


# The paper's table 7; R-CNN's authors ran "fast". OpenCV's own presets have k = 150, 300, 450 in "fast".
PAPER = {
    "single": Mode(("HSV",), ("CTSF",), (100,)),
    "fast": Mode(("HSV", "Lab"), ("CTSF", "TSF"), (50, 100)),
    "quality": Mode(("HSV", "Lab", "rgI", "H", "I"), ("CTSF", "TSF", "F", "S"), (50, 100, 150, 300)),
}
# Chosen on 40 training images each of PennFudan and COCO (docs/results.md): a third k in place of many small regions,
# and RGB for the hue alone, which is noise where an image is dark.
OURS = {
    "single": PAPER["single"],
    "fast": Mode(("HSV", "Lab"), ("CTSF", "TSF"), (60, 120, 240)),
    "quality": Mode(("HSV", "Lab", "rgI", "RGB", "I"), ("CTSF", "TSF", "F", "S"), (75, 150, 300)),
}
ENGINES = {"native": OURS, "opencv": PAPER}
LARGEST_K = 1e9  # also the pixels of the smallest segment
WIDEST = 10_000  # pixels; OpenCV's search takes hours and gigabytes long before


def resize(image: Any, width: int | None) -> Any:
    """The image at a width in pixels, its shape kept; as it is if `width` is None."""
    if width is None:
        return image
    cv2 = _cv2()
    height, full_width = image.shape[:2]
    scale = width / max(full_width, height / 4)  # an image taller than four widths would grow without bound
    size = max(round(full_width * scale), 1), max(round(height * scale), 1)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


class SelectiveSearch(Stage):
    """Region proposals by selective search, as R-CNN used it (section 2.1, and its authors' code).

    mode: "single", "fast" or "quality", of rising count and cost; each engine has lists of its own for it.
    engine: "native", compiled by numba, with the lists `OURS`; "opencv", its contrib modules, many times slower, with
        the paper's lists, `PAPER` ("fast" is what R-CNN's authors ran).
    width: the image is searched at this width in pixels (500, R-CNN's code; an image taller than four widths at less);
        None = as it is. At most 10,000.
    min_side: boxes with a side under this many pixels, at the search width, are dropped (20, R-CNN's code; so an image
        wider than 25 heights has no boxes at a width of 500).
    top: how many of the best ranked are kept; None = all.
    colours, similarities, ks: in place of the mode's. Colour spaces: keys of `selective.colours.COLOURS`. Similarities:
        strings of the letters C, T, S, F, each the sum of what its letters stand for. ks: scales of the initial
        segmentation; "native" starts the larger ones from the components of the smallest. The order of the first two
        lists decides between random numbers, so it changes the ranks.
    regions: also give the regions themselves, as `selective.regions` reads them ("native" alone).
    random_state: seeds the ranks, together with the image id.
    threads: for the colour spaces of one image ("native" alone); changes only speed.

    Reads `image`; writes `boxes` and `objectness` (falling with the rank, in (0, 1]), with `regions` also
    `regions.labels`, `regions.merges` and `regions.nodes`. The result follows from the image, its id and the
    parameters: not from earlier calls, nor from threads.
    UserError if OpenCV's contrib modules, or numba, are needed and not installed.
    """

    needs = ("image",)
    version = 3
    speed = ("threads",)
    parallel = True  # 30 ms an image and more, or seconds with OpenCV

    def __init__(
        self,
        mode: str = "fast",
        engine: str = "native",
        width: int | None = 500,
        min_side: float = 20,
        top: int | None = 2000,
        colours: Sequence[str] | None = None,
        similarities: Sequence[str] | None = None,
        ks: Sequence[float] | None = None,
        regions: bool = False,
        random_state: int = 0,
        threads: int = 1,
    ):
        self.mode = mode
        self.engine = engine
        self.width = width
        self.min_side = min_side
        self.top = top
        self.colours = colours
        self.similarities = similarities
        self.ks = ks
        self.regions = regions
        self.random_state = random_state
        self.threads = threads

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("boxes", "objectness", *(REGION_FIELDS if self.regions else ()))

    def validate(self) -> None:
        for name, known in (("engine", ENGINES), ("mode", PAPER)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}, not one of {', '.join(known)}")
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
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}, not 1 or more")
        if self.regions and self.engine != "native":
            raise ValueError("regions is true, but OpenCV gives boxes alone: engine must be native")
        check_search(self.search())

    def search(self) -> Mode:
        """What is searched: the mode's lists, or those given in their place."""
        usual = ENGINES[self.engine][self.mode]
        given = (self.colours, self.similarities, self.ks)
        for name, values in zip(Mode._fields, given):
            if isinstance(values, str):
                raise ValueError(f"{name} is {values!r}, not a list")
        lists: list[Any] = [old if new is None else tuple(new) for old, new in zip(usual, given)]
        return Mode(*lists)

    def prepare(self) -> None:
        if self.engine == "native":
            _native()
        else:
            from .selective.opencv import segmentation

            segmentation()

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [self._propose(record) for record in records]

    def _propose(self, record: Record) -> dict[str, Any]:
        rng = np.random.default_rng([self.random_state, *record.id.encode("utf-8", "surrogateescape")])
        image = as_rgb(record["image"])
        small = resize(image, self.width)
        if self.engine == "native":
            found = _native().hierarchies(small, *self.search(), threads=self.threads)
            boxes = np.concatenate([hierarchy.tree.box for hierarchy in found])
            value = values_by_place([len(hierarchy.tree.size) for hierarchy in found], rng)
        else:
            from .selective.opencv import opencv_boxes

            boxes = opencv_boxes(small, *self.search())
            value = values_by_area(boxes, rng)
        large = np.flatnonzero((boxes[:, 2:] - boxes[:, :2]).min(1) >= self.min_side)
        kept = large[ranked(boxes[large], value[large])[: self.top]]
        back = np.tile([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]], 2)
        fields = {
            "boxes": clip((boxes[kept] * back).astype(np.float32), image.shape[:2]),
            "objectness": (1 - np.arange(len(kept)) / max(len(kept), 1)).astype(np.float32),
        }
        if self.regions:
            fields.update(as_fields(found, kept))
        return fields


def check_search(search: Mode) -> None:
    """ValueError, naming the parameter, if a list is empty or holds what is none."""
    for name, values in zip(Mode._fields, search):
        alike: set[Any] = set(map(frozenset, search.similarities)) if name == "similarities" else set(values)
        if not values or len(alike) < len(values):
            raise ValueError(f"{name} is {list(values)}: it must hold something, and nothing twice")
    for colour in search.colours:
        if colour not in COLOURS:
            raise ValueError(f"colours holds {colour!r}, not one of {', '.join(COLOURS)}")
    for letters in search.similarities:
        if not letters or set(letters) - set("CTSF") or len(set(letters)) < len(letters):
            raise ValueError(f"similarities holds {letters!r}, not letters of CTSF, each once")
    for k in search.ks:
        if not 0 < k < LARGEST_K:
            raise ValueError(f"ks holds {k}, not above 0 and under {LARGEST_K:.0e}")


def _cv2() -> Any:
    """OpenCV. UserError where it is missing."""
    try:
        import cv2

        return cv2
    except ImportError:
        raise UserError("selective search needs OpenCV: pip install opencv-contrib-python-headless") from None


def _native() -> Any:
    """The module with our kernels, compiled. UserError where numba or OpenCV is missing."""
    _cv2()
    try:
        from .selective import search
    except ImportError as error:  # missing, or of a version that does not fit numpy's
        advice = "pip install --upgrade numba (or take engine=opencv)"
        raise UserError(f"selective search needs numba: {advice}: {error}") from error
    search.ready()
    return search
