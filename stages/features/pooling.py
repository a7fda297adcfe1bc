"""What the poolers share: which of several maps a box is read from, and where it lies on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import UserError
from ..nets.bins import ready
from ..nets.frozen import all_finite
from ..nets.member import Member
from ..record import Record

STORAGE = ("map", "float16", "float32")  # map: the type of the map
AREA = 224.0**2  # square pixels: of the images that backbones learned from


def nearest_scale(boxes: Any, image_scales: Any) -> Any:
    """Of each box (R) the map on which its area is nearest to 224 x 224 input pixels (SPPnet, section 4.1).

    boxes: R 4, pixels of the image. image_scales: S, input pixels to a pixel of the image.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)[:, None] * np.asarray(image_scales) ** 2  # R S
    return np.abs(areas - AREA).argmin(1)


class Pooler(Member):
    """What the poolers share: a box is read from one of the maps, and its pooled values are features.pool5.

    Subclasses have the parameters maps and storage, and `_pool`. places: the fields that say where a map's cells lie.
    """

    gives = ("features.pool5",)
    places: ClassVar[tuple[str, ...]] = ("map_scales",)
    at_use: ClassVar[tuple[str, ...]] = ("maps", "storage")
    maps: Sequence[str]
    storage: str

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        more = ("image_scales",) if len(self.maps) > 1 else ()
        return ("boxes", *self.places, *more, *self.maps)

    def prepare(self) -> None:
        ready()

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [{"features.pool5": self._pooled(record)} for record in records]

    def _pooled(self, record: Record) -> Any:
        """R F: each box from its own map. UserError if one overflows the storage, or maps are left out."""
        import torch

        boxes, scales = on_host(record["boxes"]), np.asarray(record["map_scales"])
        if len(self.maps) != len(scales):
            raise UserError(f"image {record.id!r}: there are {len(scales)} maps, and {len(self.maps)} are to be read")
        own = nearest_scale(boxes, record["image_scales"]) if len(self.maps) > 1 else np.zeros(len(boxes), np.int64)
        found: Any = None
        for i, name in enumerate(self.maps):
            mine = np.flatnonzero(own == i)
            cells = self._cells(boxes[mine], scales[i], record)
            pooled = self._pool(torch.as_tensor(record[name]), cells).flatten(1)  # n F
            if found is None:
                dtype = pooled.dtype if self.storage == "map" else getattr(torch, self.storage)
                found = torch.zeros(len(boxes), pooled.shape[1], dtype=dtype, device=pooled.device)
            found[torch.as_tensor(mine, device=found.device)] = pooled.to(found.dtype)
        if not all_finite(found):
            raise UserError(f"image {record.id!r}: the pooled features are not finite in {self.storage}")
        return found

    def _cells(self, boxes: Any, scale: Any, fields: Mapping[str, Any]) -> Any:
        """Boxes (n 4, pixels) in cells of a map with so many cells a pixel (2); fields: those of `places`."""
        raise NotImplementedError

    def _pool(self, features: Any, boxes: Any) -> Any:
        """n C B of a map (C h w) and boxes (n 4, cells)."""
        raise NotImplementedError


def check_maps(maps: Sequence[str]) -> None:
    """ValueError unless these can be names of maps, in the order of ConvMap's scales."""
    sides = [name.removeprefix("map.") for name in maps]
    several = all(side.isdigit() for side in sides) and sorted(map(int, sides)) == [int(side) for side in sides]
    if list(maps) != ["map"] and not (maps and several):
        raise ValueError(f"maps is {list(maps)}; it is map alone, or fields such as map.480 and map.600, rising")


def on_host(boxes: Any) -> Any:
    """Boxes as a numpy array."""
    return boxes.cpu().numpy() if hasattr(boxes, "cpu") else np.asarray(boxes)


def check_pooler(maps: Sequence[str], storage: str) -> None:
    """ValueError, naming it, for a parameter of a pooler that cannot be meant."""
    check_maps(maps)
    if storage not in STORAGE:
        raise ValueError(f"storage is {storage!r}; it is one of {', '.join(STORAGE)}")
