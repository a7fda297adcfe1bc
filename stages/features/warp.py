"""Warped crops through a convolutional net (Girshick et al. 2014, R-CNN, section 2.1 and appendix A)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..nets.crops import check as check_crops
from ..nets.crops import normalised, warp, windows
from ..nets.frozen import STORAGE, Frozen
from ..nets.precision import PRECISIONS
from ..record import Record
from ..stage import Ref


class WarpedCNN(Frozen):
    """Features of each box from its own crop, warped to the size that a net takes (R-CNN, section 2.1).

    backbone, weights, random_state, pool: as nets.backbones.load takes them; weights may be a Ref.
    layers: of the backbone, all from one forward.
    mode, padding, size: of the crop, as `windows` takes them; size None is the backbone's own.
    storage: "float16" or "float32", the features' type.
    precision: "bfloat16" or "float32", that of the net; "auto" is bfloat16 where the device computes in it.
    batch: crops in a forward, all of one image; None is 16 on a CPU (of 16, 32 and 64 the fastest in five
        nets of six), 256 on a GPU. What does not fit into memory is halved, with a warning.

    Reads image and boxes, writes features.LAYER (R F), on the device. UserError if a
    feature overflows the storage.
    """

    needs = ("image", "boxes")

    def __init__(self, backbone: str = "alexnet", weights: str | Ref | None = None,
                 layers: Sequence[str] = ("pool5",), mode: str = "warp", padding: int = 16,
                 size: int | None = None, pool: int = 6, storage: str = "float16", precision: str = "auto",
                 batch: int | None = None, device: str = "auto", random_state: int = 0):  # fmt: skip
        self.backbone = backbone
        self.weights = weights
        self.layers = layers  # the released code caches pool5
        self.mode = mode  # warp: appendix A
        self.padding = padding  # 16: appendix A
        self.size = size
        self.pool = pool
        self.storage = storage
        self.precision = precision
        self.batch = batch
        self.device = device
        self.random_state = random_state

    def validate(self) -> None:
        from ..nets.backbones import check, layers_of, refuse_layers

        check(self.backbone)
        refuse_layers(self.backbone, self.layers, layers_of(self.backbone))
        check_crops(self.mode, self.padding, self._side())
        for name, known in {"storage": STORAGE, "precision": PRECISIONS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(known)}")
        for name in ("pool", "batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        net = self.net()
        return [self._features(net, record) for record in records]

    def _side(self) -> int:
        from ..nets.backbones import input_size

        return self.size or input_size(self.backbone)

    def _features(self, net: Any, record: Record) -> dict[str, Any]:
        import torch

        param = next(net.parameters())
        boxes, image = _on_host(record["boxes"]), record["image"]
        found = {layer: torch.empty(len(boxes), net.lengths[layer], dtype=getattr(torch, self.storage),
                                    device=param.device) for layer in self.layers}  # fmt: skip
        if len(boxes):
            places = windows(boxes, image.shape[:2], self._side(), self.padding, self.mode)  # R 8
            self._forward(net, normalised(image, net.mean, net.std, param.device), places, param.dtype, found)
        return {f"features.{layer}": self.finite(values, layer, record.id) for layer, values in found.items()}

    def _forward(self, net: Any, image: Any, places: np.ndarray, dtype: Any, found: dict[str, Any]) -> None:
        import torch

        def crops(part: slice) -> None:
            taken = warp(image, places[part], self._side(), dtype)  # N 3 S S
            with torch.no_grad():
                for layer, features in net(taken, self.layers).items():
                    found[layer][part] = features  # N F

        self.batched(crops, len(places), 16 if image.device.type == "cpu" else 256, "crops")


def _on_host(boxes: Any) -> np.ndarray:
    return boxes.cpu().numpy() if hasattr(boxes, "cpu") else np.asarray(boxes)
