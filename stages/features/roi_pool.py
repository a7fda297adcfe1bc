"""RoI pooling: the largest value in each bin of a grid over a box on the shared map (Fast R-CNN, section 2.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..nets.bins import bin_max, roi_bins
from .pooling import Pooler, check_pooler


class RoIPool(Pooler):
    """Features of each box by RoI pooling.

    The rounding is that of the authors' Caffe layer and of torchvision.ops.roi_pool: both ends are rounded, the last
    cell is part of the box, a bin takes every cell that it touches. (Rounding to half-open ends, as some tutorials do,
    loses the last row and column.) As there, cell i stands for the pixels from stride * i on, wherever it is centred.

    grid: bins a side; 7 for VGG16, 6 for AlexNet (section 2.2).
    maps: the fields to read: all that ConvMap gives, each box taking the one on which its area is nearest to 224 x 224
        (SPPnet, section 4.1); or levels map.p2, map.p3 .. of FPN, each box taking its own (FPN, section 4.2).
    storage: "float16", "float32", or "map", the type of the map.
    objects: whether in training only RoIs that are objects are pooled, for a mask head.

    Reads boxes, the maps, map_scales and, with several maps, image_scales; writes features.pool5 (R C*grid*grid), on
    the maps' device.
    """

    def __init__(self, grid: int = 7, maps: Sequence[str] = ("map",), storage: str = "map", objects: bool = False):
        self.grid = grid
        self.maps = maps
        self.storage = storage
        self.objects = objects

    def validate(self) -> None:
        if self.grid < 1:
            raise ValueError(f"grid is {self.grid}; it is at least 1")
        check_pooler(self.maps, self.storage)

    def _cells(self, boxes: Any, scale: Any, fields: Mapping[str, Any]) -> Any:
        return (boxes - np.array([0, 0, 1, 1], np.float32)) * np.tile(np.asarray(scale, np.float32), 2)

    def _pool(self, features: Any, boxes: Any) -> Any:
        import torch
        from torchvision.ops import roi_pool

        if features.device.type != "cpu":
            at = torch.from_numpy(boxes).to(features.device)
            return roi_pool(features.float()[None], [at], self.grid, 1.0).to(features.dtype)  # n C g g
        return bin_max(features, roi_bins(boxes, self.grid, features.shape[1:])).transpose(1, 2)  # n C B

    def _learn(self, features: Any, boxes: Any) -> Any:
        import torch
        from torchvision.ops import roi_pool

        return roi_pool(features[None], [torch.from_numpy(boxes).to(features.device)], self.grid, 1.0)
