"""Layers cut by truncated SVD, dropout by a generator, and the norm that features are brought to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rcnn.stages.features.fc import FCLayers
from rcnn.stages.features.new_fc import NewFCLayers
from rcnn.stages.nets.frozen import all_finite
from rcnn.stages.nets.layers import dropped, mean_scale, truncated
from rcnn.stages.record import Record
from rcnn.stages.stage import Ref
from torch import nn


def parts(layer: Any) -> int:
    return sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim == 2)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_it_is_the_nearest_of_its_rank(rank: int) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(40, 30), torch.randn(5, 40)
    cut = truncated(layer, rank)
    weight = cut[1].weight @ cut[0].weight
    assert torch.linalg.matrix_rank(weight) == rank
    lost = torch.linalg.svdvals(layer.weight)[rank:]
    torch.testing.assert_close((weight - layer.weight).norm(), lost.norm())  # Eckart and Young
    torch.testing.assert_close(cut(x), x @ weight.T + layer.bias)
    assert parts(cut) == rank * (40 + 30)


def test_of_its_own_rank_it_is_the_same() -> None:
    layer = nn.Linear(40, 30)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(30, 2) @ torch.randn(2, 40))
    x = torch.randn(6, 40)
    torch.testing.assert_close(truncated(layer, 2)(x), layer(x), rtol=1e-4, atol=1e-4)


def test_where_nothing_is_saved_the_layer_stays() -> None:
    layer = nn.Linear(40, 30)
    assert truncated(layer, 18) is layer
    assert truncated(layer, 17) is not layer


def test_fc6_and_fc7_are_cut_at_use() -> None:
    whole, cut = (FCLayers("alexnet", svd=svd, precision="float32", device="cpu") for svd in ((), (64, 32)))
    source = torch.rand(3, 9216)
    found = [stage([Record("a", {"features.pool5": source})])[0]["features.fc7"] for stage in (whole, cut)]
    assert found[0].shape == found[1].shape
    assert not torch.equal(*found)
    head = cut.net().head
    assert [parts(head[name]) for name in ("fc6", "fc7")] == [64 * (9216 + 4096), 32 * 8192]
    assert FCLayers("alexnet", source="fc6", svd=(32,))._used() == ("fc7",)
    with pytest.raises(ValueError, match="svd is \\[64\\]; it holds a rank for each of 2 layers"):
        FCLayers("alexnet", svd=(64,)).validate()


def test_new_layers_are_cut_at_use() -> None:
    stage = NewFCLayers(Ref("training"), widths=(16, 12), svd=(4, 3), device="cpu", precision="float32")
    stage.validate()
    like = {"features.pool5": torch.rand(5, 50)}
    net = stage.module(None, like, 2)
    stage.bind("weights", net.state_dict, "key")
    found = stage([Record("a", like)])[0]["features.fc"]
    x = like["features.pool5"] * net.scale
    for layer, rank in zip(net.layers, (4, 3)):
        x = torch.relu(truncated(layer, rank)(x))
    torch.testing.assert_close(found, x.detach(), rtol=1e-2, atol=1e-3)  # the scale is part of what is decomposed


def test_dropout_keeps_the_mean() -> None:
    ones = torch.ones(1000, 20)
    found = dropped(ones, 0.3, torch.Generator().manual_seed(0))
    assert (found == 0).float().mean() == pytest.approx(0.3, abs=0.02)
    assert found.mean() == pytest.approx(1, abs=0.02)
    assert dropped(ones, 0.0, torch.Generator()) is ones
    assert torch.equal(found, dropped(ones, 0.3, torch.Generator().manual_seed(0)))


def test_the_scale_of_nothing_is_one() -> None:
    assert mean_scale(torch.zeros(3, 4), 20) == 1
    assert mean_scale(torch.full((3, 4), 5.0), 20) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_finite_is_found(dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 3, 4000).reshape(40, 100).to(dtype)
    assert all_finite(values)
    assert all_finite(values[:0])
    for wrong in (float("inf"), float("-inf"), float("nan")):
        spoilt = values.clone()
        spoilt[17, 63] = wrong
        assert not all_finite(spoilt)
