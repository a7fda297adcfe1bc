"""The processes that torchrun starts to train one net: how many there are, which this one is, and how they agree.

Alone, which is the usual case, nothing here imports torch or waits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any

from ...errors import UserError

PATIENCE = timedelta(days=7)  # the others wait while the first one learns what cannot be shared

_rank, _count = 0, 1


def rank() -> int:
    """The number of this process, from 0."""
    return _rank


def count() -> int:
    """How many processes train together; 1 without torchrun."""
    return _count


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Be one of the processes that torchrun started, where it did. device: as stages take it.

    UserError if each of them cannot have a GPU of its own, where GPUs are asked for.
    """
    global _rank, _count
    if not started():
        yield
        return
    import torch
    from torch import distributed

    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if device.startswith("cuda:"):
        raise UserError(f"device {device!r}: of processes that train together each has a GPU of its own; say cuda")
    if cuda and local() >= torch.cuda.device_count():
        raise UserError(f"process {local()} has no GPU of its own: torch finds {torch.cuda.device_count()}")
    if cuda:
        torch.cuda.set_device(local())
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    _rank, _count = distributed.get_rank(), distributed.get_world_size()
    try:
        yield
    finally:
        _rank, _count = 0, 1
        distributed.destroy_process_group()


def started() -> bool:
    """Whether torchrun started this process, and others."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def here() -> int:
    """How many of the processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _count > 1 else 1


def local() -> int:
    """The number of this process on its machine: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def agreed(value: Any) -> Any:
    """What the first process says. All have come here when it is told."""
    if _count == 1:
        return value
    from torch import distributed

    said = [value]
    distributed.broadcast_object_list(said, src=0)
    distributed.barrier()
    return said[0]


def summed(values: Any) -> Any:
    """The sum over the processes of a float64 array."""
    if _count == 1:
        return values
    import torch
    from torch import distributed

    total = torch.as_tensor(values, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(total)
    return total.cpu().numpy()


def wait() -> None:
    """Go on when all have come here."""
    agreed(None)


def shared(net: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
    """`forward(net, ...)`; of several processes DistributedDataParallel takes the mean of its gradients."""
    if _count == 1:
        return partial(forward, net)
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    class Forward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, *given: Any) -> Any:
            return forward(self.net, *given)

    # a loss that is not learned by leaves parameters without a gradient; buffers are the same everywhere
    return DistributedDataParallel(Forward(), find_unused_parameters=True, broadcast_buffers=False)


def unsynchronised(model: Any, alone: bool) -> AbstractContextManager[Any]:
    """A context in which the gradients of what `shared` gave stay with this process, if they are to be `alone`."""
    return model.no_sync() if alone and _count > 1 else nullcontext()
