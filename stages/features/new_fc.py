"""New fully connected layers on pooled features, for nets that bring none of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...errors import UserError
from ..nets.frozen import built
from ..nets.member import Member
from ..nets.precision import check_precision, precision_of
from ..record import Record
from ..stage import Ref


class NewFCLayers(Member):
    """Fully connected layers with ReLU, learned from scratch.

    weights: Ref of the Jointly that trains them.
    source: the features that the first layer reads.
    widths: of the layers; 1024 and 1024 (as in the FPN paper, section 4.2, for nets without fc layers).
    norm: mean L2 norm that the features are scaled to before the first layer; 20, as for the SVMs.
    dropout: in training; 0.
    svd: ranks to which the layers are cut at use, by truncated SVD; none, or one for each.
    precision: "bfloat16" or "float32"; "auto" is bfloat16 where the device computes in it.
    device: "auto", "cpu", "cuda" or "cuda:N". random_state: of the initial weights.

    Reads features.SOURCE (R F), writes features.fc (R widths[-1]), on the device.
    """

    gives = ("features.fc",)
    version: ClassVar[int] = 2  # 2: the scale of the features is not rounded
    speed: ClassVar[tuple[str, ...]] = ("device",)
    new: ClassVar[bool] = True
    at_use: ClassVar[tuple[str, ...]] = ("svd", "precision")

    def __init__(self, weights: Ref | None = None, source: str = "pool5", widths: Sequence[int] = (1024, 1024),
                 norm: float = 20.0, dropout: float = 0.0, svd: Sequence[int] = (), precision: str = "auto",
                 device: str = "auto", random_state: int = 0):  # fmt: skip
        self.weights = weights
        self.source = source
        self.widths = widths
        self.norm = norm
        self.dropout = dropout
        self.svd = svd
        self.precision = precision
        self.device = device
        self.random_state = random_state

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"features.{self.source}",)

    def key_params(self) -> dict[str, Any]:
        return {**super().key_params(), "precision": precision_of(self.precision, self.device)}

    def validate(self) -> None:
        from ..nets.layers import check_svd

        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths is {list(self.widths)}; it holds the width of one layer or more")
        check_svd(self.svd, len(self.widths))
        if not self.norm > 0:
            raise ValueError(f"norm is {self.norm}; it is above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it is in [0, 1)")
        check_precision(self.precision)

    def module(self, weights: Any, like: Mapping[str, Any], classes: int) -> Any:
        import torch

        from ..nets.layers import FCStack, mean_scale

        if weights:
            return self._filled(weights)
        features = like[self.needs[0]]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            net = FCStack(features.shape[1], self.widths)
        net.scale.fill_(mean_scale(features, self.norm))
        return net

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"features.fc": net(fields[self.needs[0]], self.dropout, generator)}

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        import torch

        if self.weights is None:
            raise UserError("NewFCLayers have learned nothing: a Jointly trains them, and weights is its Ref")
        net = built(self, self._made)
        with torch.no_grad():
            pooled = (torch.as_tensor(record[self.needs[0]]).to(net.scale.device) for record in records)
            return [{"features.fc": net(features)} for features in pooled]

    def _made(self, state: Any) -> Any:
        from ..nets.layers import truncated

        net = self._filled(state).requires_grad_(False)
        net.layers[0].weight.mul_(net.scale)  # alone it would be rounded with them, to bfloat16 say
        net.scale.fill_(1)
        for i, rank in enumerate(self.svd):
            net.layers[i] = truncated(net.layers[i], rank)
        return net

    def _filled(self, state: Any) -> Any:
        import torch

        from ..nets.layers import FCStack

        layers = [state[f"layers.{i}.weight"] for i in range(len(self.widths))]
        net = FCStack(layers[0].shape[1], [len(weight) for weight in layers])
        net.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
        return net
