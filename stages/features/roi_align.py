"""RoIAlign: bilinear samples of the map in each bin of a box, without any rounding (He et al., Mask R-CNN, 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .pooling import Pooler, check_pooler


class RoIAlign(Pooler):
    """Features of each box by RoIAlign (section 3), torchvision's operator.

    grid: bins a side; 7 (section 3: for the box head).
    maps: the fields to read: all that ConvMap gives, each box taking the one on which its area is nearest to 224 x 224
        (SPPnet, section 4.1); or levels map.p2, map.p3 .. of FPN, each box taking its own (FPN, section 4.2).
    sampling: points a side of each bin, whose mean it is; 2 (section 3: four). 0: as many as the bin has cells.
    aligned: whether cell i covers the pixels from stride * i to stride * (i + 1), its value lying in their middle; in
        torchvision's detectors (False) the value lies on pixel stride * i.
    storage: "float16", "float32", or "map", the type of the map.

    Reads boxes, the maps, map_scales and, with several maps, image_scales; writes features.pool5 (R C*grid*grid), on
    the maps' device.
    """

    def __init__(self, grid: int = 7, maps: Sequence[str] = ("map",), sampling: int = 2, aligned: bool = True,
                 storage: str = "map"):  # fmt: skip
        self.grid = grid
        self.maps = maps
        self.sampling = sampling
        self.aligned = aligned
        self.storage = storage

    def validate(self) -> None:
        if self.grid < 1:
            raise ValueError(f"grid is {self.grid}; it is at least 1")
        if self.sampling < 0:
            raise ValueError(f"sampling is {self.sampling}; it is at least 0")
        check_pooler(self.maps, self.storage)

    def prepare(self) -> None:
        """Nothing: the operator is compiled."""

    def _cells(self, boxes: Any, scale: Any, fields: Mapping[str, Any]) -> Any:
        return boxes * np.tile(np.asarray(scale, np.float32), 2)

    def _pool(self, features: Any, boxes: Any) -> Any:
        return self._learn(features.float(), boxes).to(features.dtype)

    def _learn(self, features: Any, boxes: Any) -> Any:
        import torch
        from torchvision.ops import roi_align

        at = torch.from_numpy(boxes).to(features.device)
        return roi_align(features[None], [at], self.grid, 1.0, self.sampling or -1, self.aligned)  # n C g g
