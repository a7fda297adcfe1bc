"""Where on the image the cells of a convolutional map lie."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

FIELD = 16  # sides of the image looked at, in strides


def first_centre(trunk: nn.Module, stride: int) -> tuple[float, float]:
    """The pixel (x, y) of its input on which the receptive field of a trunk's first cell is centred.

    The next cell's lies `stride` pixels further. Padding decides it: 0 where each layer pads by floor(kernel / 2), as
    SPPnet (appendix A) takes for granted; 15 of AlexNet and SqueezeNet, 7.5 of VGG.

    Found as the centre of what one cell in the middle depends on, in a copy whose kernels and pools weigh all they see
    alike; to half a pixel. Borders do not reach that cell unless the field is larger than 16 strides, and then hardly.
    """
    even = _evened(deepcopy(trunk).float().cpu().eval().requires_grad_(False))
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        image = torch.ones(1, 3, FIELD * stride, FIELD * stride, requires_grad=True)
        found = even(image)
        row, column = found.shape[2] // 2, found.shape[3] // 2
        mixed = found[0, :, row, column] @ torch.linspace(1, 2, found.shape[1])  # a plain sum may be constant
        (gradient,) = torch.autograd.grad(mixed, image)
    seen = gradient[0].abs().double().sum(0)  # H W
    places = torch.arange(FIELD * stride, dtype=torch.float64)
    x, y = (float((seen.sum(axis) * places).sum() / seen.sum()) for axis in (0, 1))
    return round(2 * (x - column * stride)) / 2, round(2 * (y - row * stride)) / 2


def _evened(trunk: nn.Module) -> nn.Module:
    """The same net, its kernels constant over space and its largest values means."""
    for name, part in list(trunk.named_children()):
        if isinstance(part, nn.MaxPool2d):
            even = nn.AvgPool2d(part.kernel_size, part.stride, part.padding, part.ceil_mode)
            setattr(trunk, name, even)
        else:
            _evened(part)
    if isinstance(trunk, nn.Conv2d):
        trunk.weight.copy_(trunk.weight.mean((2, 3), keepdim=True).expand_as(trunk.weight))
    return trunk
