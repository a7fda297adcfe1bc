"""What the poolers share: which of several maps a box is read from, and where it lies on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import UserError
from ..nets.bins import ready
from ..nets.frozen import all_finite
from ..nets.maps import check_maps, levels_of, nearest_scale, pyramid_level, strides_of
from ..nets.member import Member
from ..record import Record

STORAGE = ("map", "float16", "float32")  # map: the type of the map


class Pooler(Member):
    """What the poolers share: a box is read from one of the maps, and its pooled values are features.pool5.

    Subclasses have the parameters maps and storage, and may have objects (whether in training it pools the RoIs that
    are objects alone, as a mask head needs them), and `_cells`, `_pool` and `_learn`. places: the fields that say
    where a map's cells lie.
    """

    gives = ("features.pool5",)
    places: ClassVar[tuple[str, ...]] = ("map_scales",)
    at_use: ClassVar[tuple[str, ...]] = ("storage",)
    maps: Sequence[str]
    storage: str
    objects: bool = False

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        more = ("image_scales",) if len(self.maps) > 1 or levels_of(self.maps) else ()
        return ("boxes", *self.places, *more, *self.maps)

    def prepare(self) -> None:
        ready()

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        boxes = fields["sampled_boxes"]
        boxes = boxes[fields["roi_labels"] > 0] if self.objects else boxes
        maps = self.maps if levels_of(self.maps) else ("map",)  # of several sizes of the image one is drawn
        found: Any = None
        for name, mine, cells in self._spread(boxes, maps, fields, ""):
            pooled = self._learn(fields[name].float(), cells).flatten(1)  # n F
            found = pooled.new_zeros(len(boxes), pooled.shape[1]) if found is None else found
            found = found.index_copy(0, torch.from_numpy(mine).to(pooled.device), pooled)
        return {}, {"features.pool5": found}

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [{"features.pool5": self._pooled(record)} for record in records]

    def _pooled(self, record: Record) -> Any:
        """R F: each box from its own map. UserError if one overflows the storage, or maps are left out."""
        import torch

        boxes = on_host(record["boxes"])
        found: Any = None
        for name, mine, cells in self._spread(boxes, self.maps, record, f"image {record.id!r}: "):
            pooled = self._pool(torch.as_tensor(record[name]), cells).flatten(1)  # n F
            if found is None:
                dtype = pooled.dtype if self.storage == "map" else getattr(torch, self.storage)
                found = torch.zeros(len(boxes), pooled.shape[1], dtype=dtype, device=pooled.device)
            found[torch.as_tensor(mine, device=found.device)] = pooled.to(found.dtype)
        if not all_finite(found):
            raise UserError(f"image {record.id!r}: the pooled features are not finite in {self.storage}")
        return found

    def _spread(self, boxes: Any, maps: Sequence[str], fields: Mapping[str, Any], where: str) -> Any:
        """Of each map its name, the indices of its boxes (n), and these in its cells (n 4).

        UserError, beginning with `where`, if there are other maps than are read.
        """
        scales = np.asarray(fields["map_scales"])  # S 2
        if levels := levels_of(maps):
            scales = scales[:1] * strides_of(scales, fields["image_scales"])[0] / 2.0 ** np.array(levels)[:, None]
            own = pyramid_level(boxes, fields["image_scales"][0], levels[0], levels[-1]) - levels[0]
        elif len(maps) != len(scales):
            raise UserError(f"{where}there are {len(scales)} maps, and {len(maps)} are to be read")
        else:
            own = nearest_scale(boxes, fields["image_scales"]) if len(maps) > 1 else np.zeros(len(boxes), np.int64)
        for i, name in enumerate(maps):
            mine = np.flatnonzero(own == i)
            yield name, mine, self._cells(boxes[mine], scales[i].astype(np.float32), fields)

    def _cells(self, boxes: Any, scale: Any, fields: Mapping[str, Any]) -> Any:
        """Boxes (n 4, pixels) in cells of a map with so many cells a pixel (2); fields: those of `places`."""
        raise NotImplementedError

    def _pool(self, features: Any, boxes: Any) -> Any:
        """n C B of a map (C h w) and boxes (n 4, cells)."""
        raise NotImplementedError

    def _learn(self, features: Any, boxes: Any) -> Any:
        """The same, of a map in float32, with a gradient."""
        raise NotImplementedError


def on_host(boxes: Any) -> Any:
    """Boxes as a numpy array."""
    return boxes.cpu().numpy() if hasattr(boxes, "cpu") else np.asarray(boxes)


def check_pooler(maps: Sequence[str], storage: str) -> None:
    """ValueError, naming it, for a parameter of a pooler that cannot be meant."""
    check_maps(maps)
    if storage not in STORAGE:
        raise ValueError(f"storage is {storage!r}; it is one of {', '.join(STORAGE)}")
