"""Runs killed with SIGKILL at random moments, then finished: are their detections those of an undisturbed run?

    python benchmarks/killed_runs.py [--runs 60] [--seed 0] [--images 10] [--jobs 2]

Each run trains R-CNN with pre-training, fine-tuning, selective search in worker processes, features, SVMs and box
regressors on drawn shapes, saves the RUN and detects in other images, in a cache folder of its own. Run i of N is
killed, worker processes and all, at a random moment of the i-th of N slices of an undisturbed run's work (its imports,
which have nothing to lose, are not counted); then the same is run again to its end. Prints, for each kill, what had
been written last, and at the end how many of the runs gave the very bits of the undisturbed one. Aim: all. Exit status
1 if any did not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

SIZE = 96, 128  # of an image: height, width
CHECKPOINTS = 0.1  # seconds between two of a fit: so short that many kills meet one
AGAIN = 5  # kills tried for one run, each earlier, where it was over before the kill
LATE = 0.9
STARTED = "started"  # a file of a run: its imports are over


def train_and_detect(place: Path, images: int, jobs: int) -> None:
    """One run, in this process: cache, RUN and detections in folders of `place`."""
    from rcnn.cache import files
    from rcnn.pipeline import saved
    from rcnn.pipeline.pipeline import Pipeline
    from rcnn.pipeline.recipes import rcnn
    from rcnn.pipeline.run import Run
    from rcnn.pipeline.wrap import host
    from rcnn.stages.datasets.shapes import ShapeCrops, Shapes

    (place / STARTED).touch()
    recipe = rcnn(backbone="shapenet", proposals=60, finetune=True)
    steps = [replace(step, data=ShapeCrops(8 * images)) if step.apart else step for step in recipe]
    pipeline = Pipeline(steps, name=recipe.name, outputs=recipe.outputs)
    pipeline.set_params(pretrain__epochs=2, pretrain__batch=8, pretrain__drop_epochs=1, finetune__steps=3 * images)
    pipeline.set_params(finetune__positives=2, finetune__negatives=4, proposals__width=200)
    run = Run(pipeline, cache=place / "cache", device="cpu", jobs=jobs, progress=False, checkpoint_every=CHECKPOINTS)
    run.fit(Shapes(images, seed=0, size=SIZE))
    saved.save(pipeline, place / "run")
    found = run.over(Shapes(images // 2, seed=1, size=SIZE), pipeline.outputs)
    arrays = {f"{record.id}/{name}": host(record[name]) for record in found for name in pipeline.outputs}
    files.write(place / "detections.safetensors", arrays, {})


def begin(place: Path, args: argparse.Namespace) -> subprocess.Popen[bytes]:
    """The same in a process group of its own, what it prints in a file."""
    words = [sys.executable, __file__, "--in", str(place), "--images", str(args.images), "--jobs", str(args.jobs)]
    place.mkdir(exist_ok=True)
    one = {"OMP_NUM_THREADS": "1", **os.environ}  # a thread a process: more would wait for each other
    with open(place / "said.txt", "ab") as said:
        return subprocess.Popen(words, stdout=said, stderr=said, env=one, start_new_session=True)


def finish(place: Path, args: argparse.Namespace) -> str:
    """Run to the end; a hash of the detections: names, dtypes, shapes, bits."""
    from rcnn.cache import files
    from rcnn.cache.keys import digest_state

    if begin(place, args).wait() != 0:
        raise SystemExit(f"a run failed:\n{(place / 'said.txt').read_text()}")
    return digest_state(files.read(place / "detections.safetensors"))


def kill(place: Path, after: float, args: argparse.Namespace) -> bool:
    """Begin a run and kill it after so many seconds of its work. False if it was over before."""
    process = begin(place, args)
    while process.poll() is None and not (place / STARTED).exists():
        time.sleep(0.01)
    try:
        process.wait(after)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def last_written(place: Path) -> str:
    """What a killed run wrote last: step and kind of file."""
    kept = ("*/about.json", "*/*.safetensors", "*/??/*.safetensors", "*/packs/*.safetensors", "*/.*.tmp", "*/??/.*.tmp")
    files = [path for pattern in kept for path in (place / "cache").glob(pattern)]
    files += [path for path in (place / "run").rglob("*") if path.is_file()]
    if not files:
        return "nothing yet"
    last = max(files, key=lambda path: path.stat().st_mtime_ns)
    if place / "run" in last.parents:
        return "RUN folder"
    step = last.relative_to(place / "cache").parts[0].rpartition("-")[0]
    kind = "half a file" if last.suffix == ".tmp" else last.stem if last.parent.name.startswith(step) else "an entry"
    return f"{step}: {kind}"


def killed(number: int, seconds: float, folder: Path, draw: random.Random, args: argparse.Namespace) -> tuple[str, int]:
    """Kill run `number` in its slice of an undisturbed run's seconds; what it had written last, checkpoints left."""
    moment = (number + draw.random()) / args.runs * seconds
    for attempt in range(AGAIN):
        place = folder / f"{number}-{attempt}"
        if kill(place, moment, args):
            place.rename(folder / str(number))
            left = len(list((folder / str(number)).glob("cache/*/checkpoint.safetensors")))
            return f"{moment:6.2f} s  {last_written(folder / str(number))}", left
        moment *= LATE
    raise SystemExit(f"run {number} was over before its kill {AGAIN} times")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=10, help="training images; half as many to detect in")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--in", dest="place", type=Path, help=argparse.SUPPRESS)  # one run, killed or not
    args = parser.parse_args()
    if args.place:
        train_and_detect(args.place, args.images, args.jobs)
        return
    with tempfile.TemporaryDirectory() as folder:
        raise SystemExit(0 if all_identical(Path(folder), args) else 1)


def all_identical(folder: Path, args: argparse.Namespace) -> bool:
    """Undisturbed once, killed and finished args.runs times; whether all gave the same bits."""
    draw = random.Random(args.seed)
    whole = folder / "undisturbed"
    expected = finish(whole, args)
    seconds = (whole / "detections.safetensors").stat().st_mtime - (whole / STARTED).stat().st_mtime
    print(f"an undisturbed run works {seconds:.1f} s; {args.runs} runs to kill, seed {args.seed}", flush=True)
    same, resumed, steps = 0, 0, Counter[str]()
    for number in range(args.runs):
        told, checkpoints = killed(number, seconds, folder, draw, args)
        identical = finish(folder / str(number), args) == expected
        same, resumed = same + identical, resumed + (checkpoints > 0)
        steps[told.split(" s  ")[1].partition(":")[0]] += 1
        print(f"{number:3d}  killed at {told:45s} {'identical' if identical else 'DIFFERENT'}", flush=True)
    print("last written by: " + ", ".join(f"{step} {count}" for step, count in steps.items()))
    print(f"{resumed} resumed a fit from its checkpoint; {same} of {args.runs} gave the undisturbed run's detections")
    return same == args.runs


if __name__ == "__main__":
    main()
