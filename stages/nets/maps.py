"""The maps of an image: one, one for each of several sizes of the image, or the levels of a feature pyramid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

AREA = 224.0**2  # square pixels: of the images that backbones learned from
CANONICAL = 4  # the level of a region of that size (Lin et al., FPN, CVPR 2017, equation 1: k0)
NEAR = 1e-6  # of a level, so that rounding decides nothing; torchvision's


def level_of(name: str) -> int | None:
    """The level k of a field `map.pK`, whose cells are 2^k pixels apart; None of any other map."""
    digits = name.removeprefix("map.p")
    return int(digits) if name.startswith("map.p") and digits.isdecimal() else None


def level_names(lowest: int, highest: int) -> tuple[str, ...]:
    """The fields of the levels from one to another."""
    return tuple(f"map.p{level}" for level in range(lowest, highest + 1))


def levels_of(maps: Sequence[str]) -> list[int]:
    """The levels of a pyramid's maps; none if they are no pyramid's."""
    levels = [level_of(name) for name in maps]
    return [level for level in levels if level is not None]


def check_maps(maps: Sequence[str]) -> None:
    """ValueError unless these can be names of maps: of one, of ConvMap's scales, or of levels one after the other."""
    sides = [name.removeprefix("map.") for name in maps]
    several = all(side.isdigit() for side in sides) and sorted(map(int, sides)) == [int(side) for side in sides]
    levels = levels_of(maps)
    pyramid = bool(levels) and list(range(levels[0], levels[0] + len(maps))) == levels
    if list(maps) != ["map"] and not (maps and (pyramid or several)):
        raise ValueError(f"maps is {list(maps)}; it is map alone, or fields such as map.480 and map.600, or map.p2 and "
                         "map.p3, rising")  # fmt: skip


class Seen(NamedTuple):
    """How a net saw an image.

    enlarged: S 2, pixels that it saw to a pixel of the image, x and y, for each map. strides: S, pixels that it saw
    from a cell of each map to the next. size: height and width of the image in these pixels, for the first map.
    """

    enlarged: Any
    strides: Any
    size: tuple[int, int]


def seen(fields: Mapping[str, Any], size: Sequence[int]) -> Seen:
    """From map_scales and image_scales; size: height and width of the image in its own pixels."""
    strides = strides_of(fields["map_scales"], fields["image_scales"])
    enlarged = np.asarray(fields["map_scales"], np.float64) * strides[:, None]
    height, width = (round(float(side * by)) for side, by in zip(size, enlarged[0, ::-1]))
    return Seen(enlarged, strides, (height, width))


def strides_of(map_scales: Any, image_scales: Any) -> Any:
    """Pixels that the net saw from a cell of each map to the next, S, from map_scales (S 2) and image_scales (S)."""
    return np.rint(np.asarray(image_scales) / np.sqrt(np.asarray(map_scales, np.float64).prod(1)))


def nearest_scale(boxes: Any, image_scales: Any) -> Any:
    """Of each box (R) the map on which its area is nearest to 224 x 224 input pixels (SPPnet, section 4.1).

    boxes: R 4, pixels of the image. image_scales: S, input pixels to a pixel of the image.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)[:, None] * np.asarray(image_scales) ** 2  # R S
    return np.abs(areas - AREA).argmin(1)


def pyramid_level(boxes: Any, image_scale: float, lowest: int, highest: int) -> Any:
    """Of each box (R) its level: 4 + log2(side / 224), rounded down and kept in [lowest, highest] (FPN, equation 1).

    boxes: R 4, pixels of the image. image_scale: input pixels to a pixel of the image; side: the square root of the
    area in input pixels.
    """
    areas = np.prod(np.asarray(boxes, np.float64)[:, 2:] - boxes[:, :2], 1) * float(image_scale) ** 2
    sides = np.sqrt(np.maximum(areas, np.finfo(np.float64).tiny))
    return np.clip(np.floor(CANONICAL + np.log2(sides / np.sqrt(AREA)) + NEAR), lowest, highest).astype(np.int64)
