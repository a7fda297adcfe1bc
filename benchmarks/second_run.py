"""Training and evaluating a recipe against doing the same again with its cache.

    python benchmarks/second_run.py [--images 20] [--again 3]

R-CNN on `shapes` with `shapenet`, in one process. Prints the first run's seconds, the median of the later ones', and
their ratio. Aim: <= 0.03. The later runs draw and hash their images, and compute no stage (checked).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from statistics import median

from rcnn.pipeline import measure
from rcnn.pipeline.recipes import rcnn
from rcnn.pipeline.run import Run
from rcnn.stages.datasets.shapes import Shapes


def once(images: int, cache: str) -> tuple[float, int]:
    """Seconds of one training and evaluation, and how often any stage was called."""
    start = time.perf_counter()
    pipeline = rcnn(backbone="shapenet", proposals=400)
    run = Run(pipeline, cache=cache, progress=False)
    run.fit(Shapes(images, seed=0))
    test = Shapes(images, seed=1)
    measure.evaluate(measure.read_results(run.over(test, pipeline.outputs)), test)
    return time.perf_counter() - start, run.clock.calls()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--again", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        first, calls = once(args.images, cache)
        print(f"first run   {first:8.2f} s, stages called on {calls} images or fits")
        later = [once(args.images, cache) for _ in range(args.again)]
    again = median(taken for taken, _ in later)
    print(f"second run  {again:8.2f} s, stages called on {later[0][1]} images or fits")
    print(f"ratio       {again / first:8.4f}")
    if any(calls for _, calls in later):
        raise SystemExit("a later run called a stage")


if __name__ == "__main__":
    main()
