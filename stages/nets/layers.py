"""Fully connected layers, and the two heads of Fast R-CNN, as modules."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mean_scale(features: Tensor, norm: float) -> float:
    """What brings features (R F) to a mean L2 norm of `norm`; 1 if they are all zero."""
    mean = float(features.float().norm(dim=1).mean())
    return norm / mean if mean > 0 else 1.0


def dropped(features: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Features with a share of them set to 0, the others raised to match; the generator is the CPU's."""
    if not dropout:
        return features
    mask = (torch.rand(features.shape, generator=generator) >= dropout) / (1 - dropout)
    return features * mask.to(features)


SPARE = 64  # dimensions of the subspace beyond the rank


def truncated(layer: nn.Linear, rank: int) -> nn.Module:
    """A linear layer as two of `rank` values between them, by truncated SVD (Fast R-CNN, section 3.1).

    W (u v) becomes U (u t) and S V' (t v), and u v multiply-adds t (u + v); the layer stays where that is no less. The
    decomposition is a randomised one (Halko, Martinsson, Tropp 2011, algorithm 5.1, four rounds of subspace iteration
    from a fixed seed): a whole one of VGG16's fc6 takes minutes.
    """
    wide, long = layer.weight.shape
    if rank * (wide + long) >= wide * long:
        return layer
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        u, s, v = torch.svd_lowrank(layer.weight.float(), q=min(rank + SPARE, wide, long), niter=4)
    first, second = nn.Linear(long, rank, bias=False), nn.Linear(rank, wide)
    with torch.no_grad():
        first.weight.copy_((v[:, :rank] * s[:rank]).T)
        second.weight.copy_(u[:, :rank])
        second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


def check_svd(ranks: Sequence[int], layers: int) -> None:
    """ValueError unless there is no rank, or one of 1 or more for each of so many layers."""
    if ranks and (len(ranks) != layers or min(ranks) < 1):
        raise ValueError(f"svd is {list(ranks)}; it holds a rank for each of {layers} layers, or nothing")


class FCStack(nn.Module):
    """Linear layers with ReLU, behind a factor that scales what they read."""

    scale: Tensor

    def __init__(self, length: int, widths: Sequence[int]):
        super().__init__()
        layers = [nn.Linear(a, b) for a, b in pairwise((length, *widths))]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor, dropout: float = 0.0, generator: Any = None) -> Tensor:
        """R F -> R widths[-1]."""
        x = x.to(self.scale.dtype) * self.scale
        for layer in self.layers:
            x = dropped(F.relu(layer(x)), dropout, generator)
        return x


class TwoHeads(nn.Module):
    """Scores of K + 1 classes, background first, and deltas of K classes (Fast R-CNN, section 2).

    mean, std: of the deltas learned from, which the second head gives normalised.
    """

    scale: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, length: int, classes: int):
        super().__init__()
        self.scores, self.deltas = nn.Linear(length, classes + 1), nn.Linear(length, 4 * classes)
        for layer, std in ((self.scores, 0.01), (self.deltas, 0.001)):  # section 2.3: zero-mean Gaussians
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("std", torch.ones(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R K+1) and normalised deltas (R K 4) of features (R F)."""
        x = x.to(self.scale.dtype) * self.scale
        return self.scores(x).float(), self.deltas(x).float().unflatten(1, (-1, 4))


class RPNHead(nn.Module):
    """A 3 x 3 convolution with ReLU and two sibling 1 x 1 ones, for scores and deltas of anchors (Faster R-CNN, 3.1).

    anchors: A of a cell. values: that score one; 2 for a softmax (background first), 1 for a sigmoid. A factor scales
    what is read.
    """

    scale: Tensor

    def __init__(self, channels: int, width: int, anchors: int, values: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.scores, self.deltas = nn.Conv2d(width, anchors * values, 1), nn.Conv2d(width, anchors * 4, 1)
        self.values = values
        self.register_buffer("scale", torch.ones(()))
        for layer in (self.conv, self.scores, self.deltas):  # section 3.1.3: zero-mean Gaussians
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n values) and deltas (n 4) of the n = h w A anchors of a map (C h w), cell by cell."""
        hidden = F.relu(F.conv2d(maps[None], self.conv.weight * self.scale, self.conv.bias, padding=1))
        scores, deltas = (layer(hidden)[0].permute(1, 2, 0).float() for layer in (self.scores, self.deltas))  # h w -1
        return scores.reshape(-1, self.values), deltas.reshape(-1, 4)


class MaskNet(nn.Module):
    """Convolutions, an upsampling by 2, both with ReLU, and a mask for each of `values` (Mask R-CNN, figure 4).

    Weights begin as He et al.'s (2015): by the fan-out as in the authors' code, those of the masks by the fan-in, for
    those of one class alone would be large. A factor scales what is read.
    """

    scale: Tensor

    def __init__(self, channels: int, convs: int, width: int, values: int):
        super().__init__()
        widths = (channels, *[width] * convs)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.up = nn.ConvTranspose2d(widths[-1], width, 2, 2)
        self.masks = nn.Conv2d(width, values, 1)
        self.register_buffer("scale", torch.ones(()))
        for layer in (*self.convs, self.up, self.masks):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.kaiming_normal_(self.masks.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """n C g g -> logits n values 2g 2g."""
        x = x * self.scale
        for layer in self.convs:
            x = F.relu(layer(x))
        logits: Tensor = self.masks(F.relu(self.up(x)))
        return logits
