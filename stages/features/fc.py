"""Later layers of a net from a cached earlier one, as R-CNN's released code derives fc7 from pool5."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from ...errors import UserError
from ..nets.precision import device_of, precision_of
from ..record import Record
from ..stage import Ref, Stage, State


class FCLayers(Stage):
    """fc6 and fc7 of AlexNet and VGG from features of an earlier layer.

    backbone, weights, random_state: those of the step that gave the source.
    source, layers: of the backbone; every layer lies behind the source.
    storage, precision, batch: as in WarpedCNN; batch None is 512.

    Reads features.SOURCE (R F), writes features.LAYER (R F), on the device. UserError if a
    feature overflows the storage.
    """

    speed: ClassVar[tuple[str, ...]] = ("batch", "device")
    files: ClassVar[tuple[str, ...]] = ("weights",)
    arrays: ClassVar[str] = "torch"

    def __init__(self, backbone: str = "alexnet", weights: str | Ref | None = None, source: str = "pool5",
                 layers: Sequence[str] = ("fc7",), storage: str = "float16", precision: str = "auto",
                 batch: int | None = None, device: str = "auto", random_state: int = 0):  # fmt: skip
        self.backbone = backbone
        self.weights = weights
        self.source = source
        self.layers = layers
        self.storage = storage
        self.precision = precision
        self.batch = batch
        self.device = device
        self.random_state = random_state

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"features.{self.source}",)

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"features.{layer}" for layer in self.layers)

    def key_params(self) -> dict[str, Any]:
        return {**super().key_params(), "precision": precision_of(self.precision, self.device)}

    def validate(self) -> None:
        from ..nets.backbones import after, check, refuse_layers

        check(self.backbone)
        refuse_layers(f"{self.source} of {self.backbone}", self.layers, after(self.backbone, self.source)[1:])
        if self.storage not in ("float16", "float32"):
            raise ValueError(f"storage is {self.storage!r}; it is one of float16, float32")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        net = self.net()
        return [self._features(net, record) for record in records]

    def named(self, param: str) -> State:
        """The tensors of the weights that `weights` names."""
        from ..nets.backbones import load

        return load(self.backbone, self.weights, self.random_state, self.layers).state_dict()

    def net(self) -> Any:
        """The backbone as it is used. Built once for the same parameters; its trunk is not kept."""
        import torch
        from torch import nn

        from ..nets.backbones import load

        recipe = (
            self.backbone,
            self.weights,
            tuple(self.layers),
            self.precision,
            self.device,
            self.random_state,
        )
        weights = self.given("weights")
        built = self.__dict__.get("_built")
        if not built or built[0] != recipe or built[1] is not weights:
            net = load(self.backbone, weights, self.random_state, self.layers).requires_grad_(False)
            net.trunk = nn.Identity()
            net = net.to(device_of(self.device), getattr(torch, precision_of(self.precision, self.device)))
            self._built = built = (recipe, weights, net)
        return built[2]

    def _features(self, net: Any, record: Record) -> dict[str, Any]:
        import torch

        source = torch.as_tensor(record[f"features.{self.source}"])  # R F
        if source.shape[1] != net.lengths[self.source]:
            raise UserError(f"image {record.id!r}: features.{self.source} has {source.shape[1]} values "
                            f"a region, {self.backbone} takes {net.lengths[self.source]}")  # fmt: skip
        param = next(net.parameters())
        found: dict[str, list[Any]] = {layer: [] for layer in self.layers}
        for part in source.split(self.batch or 512):
            with torch.no_grad():
                later = net.from_layer(self.source, part.to(param.device, param.dtype), self.layers)
            for layer, features in later.items():
                found[layer].append(features.to(getattr(torch, self.storage)))
        return {f"features.{layer}": self._whole(parts, layer, record.id) for layer, parts in found.items()}

    def _whole(self, parts: list[Any], layer: str, id: str) -> Any:
        import torch

        features = torch.cat(parts)  # R F
        if not torch.isfinite(features).all():
            raise UserError(f"image {id!r}: {layer} of {self.backbone} is not finite in {self.storage}")
        return features
