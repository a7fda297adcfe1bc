"""The sibling heads: probabilities, deltas in pixels' terms again, and the multi-task loss by its formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.classifiers.softmax_head import SoftmaxHead
from rcnn.stages.record import Record
from rcnn.stages.stage import Ref

K = 3
MEAN, STD = np.array([0.1, -0.2, 0.3, 0.0], np.float32), np.array([0.1, 0.2, 0.5, 1.0], np.float32)


def like(features: Any) -> dict[str, Any]:
    return {"features.fc7": features, "target_mean": MEAN, "target_std": STD}


def test_scores_and_deltas_are_those_of_the_module() -> None:
    features = torch.randn(5, 8)
    stage = SoftmaxHead(Ref("training"), device="cpu")
    net = stage.module(None, like(features), K)
    torch.nn.init.normal_(net.deltas.weight)
    stage.bind("weights", net.state_dict, "key")
    found = stage([Record("a", {"features.fc7": features.half().numpy()})])[0]
    x = features.half().float()
    logits = x @ net.scores.weight.T + net.scores.bias
    shares = logits.exp() / logits.exp().sum(1, keepdim=True)
    torch.testing.assert_close(found["scores"], shares[:, 1:].detach())
    deltas = (x @ net.deltas.weight.T + net.deltas.bias).reshape(5, K, 4).detach()
    torch.testing.assert_close(found["deltas"], deltas * torch.from_numpy(STD) + torch.from_numpy(MEAN))


def smooth_l1(x: float) -> float:
    """Fast R-CNN, equation 3."""
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


@pytest.mark.parametrize("balance", [1.0, 0.5])
def test_the_loss_is_the_papers(balance: float) -> None:
    features = torch.randn(4, 8)
    stage = SoftmaxHead(Ref("training"), balance=balance)
    net = stage.module(None, like(features), K)
    for layer in (net.scores, net.deltas):
        torch.nn.init.normal_(layer.weight, std=0.5)
    labels = np.array([0, 2, 0, 3])
    targets = np.random.default_rng(0).normal(0, 1, (4, 4)).astype(np.float32)
    fields = {"features.fc7": features, "roi_labels": labels, "roi_targets": targets}
    losses, given = stage.loss(net, fields, torch.Generator())
    assert given == {}
    logits, deltas = net(features)
    plain = -np.mean([float(torch.log_softmax(row, 0)[label]) for row, label in zip(logits, labels)])
    box = 0.0
    for r, label in enumerate(labels):
        for i in range(4) if label else ():
            box += smooth_l1(float(deltas[r, label - 1, i]) - float((targets[r, i] - MEAN[i]) / STD[i]))
    assert float(losses["class"]) == pytest.approx(plain, rel=1e-5)
    assert float(losses["box"]) == pytest.approx(balance * box / 4, rel=1e-5)


def test_without_foreground_the_boxes_cost_nothing() -> None:
    features = torch.randn(4, 8)
    stage = SoftmaxHead(Ref("training"))
    targets = np.zeros((4, 4), np.float32)
    fields = {"features.fc7": features, "roi_labels": np.zeros(4, np.int64), "roi_targets": targets}
    losses, _ = stage.loss(stage.module(None, like(features), K), fields, torch.Generator())
    assert float(losses["box"]) == 0


def test_features_are_brought_to_a_norm() -> None:
    features = 500 * torch.rand(4, 8)
    net = SoftmaxHead(Ref("training"), norm=20.0).module(None, like(features), K)
    assert float((features * net.scale).norm(dim=1).mean()) == pytest.approx(20, rel=1e-5)


def test_what_was_never_trained_says_so() -> None:
    with pytest.raises(UserError, match="SoftmaxHead has learned nothing"):
        SoftmaxHead()([Record("a", {"features.fc7": np.zeros((1, 4), np.float32)})])


@pytest.mark.parametrize(("params", "why"), [({"balance": -1.0}, "balance is -1"), ({"norm": 0.0}, "norm is 0.0"),
                                             ({"precision": "int4"}, "precision is 'int4'")])  # fmt: skip
def test_wrong_parameters_are_named(params: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SoftmaxHead(**params).validate()
