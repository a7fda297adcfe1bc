"""What masks add to the time of an image: the steps of the branch, against all others of the same detector.

    python benchmarks/mask_branch.py RUN --data SPEC [--images 20]

RUN: a trained `mask`. Each step is timed by itself on the same images; prints medians, and the branch in percent of the
rest, with pasting told apart.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

from rcnn.pipeline import saved
from rcnn.pipeline.results import coco_results
from rcnn.pipeline.run import Run
from rcnn.pipeline.times import times
from rcnn.stages.datasets.spec import open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    data, pipeline = open_dataset(args.data), saved.load(args.run)
    images = [data[i] for i in range(min(args.images, len(data)))]
    boxes = ("det_boxes", "det_scores", "det_labels")
    branch = [name for name in pipeline.needed(("det_masks",)) if name not in pipeline.needed(boxes)]
    steps = times({"mask": pipeline}, images, args.device)["mask"]["steps"]
    own, rest = (sum(s for name, s in steps.items() if (name in branch) == there) for there in (True, False))
    pasting, counts = [], []
    with Run(pipeline, cache=None, device=args.device, progress=False) as run:
        for image in images:
            record = run.one(image)
            start = time.perf_counter()
            coco_results(record, 1, pipeline.classes)
            pasting.append(time.perf_counter() - start)
            counts.append(len(record["det_boxes"]))
    for name, seconds in steps.items():
        print(f"{name}: {1000 * seconds:.1f} ms{' (branch)' if name in branch else ''}")
    print(f"the branch: {1000 * own:.1f} ms beside {1000 * rest:.1f}, {100 * own / rest:.0f} % more, with a median of "
          f"{median(counts):g} detections; pasted and told: {1000 * median(pasting):.1f} ms more")  # fmt: skip


if __name__ == "__main__":
    main()
