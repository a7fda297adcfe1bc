"""The map of an image: its size and scale, several scales, the pooling that is left out, what training draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.stages.features.conv_map import ConvMap, resized
from rcnn.stages.nets.backbones import load
from rcnn.stages.record import Record

IMAGE = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
PLAIN: dict[str, Any] = {"precision": "float32", "device": "cpu"}


def called(stage: ConvMap, image: Any = IMAGE) -> dict[str, Any]:
    stage.validate()
    return stage([Record("a", {"image": image})])[0]


@pytest.mark.parametrize(
    ("size", "found"),
    [((300, 500), (600, 1000)), ((300, 400), (600, 800)), ((100, 500), (200, 1000)), ((500, 100), (1000, 200))],
)
def test_the_shorter_side_unless_the_longer_is_above_its_cap(size: tuple[int, int], found: tuple[int, int]) -> None:
    assert resized(*size, 600, 1000) == found


def test_the_map_is_that_of_the_resized_image() -> None:
    found = called(ConvMap("shapenet", scales=(180,), longest=400, **PLAIN))
    net = load("shapenet", None, 0)
    pixels = net.normalise(torch.from_numpy(IMAGE).permute(2, 0, 1)[None])
    pixels = torch.nn.functional.interpolate(pixels, (180, 240), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found["map"], net.trunk(pixels)[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["map_scales"], [[2 / 8, 2 / 8]])  # twice as large, a cell for 8 pixels


def test_a_map_for_each_scale() -> None:
    stage = ConvMap("shapenet", scales=(64, 128), longest=300, **PLAIN)
    found = called(stage)
    assert list(found) == ["map.64", "map.128", "map_scales", "map_offset", "image_scales"] == list(stage.gives)
    np.testing.assert_allclose(found["image_scales"], [64 / 90, 128 / 90], rtol=1e-2)
    assert found["map.128"].shape[1:] == (16, 21)
    np.testing.assert_allclose(found["map_scales"][:, 1], [64 / 90 / 8, 128 / 90 / 8])


def test_the_first_cells_centre_is_the_nets_own() -> None:
    """Of shapenet's map cell 5 sees pixels 32 to 54 or so; a net of one pooling by 2 has its first cell at 0.5."""
    found = called(ConvMap("shapenet", scales=(90,), longest=400, **PLAIN))
    net = load("shapenet", None, 0)
    np.testing.assert_allclose(found["map_offset"], (np.array(net.first_centre) + 0.5) / net.stride)
    assert net.first_centre == (3.0, 3.0)  # two poolings by 2, at strides 2 and 4: 1 + 2


@pytest.mark.parametrize(("backbone", "side"), [("vgg11", 8), ("alexnet", 7), ("squeezenet1_1", 7)])
def test_the_last_pooling_is_left_out(backbone: str, side: int) -> None:
    found = called(ConvMap(backbone, scales=(128,), longest=200, **PLAIN), np.zeros((128, 128, 3), np.uint8))
    assert found["map"].shape[1:] == (side, side)
    assert found["map_scales"].tolist() == [[1 / 16, 1 / 16]]


def test_training_draws_one_of_the_scales() -> None:
    stage = ConvMap("shapenet", scales=(64, 96, 128), longest=300)
    net, generator = stage.module(None, {}, 2), torch.Generator().manual_seed(0)
    drawn = {stage.loss(net, {"image": IMAGE}, generator)[1]["map"].shape[1] for _ in range(20)}
    assert drawn == {8, 12, 16}
    assert not stage.constant(net)


def test_a_frozen_net_is_constant() -> None:
    assert ConvMap("shapenet", frozen=("all",)).constant(ConvMap("shapenet", frozen=("all",)).module(None, {}, 2))
    part = ConvMap("shapenet", frozen=("features.0",))
    assert not part.constant(net := part.module(None, {}, 2))
    assert [n for n, p in net.named_parameters() if not p.requires_grad] == [
        "trunk.features.0.weight",
        "trunk.features.0.bias",
    ]


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"scales": ()}, "scales is"),
        ({"scales": (600, 600)}, "scales is"),
        ({"scales": (600, 480)}, "scales is"),
        ({"scales": (600,), "longest": 500}, "longest is 500, under the shorter side 600"),
        ({"frozen": ("conv9",)}, "has no part 'conv9'"),
        ({"precision": "float8"}, "precision is"),
        ({"backbone": "vit_b_16"}, "gives no convolutional map"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ConvMap(**{"backbone": "shapenet", **params}).validate()


@pytest.mark.parametrize("shape", [(1, 900), (700, 2), (3, 3)])
@pytest.mark.parametrize("backbone", ["alexnet", "squeezenet1_1", "inception_v3"])
def test_any_aspect_has_a_map(backbone: str, shape: tuple[int, int]) -> None:
    found = called(ConvMap(backbone, scales=(100,), longest=300, **PLAIN), np.zeros((*shape, 3), np.uint8))
    assert min(found["map"].shape[1:]) >= 2
    assert torch.isfinite(found["map"]).all()
