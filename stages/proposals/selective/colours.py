"""Images and colour spaces of selective search (Uijlings et al., IJCV 2013, section 3.1 and table 2).

Of the paper's eight spaces C is left out, the opponent colours without intensity: none of its modes uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

SIGMA = 0.8  # of the smoothing before the segmentation, in pixels: the papers', and R-CNN's code
LARGEST = 1 << 30  # pixels: a pixel and a direction are one number of 32 bits


def _same(rgb: Any) -> Any:
    return rgb


def _intensity(rgb: Any) -> Any:
    return _convert(rgb, "COLOR_RGB2GRAY")


def _lab(rgb: Any) -> Any:
    return _convert(rgb, "COLOR_RGB2Lab")


def _hsv(rgb: Any) -> Any:
    return _convert(rgb, "COLOR_RGB2HSV_FULL")  # hue over the whole of 0..255, as the other channels


def _hue(rgb: Any) -> Any:
    return np.ascontiguousarray(_hsv(rgb)[..., 0])


def _shares(rgb: Any, channels: int = 3) -> Any:
    """The first channels over the sum of all three, times 255, rounded down: float32 divides as well, and faster."""
    import cv2

    planes = [plane.astype(np.float32) for plane in cv2.split(rgb)]
    total = np.maximum(planes[0] + planes[1] + planes[2], 1)
    return cv2.merge([(255 * plane / total).astype(np.uint8) for plane in planes[:channels]])


def _shares_and_intensity(rgb: Any) -> Any:
    import cv2

    return cv2.merge([_shares(rgb, 2), _intensity(rgb)])


# named as in the paper: rgb is RGB over its sum, rgI has two channels of that and the intensity, H is the hue of HSV
COLOURS: dict[str, Callable[[Any], Any]] = {
    "RGB": _same,
    "I": _intensity,
    "Lab": _lab,
    "rgI": _shares_and_intensity,
    "HSV": _hsv,
    "rgb": _shares,
    "H": _hue,
}


def in_colour(rgb: Any, colour: str) -> Any:
    """An image (H W 3 uint8) in a colour space, a key of `COLOURS`: H W 3 or H W, uint8, each channel within 0..255."""
    return COLOURS[colour](np.ascontiguousarray(rgb))


def as_rgb(image: Any) -> Any:
    """The image as H W 3 uint8, which the kernels take for granted. ValueError if it is none."""
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"an image of shape {image.shape} is not H W 3")
    if image.shape[0] * image.shape[1] >= LARGEST:
        raise ValueError(f"an image of {image.shape[0]} x {image.shape[1]} pixels is too large to be searched")
    small = image.astype(np.uint8, copy=False)
    if image.dtype != np.uint8 and not np.array_equal(small, image):
        raise ValueError(f"an image of {image.dtype} holds values that are not whole numbers from 0 to 255")
    return small


def smoothed(image: Any, sigma: float = SIGMA) -> Any:
    """An image (H W 3 uint8), smoothed with a Gaussian."""
    import cv2

    side = 2 * int(np.ceil(2.5 * sigma)) + 1
    return cv2.GaussianBlur(np.ascontiguousarray(image), (side, side), sigma)


def _convert(rgb: Any, code: str) -> Any:
    import cv2

    return cv2.cvtColor(rgb, getattr(cv2, code))
