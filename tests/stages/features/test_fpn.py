"""The levels of a pyramid: where they lie, torchvision's numbers, any backbone, any aspect."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch
from rcnn.stages.features.fpn import FPN, enlarged_size
from rcnn.stages.features.roi_align import RoIAlign
from rcnn.stages.nets.backbones import level_parts
from rcnn.stages.record import Record
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign

SMALL: dict[str, Any] = {"size": 64, "longest": 128, "precision": "float32", "device": "cpu"}


def record(height: int = 50, width: int = 80, **fields: Any) -> Record:
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)
    return Record("a", {"image": image, "size": np.array([height, width]), **fields})


@pytest.mark.parametrize("size", [(50, 80), (480, 640), (427, 640), (333, 500), (1, 9), (3000, 40)])
def test_an_image_is_as_large_as_torchvision_makes_it(size: tuple[int, int]) -> None:
    transform = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3)
    resized, _ = transform.resize(torch.zeros(3, *size))
    assert enlarged_size(*size, 800, 1333) == tuple(resized.shape[1:])


def test_levels_and_where_they_lie() -> None:
    stage = FPN("shapenet", channels=8, **SMALL)
    (found,) = stage([record()])
    assert list(found) == list(stage.gives)
    assert {name: tuple(found[name].shape) for name in stage.maps()} == {  # 64 x 102, padded to 64 x 128
        "map.p2": (8, 16, 32), "map.p3": (8, 8, 16), "map.p4": (8, 4, 8), "map.p5": (8, 2, 4), "map.p6": (8, 1, 2),
    }  # fmt: skip
    by = np.array([102 / 80, 64 / 50])
    np.testing.assert_allclose(found["map_scales"], by / np.array([[4], [8], [16], [32], [64]]), rtol=1e-6)
    np.testing.assert_allclose(found["image_scales"], np.full(5, np.sqrt(by.prod())), rtol=1e-6)
    torch.testing.assert_close(found["map.p4"], found["map.p3"][:, ::2, ::2], rtol=0, atol=0)  # its last is C3


def test_the_maps_are_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d).eval()
    state = {f"body.trunk.{k[5:]}" if k.startswith("body.") else k: v for k, v in theirs.state_dict().items()}
    stage = FPN("resnet18", None, **SMALL)
    net = stage._load(state)
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        ours, found = net(image), theirs(image)
    for level, name in zip(range(2, 7), ("0", "1", "2", "3", "pool")):
        torch.testing.assert_close(ours[level], found[name], rtol=0, atol=0)


def test_boxes_are_pooled_from_their_level_as_torchvision() -> None:
    (maps,) = FPN("shapenet", channels=4, **{**SMALL, "size": 256, "longest": 512})([record(128, 200)])
    rng = np.random.default_rng(1)
    corner = rng.uniform(0, 60, (60, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(3, 140, (60, 2))], 1).astype(np.float32)
    names = ("map.p2", "map.p3", "map.p4", "map.p5")
    one = record(128, 200, boxes=boxes, **maps)
    ours = RoIAlign(3, names, aligned=False)([one])[0]["features.pool5"]
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 3, 2)
    seen = torch.from_numpy(boxes) * torch.tensor([400 / 200, 256 / 128]).repeat(2)
    features = OrderedDict((str(i), maps[name][None]) for i, name in enumerate(names))
    torch.testing.assert_close(ours, theirs(features, [seen], [(256, 400)]).flatten(1))
    fields = {**maps, "sampled_boxes": boxes}
    given = RoIAlign(3, names, aligned=False).loss(None, fields, torch.Generator())[1]
    torch.testing.assert_close(given["features.pool5"], ours)


@pytest.mark.parametrize("size", [(7, 200), (200, 7), (1, 1)])
def test_any_aspect(size: tuple[int, int]) -> None:
    (found,) = FPN("shapenet", channels=4, **SMALL)([record(*size)])
    assert all(min(found[name].shape) >= 1 for name in ("map.p2", "map.p6"))
    assert torch.isfinite(found["map.p6"]).all()


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnext101_32x8d", "mobilenet_v2", "mobilenet_v3_large",
                                  "squeezenet1_1", "vgg16", "alexnet"])  # fmt: skip
def test_levels_of_backbones(name: str) -> None:
    levels = level_parts(name)
    last = 5 if name.startswith(("res", "mobile")) else 4
    assert list(levels) == list(range(2, last + 1))
    FPN(name).validate()
    known = {
        "resnet50": ["layer1", "layer2", "layer3", "layer4"],
        "squeezenet1_1": ["features.4", "features.7", "features.12"],
    }
    if name in known:
        assert [part for part, _ in levels.values()] == known[name]


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2", "vgg11", "alexnet"])
def test_backbones_run(name: str) -> None:
    (found,) = FPN(name, channels=4, **SMALL)([record()])
    assert found["map.p2"].shape[1:] == (16, 32) if name not in ("squeezenet1_1", "alexnet") else (15, 31)
    assert all(torch.isfinite(found[f"map.p{level}"]).all() for level in range(2, 7))


def test_what_cannot_be_had_is_said() -> None:
    for params, why in (
        ({"backbone": "densenet121"}, "levels 2 to 6 of densenet121 cannot be had; it has C5"),
        ({"lowest": 5, "highest": 4}, "levels 5 to 4"),
        ({"size": 8}, "size is 8"),
        ({"channels": 0}, "channels is 0"),
        ({"precision": "half"}, "precision is 'half'"),
        ({"frozen": ("layer9",)}, "has no part 'layer9'"),
    ):
        with pytest.raises(ValueError, match=why):
            FPN(**params).validate()  # type: ignore[arg-type]
