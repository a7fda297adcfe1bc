"""The recipe hog: its steps, its parameters, and that it finds what it was shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.pipeline.measure import Truth, read_results, voc_ap
from rcnn.pipeline.recipes import hog
from rcnn.pipeline.run import Run
from rcnn.pipeline.words import pipeline_of
from rcnn.stages.proposals.selective_search import SelectiveSearch
from rcnn.stages.proposals.sliding_window import SlidingWindow
from rcnn.stages.record import Record, RecordList

SIDE = 36  # pixels


def scene(seed: int) -> Record:
    """A square and a disc, bright on dark with noise, in the two halves of an image."""
    rng = np.random.default_rng(seed)
    image = rng.normal(60, 6, (80, 140, 3))
    order = rng.permutation(2)  # 0 the square
    corners = np.add(rng.integers(0, (70 - SIDE, 80 - SIDE), (2, 2)), [[0, 0], [70, 0]])
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    for kind, (left, top) in zip(order, corners):
        inside = np.ones((SIDE, SIDE), bool) if kind == 0 else np.hypot(y, x) < SIDE / 2
        image[top : top + SIDE, left : left + SIDE][inside] += 90
    return Record(
        f"scene {seed}",
        {
            "image": image.clip(0, 255).astype(np.uint8),
            "size": np.array([80, 140]),
            "truth_boxes": np.concatenate([corners, corners + SIDE], 1).astype(np.float32),
            "truth_labels": order + 1,
            "truth_difficult": np.zeros(2, bool),
            "truth_crowd": np.zeros(2, bool),
            "truth_areas": np.full(2, SIDE**2, np.float32),
        },
    )


def scenes(first: int, last: int) -> RecordList:
    return RecordList([scene(seed) for seed in range(first, last)], ("square", "disc"))


def test_it_finds_in_new_images_what_it_was_shown(tmp_path: Path) -> None:
    new = scenes(100, 106)
    truths = {r.id: Truth(r["truth_boxes"], r["truth_labels"], r["truth_difficult"], r["truth_areas"]) for r in new}
    for box_regression in (False, True):
        pipeline = hog(search="sliding_window", box_regression=box_regression)
        pipeline.set_params(proposals__scales=(SIDE,), proposals__ratios=(1,), proposals__stride=0.25)
        run = Run(pipeline, cache=tmp_path, jobs=1, progress=False)
        run.fit(scenes(0, 10))
        found = read_results(run.over(new, pipeline.outputs))
        assert min(voc_ap(found, truths).values()) > 0.8


def test_searches_and_how_many_boxes() -> None:
    search = hog().stage("proposals")
    assert isinstance(search, SelectiveSearch)
    assert search.top == 2000
    assert hog(proposals=300).stage("proposals").get_params()["top"] == 300
    windows = hog(search="sliding_window").stage("proposals")
    assert isinstance(windows, SlidingWindow)
    assert windows.top is None
    with pytest.raises(ValueError, match=r"search is 'edges'; it is one of selective_search, sliding_window"):
        hog(search="edges")


def test_box_regression_is_a_step_more() -> None:
    names = [step.name for step in hog(box_regression=True).steps]
    assert names == ["proposals", "features", "truth_features", "classifier", "regressor", "suppression"]
    assert [step.name for step in hog().steps] == [name for name in names if name != "regressor"]


def test_the_c_is_the_papers_at_its_own_norm() -> None:
    classifier: Any = hog().stage("classifier")
    assert classifier.C * (classifier.norm / 105**0.5) ** 2 == pytest.approx(0.01)


def test_the_command_sets_its_parameters() -> None:
    pipeline = pipeline_of("hog", ["search=sliding_window", "window=[128, 64]", "context=2", "features__cell=4"])
    features: Any = pipeline.stage("features")
    assert (features.window, features.context, features.cell) == ((128, 64), 2, 4)
    for wrong, named in {"search=edges": "search", "window=[60,64]": "window", "context=4": "context",
                         "proposals=0": "top"}.items():  # fmt: skip
        with pytest.raises(UserError, match=named):
            pipeline_of("hog", [wrong])
