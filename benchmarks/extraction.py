"""Feature extraction against the bare backbone and against a plain loop, side by side in one process.

Claim: WarpedCNN takes boxes to stored features at 0.85 or more of the rate at which the same backbone's
trunk takes random tensors of the same type, memory format and batch (SqueezeNet 1.1 and VGG16; AlexNet is
printed).
Aim: 8 times the rate of a plain loop, float32, which crops with PIL, resizes and runs one crop at a time.

    python benchmarks/extraction.py [--backbones squeezenet1_1 vgg16 alexnet] [--boxes 2000] [--rounds 5]

The rounds interleave the three, and each ratio is a median over rounds: a busy machine slows all alike.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from rcnn.stages.features.warp import WarpedCNN
from rcnn.stages.nets.backbones import Backbone, load
from rcnn.stages.record import Record

CLAIMED = {"squeezenet1_1": 0.85, "vgg16": 0.85}


def drawn(boxes: int, seed: int = 0) -> Record:
    """An image of 500 x 375 pixels and boxes of all sizes from 20 pixels to most of it."""
    rng = np.random.default_rng(seed)
    side = 20 * (18 ** rng.uniform(0, 1, (boxes, 2)))  # log-uniform, 20 to 360
    corner = rng.uniform(0, 1, (boxes, 2)) * np.maximum([500, 375] - side, 0)
    spans = np.concatenate([corner, np.minimum(corner + side, [500, 375])], 1)
    return Record("drawn", {"image": rng.integers(0, 256, (375, 500, 3), np.uint8), "boxes": spans.astype(np.float32)})


def bare(net: Backbone, side: int, batch: int, boxes: int) -> Callable[[], None]:
    """As many forwards of the trunk alone as the boxes take, the last one cut like theirs."""
    weight = next(net.parameters())
    x = torch.randn(batch, 3, side, side, device=weight.device).to(weight.dtype, memory_format=torch.channels_last)

    def run() -> None:
        with torch.no_grad():
            for i in range(0, boxes, batch):
                net.trunk(x[: boxes - i])

    return run


def plain(net: Backbone, side: int, record: Record, boxes: int) -> Callable[[], None]:
    """The loop that one writes first."""
    image = Image.fromarray(record["image"])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (net.mean, net.std))

    def run() -> None:
        with torch.no_grad():
            for box in record["boxes"][:boxes]:
                crop = image.crop(tuple(int(v) for v in box)).resize((side, side), Image.Resampling.BILINEAR)
                x = torch.tensor(np.asarray(crop)).permute(2, 0, 1) / 255
                net(((x - mean) / std)[None], ["pool5"])["pool5"].numpy()

    return run


def rate(run: Callable[[], Any], boxes: int) -> float:
    """Crops in a second."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return boxes / (time.perf_counter() - start)


def measure(backbone: str, boxes: int, rounds: int, loop_boxes: int) -> tuple[float, float]:
    """Median ratios to the bare trunk and to the plain loop; prints them with the rates."""
    stage, record = WarpedCNN(backbone, storage="float16"), drawn(boxes)
    net = stage.net()
    weight, side = next(net.parameters()), net.input_size
    batch = 16 if weight.device.type == "cpu" else 256
    stage.set_params(batch=batch)
    own = (lambda: stage([record]), boxes)
    trunk = (bare(net, side, batch, boxes), boxes)
    loop = (plain(load(backbone, layers=["pool5"]), side, record, loop_boxes), loop_boxes)
    few = drawn(2 * batch + boxes % batch)
    (
        stage([few]),
        bare(net, side, batch, 2 * batch + boxes % batch)(),
        plain(load(backbone), side, few, 2)(),
    )  # warm
    seen = []
    for i in range(rounds):
        order = (own, trunk) if i % 2 else (trunk, own)
        rates = {run is own[0]: rate(run, n) for run, n in order}
        seen.append((rates[True], rates[False], rate(*loop)))
    to_bare, to_loop = median(a / b for a, b, _ in seen), median(a / c for a, _, c in seen)
    claim = CLAIMED.get(backbone)
    verdict = "" if claim is None else f", claimed {claim}: {'holds' if to_bare >= claim else 'DOES NOT HOLD'}"
    print(f"{backbone} ({weight.dtype}, {weight.device.type}, batch {batch}, {boxes} boxes, "
          f"{rounds} rounds): WarpedCNN {median(a for a, _, _ in seen):.0f} crops/s, bare trunk "
          f"{median(b for _, b, _ in seen):.0f}, plain loop {median(c for _, _, c in seen):.0f}; "
          f"ratio to bare {to_bare:.3f}{verdict}; ratio to the loop {to_loop:.1f}, aim 8",
          flush=True)  # fmt: skip
    return to_bare, to_loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["squeezenet1_1", "vgg16", "alexnet"])
    parser.add_argument("--boxes", type=int, default=2000, help="boxes of the image")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loop-boxes", type=int, default=32, help="boxes that the plain loop does in a round")
    args = parser.parse_args()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    for backbone in args.backbones:
        measure(backbone, args.boxes, args.rounds, args.loop_boxes)


if __name__ == "__main__":
    main()
