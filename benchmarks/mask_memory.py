"""What a large image with many masks takes of memory above the model's.

    python benchmarks/mask_memory.py [--backbone resnet50] [--size 4000 3000]

Mask R-CNN on a feature pyramid with random weights, every score a detection, the best 100 of a drawn image; each mask
is pasted and told as COCO's JSON has it. A process of its own tells its peak (VmHWM) when the model has seen an image
of 64 pixels, another when detections and masks are, when they are told, and when a picture is drawn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def peak() -> float:
    """The most memory that this process held so far, in GB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("VmHWM"))


def train(backbone: str, place: Path) -> None:
    """A RUN with weights as good as random."""
    from rcnn.pipeline import saved
    from rcnn.pipeline.recipes import mask
    from rcnn.pipeline.run import Run
    from rcnn.stages.datasets.shapes import Shapes

    pipeline = mask(backbone, None, fpn=True).set_params(training__steps=1, suppression__min_score=None)
    pipeline.set_params(training__images=1, training__rois=512)
    with Run(pipeline, cache=None, progress=False) as run:
        run.fit(Shapes(1, 0))
    saved.save(pipeline, place)


def detect(place: Path, width: int, height: int, bare: bool) -> None:
    """Detect, tell and draw with a RUN; prints the peaks. bare: only that of a net which saw a few pixels."""
    import numpy as np
    from rcnn.pipeline import pictures, saved
    from rcnn.pipeline.results import coco_results
    from rcnn.pipeline.run import Run
    from rcnn.stages.datasets.shapes import Shapes

    small = np.asarray(Shapes(1, 2)[0]["image"])
    rows, columns = (np.arange(n) * m // n for n, m in ((height, small.shape[0]), (width, small.shape[1])))
    image = small[rows][:, columns]
    pipeline = saved.load(place)
    if bare:
        pipeline["map"].size = 64  # the net is the same
    with Run(pipeline, cache=None, progress=False) as run:
        run.one(small[:32, :32])  # the net is built
        found = {"model": peak()}
        if bare:
            print(json.dumps(found))
            return
        record = run.one(image)
        found["detected"] = peak()
        told = json.dumps(coco_results(record, 1, run.pipeline.classes))
        found["told"] = peak()
        pictures.detections(record, run.pipeline.classes, place / "drawn.png", -1.0)
        found["drawn"] = peak()
    print(json.dumps({**found, "detections": len(record["det_boxes"]), "characters": len(told)}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--size", type=int, nargs=2, default=[4000, 3000])
    parser.add_argument("--run", type=Path, help="the RUN, in the process that tells its peaks")
    parser.add_argument("--bare", action="store_true", help="the same, of the model")
    args = parser.parse_args()
    if args.run:
        detect(args.run, *args.size, args.bare)
        return
    with tempfile.TemporaryDirectory() as folder:
        train(args.backbone, Path(folder))
        said = [subprocess.run([sys.executable, *sys.argv, "--run", folder, *more], check=True, text=True,
                               stdout=subprocess.PIPE).stdout for more in ([], ["--bare"])]  # fmt: skip
    found, bare = (json.loads(one.splitlines()[-1]) for one in said)
    found["model"] = bare["model"]
    print(f"{args.size[0]} x {args.size[1]}, {found['detections']} detections: {found['model']:.2f} GB with the model")
    for name in ("detected", "told", "drawn"):
        print(f"{name}: {found[name]:.2f} GB, {found[name] - found['model']:.2f} above it")


if __name__ == "__main__":
    main()
