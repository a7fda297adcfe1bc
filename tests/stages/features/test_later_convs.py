"""conv5 of a ResNet on pooled regions of its C4: the same net, cut in two."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.features.conv_map import ConvMap
from rcnn.stages.features.later_convs import LaterConvs
from rcnn.stages.nets.backbones import load
from rcnn.stages.record import Record

PLAIN: dict[str, Any] = {"precision": "float32", "device": "cpu"}


def test_both_halves_make_the_whole() -> None:
    """A box as large as the image, pooled to nothing but its own cells, goes through the net as the image would."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    c4 = ConvMap("resnet18", scales=(64,), until="layer3", **PLAIN)([Record("a", {"image": image})])[0]
    assert c4["map"].shape == (256, 4, 4)
    np.testing.assert_allclose(c4["map_scales"], [[1 / 16, 1 / 16]])
    stage = LaterConvs("resnet18", **PLAIN)
    (found,) = stage([Record("a", {"features.pool5": c4["map"].flatten()[None]})])
    net = load("resnet18", None, 0, ("gap",))
    with torch.no_grad():
        whole = net(net.normalise(torch.from_numpy(image).permute(2, 0, 1)[None]), ["gap"])["gap"]
    torch.testing.assert_close(found["features.conv5"], whole, rtol=1e-4, atol=1e-5)


def test_batches_are_the_same_and_training_as_use() -> None:
    features = torch.rand(7, 256 * 9)
    one = Record("a", {"features.pool5": features})
    whole = LaterConvs("resnet18", **PLAIN)([one])[0]["features.conv5"]
    parts = LaterConvs("resnet18", batch=2, **PLAIN)([one])[0]["features.conv5"]
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)
    stage = LaterConvs("resnet18", **PLAIN)
    net = stage.module(None, {}, 3)
    assert not [name for name, _ in net.named_parameters() if not name.startswith("trunk.layer4.")]
    net.train()
    learned = stage.loss(net, {"features.pool5": features}, torch.Generator())[1]["features.conv5"]
    torch.testing.assert_close(learned.detach(), whole, rtol=1e-5, atol=1e-5)
    learned.sum().backward()
    none = LaterConvs("resnet18", **PLAIN)([Record("a", {"features.pool5": features[:0]})])[0]["features.conv5"]
    assert none.shape == (0, 512)


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(UserError, match=r"image 'a': features\.pool5 has 100 values a region; resnet18 takes"):
        LaterConvs("resnet18", **PLAIN)([Record("a", {"features.pool5": torch.rand(2, 100)})])
    for params, why in (
        ({"behind": "layer9"}, "behind is 'layer9'; the parts of resnet50 are conv1, bn1"),
        ({"behind": "layer4"}, "behind is 'layer4', and no convolution of resnet50 follows"),
        ({"batch": 0}, "batch is 0"),
        ({"precision": "half"}, "precision is 'half'"),
    ):
        with pytest.raises(ValueError, match=why):
            LaterConvs(**params).validate()  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="until is 'layer9'"):
        ConvMap("resnet18", until="layer9").validate()
