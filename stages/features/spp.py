"""Spatial pyramid pooling (He, Zhang, Ren, Sun: SPPnet, ECCV 2014, TPAMI 2015, section 2.2, 4.1 and appendix A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..nets.bins import bin_max, pyramid_bins, table_max
from .pooling import Pooler, check_pooler


class SpatialPyramidPool(Pooler):
    """Features of each box: the largest values in the bins of a pyramid of grids over its window on the map.

    levels: bins a side of each grid; 6, 3, 2, 1 (section 4.1: 50 bins).
    maps: the fields to read, all that ConvMap gives; of several each box takes the one on which its area is nearest to
        224 x 224 (SPPnet, section 4.1).
    storage: "float16", "float32", or "map", the type of the map.

    A window's cells are those whose centres lie inside the box (appendix A), at least one. The centres are the net's
    own (map_offset); the paper's pads are chosen so that cell i is centred on pixel stride * i.

    Reads boxes, the maps, map_scales, map_offset and, with several maps, image_scales; writes features.pool5 (R C*B),
    all channels' bins of the first level first, on the maps' device.
    """

    version: ClassVar[int] = 2  # 2: the net's own centres
    places: ClassVar[tuple[str, ...]] = ("map_scales", "map_offset")

    def __init__(self, levels: Sequence[int] = (6, 3, 2, 1), maps: Sequence[str] = ("map",),
                 storage: str = "float16"):  # fmt: skip
        self.levels = levels
        self.maps = maps
        self.storage = storage

    def validate(self) -> None:
        if not self.levels or min(self.levels) < 1:
            raise ValueError(f"levels is {list(self.levels)}; it holds the bins a side of one grid or more")
        check_pooler(self.maps, self.storage)

    def _cells(self, boxes: Any, scale: Any, fields: Mapping[str, Any]) -> Any:
        return np.asarray(boxes, np.float64) * np.tile(scale, 2) - np.tile(fields["map_offset"], 2)

    def _pool(self, features: Any, boxes: Any) -> Any:
        return self._by_level(bin_max(features, pyramid_bins(boxes, self.levels, features.shape[1:])))

    def _learn(self, features: Any, boxes: Any) -> Any:
        import torch

        bins = pyramid_bins(boxes, self.levels, features.shape[1:])
        return self._by_level(table_max(features, torch.from_numpy(bins).to(features.device)))

    def _by_level(self, pooled: Any) -> Any:
        """n B C -> n C*B, the first grid of all channels, then the second."""
        import torch

        grids = pooled.split([n * n for n in self.levels], 1)
        return torch.cat([grid.transpose(1, 2).flatten(1) for grid in grids], 1)
