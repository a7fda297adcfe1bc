"""RoI pooling of many boxes on a CPU: our kernel against torchvision's operator, same results.

    python benchmarks/pooling.py [--boxes 2000] [--channels 512] [--grid 7] [--rounds 7]

The map of a 600 x 1000 image at stride 16, boxes of all sizes on it. One process, interleaved; prints the medians, the
ratio, and the largest difference of the results, which is to be 0.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from rcnn.stages.nets.bins import bin_max, roi_bins
from rcnn.stages.nets.memory import reuse_freed_memory
from torchvision.ops import roi_pool

MAP = (38, 63)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = work()
    return time.perf_counter() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("boxes", 2000), ("channels", 512), ("grid", 7), ("rounds", 7)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    reuse_freed_memory()  # as the stages do
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.random((args.channels, *MAP), np.float32))
    corners = rng.uniform(0, (MAP[1], MAP[0]), (args.boxes, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(np.float32)
    theirs: list[float] = []
    ours: list[float] = []
    for turn in range(args.rounds + 1):
        slow, plain = seconds(lambda: roi_pool(features[None], [torch.from_numpy(boxes)], args.grid, 1.0))
        fast, found = seconds(lambda: bin_max(features, roi_bins(boxes, args.grid, MAP)))
        apart = float((plain.flatten(2).transpose(1, 2) - found).abs().max())
        if turn:  # the first one warms up
            theirs.append(slow)
            ours.append(fast)
    ratio = median(a / b for a, b in zip(theirs, ours))
    print(f"{args.boxes} boxes, {args.channels} channels, {args.grid} x {args.grid}, {torch.get_num_threads()} "
          f"threads: torchvision {1000 * median(theirs):.0f} ms, ours {1000 * median(ours):.0f} ms (one thread), "
          f"median ratio {ratio:.1f}, largest difference {apart:g}")  # fmt: skip


if __name__ == "__main__":
    main()
