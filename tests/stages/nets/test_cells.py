"""Where the cells of a map lie: against the geometry of convolutions, summed up layer by layer."""

from __future__ import annotations

import pytest
import torch
from rcnn.stages.nets.backbones import convolutional, load
from rcnn.stages.nets.cells import first_centre
from torch import nn


@pytest.mark.parametrize(
    ("name", "centre"),
    [
        ("alexnet", 15.0),
        ("squeezenet1_1", 15.0),
        ("vgg11", 7.5),
        ("resnet18", 0.0),
        ("mobilenet_v2", 0.0),
        ("shapenet", 3.0),
        ("regnet_y_400mf", 0.0),  # gates
        ("inception_v3", 37.0),  # poolings by function: 1, 2 and 2 at the strides 1 and 2, 4 and 4, 8, 16
    ],
)
def test_centres_of_known_nets(name: str, centre: float) -> None:
    """AlexNet: (11 - 1) / 2 - 2, then poolings of 3 that do not pad: + 1 at stride 4, and + 1 at stride 8."""
    assert convolutional(load(name, None)).first_centre == (centre, centre)


def test_branches_axes_and_normalised_channels() -> None:
    """ConvNeXt's stem and its three downsamplings do not pad: 1.5, then 0.5 at the strides 4, 8 and 16."""
    assert load("convnext_tiny", None).first_centre == (15.5, 15.5)
    tall = nn.Sequential(nn.Conv2d(3, 4, (5, 3), stride=2, padding=(0, 1)), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert first_centre(tall, 4) == (1.0, 3.0)


def test_a_filter_of_nothing_but_zeros_hides_nothing() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4))
    with torch.no_grad():
        net[2].weight[1] = 0
    assert first_centre(net, 2) == (1.0, 1.0)


def test_the_net_stays_as_it_was() -> None:
    net = load("shapenet", None)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    first_centre(net.trunk, net.stride)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(one.requires_grad for one in net.parameters())
    assert [type(one) for one in net.trunk.modules() if isinstance(one, nn.AvgPool2d)] == []
