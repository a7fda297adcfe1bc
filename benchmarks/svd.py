"""Truncated SVD of fc6 and fc7 at use (Fast R-CNN, section 4.4): how much of what its ranks promise the time keeps.

    python benchmarks/svd.py [--backbone vgg16] [--boxes 2000] [--rounds 5] [--ranks 1024,256 512,128]

Random weights, the stage `FCLayers` on pooled features of so many boxes, in the precision that the device computes in.
One process, interleaved; prints, for each pair of ranks, multiply-adds and medians with and without, and the ratios.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from rcnn.stages.features.fc import FCLayers
from rcnn.stages.nets.backbones import lengths_of
from rcnn.stages.record import Record
from torch.utils.flop_counter import FlopCounterMode


def multiply_adds(stage: FCLayers, record: Record) -> float:
    """G multiply-adds of one call."""
    stage([record])  # the net is built, and decomposed, before
    with FlopCounterMode(display=False) as counter:
        stage([record])
    return counter.get_total_flops() / 2e9


def seconds(stage: FCLayers, record: Record) -> float:
    start = time.perf_counter()
    found = stage([record])[0]["features.fc7"]
    if found.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vgg16")
    parser.add_argument("--boxes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ranks", nargs="*", default=["2048,512", "1024,256", "512,128", "256,64"])
    args = parser.parse_args()
    length = lengths_of(args.backbone, ("pool5",))["pool5"]
    pooled = torch.rand(args.boxes, length, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    record = Record("image", {"features.pool5": pooled})
    ranks = [tuple(map(int, text.split(","))) for text in args.ranks]
    stages = {svd: FCLayers(args.backbone, None, layers=("fc7",), svd=svd) for svd in [(), *ranks]}
    work = {svd: multiply_adds(stage, record) for svd, stage in stages.items()}
    taken: dict[tuple[int, ...], list[float]] = {svd: [] for svd in stages}
    for _round in range(args.rounds):
        for svd, stage in stages.items():
            taken[svd].append(seconds(stage, record))
    for svd in ranks:
        promised = work[()] / work[svd]
        real = median(whole / part for whole, part in zip(taken[()], taken[svd]))
        print(f"ranks {svd}: {work[svd]:.0f} of {work[()]:.0f} G multiply-adds, {promised:.2f} times fewer; "
              f"{1000 * median(taken[svd]):.0f} of {1000 * median(taken[()]):.0f} ms, {real:.2f} times as fast; "
              f"kept {real / promised:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
