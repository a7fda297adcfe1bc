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


def rates(run: Callable[[], Any], boxes: int) -> tuple[float, float]:
    """Crops in a second, and in a second of processor time (all threads), which others' load disturbs less."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    start, used = time.perf_counter(), time.process_time()
    run()
    wait()
    return boxes / (time.perf_counter() - start), boxes / (time.process_time() - used)


def measure(backbone: str, boxes: int, rounds: int, loop_boxes: int) -> None:
    """Print the median rates of the three, and the median ratios."""
    stage, record = WarpedCNN(backbone, storage="float16"), drawn(boxes)
    net = stage.net()
    weight, side = next(net.parameters()), net.input_size
    batch = 16 if weight.device.type == "cpu" else 256
    stage.set_params(batch=batch)
    slow = load(backbone, layers=["pool5"])
    runs = {"stage": (lambda: stage([record]), boxes), "bare": (bare(net, side, batch, boxes), boxes),
            "loop": (plain(slow, side, record, loop_boxes), loop_boxes)}  # fmt: skip
    few = 2 * batch + boxes % batch  # the shapes that will come
    stage([drawn(few)]), bare(net, side, batch, few)(), plain(slow, side, record, 1)()  # warm
    seen: list[dict[str, tuple[float, float]]] = []
    for i in range(rounds):
        order = sorted(runs, reverse=bool(i % 2))  # neither always goes first
        seen.append({name: rates(*runs[name]) for name in order})
    rate = {name: median(one[name][0] for one in seen) for name in runs}
    to_bare, by_processor = (median(one["stage"][k] / one["bare"][k] for one in seen) for k in (0, 1))
    to_loop = median(one["stage"][0] / one["loop"][0] for one in seen)
    claim = CLAIMED.get(backbone)
    verdict = f" (claimed {claim}: {'holds' if to_bare >= claim else 'DOES NOT HOLD'})" if claim else ""
    print(f"{backbone}, {weight.dtype}, {weight.device.type}, batch {batch}, {boxes} boxes, {rounds} rounds: "
          f"WarpedCNN {rate['stage']:.0f} crops/s, bare trunk {rate['bare']:.0f}, plain loop {rate['loop']:.1f}; "
          f"to bare {to_bare:.3f}{verdict}, in processor time {by_processor:.3f}; "
          f"to the loop {to_loop:.1f} (aim 8)", flush=True)  # fmt: skip


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
