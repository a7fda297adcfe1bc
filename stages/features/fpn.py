"""A feature pyramid of a whole image (Lin, Dollar, Girshick, He, Hariharan, Belongie: FPN, CVPR 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..nets.crops import normalised
from ..nets.frozen import built
from ..nets.maps import level_names
from ..nets.trained import BackboneMember
from ..record import Record
from ..stage import Ref

MULTIPLE = 32  # of a side of the padded image, so that levels up to P5 halve exactly


def enlarged_size(height: int, width: int, shorter: int, longest: int) -> tuple[int, int]:
    """Height and width of an image made so large that neither side is above its bound, rounded down as torchvision."""
    scale = min(shorter / min(height, width), longest / max(height, width))
    return max(int(height * scale), 1), max(int(width * scale), 1)


class FPN(BackboneMember):
    """The levels of an image: resized and padded to multiples of 32, through a backbone, and top-down again.

    backbone, weights, random_state: as nets.backbones.load takes them; weights may be a Ref.
    size, longest: shorter side of the image in pixels, and cap on the longer one; 800 (FPN, section 5.1) and 1333.
    lowest, highest: levels given, P2 and P6 (section 4.1). Level k has a cell for 2^k pixels.
    channels: of each level; 256 (section 3).
    frozen: names, below the backbone's trunk, of parts that training leaves as they are; "all" for all of it.
    precision: "bfloat16" or "float32"; "auto" is bfloat16 where the device computes in it.
    device: "auto", "cpu", "cuda" or "cuda:N".

    Reads image; writes map.p2 (C h w) and so on, on the device, map_scales (S 2): columns and rows of each to a pixel
    of the image, and image_scales (S): how much the image was enlarged.
    """

    needs = ("image",)

    def __init__(self, backbone: str = "resnet50", weights: str | Ref | None = None, size: int = 800,
                 longest: int = 1333, lowest: int = 2, highest: int = 6, channels: int = 256,
                 frozen: Sequence[str] = (), precision: str = "auto", device: str = "auto",
                 random_state: int = 0):  # fmt: skip
        self.backbone = backbone
        self.weights = weights
        self.size = size
        self.longest = longest
        self.lowest = lowest
        self.highest = highest
        self.channels = channels
        self.frozen = frozen
        self.precision = precision
        self.device = device
        self.random_state = random_state

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*self.maps(), "map_scales", "image_scales")

    def maps(self) -> tuple[str, ...]:
        """The fields of the levels, the finest first."""
        return level_names(self.lowest, self.highest)

    def validate(self) -> None:
        from ..nets.pyramid import check_levels

        super().validate()
        check_levels(self.backbone, self.lowest, self.highest)
        if not 16 <= self.size <= self.longest:
            raise ValueError(f"size is {self.size}; it is in [16, longest], {self.longest}")
        if self.channels < 1:
            raise ValueError(f"channels is {self.channels}; it is at least 1")

    def constant(self, net: Any) -> bool:
        return not any(parameter.requires_grad for parameter in net.parameters())

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        return {}, self._levels(net, fields["image"], next(net.fpn.parameters()).device, torch.float32)

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        import torch

        net = built(self, self._load)
        param = next(net.fpn.parameters())
        with torch.no_grad():
            return [self._levels(net, record["image"], param.device, param.dtype) for record in records]

    def _levels(self, net: Any, image: Any, device: Any, dtype: Any) -> dict[str, Any]:
        import torch
        import torch.nn.functional as F

        height, width = enlarged_size(image.shape[0], image.shape[1], self.size, self.longest)
        pixels = normalised(image, net.body.mean, net.body.std, device).permute(2, 0, 1)[None]  # 1 3 H W
        pixels = F.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
        pixels = F.pad(pixels, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        maps = net(pixels.to(dtype, memory_format=torch.channels_last))
        by = np.array([[width / image.shape[1], height / image.shape[0]]])  # 1 2
        strides = 2.0 ** np.arange(self.lowest, self.highest + 1)  # S
        return {
            **{name: maps[level][0] for level, name in zip(range(self.lowest, self.highest + 1), self.maps())},
            "map_scales": (by / strides[:, None]).astype(np.float32),
            "image_scales": np.full(len(strides), np.sqrt(by.prod()), np.float32),
        }

    def _backbone(self, net: Any) -> Any:
        return net.body

    def _load(self, weights: Any) -> Any:
        """The net with the weights of a backbone, its pyramid new; or as a state of such a net has it."""
        import torch

        from ..nets.backbones import convolutional, load
        from ..nets.pyramid import Pyramid

        own = isinstance(weights, Mapping) and any(name.startswith("fpn.") for name in weights)
        body = load(self.backbone, None if own else weights, self.random_state, ("pool5",))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            net = Pyramid(convolutional(body), self.lowest, self.highest, self.channels)
        if own:
            net.load_state_dict({name: torch.as_tensor(value) for name, value in weights.items()})
        return net.eval()
