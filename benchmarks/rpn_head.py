"""What a region proposal network costs beside the convolutions that it shares (Faster R-CNN: nearly nothing).

    python benchmarks/rpn_head.py [--backbones vgg16 alexnet squeezenet1_1 mobilenet_v2 resnet50] [--rounds 7]

An image of 600 x 800, random weights, the stages ConvMap and RPN, in the precision that the device computes in. One
process, interleaved; prints medians of the convolutions, of the head (its three layers) and of the whole stage (with
anchors, decoding and NMS, 6000 boxes to 300), and the ratios to the convolutions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from rcnn.stages.features.conv_map import ConvMap
from rcnn.stages.nets.frozen import built
from rcnn.stages.proposals.rpn import RPN
from rcnn.stages.record import Record
from rcnn.stages.stage import Ref


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["vgg16", "alexnet", "squeezenet1_1", "mobilenet_v2", "resnet50"]
    parser.add_argument("--backbones", nargs="*", default=names)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    image = np.random.default_rng(0).integers(0, 255, (600, 800, 3)).astype(np.uint8)
    for name in args.backbones:
        maps = ConvMap(name, until="layer3" if name.startswith("resnet") else None)
        record = Record("image", {"image": image, "size": np.array([600, 800])})
        whole = record.add(maps([record])[0])
        rpn = RPN(Ref("training"), width=args.width)
        state = dict(rpn.module(None, whole, 1).state_dict())
        rpn.bind("weights", lambda state=state: state, name)
        rpn([whole])
        head = built(rpn, rpn._made)
        shared = whole["map"].to(head.conv.weight)

        def layers(head: Any = head, shared: Any = shared) -> None:
            with torch.no_grad():
                head(shared)

        work: dict[str, Callable[[], Any]] = {
            "convolutions": lambda maps=maps, record=record: maps([record]),
            "head": layers,
            "stage": lambda rpn=rpn, whole=whole: rpn([whole]),
        }
        taken: dict[str, list[float]] = {part: [] for part in work}
        for _round in range(args.rounds + 1):
            for part, one in work.items():
                taken[part].append(seconds(one))
        ms = {part: 1000 * median(times[1:]) for part, times in taken.items()}
        shares = {part: median(a / b for a, b in zip(taken[part][1:], taken["convolutions"][1:])) for part in ms}
        print(f"{name}: convolutions {ms['convolutions']:.0f} ms, map {tuple(shared.shape)}; head of {args.width} "
              f"{ms['head']:.1f} ms, {shares['head']:.3f} of them; with anchors and NMS {ms['stage']:.1f} ms, "
              f"{shares['stage']:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
