"""Parts of a training step on a CPU: suppression block by block and at once; SGD in one pass and by torch's default.

    python benchmarks/training_step.py [--rounds 9]

Boxes are drawn round 2500 places, six to a place and more, so that about two thirds of 6000 are left at an IoU of 0.7.
The step of SGD is over two layers of 25,088 to 1024 to 1024. Interleaved; medians and ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rcnn.stages.nets.memory import reuse_freed_memory
from rcnn.stages.proposals.rpn import first_unsuppressed
from torch import nn
from torchvision.ops import nms

SETTINGS = ((6000, 2000), (12_000, 2000), (6000, 300), (1000, 1000))  # boxes and how many are wanted
PLACES, SIZE, SPREAD = 2500, (600.0, 1000.0), 0.12


def boxes_of(count: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(PLACES, 2, generator=generator) * torch.tensor(SIZE[::-1])
    side = 40 * torch.exp(2.5 * torch.rand(PLACES, 2, generator=generator))
    at = torch.randint(PLACES, (count,), generator=generator)
    moved = torch.randn(count, 4, generator=generator) * SPREAD
    middle, half = centre[at] + moved[:, :2] * side[at], side[at] * torch.exp(moved[:, 2:]) / 2
    found = torch.cat([middle - half, middle + half], 1)
    return found.clamp(torch.zeros(4), torch.tensor(SIZE[::-1]).repeat(2))


def interleaved(first: Callable[[], Any], second: Callable[[], Any], rounds: int) -> tuple[float, float]:
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for times, work in zip(taken, (first, second), strict=True):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    return median(taken[0][1:]), median(taken[1][1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    reuse_freed_memory()
    for count, top in SETTINGS:
        boxes, scores = boxes_of(count, 0), torch.arange(count, 0, -1).float()
        if not torch.equal(first_unsuppressed(boxes, scores, 0.7, top), nms(boxes, scores, 0.7)[:top]):
            raise SystemExit("the two differ")
        ours, whole = interleaved(
            lambda b=boxes, s=scores, t=top: first_unsuppressed(b, s, 0.7, t),  # type: ignore[misc]
            lambda b=boxes, s=scores, t=top: nms(b, s, 0.7)[:t],  # type: ignore[misc]
            rounds,
        )
        print(
            f"{top} of {count} boxes: {ours * 1e3:.1f} ms, all at once {whole * 1e3:.1f} ms, ratio {whole / ours:.2f}"
        )
    nets = [nn.Sequential(nn.Linear(25_088, 1024), nn.Linear(1024, 1024)) for _ in range(2)]
    descents = [torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4, fused=fused)
                for net, fused in zip(nets, (True, None), strict=True)]  # fmt: skip
    for net in nets:
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
    ours, plain = interleaved(descents[0].step, descents[1].step, rounds)
    print(f"a step of SGD: {ours * 1e3:.1f} ms, not fused {plain * 1e3:.1f} ms, ratio {plain / ours:.2f}")


if __name__ == "__main__":
    main()
