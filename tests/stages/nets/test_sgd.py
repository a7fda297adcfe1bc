"""The SGD loop against torch's optimiser by hand, and killed and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.nets.sgd import batch_of, sgd
from rcnn.stages.stage import NoCheckpoint, State
from torch import nn

X = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5, 3.0]) + 1
OPTIONS: dict[str, Any] = {"steps": 60, "lr": 0.02, "drop_every": 40, "random_state": 3}


def linear() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(4, 1)


def loss_of(net: nn.Linear, parts: int = 1) -> Callable[[int, torch.Generator], Iterator[torch.Tensor]]:
    def loss(step: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        indices = batch_of(step, 8, 50, seed=3)
        noise = 0.01 * torch.randn(len(indices), generator=generator)
        for part in np.array_split(np.arange(8), parts):
            gap = net(X[indices[part]])[:, 0] - Y[indices[part]] + noise[part]
            yield gap.pow(2).sum() / 8

    return loss


class Killed(Exception):
    pass


class Kept(NoCheckpoint):
    """Keeps what is saved, and dies after so many saves."""

    def __init__(self, saves: int = 10**9):
        self.saves, self.state, self.told = saves, None, []

    def load(self) -> State | None:
        return self.state

    def save(self, make: Callable[[], State], *, now: bool = False) -> None:
        self.state = {name: torch.as_tensor(value).clone().numpy() for name, value in make().items()}
        self.saves -= 1
        if self.saves == 0:
            raise Killed

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.told.append((done, total, text))


def test_it_learns_and_says_so() -> None:
    net, kept = linear(), Kept()
    history = sgd(net, loss_of(net), kept, **OPTIONS)
    assert history.shape == (60,)
    assert history[-10:].mean() < 0.05 * history[:5].mean()
    assert kept.told[-1][:2] == (60, 60)
    assert kept.told[-1][2].startswith("loss ")


def test_the_update_is_momentum_decay_and_a_dropping_rate() -> None:
    """Two parameters by hand: v = 0.9 v + (g + decay w); w -= rate v."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 2.0)
    history = sgd(net, lambda step, generator: [3 * net.weight.sum()], NoCheckpoint(), steps=4, lr=0.1,
                  drop_every=2, decay=0.01)  # fmt: skip
    w, v, losses = 2.0, 0.0, []
    for rate in (0.1, 0.1, 0.01, 0.01):
        losses.append(3 * w)
        v = 0.9 * v + 3 + 0.01 * w
        w -= rate * v
    assert net.weight.item() == pytest.approx(w, rel=1e-5)
    np.testing.assert_allclose(history, losses, rtol=1e-5)


@pytest.mark.parametrize("saves", [1, 17, 45, 60])
def test_killed_and_resumed_is_the_same(saves: int) -> None:
    whole = linear()
    expected = sgd(whole, loss_of(whole), NoCheckpoint(), **OPTIONS)
    first, kept = linear(), Kept(saves)
    with pytest.raises(Killed):
        sgd(first, loss_of(first), kept, **OPTIONS)
    second = nn.Linear(4, 1)  # other weights: all must come from the checkpoint
    kept.saves = 10**9
    np.testing.assert_array_equal(sgd(second, loss_of(second), kept, **OPTIONS), expected)
    assert torch.equal(second.weight, whole.weight)
    assert len(kept.told) == 60


def test_every_pass_takes_each_sample_once_in_another_order() -> None:
    drawn = np.concatenate([batch_of(step, 8, 20, seed=1) for step in range(10)]).reshape(4, 20)
    assert all(sorted(one) == list(range(20)) for one in drawn)
    assert not any((a == b).all() for a, b in pairwise(drawn))
    assert len(batch_of(0, 50, 20, seed=1)) == 50  # a batch larger than the data goes round


def test_a_diverging_loss_is_told() -> None:
    net = linear()
    with pytest.raises(UserError, match=r"loss is (inf|nan) at step \d+; lower lr, which is 1000"):
        sgd(net, loss_of(net), NoCheckpoint(), **{**OPTIONS, "lr": 1000.0})


def test_frozen_parameters_stay() -> None:
    net = linear()
    net.bias.requires_grad_(False)
    before = net.bias.clone()
    sgd(net, loss_of(net), NoCheckpoint(), **OPTIONS)
    assert torch.equal(net.bias, before)


def test_parts_of_a_loss_add_up() -> None:
    whole, parts = linear(), linear()
    together = sgd(whole, loss_of(whole), NoCheckpoint(), **OPTIONS)
    np.testing.assert_allclose(sgd(parts, loss_of(parts, 3), NoCheckpoint(), **OPTIONS), together, rtol=1e-4)
    torch.testing.assert_close(parts.weight, whole.weight)


def test_a_parameter_may_have_a_rate_of_its_own() -> None:
    """One step of plain descent: the bias moves ten times as far for the same gradient."""
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    sgd(net, lambda step, generator: [net.weight.sum() + net.bias.sum()], NoCheckpoint(), steps=1, lr=0.01,
        drop_every=1, rates={"bias": 10})  # fmt: skip
    assert net.weight.item() == pytest.approx(-0.01)
    assert net.bias.item() == pytest.approx(-0.1)


def test_what_does_not_fit_into_memory_is_told() -> None:
    net = linear()

    def loss(step: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
        yield net(torch.empty(1 << 50, 4)).sum()

    with pytest.raises(UserError, match="does not fit into memory; take less at once"):
        sgd(net, loss, NoCheckpoint(), **OPTIONS)


def test_biases_learn_faster_and_do_not_decay() -> None:
    net = nn.Linear(1, 1)
    nn.init.constant_(net.weight, 2.0)
    nn.init.constant_(net.bias, 1.0)
    sgd(net, lambda step, generator: [3 * net.weight.sum() + 5 * net.bias.sum()], NoCheckpoint(), steps=1, lr=0.1,
        drop_every=9, decay=0.01, bias_rate=2.0, bias_decay=False)  # fmt: skip
    assert net.weight.item() == pytest.approx(2 - 0.1 * (3 + 0.01 * 2))
    assert net.bias.item() == pytest.approx(1 - 2 * 0.1 * 5, abs=1e-6)


def test_the_rate_warms_up_from_a_third() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(net.weight)
    history = sgd(net, lambda step, generator: [net.weight.sum()], NoCheckpoint(), steps=6, lr=0.1, drop_every=9,
                  momentum=0.0, decay=0.0, warm_up=3)  # fmt: skip
    np.testing.assert_allclose(-np.diff(history), 0.1 * np.array([1 / 3, 5 / 9, 7 / 9, 1, 1]), rtol=1e-5)


def test_a_gradient_is_cut_to_a_norm() -> None:
    net = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(net.weight)
    slope = torch.tensor([[30.0, 40.0]])
    sgd(net, lambda step, generator: [(slope * net.weight).sum()], NoCheckpoint(), steps=1, lr=1.0, drop_every=9,
        decay=0.0, clip=5.0)  # fmt: skip
    np.testing.assert_allclose(net.weight.detach().numpy(), [[-3, -4]], rtol=1e-4)


def test_a_parameter_that_learns_later_and_one_in_channels_last_are_those_of_torchs_plain_descent() -> None:
    def nets() -> nn.ModuleList:
        torch.manual_seed(0)
        made = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Linear(16, 1)])
        return made.to(memory_format=torch.channels_last)

    def forward(net: nn.ModuleList, step: int) -> torch.Tensor:
        x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        found = net[0](x).flatten(1)
        return net[1](found).square().sum() if step else found.square().sum()  # the linear layer is not used at first

    mine, plain = nets(), nets()
    sgd(mine, lambda step, generator: [forward(mine, step)], NoCheckpoint(), steps=5, lr=0.01, drop_every=9)
    optimiser = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, foreach=False)
    for step in range(5):
        optimiser.zero_grad()
        forward(plain, step).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    for one, other in zip(mine.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
