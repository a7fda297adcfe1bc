"""Stochastic gradient descent with momentum and a step schedule: the one loop that trains every net here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import UserError
from ..stage import Checkpoint, State
from . import ranks
from .memory import out_of_memory

# number of the step, its CPU generator -> parts that add up to its loss; one is let go before the next is asked for
Loss = Callable[[int, torch.Generator], Iterable[Tensor]]


def sgd(net: nn.Module, loss: Loss, checkpoint: Checkpoint, *, steps: int, lr: float, drop_every: int,
        drop: float = 0.1, momentum: float = 0.9, decay: float = 5e-4, rates: Mapping[str, float] | None = None,
        bias_rate: float = 1.0, bias_decay: bool = True, warm_up: int = 0, clip: float | None = None,
        losses: int | None = None, shared: bool = False, random_state: int = 0) -> np.ndarray:  # fmt: skip
    """Train the parameters of `net` that require a gradient, in place; returns the loss of every step.

    loss: gives the parts of a step's loss, and takes all that is random in it from the generator.
    steps: how many.
    lr: the rate, multiplied by `drop` every `drop_every` steps.
    decay: weight decay, of all parameters.
    rates: beginning of a parameter's name -> what its rate is multiplied by.
    bias_rate, bias_decay: what the rate of biases is multiplied by too, and whether they decay.
    warm_up: steps over which the rate rises, linearly, from a third of itself.
    clip: the largest norm that the gradient of all parameters may have; None for any.
    shared: whether the processes of nets.ranks share each step: the parts of a loss are spread over them, and their
        backward passes give the mean of the processes' gradients.
    losses: how many a step has: each part is a vector of them, and the history steps x losses. None: parts are numbers.

    The generator follows from `random_state` and the number of the step alone, so a run resumed from its
    checkpoint takes the same steps as one never killed (on a GPU but for the order in which it adds up). UserError if
    the loss is no longer finite, or a part of it does not fit into memory.
    """
    groups = _groups(net, rates or {}, bias_rate, decay, decay if bias_decay else 0.0)
    optimiser = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)  # no copy of the weights to decay them;
    # on a CPU it takes for granted that a gradient lies in memory as its parameter does, as autograd's do
    if momentum:
        for p in _trained(optimiser):  # the fused step knows momenta of all or of none; some may have no gradient yet
            optimiser.state[p]["momentum_buffer"] = torch.zeros_like(p)
    history = np.full(steps if losses is None else (steps, losses), np.nan, np.float32)
    done = _resume(net, optimiser, history, checkpoint.load())
    for step in range(done, steps):
        for group in optimiser.param_groups:
            group["lr"] = lr * group["factor"] * drop ** (step // drop_every) * _warmth(step, warm_up)
        optimiser.zero_grad(set_to_none=True)
        history[step] = _backward(loss(step, _generator(random_state, step)), shared)
        if not np.isfinite(history[step]).all():
            raise UserError(f"the loss is {history[step].sum()} at step {step}; lower lr, which is {lr}")
        if clip is not None:
            nn.utils.clip_grad_norm_(_trained(optimiser), clip)
        optimiser.step()
        lately = history[max(0, step - 49) : step + 1].mean(0).sum()
        checkpoint.progress(step + 1, steps, f"loss {lately:.3f}")
        checkpoint.save(partial(_position, net, optimiser, history, step + 1))
    optimiser.zero_grad(set_to_none=True)  # else they stay with the net, as large as it
    return history


def check(stage: Any) -> None:
    """ValueError, naming it, for a parameter of the descent that cannot be meant."""
    if not 0 <= stage.momentum < 1:
        raise ValueError(f"momentum is {stage.momentum}; it is in [0, 1)")
    if not 0 <= stage.dropout < 1:
        raise ValueError(f"dropout is {stage.dropout}; it is in [0, 1)")
    for name in ("decay", "random_state"):
        if getattr(stage, name) < 0:
            raise ValueError(f"{name} is {getattr(stage, name)}; it is at least 0")
    for name in ("lr", "memory"):
        if not getattr(stage, name) > 0:
            raise ValueError(f"{name} is {getattr(stage, name)}; it is above 0")


def batch_of(step: int, batch: int, count: int, seed: int) -> np.ndarray:
    """The samples, of `count`, of a step: pass after pass in seeded orders, cut into batches across their seams."""
    at = np.arange(step * batch, (step + 1) * batch)
    passes = {p: _order(int(p), count, seed) for p in np.unique(at // count)}
    return np.array([passes[i // count][i % count] for i in at])


@lru_cache(maxsize=2)
def _order(number: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, number]).permutation(count)


def _warmth(step: int, warm_up: int) -> float:
    """What the rate of a step is multiplied by while it warms up (Goyal et al. 2017, section 2.2; a third at first)."""
    return 1.0 if step >= warm_up else 1 / 3 + 2 / 3 * step / warm_up


def _groups(net: nn.Module, rates: Mapping[str, float], bias_rate: float, decay: float,
            bias_decay: float) -> list[dict[str, Any]]:  # fmt: skip
    """The parameters to train, those of one rate and decay together."""
    found: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            factor = next((value for start, value in rates.items() if name.startswith(start)), 1.0)
            bias = name.endswith("bias")
            own = (factor * bias_rate, bias_decay) if bias else (factor, decay)
            found.setdefault(own, []).append(parameter)
    return [{"params": found[own], "factor": own[0], "weight_decay": own[1]} for own in found]


def _backward(parts: Iterable[Tensor], shared: bool) -> np.ndarray:
    total = np.zeros((), np.float64)
    try:
        for part in parts:
            (part.sum() * ranks.count() if shared else part.sum()).backward()  # their mean is then the sum
            total = total + part.detach().double().cpu().numpy()
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        said = str(error).splitlines()[0] if str(error) else "no memory"
        raise UserError(f"training does not fit into memory; take less at once ({said})") from error
    return np.asarray(ranks.summed(total)) if shared else total


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
            optimiser.state[p]["momentum_buffer"].copy_(state[f"momentum.{i}"])
    done = int(state["done"])
    history[:done] = state["history"].numpy()[:done]
    return done


def _trained(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]
