"""Our selective search against OpenCV's: time an image, images a second on two threads, and what the boxes cover.

    python benchmarks/selective_search.py SPEC [SPEC ...] [--images N] [--modes fast quality] [--paper] [--start]

SPEC: a data set, as for `rcnn` (coco:.../instances_val.json). Images at their natural size. OpenCV runs its own preset
of the mode (switchToSelectiveSearchFast, -Quality) and gives its own order, as its users get it; cv2 is pinned to one
thread. Ours is the whole stage, ranking included, with nothing left out (width None, min_side 0, top None).

One process, interleaved: OpenCV, then ours, on each image; every eight images ours again, in two threads over these
images. Prints the median of the ratios of the images, and the throughput of two threads over OpenCV's on one. Then
average best overlap and recall among the first boxes, and the difference with a paired bootstrap over images (95 %).

--paper: OpenCV with the colours, similarities and k of the paper's mode instead of its presets, and boxes in the
stage's order, which is the paper's with near duplicates last (engine="opencv"). --start: instead of all that, new
processes that search one 640 x 480 image of SPEC, the kernels compiled before: seconds of the call (numba's import and
reading the kernels included) and of the process, and the peak of resident memory. --threads: instead of all that, ours
alone, one thread against two for the colour spaces of an image: the median of the ratios.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any

import numpy as np
from rcnn.stages.proposals.selective_search import SelectiveSearch
from rcnn.stages.record import Record

GROUP = 8  # images
TOPS = (200, 500, 1000, 2000, None)
IOUS = (0.5, 0.7)
RESAMPLES = 1000
WHOLE: dict[str, Any] = {"width": None, "min_side": 0, "top": None}


def presets(mode: str, image: Any) -> Any:
    """Boxes (R 4) of OpenCV's preset, in its order."""
    import cv2

    search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[..., ::-1]))
    getattr(search, f"switchToSelectiveSearch{mode.title()}")()
    rects = np.asarray(search.process())
    return np.concatenate([rects[:, :2], rects[:, :2] + rects[:, 2:]], 1).astype(np.float32)


def staged(stage: SelectiveSearch, name: str, image: Any) -> Any:
    return stage([Record(name, {"image": image})])[0]["boxes"]


def groups(spec: str, images: int | None) -> Iterator[list[Record]]:
    from rcnn.stages.datasets.spec import open_dataset

    records = open_dataset(spec)
    count = len(records) if images is None else min(images, len(records))
    for start in range(0, count, GROUP):
        yield [records[i] for i in range(start, min(start + GROUP, count))]


def compare(spec: str, mode: str, images: int | None, paper: bool) -> None:
    ours = SelectiveSearch(mode, **WHOLE)
    other = SelectiveSearch(mode, engine="opencv", **WHOLE)
    ours.prepare()
    found: list[tuple[Any, Any, Any]] = []  # truth, OpenCV's boxes, ours
    seconds: list[tuple[float, float]] = []
    both = 0.0  # seconds of two threads
    for group in groups(spec, images):
        held = [np.ascontiguousarray(record["image"]) for record in group]
        for record, image in zip(group, held):
            start = time.perf_counter()
            theirs = staged(other, record.id, image) if paper else presets(mode, image)
            middle = time.perf_counter()
            boxes = staged(ours, record.id, image)
            seconds.append((middle - start, time.perf_counter() - middle))
            found.append((truth(record), theirs, boxes))
        with ThreadPoolExecutor(2) as pool:
            start = time.perf_counter()
            list(pool.map(lambda record, image: staged(ours, record.id, image), group, held))
            both += time.perf_counter() - start
    slow, fast = np.array(seconds).T
    ratio, two = median(slow / fast), sum(slow) / both
    print(f"\n{spec}, {mode}, {len(found)} images: OpenCV {1000 * median(slow):.0f} ms, ours "
          f"{1000 * median(fast):.1f} ms; median ratio {ratio:.1f}; two threads over images {two:.1f}")  # fmt: skip
    table(found)


def inside(spec: str, mode: str, images: int | None) -> None:
    """One thread and two, image by image."""
    stages = [SelectiveSearch(mode, threads=n, **WHOLE) for n in (1, 2)]
    stages[0].prepare()
    ratios = []
    for record in (record for group in groups(spec, images) for record in group):
        image, taken = np.ascontiguousarray(record["image"]), []
        for stage in stages:
            start = time.perf_counter()
            staged(stage, record.id, image)
            taken.append(time.perf_counter() - start)
        ratios.append(taken[0] / taken[1])
    print(
        f"{spec}, {mode}, {len(ratios)} images: two threads in an image are {median(ratios):.2f} times as fast as one"
    )


def truth(record: Record) -> Any:
    """The boxes to be covered: crowds are none."""
    return record["truth_boxes"][~record["truth_crowd"]] if "truth_crowd" in record else record["truth_boxes"]


def table(found: Sequence[tuple[Any, Any, Any]]) -> None:
    """Averages over objects, and the paired differences over images."""
    from rcnn.stages.boxes import overlap

    found = [row for row in found if len(row[0])]  # an image without objects tells nothing, and one drawn alone: 0 / 0
    counts = np.array([len(true) for true, _, _ in found])
    drawn = np.random.default_rng(0).multinomial(len(found), np.full(len(found), 1 / len(found)), RESAMPLES)
    weights = np.concatenate([np.ones((1, len(found)), int), drawn])
    boxes = [np.mean([len(row[side]) for row in found]) for side in (1, 2)]
    print(f"{counts.sum()} objects; boxes an image: OpenCV {boxes[0]:.0f}, ours {boxes[1]:.0f}")
    for top in TOPS:
        best = [[overlap(true, boxes[:top]).max(1, initial=0) for boxes in sides] for true, *sides in found]
        for name, value in (("ABO", lambda v: v), *((f"recall at {at}", lambda v, at=at: v >= at) for at in IOUS)):
            sums = np.array([[value(side).sum() for side in sides] for sides in best])  # images 2
            means = weights @ sums / (weights @ counts)[:, None]
            gain = means[:, 1] - means[:, 0]
            low, high = np.percentile(gain[1:], [2.5, 97.5])
            print(f"  first {top or 'all':>4} {name:14} OpenCV {means[0, 0]:.3f}, ours {means[0, 1]:.3f}: "
                  f"{gain[0]:+.3f} ({low:+.3f} to {high:+.3f})")  # fmt: skip


def first_call(spec: str) -> None:
    """New processes: seconds of the first call, of the whole process, and its peak memory."""
    SelectiveSearch().prepare()  # compiled before
    images = (record["image"] for group in groups(spec, None) for record in group)
    image = next((image for image in images if image.shape == (480, 640, 3)), None)
    if image is None:
        raise SystemExit(f"{spec} has no image of 640 x 480")
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/image.npy", image)
        for mode in [*["fast"] * 5, *["quality"] * 5]:
            start = time.perf_counter()
            subprocess.run([sys.executable, __file__, "--one", f"{folder}/image.npy", "--modes", mode], check=True)
            print(f"  the whole process {time.perf_counter() - start:.2f} s")


def one(file: str, mode: str) -> None:
    start = time.perf_counter()
    boxes = staged(SelectiveSearch(mode, **WHOLE), "0", np.load(file))
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(f"{mode}: first call {took:.2f} s, {len(boxes)} boxes, {peak:.0f} MB resident at most", end="", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("specs", nargs="*")
    parser.add_argument("--images", type=int)
    parser.add_argument("--modes", nargs="+", choices=["fast", "quality"], default=["fast", "quality"])
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("--start", action="store_true")
    parser.add_argument("--threads", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one(args.one, args.modes[0])
        return
    import cv2

    cv2.setNumThreads(1)
    for spec in args.specs:
        if args.start:
            first_call(spec)
            continue
        for mode in args.modes:
            if args.threads:
                inside(spec, mode, args.images)
                continue
            compare(spec, mode, args.images, args.paper)


if __name__ == "__main__":
    main()
