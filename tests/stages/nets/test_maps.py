"""Levels by the FPN paper's rule and torchvision's, what a net saw of an image, names of maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rcnn.stages.nets.maps import check_maps, levels_of, pyramid_level, seen
from torchvision.ops.poolers import LevelMapper


def test_levels_by_the_papers_rule() -> None:
    """k = floor(4 + log2(sqrt(wh) / 224)), kept in [2, 5] (FPN, equation 1)."""
    sides = np.array([1, 55, 56, 111, 112, 223, 224, 447, 448, 2000], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], 1)
    assert pyramid_level(boxes, 1.0, 2, 5).tolist() == [2, 2, 2, 2, 3, 3, 4, 4, 5, 5]
    assert pyramid_level(boxes, 2.0, 2, 5).tolist() == [2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
    assert pyramid_level(boxes, 1.0, 3, 4).tolist() == [3, 3, 3, 3, 3, 3, 4, 4, 4, 4]
    oblong = np.array([[0, 0, 448, 112], [10, 10, 10, 90]], np.float32)  # the area counts; one has none
    assert pyramid_level(oblong, 1.0, 2, 5).tolist() == [4, 2]


def test_levels_are_torchvisions() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([np.zeros((500, 2)), rng.uniform(1, 900, (500, 2))], 1).astype(np.float32)
    theirs = LevelMapper(2, 5)([torch.from_numpy(boxes)]) + 2
    np.testing.assert_array_equal(pyramid_level(boxes, 1.0, 2, 5), theirs.numpy())


def test_what_a_net_saw() -> None:
    fields = {"map_scales": np.array([[600 / 403 / 16, 596 / 400 / 16]], np.float32),
              "image_scales": np.array([np.sqrt(600 / 403 * 596 / 400)], np.float32)}  # fmt: skip
    found = seen(fields, (400, 403))
    assert found.size == (596, 600)
    assert found.strides.tolist() == [16]
    np.testing.assert_allclose(found.enlarged, [[600 / 403, 596 / 400]], rtol=1e-6)


@pytest.mark.parametrize("maps", [("map",), ("map.480", "map.600"), ("map.p2",), ("map.p3", "map.p4", "map.p5")])
def test_names_that_can_be_maps(maps: tuple[str, ...]) -> None:
    check_maps(maps)
    assert levels_of(maps) == [int(name[5:]) for name in maps if ".p" in name]


@pytest.mark.parametrize("maps", [(), ("map.p3", "map.p2"), ("map.p2", "map.p4"), ("map.p2", "map.600"), ("map.px",),
                                  ("map", "map.p2"), ("image",)])  # fmt: skip
def test_names_that_cannot(maps: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="maps is"):
        check_maps(maps)
