"""Anonymous memory that the fits of SVMs and box regressors need on features that are larger than memory.

Claim: 20 classes on 20 GB of features (543 images x 2000 boxes x 9,216 float16) are learned within 3 GB: hard negative
mining with either solver, and ridge, with more pairs than features in every class.

    python benchmarks/memory.py [--images 543] [--classes 20] [--fits svm-liblinear svm-lbfgs ridge]

Each fit runs in a process of its own, whose RssAnon (/proc/PID/status) is read every 50 ms from outside, so that a
solver that holds the interpreter hides nothing. The peak includes Python, torch and the generator's own arrays (some
70 MB). Features are made when they are read, the same at every reading:

    features = max(0, strength x prototype of a class + scene + noise - 0.65), float16; about 3 in 10 are above 0

Prototypes are max(0, normal), one for each class; scene (of an image, one of five in turn, x 0.5) and noise (of a row)
are slices, from places drawn by a number, of one fixed run of a million normal numbers. (With a scene of its own in
every image, nearly every proposal stays a hard negative, which no real data set did.)

An image of 500 x 375 pixels has three annotated boxes side by side, of classes that go round. Of its proposals 20 % are
an annotated box moved by up to 6 % of its sides (IoU > 0.6), 5 % one moved by 25 % to 75 %, the rest lie anywhere;
the strength is 1 for the first, 0.5 for the second, 0 for the rest but 2 %, which show a class at 0.2 to 0.8: the hard
negatives.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from rcnn.stages.classifiers.svm import LinearSVMs
from rcnn.stages.record import Lazy, Record, Records
from rcnn.stages.regressors.ridge import RidgeBoxRegressors
from rcnn.stages.stage import NoCheckpoint, Stage

CLAIM = 3.0  # GB
CHUNK = 250  # rows made in float32 at a time
TRUTHS = 3
SCENES = 5  # images that follow each other show different ones
FITS: dict[str, Callable[[], Stage]] = {
    "svm-liblinear": lambda: LinearSVMs("pool5"),
    "svm-lbfgs": lambda: LinearSVMs("pool5", solver="lbfgs", loss="squared_hinge"),
    "ridge": lambda: RidgeBoxRegressors("pool5"),
}


class Generated(Records):
    """Images with boxes and features as the file's docstring says."""

    def __init__(self, images: int, boxes: int, length: int, classes: int):
        self.images, self.boxes, self.length = images, boxes, length
        self.classes = tuple(f"class {c + 1}" for c in range(classes))
        rng = np.random.default_rng(0)
        self.bank = rng.standard_normal(1 << 20, np.float32)
        self.prototypes = np.maximum(rng.standard_normal((classes, length), np.float32), 0)  # K F

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: Any) -> Any:
        rng = np.random.default_rng([1, index])
        labels = np.arange(TRUTHS * index, TRUTHS * (index + 1)) % len(self.classes) + 1  # T
        truth = annotated(rng)  # T 4
        boxes, own, strength = proposals(rng, truth, self.boxes)
        shown = np.where(own < 0, rng.integers(0, len(self.classes), self.boxes), labels[own] - 1)  # R
        whole = np.ones(TRUTHS, np.float32)
        return Record(
            f"{index:06}",
            {
                "boxes": boxes,
                "truth_boxes": truth,
                "truth_labels": labels,
                "truth_difficult": np.zeros(TRUTHS, bool),
                "truth_crowd": np.zeros(TRUTHS, bool),
                "features.pool5": Lazy(lambda: self._features(index, 2, shown, strength), lambda: b""),
                "truth_features.pool5": Lazy(lambda: self._features(index, 3, labels - 1, whole), lambda: b""),
            },
        )

    def _features(self, index: int, stream: int, shown: Any, strength: Any) -> Any:
        rng = np.random.default_rng([stream, index])
        places = np.lib.stride_tricks.sliding_window_view(self.bank, self.length)
        scene = places[np.random.default_rng([4, index % SCENES]).integers(len(places))]  # F
        scene = scene * np.float32(0.5) - np.float32(0.65)
        at = rng.integers(0, len(places), len(shown))  # R
        out = np.empty((len(shown), self.length), np.float16)
        for start in range(0, len(shown), CHUNK):
            rows = slice(start, start + CHUNK)
            values = places[at[rows]]  # n F, a copy
            values += scene
            some = np.flatnonzero(strength[rows])
            values[some] += strength[rows][some, None] * self.prototypes[shown[rows][some]]
            out[rows] = np.maximum(values, 0, out=values)
        return out  # R F


def annotated(rng: np.random.Generator) -> Any:
    """Boxes (T 4), one in each third of the image, so that none overlaps another."""
    size = rng.uniform((80, 100), (140, 300), (TRUTHS, 2))
    third = np.stack([np.arange(TRUTHS) * 500 / 3, np.zeros(TRUTHS)], 1)
    corner = third + rng.uniform(0, 1, (TRUTHS, 2)) * ((500 / 3, 375) - size)
    return np.concatenate([corner, corner + size], 1).astype(np.float32)


def proposals(rng: np.random.Generator, truth: Any, n: int) -> tuple[Any, Any, Any]:
    """Boxes (n 4), the annotated box that each was made from (n; -1: none), and how strongly it shows a class (n)."""
    kind = rng.choice(4, n, p=(0.2, 0.05, 0.02, 0.73))  # moved a little, moved far, hard, anything
    own = np.where(kind < 2, rng.integers(0, len(truth), n), -1)
    size = np.where(kind[:, None] < 2, (truth[:, 2:] - truth[:, :2])[own], rng.uniform(20, 200, (n, 2)))
    little, far = rng.uniform(-0.06, 0.06, (n, 2)), rng.uniform(0.25, 0.75, (n, 2)) * rng.choice((-1, 1), (n, 2))
    moved = truth[own, :2] + np.where(kind[:, None] == 0, little, far) * size
    corner = np.where(kind[:, None] < 2, moved, rng.uniform(0, 1, (n, 2)) * ((500, 375) - size))
    strength = np.choose(kind, (1.0, 0.5, rng.uniform(0.2, 0.8, n), 0.0)).astype(np.float32)
    return np.concatenate([corner, corner + size], 1).astype(np.float32), own, strength


class Watch(NoCheckpoint):
    """Tells how far a fit is, and keeps the most rows that a pool held."""

    held = 0

    def progress(self, done: int, total: int, text: str = "") -> None:
        print(f"\r{done}/{total} {text:60}", end="", flush=True)
        if "held" in text:
            self.held = max(self.held, int(text.split(maxsplit=1)[0]))


def run(fit: str, size: tuple[int, int, int, int], done: Connection) -> None:
    """Fit in this process. Sends the GB of anonymous memory before it, its seconds, and the most rows pooled."""
    records, watch, stage = Generated(*size), Watch(), FITS[fit]()
    import torch  # noqa: F401 - what a fit imports is no part of what it allocates

    before, start = anonymous(multiprocessing.current_process().pid), time.perf_counter()
    stage.fit(records, watch)
    done.send((before, time.perf_counter() - start, watch.held))


def anonymous(pid: int | None) -> float:
    """GB of anonymous memory that a process holds now; 0 once it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("RssAnon")), 0.0)


def measure(fit: str, size: tuple[int, int, int, int]) -> tuple[float, float, float, int]:
    """The peak in GB, and what `run` sends."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=run, args=(fit, size, its))
    process.start()
    its.close()
    peak = 0.0
    while process.is_alive():
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.05)
    if process.exitcode:
        raise SystemExit(f"{fit} ended with status {process.exitcode}")
    return peak, *mine.recv()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"images": 543, "boxes": 2000, "length": 9216, "classes": 20}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--fits", nargs="+", choices=list(FITS), default=list(FITS))
    args = parser.parse_args()
    row = args.length * 2 / 1e9  # GB
    print(f"{args.classes} classes, {args.images} images x {args.boxes} boxes x {args.length} float16: "
          f"{args.images * args.boxes * row:.1f} GB of features")  # fmt: skip
    for fit in args.fits:
        peak, before, seconds, held = measure(fit, (args.images, args.boxes, args.length, args.classes))
        pool = f"; at most {held:,} rows pooled, {held * row:.2f} GB" if held else ""
        print(f"\r{fit:14} peak {peak:.2f} GB anonymous, {before:.2f} before the fit; {seconds:.0f} s{pool} "
              f"(claimed under {CLAIM}: {'holds' if peak < CLAIM else 'DOES NOT HOLD'})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
