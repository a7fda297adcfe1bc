"""A toy detector whose calls are counted: enough to hold pipeline, cache and run to their word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rcnn.pipeline.pipeline import Again, Pipeline
from rcnn.pipeline.run import Run
from rcnn.stages.record import Lazy, Record, RecordList, Records
from rcnn.stages.stage import Checkpoint, Ref, Stage

CALLS: Counter[str] = Counter()


class Corners(Stage):
    """Two boxes an image, from its size."""

    needs = ("size",)
    gives = ("boxes",)

    def __init__(self, share: float = 0.5):
        self.share = share

    def validate(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}, not in (0, 1]")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        CALLS["Corners"] += len(records)
        found = []
        for record in records:
            h, w = record["size"]
            boxes = [[0, 0, w * self.share, h * self.share], [w / 2, h / 2, w, h]]
            found.append({"boxes": np.array(boxes, np.float32)})
        return found


class Means(Stage):
    """Mean colour of each box, times a factor read from a weights file."""

    needs = ("image", "boxes")
    gives = ("features.mean",)
    files = ("weights",)
    speed = ("batch",)

    def __init__(self, weights: str | Path | Ref | None = None, batch: int = 1):
        self.weights = weights
        self.batch = batch

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        CALLS["Means"] += len(records)
        factor = float(Path(self.weights).read_text()) if self.weights else 1.0
        found = []
        for record in records:
            cut = [record["image"][int(y0) : int(y1), int(x0) : int(x1)] for x0, y0, x1, y1 in record["boxes"]]
            means = [c.reshape(-1, 3).mean(0) * factor for c in cut]
            found.append({"features.mean": np.array(means, np.float32).reshape(-1, 3)})
        return found


class Nearest(Stage):
    """A score for each class: minus the distance to its mean feature. Fails at image `fail_at` of its fit."""

    needs = ("features.mean",)
    learns = ("truth_features.mean", "truth_labels")
    gives = ("scores",)
    speed = ("fail_at",)

    def __init__(self, bias: float = 0.0, fail_at: str | None = None):
        self.bias = bias
        self.fail_at = fail_at

    def fit(self, records: Records, checkpoint: Checkpoint) -> None:
        saved = checkpoint.load() or {"sums": np.zeros((len(records.classes), 4)), "next": np.array(0)}
        sums, start = saved["sums"], int(saved["next"])
        for i in range(start, len(records)):
            record = records[i]
            if record.id == self.fail_at:
                raise KeyboardInterrupt
            CALLS["Nearest.fit"] += 1
            for label, row in zip(record["truth_labels"], record["truth_features.mean"]):
                sums[label - 1] += [*row, 1]
            checkpoint.save(lambda i=i: {"sums": sums, "next": np.array(i + 1)}, now=True)  # type: ignore[misc]
        self.means_ = (sums[:, :3] / np.maximum(sums[:, 3:], 1)).astype(np.float32)

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        CALLS["Nearest"] += len(records)
        rows = [record["features.mean"][:, None] - self.means_ for record in records]
        return [{"scores": (self.bias - np.linalg.norm(row, axis=2)).astype(np.float32)} for row in rows]


class Best(Stage):
    """The best box of each class."""

    needs = ("boxes", "scores")
    gives = ("det_boxes", "det_scores", "det_labels")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        CALLS["Best"] += len(records)
        return [self._one(record["boxes"], record["scores"]) for record in records]

    def _one(self, boxes: Any, scores: Any) -> dict[str, Any]:
        best = scores.argmax(0)
        labels = np.arange(1, len(best) + 1)
        return {"det_boxes": boxes[best], "det_scores": scores[best, labels - 1], "det_labels": labels}


class Prying(Stage):
    """Reads the image, which it does not declare."""

    needs = ("boxes",)
    gives = ("objectness",)

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [{"objectness": np.full(len(r["boxes"]), r["image"].mean(), np.float32)} for r in records]


def toy_pipeline(**stages: Any) -> Pipeline:
    again = Again("features", boxes="truth_boxes", features="truth_features")
    return Pipeline(
        [
            ("proposals", stages.get("proposals", Corners())),
            ("features", stages.get("features", Means())),
            ("truth_features", again),
            ("classifier", stages.get("classifier", Nearest())),
            ("suppression", stages.get("suppression", Best())),
        ],
        name="toy",
    )


def toy_record(id: str, seed: int = 0, label: int = 1) -> Record:
    image = np.random.default_rng(seed).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    return Record(
        id,
        {
            "image": Lazy(lambda: image, image.tobytes),
            "size": np.array([20, 30]),
            "truth_boxes": np.array([[2, 2, 12, 14]], np.float32),
            "truth_labels": np.array([label]),
        },
    )


def toy_data(n: int = 6) -> RecordList:
    return RecordList([toy_record(f"a/{i}", i, 1 + i % 2) for i in range(n)], ("cat", "dog"))


def labelled_features() -> RecordList:
    """Data that a step may have of its own: features with labels, and no images."""
    fields = {
        "features.mean": np.zeros((0, 3), np.float32),
        "truth_features.mean": np.array([[1, 2, 3]], np.float32),
        "truth_labels": np.array([1]),
    }
    return RecordList([Record("one", fields)], ("cat", "dog"))


def detections(pipeline: Pipeline, data: Records, cache: Path | None) -> tuple[dict[str, Any], Run]:
    run = Run(pipeline, cache=cache, jobs=1, progress=False)
    run.fit(data)
    found = {r.id: {name: r[name] for name in pipeline.outputs} for r in run.over(data, pipeline.outputs)}
    return found, run


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[id][n], b[id][n]) for id in a for n in a[id])


@pytest.fixture
def toys(tmp_path: Path) -> Any:
    CALLS.clear()
    names: dict[str, Callable[..., Any] | Any] = {
        "Corners": Corners,
        "Means": Means,
        "Nearest": Nearest,
        "Best": Best,
        "Prying": Prying,
        "pipeline": toy_pipeline,
        "record": toy_record,
        "data": toy_data,
        "labelled": labelled_features,
        "detections": detections,
        "same": same,
        "calls": CALLS,
        "cache": tmp_path / "cache",
    }
    return SimpleNamespace(**names)
