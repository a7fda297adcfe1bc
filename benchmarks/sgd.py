"""A step of SGD in one pass over the weights (fused), as nets.sgd takes it, and by torch's default.

    python benchmarks/sgd.py [--rounds 15]

Two layers, 25,088 to 1024 to 1024: those that `faster` has on 7 x 7 x 512 features. Momentum and decay. Interleaved;
medians and the ratio.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from rcnn.stages.nets.memory import reuse_freed_memory
from torch import nn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    reuse_freed_memory()
    taken: dict[str, list[float]] = {"fused": [], "default": []}
    descents = {}
    for name in taken:
        net = nn.Sequential(nn.Linear(25_088, 1024), nn.Linear(1024, 1024))
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        fused = True if name == "fused" else None
        descents[name] = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4, fused=fused)
    for _ in range(rounds + 1):
        for name, descent in descents.items():
            start = time.perf_counter()
            descent.step()
            taken[name].append(time.perf_counter() - start)
    fused, plain = (median(times[1:]) for times in taken.values())
    print(f"a step: {fused * 1e3:.1f} ms, torch's default {plain * 1e3:.1f} ms, ratio {plain / fused:.2f}")


if __name__ == "__main__":
    main()
