"""Drawn data: scenes of textured shapes, and crops of them to pre-train a net on; no file is read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..boxes import area
from ..masks import area_of, box_of, encode
from ..record import Lazy, Record, Records
from .outlines import OUTLINES
from .scene import Piece, frame, layout, paint, visible

TRUTH = ("truth_boxes", "truth_labels", "truth_masks", "truth_areas", "truth_difficult", "truth_crowd")
SCENE = (240, 320), 0.3  # size and vary of the scenes that crops are cut from
MOST = 10**6  # ids have six digits, so that their order is that of the numbers
LAYOUT, PAINT, CROP_LAYOUT, CROP_PAINT, CROP = range(5)  # what a generator is for; no two share a stream


class _Drawn(Records):
    """What both sets share: parameters, and one generator per purpose, seed and number."""

    version: ClassVar[int] = 1  # raised when the same parameters draw something else

    n: int
    seed: int
    clutter: float
    noise: float
    contrast: float
    occlusion: float
    objects: Sequence[int]
    smallest: float
    largest: float

    def __len__(self) -> int:
        return self.n

    def _check(self, size: Sequence[int], vary: float) -> None:
        """ValueError, naming it, for a parameter that cannot be meant."""
        if not 1 <= self.n <= MOST:
            raise ValueError(f"{type(self).__name__}: n is 1 to {MOST} images, not {self.n}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"{type(self).__name__}: seed is 0 to 2**32 - 1, not {self.seed}")
        if not 0 <= self.occlusion <= 0.7:
            raise ValueError(f"{type(self).__name__}: occlusion is 0 to 0.7, not {self.occlusion}")
        if not 1 <= self.objects[0] <= self.objects[1]:
            raise ValueError(f"{type(self).__name__}: objects is (least, most) from 1 on, not {self.objects}")
        if not (self.smallest >= 8 and 0 < self.largest <= 1):
            raise ValueError(f"{type(self).__name__}: smallest is 8 pixels or more and largest a part of the "
                             f"image's side, not {self.smallest} and {self.largest}")  # fmt: skip
        shorter = min(size) * math.exp(-abs(vary) / 2)  # of the narrowest image
        if self.smallest > min(shorter / 2, self.largest * shorter):  # some may be twice as long as wide
            raise ValueError(f"{type(self).__name__}: shapes of smallest {self.smallest} need a larger size")
        if min(self.clutter, self.noise, self.contrast) < 0:
            raise ValueError(f"{type(self).__name__}: clutter, noise and contrast are 0 or more")

    def _rng(self, purpose: int, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([purpose, self.seed, *numbers])

    def _identity(self, index: int) -> bytes:
        """All that record `index` follows from: not n, so that more images do not change the first ones."""
        params = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        del params["n"], params["classes"]
        return json.dumps([type(self).__name__, self.version, params, index], sort_keys=True).encode()

    def _layout(self, rng: np.random.Generator, size: Sequence[int], vary: float) -> tuple[int, int, list[Piece]]:
        height, width = frame(rng, size[0], size[1], vary)
        shapes = self.objects, self.smallest, self.largest, self.occlusion
        return height, width, layout(rng, height, width, *shapes)

    def _paint(self, rng: np.random.Generator, height: int, width: int, pieces: list[Piece]) -> Any:
        return paint(rng, height, width, pieces, self.clutter, self.noise, self.contrast)


class Shapes(_Drawn):
    """Scenes of textured shapes among clutter, drawn when asked for; the class is the shape alone.

    n: images. seed: of everything; the same seed draws the same bits with the same numpy and Pillow.
    clutter: mean number of things that are no object. noise: greatest standard deviation of the noise, as a
    part of 255. contrast: least distance of a shape's colour from what is behind it, 0..1. occlusion: the
    greatest part of a shape that others hide, 0..0.7. objects: least and most an image. smallest: side in
    pixels, largest: side as a part of the image's shorter one. size: nominal (height, width). vary: the
    aspect changes by up to exp(vary).

    Gives image, size and all of truth; masks and boxes are of the visible part. ValueError for a parameter
    that cannot be meant.
    """

    def __init__(
        self,
        n: int,
        seed: int = 0,
        clutter: float = 7.0,
        noise: float = 0.04,
        contrast: float = 0.25,
        occlusion: float = 0.5,
        objects: Sequence[int] = (1, 6),
        smallest: float = 16.0,
        largest: float = 0.8,
        size: Sequence[int] = (240, 320),
        vary: float = 0.3,
    ):
        self.n, self.seed, self.clutter, self.noise, self.contrast = n, seed, clutter, noise, contrast
        self.occlusion, self.objects, self.smallest, self.largest = (
            occlusion,
            tuple(objects),
            smallest,
            largest,
        )
        self.size, self.vary = tuple(size), vary
        self.classes = tuple(OUTLINES)
        self._check(self.size, vary)

    def __getitem__(self, index: Any) -> Any:
        i = range(self.n)[index]
        identity = partial(self._identity, i)
        scene = Lazy(partial(self._scene, i), identity)
        truth = Lazy(partial(_truth_of, scene), identity)
        loads: dict[str, Callable[[], Any]] = {
            "image": partial(self._image, i, scene),
            "size": partial(_size_of, scene),
            **{name: partial(_item, truth, name) for name in TRUTH},
        }
        return Record(f"shapes-{self.seed}-{i:06d}", {name: Lazy(load, identity) for name, load in loads.items()})

    def _scene(self, index: int) -> tuple[int, int, list[Piece]]:
        return self._layout(self._rng(LAYOUT, index), self.size, self.vary)

    def _image(self, index: int, scene: Lazy) -> Any:
        return self._paint(self._rng(PAINT, index), *scene.value())[0]


def _truth(height: int, width: int, pieces: Sequence[Piece]) -> dict[str, Any]:
    masks = [encode(mask) for mask in visible(pieces, height, width)]
    values = (
        np.stack([box_of(mask) for mask in masks]),  # T 4
        np.array([piece.label for piece in pieces], np.int64),
        masks,
        np.array([area_of(mask) for mask in masks], np.float32),
        np.zeros(len(pieces), bool),
        np.zeros(len(pieces), bool),
    )
    return dict(zip(TRUTH, values, strict=True))


def _truth_of(scene: Lazy) -> dict[str, Any]:
    return _truth(*scene.value())


def _size_of(scene: Lazy) -> Any:
    return np.array(scene.value()[:2], np.int64)


def _item(held: Lazy, name: Any) -> Any:
    return held.value()[name]


class ShapeCrops(_Drawn):
    """Crops of such scenes, each around one shape, or (the last class) around clutter, to classify.

    n, seed and the knobs: as in Shapes; no scene is one of Shapes', whatever the seeds. size: side of a crop
    in pixels. per_scene: crops cut from one scene. background: part of the crops that show no object.
    context: a crop is this much wider than the object, as R-CNN's warp with p = 16 of 227 pixels (R-CNN,
    appendix A). jitter: each side moves by up to this part of the object's.

    Gives image, size, truth_boxes (the whole crop) and truth_labels. Cheap if gone through in order: the last
    scene is kept.
    """

    def __init__(
        self,
        n: int,
        seed: int = 1,
        size: int = 64,
        per_scene: int = 8,
        background: float = 0.2,
        context: float = 227 / 195,
        jitter: float = 0.08,
        clutter: float = 7.0,
        noise: float = 0.04,
        contrast: float = 0.25,
        occlusion: float = 0.5,
        objects: Sequence[int] = (4, 8),
        smallest: float = 16.0,
        largest: float = 0.8,
    ):
        self.n, self.seed, self.size, self.per_scene, self.background = n, seed, size, per_scene, background
        self.context, self.jitter, self.clutter, self.noise, self.contrast = (
            context,
            jitter,
            clutter,
            noise,
            contrast,
        )
        self.occlusion, self.objects, self.smallest, self.largest = (
            occlusion,
            tuple(objects),
            smallest,
            largest,
        )
        self.classes = (*OUTLINES, "background")
        self._check(*SCENE)
        self._last: tuple[int, tuple[Any, ...]] | None = None

    def __getitem__(self, index: Any) -> Any:
        i = range(self.n)[index]
        identity = partial(self._identity, i)
        crop = Lazy(partial(self._crop, i), identity)
        loads: dict[str, Callable[[], Any]] = {
            name: partial(_item, crop, name) for name in ("image", "size", "truth_boxes", "truth_labels")
        }
        return Record(f"shapecrops-{self.seed}-{i:06d}", {name: Lazy(load, identity) for name, load in loads.items()})

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_last": None}  # records that are sent to a process carry no picture

    def _crop(self, index: int) -> Mapping[str, Any]:
        image, label = self._cut(*divmod(index, self.per_scene))
        return {
            "image": image,
            "size": np.array([self.size, self.size], np.int64),
            "truth_boxes": np.array([[0, 0, self.size, self.size]], np.float32),
            "truth_labels": np.array([label], np.int64),
        }

    def _cut(self, number: int, j: int) -> tuple[Any, int]:
        if self._last is None or self._last[0] != number:
            self._last = number, self._scene(number)
        image, boxes, labels, clutter = self._last[1]
        rng = self._rng(CROP, number, j)
        if rng.random() < self.background:
            return _cut(image, _empty_window(rng, image.shape[:2], boxes, clutter), self.size), len(self.classes)
        k = j % len(boxes)  # in the order they were drawn, which says nothing of their classes
        return _cut(image, _around(rng, boxes[k], self.context, self.jitter), self.size), int(labels[k])

    def _scene(self, number: int) -> tuple[Any, ...]:
        height, width, pieces = self._layout(self._rng(CROP_LAYOUT, number), *SCENE)
        image, clutter = self._paint(self._rng(CROP_PAINT, number), height, width, pieces)
        truth = _truth(height, width, pieces)
        return image, truth["truth_boxes"], truth["truth_labels"], clutter


def _around(rng: np.random.Generator, box: Any, context: float, jitter: float) -> Any:
    """A box made wider by `context` about its centre, each of its sides moved by up to `jitter`."""
    side = np.tile(box[2:] - box[:2], 2)  # w h w h
    grown = box + side * (context - 1) / 2 * np.array([-1, -1, 1, 1])
    return grown + side * rng.uniform(-jitter, jitter, 4)


def _empty_window(rng: np.random.Generator, size: Sequence[int], boxes: Any, clutter: Sequence[Any]) -> Any:
    """A window over clutter or background that shows next to nothing of any box: the emptiest of thirty."""
    windows = np.stack([_window(rng, size, clutter, 0.93**k) for k in range(30)])  # 30 4
    low = np.maximum(windows[:, None, :2], boxes[:, :2])
    common = (np.minimum(windows[:, None, 2:], boxes[:, 2:]) - low).clip(0).prod(-1)  # 30 T
    hidden = np.maximum(common / area(windows)[:, None], common / area(boxes)).max(1)  # 30
    return windows[np.argmax(hidden <= 0.1) if (hidden <= 0.1).any() else np.argmin(hidden)]


def _window(rng: np.random.Generator, size: Sequence[int], clutter: Sequence[Any], shrink: float) -> Any:
    height, width = size
    if clutter and rng.random() < 0.6:
        window = _around(rng, np.array(clutter[int(rng.integers(len(clutter)))], float), 1.16, 0.1)
    else:
        w, h = np.exp(rng.uniform(np.log(16), np.log(0.6 * min(size)), 2)) * shrink
        x, y = rng.uniform(0, 1, 2) * (width - w, height - h)
        window = np.array([x, y, x + w, y + h])
    return window.clip(0, (width, height, width, height))


def _cut(image: Any, window: Any, size: int) -> Any:
    """The window of an image, cut at its border, warped to size x size."""
    from PIL import Image

    height, width = image.shape[:2]
    window = np.asarray(window).clip(0, (width, height, width, height)).tolist()
    warped = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=window)
    return np.asarray(warped)  # size size 3
