"""Later layers of a net from a cached earlier one, as R-CNN's released code derives fc7 from pool5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...errors import UserError
from ..nets.frozen import STORAGE, Frozen
from ..nets.member import Member
from ..nets.precision import PRECISIONS
from ..record import Record
from ..stage import Ref


class FCLayers(Frozen, Member):
    """fc6 and fc7 of AlexNet and VGG from features of an earlier layer.

    backbone, weights, random_state: those of the step that gave the source.
    source, layers: of the backbone; every layer lies behind the source.
    storage, precision, batch: as in WarpedCNN; batch None is 2048.
    dropout: of each layer where Jointly trains them; 0.5.
    svd: ranks to which fc6, or fc6 and fc7, are cut at use, by truncated SVD (Fast R-CNN, section 4.4: 1024 and 256);
        none leaves them as they are.

    Reads features.SOURCE (R F), writes features.LAYER (R F), on the device. UserError if a
    feature overflows the storage.
    """

    version: ClassVar[int] = 2  # 2: batches of 2048
    at_use: ClassVar[tuple[str, ...]] = ("svd", "storage", "precision", "batch")

    def __init__(self, backbone: str = "alexnet", weights: str | Ref | None = None, source: str = "pool5",
                 layers: Sequence[str] = ("fc7",), storage: str = "float16", precision: str = "auto",
                 batch: int | None = None, dropout: float = 0.5, svd: Sequence[int] = (), device: str = "auto",
                 random_state: int = 0):  # fmt: skip
        self.backbone = backbone
        self.weights = weights
        self.source = source
        self.layers = layers
        self.storage = storage
        self.precision = precision
        self.batch = batch
        self.dropout = dropout  # Krizhevsky et al. 2012, section 4.2
        self.svd = svd
        self.device = device
        self.random_state = random_state

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"features.{self.source}",)

    def validate(self) -> None:
        from ..nets.backbones import after, check, refuse_layers
        from ..nets.layers import check_svd

        check(self.backbone)
        refuse_layers(f"{self.source} of {self.backbone}", self.layers, after(self.backbone, self.source)[1:])
        for name, known in {"storage": STORAGE, "precision": PRECISIONS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(known)}")
        check_svd(self.svd, len(self._used()))
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it is in [0, 1)")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it is at least 1")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        net = self.net()
        return [self._features(net, record) for record in records]

    def trimmed(self, net: Any) -> Any:
        from ..nets.layers import truncated

        for name, rank in zip(self._used(), self.svd):
            net.head[name] = truncated(net.head[name], rank)
        return net

    def _used(self) -> tuple[str, ...]:
        """The layers that are computed: from behind the source to the last that is asked for."""
        from ..nets.backbones import after

        chain = after(self.backbone, self.source)
        return chain[1 : 1 + max(map(chain.index, self.layers))]

    def module(self, weights: Any, like: Mapping[str, Any], classes: int) -> Any:
        return self._of(weights)

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        from ..nets.layers import dropped

        source = fields[f"features.{self.source}"]  # R F
        if source.shape[1] != net.lengths[self.source]:
            raise UserError(f"features.{self.source} has {source.shape[1]} values a region, "
                            f"{self.backbone} takes {net.lengths[self.source]}")  # fmt: skip
        masks = {layer: dropped(source.new_ones(len(source), net.lengths[layer]), self.dropout, generator)
                 for layer in net.head}  # fmt: skip
        later = net.from_layer(self.source, source, self.layers, masks)
        return {}, {f"features.{layer}": values for layer, values in later.items()}

    def _load(self) -> Any:
        return self._of(self.given("weights"))

    def _of(self, weights: Any) -> Any:
        from ..nets.backbones import load

        return load(self.backbone, weights, self.random_state, self.layers, trunk=False)

    def _features(self, net: Any, record: Record) -> dict[str, Any]:
        import torch

        source = torch.as_tensor(record[f"features.{self.source}"])  # R F
        if source.shape[1] != net.lengths[self.source]:
            raise UserError(f"image {record.id!r}: features.{self.source} has {source.shape[1]} values "
                            f"a region, {self.backbone} takes {net.lengths[self.source]}")  # fmt: skip
        param, dtype = next(net.parameters()), getattr(torch, self.storage)
        found = {layer: torch.empty(len(source), net.lengths[layer], dtype=dtype, device=param.device)
                 for layer in self.layers}  # fmt: skip

        def rows(part: slice) -> None:
            with torch.no_grad():
                later = net.from_layer(self.source, source[part].to(param.device, param.dtype), self.layers)
            for layer, features in later.items():
                found[layer][part] = features  # n F

        self.batched(rows, len(source), 2048, "rows")
        return {f"features.{layer}": self.finite(values, layer, record.id) for layer, values in found.items()}
