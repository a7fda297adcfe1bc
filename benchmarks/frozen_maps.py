"""Joint training with a frozen backbone: each map is made once for each side of an image, and later passes skip it.

    python benchmarks/frozen_maps.py [--backbone squeezenet1_1] [--images 6] [--passes 8] [--rounds 3]

Drawn images of 480 x 640 at the scale 600, random weights. The same fit with maps kept in memory and with no room for
them, in one process, interleaved; prints how often the convolutions ran, the medians of a step in the later half of
each fit, and their ratio.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import numpy as np
from rcnn.stages.classifiers.softmax_head import SoftmaxHead
from rcnn.stages.features.conv_map import ConvMap
from rcnn.stages.features.new_fc import NewFCLayers
from rcnn.stages.features.roi_pool import RoIPool
from rcnn.stages.nets.jointly import Jointly
from rcnn.stages.record import Record, RecordList
from rcnn.stages.stage import NoCheckpoint, Ref


class Watch(NoCheckpoint):
    """Notes when each step was over."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def progress(self, done: int, total: int, text: str = "") -> None:
        self.times.append(time.perf_counter())


class Counted(ConvMap):
    """Counts how often the convolutions run."""

    maps_made = 0

    def _map(self, *given: Any) -> Any:
        Counted.maps_made += 1
        return super()._map(*given)


def images(count: int) -> RecordList:
    rng = np.random.default_rng(0)
    made = []
    for i in range(count):
        corner = rng.uniform(0, 300, (300, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(40, 180, (300, 2))], 1).astype(np.float32)
        truth = {"truth_boxes": boxes[:3], "truth_labels": np.array([1, 2, 1]), "truth_difficult": np.zeros(3, bool),
                 "truth_crowd": np.zeros(3, bool)}  # fmt: skip
        pixels = rng.integers(0, 255, (480, 640, 3)).astype(np.uint8)
        made.append(Record(str(i), {"image": pixels, "boxes": boxes, **truth}))
    return RecordList(made, ("one", "two"))


def fit(data: RecordList, backbone: str, steps: int, memory: float) -> tuple[float, int]:
    """Seconds of a step in the later half of a fit, and how many maps were made in all of it."""
    trained: dict[str, Any] = {"weights": Ref("training")}
    members = {"map": Counted(backbone, frozen=("all",), **trained), "features": RoIPool(7),
               "fc": NewFCLayers(**trained), "head": SoftmaxHead(layer="fc", norm=20.0, **trained)}  # fmt: skip
    training = Jointly(tuple(members), steps=steps, memory=memory, lr=1e-4)
    training.join(members)
    Counted.maps_made, watch = 0, Watch()
    training.fit(data, watch)
    taken = np.diff(watch.times)
    return float(np.median(taken[steps // 2 :])), Counted.maps_made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="squeezenet1_1")
    for name, value in (("images", 6), ("passes", 8), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    data, steps = images(args.images), args.images * args.passes // 2
    found = [(fit(data, args.backbone, steps, 2.0), fit(data, args.backbone, steps, 1e-9)) for _ in range(args.rounds)]
    (kept, once), (anew, often) = found[0]
    ratio = median(slow / fast for (fast, _), (slow, _) in found)
    print(f"{args.backbone}, {args.images} images, {steps} steps of 2; one map more shows the members what they read")
    print(f"maps made: {once} where they are kept, {often} where not")
    print(f"a later step: {1000 * kept:.0f} and {1000 * anew:.0f} ms, median ratio of {args.rounds} rounds {ratio:.2f}")


if __name__ == "__main__":
    main()
