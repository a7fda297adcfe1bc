"""Later layers computed from cached ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.features.fc import FCLayers
from rcnn.stages.features.warp import WarpedCNN
from rcnn.stages.nets.backbones import load
from rcnn.stages.record import Record
from rcnn.stages.stage import Ref

COMMON = {"backbone": "alexnet", "weights": Ref("net"), "device": "cpu"}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return load("alexnet", random_state=1).state_dict()


@pytest.fixture(scope="module")
def image() -> Record:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    return Record("a", {"image": pixels, "boxes": np.array([[3, 3, 60, 80], [20, 0, 119, 50]], np.float32)})


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_equals_one_forward(weights: dict[str, torch.Tensor], image: Record, precision: str) -> None:
    whole = WarpedCNN(**COMMON, layers=("pool5", "fc6", "fc7"), storage="float32", precision=precision)
    later = FCLayers(**COMMON, layers=("fc6", "fc7"), storage="float32", precision=precision)
    for made in (whole, later):
        made.validate()
        made.bind("weights", lambda: weights, "key")
    (expected,) = whole([image])
    (found,) = later([image.add(expected).only(later.needs).add({})])
    assert set(found) == {"features.fc6", "features.fc7"}
    for name, features in found.items():
        assert features.abs().max() > 0
        torch.testing.assert_close(features, expected[name], rtol=1e-4, atol=1e-5)


def test_no_regions_numpy_and_a_wrong_length(weights: dict[str, torch.Tensor]) -> None:
    made = FCLayers(**COMMON)
    made.bind("weights", lambda: weights, "key")
    (fields,) = made([Record("a", {"features.pool5": np.zeros((0, 9216), np.float16)})])
    assert fields["features.fc7"].shape == (0, 4096)
    assert fields["features.fc7"].dtype == torch.float16
    with pytest.raises(UserError, match=r"'b'.*has 100 values a region, alexnet takes 9216"):
        made([Record("b", {"features.pool5": np.zeros((2, 100), np.float16)})])


@pytest.mark.parametrize(("params", "message"), [
    ({"backbone": "resnet18", "layers": ("gap",)}, "gap"),
    ({"layers": ("pool5",)}, "pool5"),
    ({"source": "fc7", "layers": ("fc6",)}, "fc6"),
    ({"source": "fc5"}, "fc5"),
    ({"storage": "int8"}, "storage"),
])  # fmt: skip
def test_parameters_that_cannot_be_meant(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FCLayers(**params).validate()
