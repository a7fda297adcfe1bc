"""Where on the image the cells of a convolutional map lie."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

FIELD = 16  # sides of the image looked at, in strides
POOLING = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")  # of a max pooling, in order
AVERAGED = ("kernel_size", "stride", "padding", "ceil_mode")
FAINT = 1e-16  # so that what a residual net doubles block by block stays small
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def first_centre(trunk: nn.Module, stride: int) -> tuple[float, float]:
    """The pixel (x, y) of its input on which the receptive field of a trunk's first cell is centred.

    The next cell's lies `stride` pixels further. Padding decides it: 0 where each layer pads by floor(kernel / 2), as
    SPPnet (appendix A) takes for granted; 15 of AlexNet and SqueezeNet, 7.5 of VGG.

    Found as the centre of what a cell in the middle depends on, to half a pixel, in a copy without norms whose kernels
    see their middle alone, its largest values made means, of a faint image: no ReLU hides anything, no gate moves, and
    no border is near.
    """
    even = _evened(deepcopy(trunk).float().cpu().eval().requires_grad_(False))
    with torch.enable_grad(), torch.autocast("cpu", enabled=False), Means():
        image = torch.full((1, 3, FIELD * stride, FIELD * stride), FAINT, requires_grad=True)
        found = even(image)
        row, column = found.shape[2] // 2, found.shape[3] // 2
        mixed = found[0, :, row, column] @ torch.linspace(1, 2, found.shape[1])  # a plain sum may be constant
        (gradient,) = torch.autograd.grad(mixed, image)
    seen = gradient[0].abs().double().sum(0)  # H W
    places = torch.arange(FIELD * stride, dtype=torch.float64)
    x, y = (float((seen.sum(axis) * places).sum() / seen.sum()) for axis in (0, 1))
    return round(2 * (x - column * stride)) / 2, round(2 * (y - row * stride)) / 2


def _evened(trunk: nn.Module) -> nn.Module:
    """The same net without norms; its kernels are means over channels, and over space those of their middle."""
    for name, part in list(trunk.named_children()):
        if isinstance(part, NORMS):
            setattr(trunk, name, nn.Identity())
        else:
            _evened(part)
    if isinstance(trunk, nn.Conv2d):
        rows, columns = (_middle(side) for side in trunk.kernel_size)
        mean = trunk.weight.mean((2, 3), keepdim=True).abs()
        mean[mean.sum((1, 2, 3)) == 0] = 1.0  # a filter that training has left all zero, as MobileNetV2's have
        even = mean * rows[:, None] * columns
        trunk.weight.copy_(even / even.sum((1, 2, 3), keepdim=True))
        if trunk.bias is not None:
            trunk.bias.zero_()
    return trunk


class Means(TorchFunctionMode):
    """Within it every max pooling is one of means, a module's and a function's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (F.max_pool2d, torch.max_pool2d):
            given = {**dict(zip(POOLING, args[1:])), **kwargs}
            given = {name: value for name, value in given.items() if name in AVERAGED and value is not None}
            return F.avg_pool2d(args[0], **given)
        return func(*args, **kwargs)


def _middle(side: int) -> Tensor:
    """1 for the middle of so many, or the two in the middle; else 0."""
    return torch.tensor([float(2 * i in (side - 2, side - 1, side)) for i in range(side)])
