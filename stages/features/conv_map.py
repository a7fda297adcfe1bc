"""The convolutional map of a whole image, at one or more scales (SPPnet, He et al. 2014; Fast R-CNN, Girshick 2015)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ..nets.crops import normalised
from ..nets.frozen import built
from ..nets.trained import BackboneMember
from ..record import Record
from ..stage import Ref

LEAST = 4  # cells that an image has at least, a side; AlexNet's first poolings fail below


def resized(height: int, width: int, shorter: int, longest: int) -> tuple[int, int]:
    """Height and width of an image made so large that neither side is above its bound, its shape kept."""
    scale = min(shorter / min(height, width), longest / max(height, width))
    return max(round(height * scale), 1), max(round(width * scale), 1)


class ConvMap(BackboneMember):
    """The map of an image: resized, then through the convolutional part of a backbone, once.

    backbone, weights, random_state: as nets.backbones.load takes them; weights may be a Ref. A max pooling that ends
        the convolutional part, as VGG's and AlexNet's, is left out: RoI pooling stands in its place (Fast R-CNN, 2.2).
    until: the part of the trunk whose map it is; None for the last. Of ResNets "layer3" is their C4 (He et al. 2016,
        appendix A), behind which LaterConvs goes on.
    scales: lengths of the shorter side in pixels, rising; one map for each. 600 (Fast R-CNN, section 4.1).
    longest: cap on the longer side; 1000 (section 5.2).
    frozen: names, below the backbone's trunk, of parts that training leaves as they are; "all" for all of it.
    precision: "bfloat16" or "float32"; "auto" is bfloat16 where the device computes in it.
    device: "auto", "cpu", "cuda" or "cuda:N".

    Reads image; writes `map` (C h w), or `map.SCALE` for each of several scales, on the device, map_scales (S 2):
    columns and rows of each map to a pixel of the image, map_offset (2): columns and rows from the image's corner to
    the centre of a map's first cell, and image_scales (S): how much the image was enlarged. In training one of the
    scales is drawn for each image.
    """

    needs = ("image",)
    version: ClassVar[int] = 2  # 2: what is a few cells wide is padded

    def __init__(self, backbone: str = "vgg16", weights: str | Ref | None = None, scales: Sequence[int] = (600,),
                 longest: int = 1000, frozen: Sequence[str] = (), precision: str = "auto", device: str = "auto",
                 until: str | None = None, random_state: int = 0):  # fmt: skip
        self.backbone = backbone
        self.weights = weights
        self.scales = scales
        self.longest = longest
        self.frozen = frozen
        self.precision = precision
        self.device = device
        self.until = until
        self.random_state = random_state

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*self.maps(), "map_scales", "map_offset", "image_scales")

    def maps(self) -> tuple[str, ...]:
        """The fields of the maps, in the order of `scales`."""
        return ("map",) if len(self.scales) == 1 else tuple(f"map.{scale}" for scale in self.scales)

    def validate(self) -> None:
        from ..nets.backbones import check_until

        super().validate()
        if not self.scales or sorted(set(self.scales)) != list(self.scales) or self.scales[0] < 16:
            raise ValueError(f"scales is {list(self.scales)}; it holds lengths of 16 pixels or more, rising")
        if self.longest < max(self.scales):
            raise ValueError(f"longest is {self.longest}, under the shorter side {max(self.scales)}")
        check_until(self.backbone, "until", self.until)

    def constant(self, net: Any) -> bool:
        return len(self.scales) == 1 and not any(parameter.requires_grad for parameter in net.parameters())

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        at = int(torch.randint(len(self.scales), (1,), generator=generator)) if len(self.scales) > 1 else 0
        device, dtype = next(net.parameters()).device, torch.float32
        maps, scale = self._map(net, fields["image"], self.scales[at], device, dtype)
        cells = np.array([scale], np.float32)
        return {}, {"map": maps, "map_scales": cells, "map_offset": _offset(net), "image_scales": _enlarged(cells, net)}

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [self._maps(record["image"]) for record in records]

    def _maps(self, image: Any) -> dict[str, Any]:
        import torch

        net = built(self, self._load)
        param = next(net.parameters())
        with torch.no_grad():
            made = [self._map(net, image, scale, param.device, param.dtype) for scale in self.scales]
        found = {name: one for name, (one, _) in zip(self.maps(), made)}
        cells = np.array([scale for _, scale in made], np.float32)  # S 2
        return {**found, "map_scales": cells, "map_offset": _offset(net), "image_scales": _enlarged(cells, net)}

    def _map(self, net: Any, image: Any, shorter: int, device: Any, dtype: Any) -> tuple[Any, tuple[float, float]]:
        import torch

        height, width = resized(image.shape[0], image.shape[1], shorter, self.longest)
        pixels = normalised(image, net.mean, net.std, device).permute(2, 0, 1)[None]  # 1 3 H W
        pixels = torch.nn.functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False)
        least = LEAST * net.stride  # what an image lacks of it stays grey: a net's poolings need room
        pixels = torch.nn.functional.pad(pixels, (0, max(least - width, 0), 0, max(least - height, 0)))
        found = net.trunk(pixels.to(dtype, memory_format=torch.channels_last))[0]  # C h w
        return found, (width / image.shape[1] / net.stride, height / image.shape[0] / net.stride)

    def _load(self, weights: Any) -> Any:
        from ..nets.backbones import convolutional, load

        return convolutional(load(self.backbone, weights, self.random_state, ("pool5",), until=self.until))


def _enlarged(cells: Any, net: Any) -> Any:
    """How much the image was enlarged for each map (S), from its cells a pixel (S 2)."""
    return np.sqrt(cells.prod(1)) * np.float32(net.stride)


def _offset(net: Any) -> Any:
    """Of the first cell's centre, in cells; the middle of the first pixel lies at 0.5."""
    return (np.array(net.first_centre, np.float32) + np.float32(0.5)) / np.float32(net.stride)
