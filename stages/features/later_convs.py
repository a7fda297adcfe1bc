"""The last convolutions of a net on the pooled map of each region (He et al., ResNet, CVPR 2016, appendix A)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...errors import UserError
from ..nets.frozen import built
from ..nets.memory import in_batches
from ..nets.trained import BackboneMember
from ..record import Record
from ..stage import Ref


class LaterConvs(BackboneMember):
    """What follows a part of a backbone's trunk, on regions; then the mean over space.

    backbone, weights, random_state: as nets.backbones.load takes them; weights may be a Ref.
    behind: the part of the trunk that gave the map; "layer3" of a ResNet, whose conv5 then follows.
    frozen: names, below the backbone's trunk, of parts that training leaves as they are; "all" for all of it.
    spatial: whether the maps are given too, before their mean: a mask head reads them (Mask R-CNN, figure 4, left).
    batch: regions at once; 128.
    precision: "bfloat16" or "float32"; "auto" is bfloat16 where the device computes in it.
    device: "auto", "cpu", "cuda" or "cuda:N".

    Reads features.pool5 (R C*grid*grid), writes features.conv5 (R F) and, if spatial, features.conv5_map
    (R F*g*g), on the device.
    """

    needs = ("features.pool5",)
    speed: ClassVar[tuple[str, ...]] = ("batch", "device")
    at_use: ClassVar[tuple[str, ...]] = ("precision", "batch")

    def __init__(self, backbone: str = "resnet50", weights: str | Ref | None = None, behind: str = "layer3",
                 frozen: Sequence[str] = (), spatial: bool = False, batch: int = 128, precision: str = "auto",
                 device: str = "auto", random_state: int = 0):  # fmt: skip
        self.backbone = backbone
        self.weights = weights
        self.behind = behind
        self.frozen = frozen
        self.spatial = spatial
        self.batch = batch
        self.precision = precision
        self.device = device
        self.random_state = random_state

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("features.conv5", *(("features.conv5_map",) if self.spatial else ()))

    def validate(self) -> None:
        from ..nets.backbones import check_until, parts_of, trunk_names

        super().validate()
        check_until(self.backbone, "behind", self.behind)
        parts = list(parts_of(self.backbone))
        later = tuple(f"{part}." for part in parts[parts.index(self.behind) + 1 :])
        if not any(name.startswith(later) for name in trunk_names(self.backbone)):
            raise ValueError(f"behind is {self.behind!r}, and no convolution of {self.backbone} follows")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; it is at least 1")

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        maps = net.trunk(self._maps(fields["features.pool5"], ""))
        given = {"features.conv5": maps.mean((2, 3)).float(), "features.conv5_map": maps.flatten(1).float()}
        return {}, {name: given[name] for name in self.gives}

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        net = built(self, self._load)
        return [self._features(net, record) for record in records]

    def _features(self, net: Any, record: Record) -> dict[str, Any]:
        import torch

        param = next(net.trunk.parameters())
        maps = self._maps(torch.as_tensor(record["features.pool5"]), f"image {record.id!r}: ")
        found: dict[str, Any] = {}

        def rows(part: slice) -> None:
            with torch.no_grad():
                own = maps[part].to(param, memory_format=torch.channels_last)
                later = net.trunk(own)
            made = {"features.conv5": later.mean((2, 3)), "features.conv5_map": later.flatten(1)}
            for name in self.gives:
                if name not in found:
                    found[name] = torch.empty(len(maps), made[name].shape[1], dtype=param.dtype, device=param.device)
                found[name][part] = made[name]

        if not len(maps):
            rows(slice(0, 0))
        in_batches(rows, len(maps), self.batch, "regions")
        return found

    def _maps(self, features: Any, where: str) -> Any:
        """R C g g of features (R C*g*g). UserError, beginning with `where`, if they are no square maps of C."""
        from ..nets.backbones import parts_of

        channels = parts_of(self.backbone)[self.behind][1]
        grid = round((features.shape[1] / channels) ** 0.5)
        if channels * grid**2 != features.shape[1]:
            raise UserError(f"{where}features.pool5 has {features.shape[1]} values a region; {self.backbone} takes "
                            f"square maps of {channels} channels behind {self.behind}")  # fmt: skip
        return features.unflatten(1, (channels, grid, grid))

    def _load(self, weights: Any) -> Any:
        from ..nets.backbones import load

        return load(self.backbone, weights, self.random_state, ("pool5",), behind=self.behind)
