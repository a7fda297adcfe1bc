"""One line on what made two shelves differ: the step where it began, and the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.cache.store import Shelf, Store
from rcnn.pipeline import saved
from rcnn.pipeline.about import environment
from rcnn.pipeline.pipeline import Again, Pipeline, Step
from rcnn.pipeline.run import Run
from rcnn.pipeline.why import side, why, why_runs
from rcnn.stages.record import RecordList


def trained(toys: Any, data: Any = None, cache: Path | None = None, **stages: Any) -> dict[str, Shelf]:
    """The shelves of a toy that was trained and used, by step."""
    pipeline = toys.pipeline(**stages)
    _found, run = toys.detections(pipeline, data or toys.data(), cache or toys.cache)
    return {step.name: run.shelf(step.name) for step in pipeline}


def told(toys: Any, a: Shelf, b: Shelf, other: Path | None = None) -> str:
    return why(side(Store(toys.cache), a), side(Store(other or toys.cache), b))


def test_a_parameter(toys: Any) -> None:
    a, b = trained(toys), trained(toys, proposals=toys.Corners(0.4))
    assert told(toys, a["proposals"], b["proposals"]) == "share 0.5 -> 0.4"


def test_a_parameter_further_up_is_followed_to_its_step(toys: Any) -> None:
    a, b = trained(toys), trained(toys, proposals=toys.Corners(0.4))
    assert told(toys, a["features"], b["features"]) == "reads proposals, where share 0.5 -> 0.4"
    line = "reads features, which reads proposals, where share 0.5 -> 0.4"
    assert told(toys, a["classifier"], b["classifier"]) == line
    assert told(toys, a["suppression"], b["suppression"]) == "reads proposals, where share 0.5 -> 0.4"


def test_a_version(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    a = trained(toys)
    monkeypatch.setattr(toys.Means, "version", 2)
    b = trained(toys)
    assert told(toys, a["features"], b["features"]) == "version 1 -> 2"
    assert told(toys, a["classifier"], b["classifier"]) == "reads features, where version 1 -> 2"


def test_the_content_of_a_weights_file(toys: Any, tmp_path: Path) -> None:
    shelves = []
    for text in ("1.0", "2.0"):
        (tmp_path / "w.txt").write_text(text)
        shelves.append(trained(toys, features=toys.Means(str(tmp_path / "w.txt"))))
    assert told(toys, *(one["features"] for one in shelves)) == "the file of weights has another content"
    none = trained(toys)
    assert told(toys, none["features"], shelves[0]["features"]).startswith("weights null -> a file (")


def test_an_edited_annotation_names_its_image(toys: Any) -> None:
    edited = [toys.record("a/0", 0, label=2), *toys.data().records[1:]]
    a, b = trained(toys), trained(toys, RecordList(edited, ("cat", "dog")))
    line = "the truth of 1 image differs (a/0)"
    assert told(toys, a["classifier"], b["classifier"]) == line
    assert told(toys, a["suppression"], b["suppression"]) == f"reads classifier, where {line}"


def test_added_images_are_counted_and_a_few_named(toys: Any) -> None:
    a, b = trained(toys, toys.data(4)), trained(toys, toys.data(9))
    assert told(toys, a["classifier"], b["classifier"]) == "5 images more (a/4, a/5, a/6, ...)"
    assert told(toys, b["classifier"], a["classifier"]) == "5 images fewer (a/4, a/5, a/6, ...)"


def test_a_changed_picture_is_told_by_what_was_made_of_it(toys: Any) -> None:
    changed = RecordList([*toys.data().records[:5], toys.record("a/5", seed=99, label=2)], ("cat", "dog"))
    a, b = trained(toys), trained(toys, changed)
    line = told(toys, a["classifier"], b["classifier"])
    assert line == "the features.mean of 1 image differs (a/5)"


def test_other_classes(toys: Any) -> None:
    a, b = trained(toys), trained(toys, RecordList(toys.data().records, ("cat", "cow")))
    assert told(toys, a["classifier"], b["classifier"]) == "classes cat, dog -> cat, cow"


def test_a_cause_in_the_method_and_one_in_the_data(toys: Any) -> None:
    a, b = trained(toys), trained(toys, toys.data(7), classifier=toys.Nearest(bias=0.5))
    assert told(toys, a["classifier"], b["classifier"]) == "bias 0.0 -> 0.5, 1 image more (a/6)"


def test_a_step_that_is_not_kept_is_passed_through(toys: Any) -> None:
    def with_steps(share: float, version: int) -> Shelf:
        toys.Means.version = version
        steps = [
            ("proposals", toys.Corners(share)),
            Step("features", toys.Means(), keep=False),
            Step("truth_features", Again("features", boxes="truth_boxes", features="truth_features"), keep=False),
            ("classifier", toys.Nearest()),
            ("suppression", toys.Best()),
        ]
        _found, run = toys.detections(Pipeline(steps), toys.data(), toys.cache)
        return run.shelf("classifier")

    try:
        a, b, c = with_steps(0.5, 1), with_steps(0.4, 1), with_steps(0.5, 2)
    finally:
        toys.Means.version = 1
    assert told(toys, a, b) == "reads features, which reads proposals, where share 0.5 -> 0.4"
    assert told(toys, a, c) == "reads features, where version 1 -> 2"


def test_the_same_is_said_to_be_the_same(toys: Any) -> None:
    a = trained(toys)
    assert told(toys, a["features"], a["features"]) == "the same method"
    assert told(toys, a["classifier"], a["classifier"]) == "the same method and the same data"


def test_two_steps_are_told_apart(toys: Any) -> None:
    a = trained(toys)
    assert told(toys, a["features"], a["truth_features"]).startswith("of two steps, features and truth_features; ")


def test_another_environment_in_another_cache(toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = trained(toys)
    there = {**environment("cpu"), "software": {"torch": "9.9"}, "device": "abacus"}
    monkeypatch.setattr("rcnn.pipeline.about.environment", lambda _device: there)
    b = trained(toys, cache=tmp_path / "other")
    line = told(toys, a["features"], b["features"], tmp_path / "other")
    assert line.startswith("the same method; filled by: ")
    assert "device cpu -> abacus" in line
    assert "threads" not in line


def test_what_cannot_be_known_is_said(toys: Any) -> None:
    a, b = trained(toys, toys.data(4)), trained(toys, toys.data(5))
    (a["classifier"].path / "inputs.json").unlink()  # as an older version left it
    line = told(toys, a["classifier"], b["classifier"])
    assert line.startswith("the same method on other data; which cannot be told")
    assert a["classifier"].path.name in line
    assert b["classifier"].path.name not in line


def test_a_step_whose_shelf_is_gone_is_said_to_be(toys: Any) -> None:
    a, b = trained(toys), trained(toys, proposals=toys.Corners(0.4))
    (b["proposals"].path / "about.json").unlink()
    line = told(toys, a["features"], b["features"])
    assert line == "reads a step of which this cache does not tell any more"


def test_two_runs(toys: Any, tmp_path: Path) -> None:
    places = {"a": toys.pipeline(), "b": toys.pipeline(proposals=toys.Corners(0.4)), "c": toys.pipeline()}
    for name, pipeline in places.items():
        pipeline.fit(toys.data(6 if name == "c" else 5), cache=toys.cache)
        saved.save(pipeline, tmp_path / name)
    store = Store(toys.cache)
    allow = [toys.Means.__module__]
    assert why_runs(tmp_path / "a", tmp_path / "b", store, allow) == "proposals.share: 0.5 -> 0.4"
    assert why_runs(tmp_path / "a", tmp_path / "c", store, allow) == "classifier: 1 image more (a/5)"
    assert why_runs(tmp_path / "a", tmp_path / "a", store, allow) == "the same method and the same data"


def test_a_shelf_that_is_taken_away_under_a_run_is_made_again(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr("rcnn.pipeline.wrap.IN_MEMORY", 0)  # every field is read back from its file
    expected, _ = toys.detections(toys.pipeline(), toys.data(), None)
    pipeline = toys.pipeline()
    run = Run(pipeline, cache=toys.cache, progress=False)
    run.fit(toys.data())
    shelves = Store(toys.cache).shelves()
    held = next(iter(run.over(toys.data(), ["features.mean"])))
    for shelf in shelves:
        shutil.rmtree(shelf.path)
    assert held["features.mean"].shape == (2, 3)  # read after its entry went
    found = {r.id: {n: r[n] for n in pipeline.outputs} for r in run.over(toys.data(), pipeline.outputs)}
    assert toys.same(expected, found)
    assert {shelf.about()["step"] for shelf in Store(toys.cache).shelves()} >= {"proposals", "features", "suppression"}


def test_a_lost_about_is_written_again(toys: Any) -> None:
    shelves = trained(toys)
    for name in ("features", "classifier"):
        (shelves[name].path / "about.json").unlink()
    toys.calls.clear()
    trained(toys)
    assert not toys.calls
    assert shelves["features"].about()["class"].endswith("Means")
    assert shelves["classifier"].about()["classes"] == ["cat", "dog"]


def test_what_a_run_uses_is_not_pruned_and_what_it_used_is(toys: Any) -> None:
    from rcnn.cache.prune import prune

    pipeline = toys.pipeline()
    run = Run(pipeline, cache=toys.cache, progress=False)
    run.fit(toys.data())
    before = len(Store(toys.cache).shelves())
    assert list(prune(toys.cache, 0).removed) == []
    run.close()
    assert len(prune(toys.cache, 0).removed) == before
    assert not Store(toys.cache).shelves()


def test_the_key_of_a_state_is_as_it_always_was(toys: Any) -> None:
    """Of ids and of the hashes of fields by name, so that older caches hold."""
    from rcnn.cache.keys import digest
    from rcnn.pipeline.wrap import inputs_digest

    run = Run(toys.pipeline(), cache=toys.cache, progress=False)
    run.fit(toys.data())
    fields = ("features.mean", "truth_features.mean", "truth_labels")
    parts = [run.method_key("classifier"), "cat", "dog"]
    for record in run.over(toys.data(), ["features.mean", "truth_features.mean"]):
        view = record.only(fields)
        parts += [record.id, inputs_digest(view, view)]
    assert run.pipeline.keys["classifier"] == digest(*parts)
    assert np.asarray(run.pipeline["classifier"].means_).shape == (2, 3)
