"""Stochastic gradient descent with momentum and a step schedule: the one loop that trains every net here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import UserError
from ..stage import Checkpoint, State

Loss = Callable[[np.ndarray, torch.Generator], Tensor]  # indices of a batch, the step's generator -> scalar


def sgd(net: nn.Module, loss: Loss, count: int, checkpoint: Checkpoint, *, steps: int, batch: int,
        lr: float, drop_every: int, drop: float = 0.1, momentum: float = 0.9, decay: float = 5e-4,
        random_state: int = 0) -> np.ndarray:  # fmt: skip
    """Train the parameters of `net` that require a gradient, in place; returns the loss of every step.

    loss: called with the indices of a batch, out of `count` samples, and a CPU generator for all else that is
        random in the step.
    steps, batch: how many batches of how many samples, each pass over the samples in an order of its own.
    lr: the rate, multiplied by `drop` every `drop_every` steps.
    decay: weight decay, of all parameters.

    Order and generator follow from `random_state` and the number of the step alone, so a run resumed from
    its checkpoint takes the same steps as one never killed. UserError if the loss is no longer finite.
    """
    optimiser = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=lr, momentum=momentum,
                                weight_decay=decay)  # fmt: skip
    history = np.full(steps, np.nan, np.float32)
    done = _resume(net, optimiser, history, checkpoint.load())
    for step in range(done, steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * drop ** (step // drop_every)
        value = loss(_indices(step, batch, count, random_state), _generator(random_state, step))
        optimiser.zero_grad(set_to_none=True)
        value.backward()
        optimiser.step()
        history[step] = value.item()
        if not np.isfinite(history[step]):
            raise UserError(f"the loss is {history[step]} at step {step}; lower lr, which is {lr}")
        checkpoint.progress(step + 1, steps, f"loss {history[max(0, step - 49) : step + 1].mean():.3f}")
        checkpoint.save(partial(_position, net, optimiser, history, step + 1))
    return history


def _indices(step: int, batch: int, count: int, seed: int) -> np.ndarray:
    """The samples of a step: pass after pass in seeded orders, cut into batches across their seams."""
    at = np.arange(step * batch, (step + 1) * batch)
    passes = {p: np.random.default_rng([seed, int(p)]).permutation(count) for p in np.unique(at // count)}
    return np.array([passes[i // count][i % count] for i in at])


def _generator(seed: int, step: int) -> torch.Generator:
    spread = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]  # unlike those of its neighbours
    return torch.Generator().manual_seed(int(spread >> np.uint64(1)))


def _position(net: nn.Module, optimiser: torch.optim.Optimizer, history: np.ndarray, done: int) -> State:
    """All that the next step depends on."""
    buffers = [optimiser.state[p].get("momentum_buffer") for p in _trained(optimiser)]
    momenta = {f"momentum.{i}": buffer for i, buffer in enumerate(buffers) if buffer is not None}
    weights = {f"net.{name}": tensor for name, tensor in net.state_dict().items()}
    return {"done": np.array(done), "history": history, **weights, **momenta}


def _resume(net: nn.Module, optimiser: torch.optim.Optimizer, history: np.ndarray, saved: State | None) -> int:
    """Become what `_position` saved; the number of steps done."""
    if saved is None:
        return 0
    state: dict[str, Any] = {name: torch.as_tensor(value) for name, value in saved.items()}
    net.load_state_dict({n.removeprefix("net."): v for n, v in state.items() if n.startswith("net.")})
    for i, p in enumerate(_trained(optimiser)):
        if f"momentum.{i}" in state:
            optimiser.state[p]["momentum_buffer"] = state[f"momentum.{i}"].to(p, copy=True)
    done = int(state["done"])
    history[:done] = state["history"].numpy()[:done]
    return done


def _trained(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]
