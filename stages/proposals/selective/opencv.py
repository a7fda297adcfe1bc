"""The boxes of selective search as OpenCV contrib groups them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ....errors import UserError
from .colours import SIGMA, in_colour

MEASURES = {"C": "Color", "T": "Texture", "S": "Size", "F": "Fill"}


def opencv_boxes(image: Any, colours: Sequence[str], similarities: Sequence[str], ks: Sequence[float]) -> Any:
    """All distinct boxes (R 4, int x0 y0 x1 y1) of an image's hierarchies (H W 3 uint8 RGB), in no meaningful order.

    OpenCV orders them by level * rand(). That rand() is the C library's: one state for the whole process,
    which cv2.setRNGSeed does not reach and which other threads advance; and it puts the smallest regions
    first, where the paper puts them last. The set of boxes depends on the image alone, so the set is what
    is taken: np.unique sorts it.
    """
    contrib = segmentation()
    search = contrib.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    for colour in colours:
        search.addImage(in_colour(image, colour))
    for k in ks:  # the smallest segment has k pixels, in the paper's code too
        search.addGraphSegmentation(contrib.createGraphSegmentation(SIGMA, k, max(round(k), 1)))
    measures = {
        letter: getattr(contrib, f"createSelectiveSearchSegmentationStrategy{name}")()
        for letter, name in MEASURES.items()
    }
    for letters in similarities:
        summed = (measures[letter] for letter in letters)
        search.addStrategy(contrib.createSelectiveSearchSegmentationStrategyMultiple(*summed))
    rects = np.unique(np.asarray(search.process()).reshape(-1, 4), axis=0)  # R 4, x0 y0 w h
    return np.concatenate([rects[:, :2], rects[:, :2] + rects[:, 2:]], 1)


def segmentation() -> Any:
    """OpenCV's ximgproc.segmentation. UserError where contrib is missing."""
    try:
        import cv2

        return cv2.ximgproc.segmentation
    except (ImportError, AttributeError):
        raise UserError(
            "selective search by OpenCV needs its contrib modules: pip install opencv-contrib-python-headless "
            "(or take engine=native)"
        ) from None
