"""Feature pyramid networks as modules (Lin et al., CVPR 2017); the pyramid itself is torchvision's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from .backbones import Backbone, children, level_parts


class Pyramid(nn.Module):
    """A backbone's trunk, and the top-down pathway on its levels: image (N 3 H W) -> level k -> map (N C h w).

    lowest, highest: levels that are given. Those above the backbone's last are its pyramid's last, every second cell of
    it (FPN, section 4.1: P6). channels: C.
    """

    def __init__(self, body: Backbone, lowest: int, highest: int, channels: int):
        super().__init__()
        parts = {level: part for level, part in level_parts(body.name).items() if lowest <= level <= highest}
        self.levels = {name: level for level, (name, _) in parts.items()}
        self.lowest, self.highest, self.last = lowest, highest, max(parts)
        self.body = body
        self.fpn = FeaturePyramidNetwork([length for _, length in parts.values()], channels)

    def forward(self, x: Tensor) -> dict[int, Tensor]:
        found: dict[str, Tensor] = {}
        for name, part in children(self.body.trunk):
            x = part(x)
            if name in self.levels:
                found[str(self.levels[name])] = x
            if len(found) == len(self.levels):
                break
        maps = {int(level): one for level, one in self.fpn(found).items()}
        for level in range(self.last + 1, self.highest + 1):
            maps[level] = F.max_pool2d(maps[level - 1], 1, 2)
        return maps


def check_levels(name: str, lowest: int, highest: int) -> None:
    """ValueError unless a pyramid of these levels stands on the backbone of this name."""
    known = level_parts(name)
    own = [level for level in known if lowest <= level <= highest]
    if lowest > highest or not own or own != list(range(lowest, own[-1] + 1)):
        has = ", ".join(f"C{level}" for level in known) or "none"
        raise ValueError(f"levels {lowest} to {highest} of {name} cannot be had; it has {has}")
