"""RoIAlign: bilinear samples of the map in each bin of a box, without any rounding (He et al., Mask R-CNN, 2017).

And RoIWarp, which samples so in a box that is rounded first (Dai et al., Multi-task Network Cascades, CVPR 2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .pooling import Pooler, check_pooler

REDUCE = ("average", "max")


class RoIAlign(Pooler):
    """Features of each box by RoIAlign (section 3), torchvision's operator.

    The largest of a bin's samples (table 2c: max) is that of as many finer bins of one sample each.

    grid: bins a side; 7 (section 3: for the box head).
    maps: the fields to read: all that ConvMap gives, each box taking the one on which its area is nearest to 224 x 224
        (SPPnet, section 4.1); or levels map.p2, map.p3 .. of FPN, each box taking its own (FPN, section 4.2).
    sampling: points a side of each bin, whose mean it is; 2 (section 3: four). 0: as many as the bin has cells.
    aligned: whether cell i covers the pixels from stride * i to stride * (i + 1), its value lying in their middle; in
        torchvision's detectors (False) the value lies on pixel stride * i.
    reduce: "average" or "max" of the samples; "average" (section 3: there is no difference).
    storage: "float16", "float32", or "map", the type of the map.
    objects: whether in training only RoIs that are objects are pooled, for a mask head.

    Reads boxes, the maps, map_scales and, with several maps, image_scales; writes features.pool5 (R C*grid*grid), on
    the maps' device.
    """

    def __init__(self, grid: int = 7, maps: Sequence[str] = ("map",), sampling: int = 2, aligned: bool = True,
                 reduce: str = "average", storage: str = "map", objects: bool = False):  # fmt: skip
        self.grid = grid
        self.maps = maps
        self.sampling = sampling
        self.aligned = aligned
        self.reduce = reduce
        self.storage = storage
        self.objects = objects

    def validate(self) -> None:
        if self.grid < 1:
            raise ValueError(f"grid is {self.grid}; it is at least 1")
        if self.sampling < 0:
            raise ValueError(f"sampling is {self.sampling}; it is at least 0")
        if self.reduce not in REDUCE:
            raise ValueError(f"reduce is {self.reduce!r}; it is one of {', '.join(REDUCE)}")
        if self.reduce == "max" and not self.sampling:
            raise ValueError("sampling is 0, as many points as a bin has cells; for the max of them it is at least 1")
        check_pooler(self.maps, self.storage)

    def prepare(self) -> None:
        """Nothing: the operator is compiled."""

    def _cells(self, boxes: Any, scale: Any, fields: Mapping[str, Any]) -> Any:
        return boxes * np.tile(np.asarray(scale, np.float32), 2)

    def _pool(self, features: Any, boxes: Any) -> Any:
        return self._learn(features.float(), boxes).to(features.dtype)

    def _learn(self, features: Any, boxes: Any) -> Any:
        import torch
        import torch.nn.functional as F
        from torchvision.ops import roi_align

        at = torch.from_numpy(boxes).to(features.device)
        if self.reduce == "average":
            return roi_align(features[None], [at], self.grid, 1.0, self.sampling or -1, self.aligned)  # n C g g
        finer = roi_align(features[None], [at], self.grid * self.sampling, 1.0, 1, self.aligned)
        return F.max_pool2d(finer, self.sampling)  # n C g g


class RoIWarp(RoIAlign):
    """Features of each box by RoIWarp, as Mask R-CNN compares it (table 2c): RoIAlign on a box rounded as RoIPool's.

    Parameters, what is read and written: as RoIAlign's. With `aligned` the rounded box covers whole cells.
    """

    def _cells(self, boxes: Any, scale: Any, fields: Mapping[str, Any]) -> Any:
        first = np.floor(boxes[:, :2] * scale + 0.5)
        last = np.floor((boxes[:, 2:] - 1) * scale + 0.5)  # the last cell is part of the box
        return np.concatenate([first, np.maximum(last, first) + 1], 1).astype(np.float32)
