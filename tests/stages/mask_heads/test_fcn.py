"""The mask head: what its losses are, whose masks it gives, and what of the RoIs it learns from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.mask_heads.fcn import MaskHead
from rcnn.stages.masks import TruthMasks, encode
from rcnn.stages.record import Record
from rcnn.stages.stage import Ref

K, GRID, CHANNELS = 3, 4, 5
PLAIN: dict[str, Any] = {"grid": GRID, "convs": 1, "width": 6, "precision": "float32", "device": "cpu"}
LIKE = {"features.pool5": torch.zeros(2, CHANNELS * GRID**2)}


def scene() -> dict[str, Any]:
    """Five RoIs, three of them of two objects."""
    bitmaps = np.zeros((2, 60, 80), bool)
    bitmaps[0, 10:50, 5:40], bitmaps[1, 20:40, 50:75] = True, True
    return {
        "truth_masks": TruthMasks([encode(bitmap) for bitmap in bitmaps]),
        "sampled_boxes": np.array([[0, 0, 44, 52], [60, 0, 80, 9], [48, 16, 80, 44], [8, 12, 40, 44], [0, 50, 9, 60]],
                                  np.float32),
        "roi_labels": np.array([2, 0, 3, 2, 0]),
        "roi_objects": np.array([0, -1, 1, 0, -1]),
        "features.pool5": torch.rand(5, CHANNELS * GRID**2, generator=torch.Generator().manual_seed(0)),
    }  # fmt: skip


def made(**params: Any) -> tuple[MaskHead, Any]:
    stage = MaskHead(Ref("training"), **{**PLAIN, **params})
    net = stage.module(None, LIKE, K)
    with torch.no_grad():
        net.masks.bias.normal_(generator=torch.Generator().manual_seed(1))
    return stage, net


def targets(fields: dict[str, Any], size: int) -> Any:
    there = fields["roi_labels"] > 0
    return fields["truth_masks"].targets(fields["roi_objects"][there], fields["sampled_boxes"][there], size)


def test_the_loss_is_of_the_true_class_alone() -> None:
    stage, net = made()
    fields = scene()
    with torch.no_grad():
        logits = net(fields["features.pool5"][[0, 2, 3]].reshape(3, CHANNELS, GRID, GRID)).double().numpy()
    odds = 1 / (1 + np.exp(-logits[[0, 1, 2], [1, 2, 1]]))
    wanted = targets(fields, 2 * GRID)
    assert 0 < wanted.mean() < 1
    plain = -np.mean(np.where(wanted, np.log(odds), np.log(1 - odds)))
    loss = stage.loss(net, fields, torch.Generator())[0]["mask"]
    assert float(loss.detach()) == pytest.approx(plain, rel=1e-5)
    loss.backward()
    assert float(net.masks.bias.grad[0]) == 0  # no RoI is of class 1
    assert (net.masks.bias.grad[1:] != 0).all()


def test_features_of_any_size_begin_alike() -> None:
    """A net's features may be a hundred times as large as another's, and its classes one or many."""
    spreads = []
    for size, classes in ((0.01, 1), (100.0, 1), (100.0, 40)):
        features = size * torch.rand(8, CHANNELS * GRID**2, generator=torch.Generator().manual_seed(0))
        stage = MaskHead(Ref("training"), **{**PLAIN, "width": 64})
        net = stage.module(None, {"features.pool5": features}, classes)
        assert float((features * net.scale).square().mean().sqrt()) == pytest.approx(3, rel=1e-3)
        spreads.append(float(net(features.reshape(8, CHANNELS, GRID, GRID)).detach().std()))
    assert spreads[0] == pytest.approx(spreads[1], rel=1e-3)
    assert all(0.1 < spread < 5 for spread in spreads)
    bare = MaskHead(Ref("training"), norm=None, **PLAIN).module(None, {"features.pool5": features}, K)
    assert float(bare.scale) == 1


def test_the_softmax_is_over_classes_and_background() -> None:
    stage, net = made(scores="softmax")
    fields = scene()
    with torch.no_grad():
        logits = net(fields["features.pool5"][[0, 2, 3]].reshape(3, CHANNELS, GRID, GRID)).double().numpy()
    assert logits.shape == (3, K + 1, 2 * GRID, 2 * GRID)
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    label = np.where(targets(fields, 2 * GRID), np.array([2, 3, 2])[:, None, None], 0)
    plain = -np.log(np.take_along_axis(odds, label[:, None], 1)).mean()
    loss = stage.loss(net, fields, torch.Generator())[0]["mask"]
    assert float(loss.detach()) == pytest.approx(plain, rel=1e-5)


def test_features_of_all_rois_or_of_objects_alone() -> None:
    stage, net = made()
    fields = scene()
    alone = {**fields, "features.pool5": fields["features.pool5"][[0, 2, 3]]}
    losses = [float(stage.loss(net, one, torch.Generator())[0]["mask"].detach()) for one in (fields, alone)]
    assert losses[0] == losses[1]


def test_without_objects_nothing_is_learned() -> None:
    stage, net = made()
    fields = {**scene(), "roi_labels": np.zeros(5, np.int64), "roi_objects": np.full(5, -1)}
    for features in (fields["features.pool5"], fields["features.pool5"][:0]):
        loss = stage.loss(net, {**fields, "features.pool5": features}, torch.Generator())[0]["mask"]
        loss.backward()
        assert float(loss.detach()) == 0
    assert all((one.grad == 0).all() for one in net.parameters())


@pytest.mark.parametrize("scores", ["sigmoid", "softmax"])
@pytest.mark.parametrize("agnostic", [False, True])
def test_each_detection_has_the_mask_of_its_class(scores: str, agnostic: bool) -> None:
    stage, net = made(scores=scores, agnostic=agnostic)
    stage.bind("weights", lambda: dict(net.state_dict()), "training")
    features = scene()["features.pool5"]
    labels = np.array([1, 3, 2, 2, 1])
    (found,) = stage([Record("a", {"features.pool5": features, "det_labels": labels})])
    with torch.no_grad():
        logits = net(features.reshape(5, CHANNELS, GRID, GRID))
    own = torch.zeros(5, dtype=torch.int64) if agnostic else torch.from_numpy(labels) - 1
    odds = logits.sigmoid()[range(5), own]
    if scores == "softmax":
        every = logits.softmax(1)  # 5 V m m
        others = torch.stack([one[torch.arange(len(one)) != i + 1].amax(0) for one, i in zip(every, own)])
        odds = every[range(5), own + 1] / (every[range(5), own + 1] + others)
        assert ((odds > 0.5) == (every.argmax(1) == own[:, None, None] + 1)).all()
    assert found["det_masks"].dtype == np.float32
    np.testing.assert_allclose(found["det_masks"], odds, rtol=1e-5, atol=1e-6)
    parts = stage.clone().set_params(batch=2)
    parts.bind("weights", lambda: dict(net.state_dict()), "training")
    (again,) = parts([Record("a", {"features.pool5": features, "det_labels": labels})])
    np.testing.assert_allclose(again["det_masks"], found["det_masks"], rtol=1e-5, atol=1e-6)


def test_labels_that_are_told_are_those_learned() -> None:
    """`kept`: a detector of three labels of which it tells the third and the first."""
    stage, net = made(kept=(3, 1))
    plain = MaskHead(Ref("training"), **PLAIN)
    for one in (stage, plain):
        one.bind("weights", lambda: dict(net.state_dict()), "training")
    features = scene()["features.pool5"][:2]
    (told,) = stage([Record("a", {"features.pool5": features, "det_labels": np.array([1, 2])})])
    (all_of_them,) = plain([Record("a", {"features.pool5": features, "det_labels": np.array([3, 1])})])
    assert np.array_equal(told["det_masks"], all_of_them["det_masks"])


def test_what_cannot_be_is_said() -> None:
    stage, net = made()
    stage.bind("weights", lambda: dict(net.state_dict()), "training")
    with pytest.raises(UserError, match=r"image 'a': features\.pool5 has 7 values a region, which are no maps"):
        stage([Record("a", {"features.pool5": torch.rand(1, 7), "det_labels": np.array([1])})])
    with pytest.raises(UserError, match="MaskHead has learned nothing"):
        MaskHead()([Record("a", {"features.pool5": torch.rand(1, 7), "det_labels": np.array([1])})])
    for params, why in (
        ({"grid": 0}, "grid is 0"),
        ({"convs": -1}, "convs is -1"),
        ({"scores": "odds"}, "scores is 'odds'; it is one of sigmoid, softmax"),
        ({"kept": (0,)}, r"kept is \[0\]"),
        ({"precision": "half"}, "precision is 'half'"),
    ):
        with pytest.raises(ValueError, match=why):
            MaskHead(**params).validate()  # type: ignore[arg-type]
