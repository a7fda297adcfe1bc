"""What the poolers share: which of several maps a box is read from, and where it lies on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import UserError
from ..record import Record

STORAGE = ("map", "float16", "float32")  # map: the type of the map
AREA = 224.0**2  # square pixels: of the images that backbones learned from


def nearest_scale(boxes: Any, map_scales: Any, stride: float = 1.0) -> Any:
    """Of each box (R) the map on which its area is nearest to 224 x 224 input pixels (SPPnet, section 4.1).

    boxes: R 4, pixels of the image. map_scales: S 2, cells a pixel. stride: input pixels a cell.
    """
    sides = boxes[:, None, 2:] - boxes[:, None, :2]  # R 1 2
    areas = np.prod(sides * map_scales * stride, -1)  # R S
    return np.abs(areas - AREA).argmin(1)


def check_maps(maps: Sequence[str]) -> None:
    """ValueError unless these can be names of maps."""
    if not maps or any(name != "map" and not name.startswith("map.") for name in maps):
        raise ValueError(f"maps is {list(maps)}; it names fields of maps: map, or map.480 and others")


def on_host(boxes: Any) -> Any:
    """Boxes as a numpy array."""
    return boxes.cpu().numpy() if hasattr(boxes, "cpu") else np.asarray(boxes)


def over_maps(record: Record, maps: Sequence[str], pool: Any, stride: int, storage: str) -> Any:
    """Pooled features, R F: each box from its own map. UserError if one overflows the storage.

    pool: a map (C h w), boxes (n 4, pixels) and the cells a pixel (2) -> n C B. storage: of STORAGE.
    """
    import torch

    boxes, scales = on_host(record["boxes"]), np.asarray(record["map_scales"])
    own = nearest_scale(boxes, scales, stride) if len(maps) > 1 else np.zeros(len(boxes), np.int64)
    found: Any = None
    for i, name in enumerate(maps):
        mine = np.flatnonzero(own == i)
        pooled = pool(torch.as_tensor(record[name]), boxes[mine], scales[i]).flatten(1)  # n F
        if found is None:
            dtype = pooled.dtype if storage == "map" else getattr(torch, storage)
            found = torch.zeros(len(boxes), pooled.shape[1], dtype=dtype, device=pooled.device)
        found[torch.as_tensor(mine, device=found.device)] = pooled.to(found.dtype)
    if not torch.isfinite(found).all():
        raise UserError(f"image {record.id!r}: the pooled features are not finite in {storage}")
    return found


def check_pooler(maps: Sequence[str], stride: int, storage: str) -> None:
    """ValueError, naming it, for a parameter of a pooler that cannot be meant."""
    check_maps(maps)
    if stride < 1:
        raise ValueError(f"stride is {stride}; it is at least 1")
    if storage not in STORAGE:
        raise ValueError(f"storage is {storage!r}; it is one of {', '.join(STORAGE)}")
