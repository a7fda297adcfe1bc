"""The promises of the run loop: what is run again when something changes, and what is not."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.pipeline.pipeline import Pipeline, Step
from rcnn.pipeline.run import Run
from rcnn.stages.proposals.sliding_window import SlidingWindow
from rcnn.stages.record import MissingField, RecordList


def test_the_second_run_calls_no_stage(toys: Any) -> None:
    first, run = toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert run.clock.calls() > 0
    toys.calls.clear()
    second, run = toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert not toys.calls
    assert run.clock.calls() == 0
    assert toys.same(first, second)


def test_without_a_cache_the_same_is_found(toys: Any) -> None:
    with_cache, _ = toys.detections(toys.pipeline(), toys.data(), toys.cache)
    without, _ = toys.detections(toys.pipeline(), toys.data(), None)
    assert toys.same(with_cache, without)


def test_a_hidden_dependency_is_an_error_on_the_first_image(toys: Any) -> None:
    pipeline = Pipeline([("proposals", toys.Corners()), ("pry", toys.Prying())], outputs=["objectness"])
    run = Run(pipeline, cache=toys.cache, progress=False)
    with pytest.raises(MissingField, match=r"image 'a/0': step 'pry' \(Prying\) reads 'image'"):
        list(run.over(toys.data(), ["objectness"]))


def test_editing_one_annotation_trains_again_and_extracts_that_image_alone(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    toys.calls.clear()
    edited = list(toys.data().records)
    edited[2] = (
        edited[2].only(["image", "size", "truth_labels"]).add({"truth_boxes": np.array([[2, 2, 13, 14]], np.float32)})
    )
    toys.detections(toys.pipeline(), RecordList(edited, ("cat", "dog")), toys.cache)
    assert toys.calls["Corners"] == 0
    assert toys.calls["Means"] == 1  # the truth features of the edited image
    assert toys.calls["Nearest.fit"] == 6


def test_editing_one_label_trains_again_and_extracts_nothing(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    toys.calls.clear()
    edited = [toys.record("a/0", 0, label=2), *toys.data().records[1:]]
    toys.detections(toys.pipeline(), RecordList(edited, ("cat", "dog")), toys.cache)
    assert toys.calls["Means"] == 0
    assert toys.calls["Nearest.fit"] == 6


def test_adding_one_image_computes_that_image_alone(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(6), toys.cache)
    toys.calls.clear()
    toys.detections(toys.pipeline(), toys.data(7), toys.cache)
    assert toys.calls["Corners"] == 1
    assert toys.calls["Means"] == 2  # its proposals and its annotated boxes
    assert toys.calls["Nearest.fit"] == 7


def test_changing_an_image_computes_that_image_alone(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    toys.calls.clear()
    changed = [*toys.data().records[:5], toys.record("a/5", seed=99, label=2)]
    run = Run(toys.pipeline(), cache=toys.cache, progress=False)
    list(run.over(RecordList(changed, ("cat", "dog")), ["features.mean"]))
    assert toys.calls["Means"] == 1
    assert toys.calls["Corners"] == 0  # the size is as it was


def test_changing_the_content_of_a_weights_file_starts_afresh(toys: Any, tmp_path: Any) -> None:
    weights = tmp_path / "w.txt"
    weights.write_text("1.0")
    first, _ = toys.detections(toys.pipeline(features=toys.Means(str(weights))), toys.data(), toys.cache)
    toys.calls.clear()
    weights.write_text("2.0")
    second, _ = toys.detections(toys.pipeline(features=toys.Means(str(weights))), toys.data(), toys.cache)
    assert toys.calls["Means"] == 12
    assert not toys.same(first, second)


def test_moving_a_weights_file_changes_nothing(toys: Any, tmp_path: Any) -> None:
    (tmp_path / "w.txt").write_text("1.0")
    toys.detections(toys.pipeline(features=toys.Means(str(tmp_path / "w.txt"))), toys.data(), toys.cache)
    toys.calls.clear()
    os.rename(tmp_path / "w.txt", tmp_path / "moved.txt")
    toys.detections(toys.pipeline(features=toys.Means(str(tmp_path / "moved.txt"))), toys.data(), toys.cache)
    assert not toys.calls


def test_a_speed_parameter_is_in_no_key(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    toys.calls.clear()
    toys.detections(toys.pipeline(features=toys.Means(batch=7)), toys.data(), toys.cache)
    assert not toys.calls


def test_a_changed_parameter_runs_its_step_and_what_follows(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    toys.calls.clear()
    toys.detections(toys.pipeline(classifier=toys.Nearest(bias=1.0)), toys.data(), toys.cache)
    assert set(toys.calls) == {"Nearest.fit", "Nearest", "Best"}


def test_a_raised_version_starts_afresh(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    toys.calls.clear()
    monkeypatch.setattr(toys.Best, "version", 2)
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert set(toys.calls) == {"Best"}


def test_a_fit_stopped_in_the_middle_goes_on_there(toys: Any) -> None:
    undisturbed, _ = toys.detections(toys.pipeline(), toys.data(), None)
    with pytest.raises(KeyboardInterrupt):
        toys.detections(toys.pipeline(classifier=toys.Nearest(fail_at="a/4")), toys.data(), toys.cache)
    toys.calls.clear()
    resumed, _ = toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert toys.calls["Nearest.fit"] == 2
    assert toys.calls["Means"] == 0
    assert toys.same(undisturbed, resumed)


def test_a_run_stopped_in_the_middle_keeps_what_it_has(toys: Any) -> None:
    run = Run(toys.pipeline(), cache=toys.cache, progress=False)
    stream = run.over(toys.data(), ["features.mean"])
    next(stream)
    next(stream)
    stream.close()
    toys.calls.clear()
    list(Run(toys.pipeline(), cache=toys.cache, progress=False).over(toys.data(), ["features.mean"]))
    assert toys.calls["Means"] == 4


def test_a_step_that_is_not_kept_is_made_only_when_read(toys: Any) -> None:
    again = toys.pipeline().steps[2].stage
    steps = [
        ("proposals", toys.Corners()),
        Step("features", toys.Means(), keep=False),
        Step("truth_features", again, keep=False),
        ("classifier", toys.Nearest()),
        ("suppression", toys.Best()),
    ]
    kept, _ = toys.detections(toys.pipeline(), toys.data(), None)
    first, _ = toys.detections(Pipeline(steps), toys.data(), toys.cache)
    assert toys.same(kept, first)
    assert not list(toys.cache.glob("features-*"))
    toys.calls.clear()
    toys.detections(Pipeline(steps), toys.data(), toys.cache)
    assert not toys.calls


def test_shards_fill_one_cache(toys: Any) -> None:
    data = toys.data(7)
    for i in range(3):
        run = Run(toys.pipeline(), cache=toys.cache, progress=False)
        list(run.over(data, ["features.mean"], indices=range(i, 7, 3)))
    assert toys.calls["Means"] == 7
    toys.calls.clear()
    list(Run(toys.pipeline(), cache=toys.cache, progress=False).over(data, ["features.mean"]))
    assert not toys.calls


def test_one_step_alone_says_what_the_cache_lacks(toys: Any) -> None:
    run = Run(toys.pipeline(), cache=toys.cache, progress=False)
    with pytest.raises(UserError, match=r"image 'a/0': step 'features' alone cannot run.*--until proposals"):
        list(run.over(toys.data(), ["features.mean"], only="features"))
    list(run.over(toys.data(), ["boxes"]))
    list(run.over(toys.data(), ["features.mean"], only="features"))
    assert toys.calls["Means"] == 6


def test_worker_processes_find_the_same(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline([("proposals", SlidingWindow(scales=(8, 12)))], outputs=["boxes"])
    alone = [record["boxes"] for record in Run(pipeline, cache=None, jobs=1).over(toys.data(), ["boxes"])]
    monkeypatch.setattr(SlidingWindow, "parallel", True)
    run = Run(pipeline, cache=toys.cache, jobs=2, progress=False)
    found = [record["boxes"] for record in run.over(toys.data(), ["boxes"])]
    assert len(alone[0]) > 0
    assert all(np.array_equal(a, b) for a, b in zip(alone, found))
    assert run.clock["proposals"].computed == 6


def test_fit_sees_images_in_the_order_of_their_ids(toys: Any) -> None:
    data = toys.data()
    toys.detections(toys.pipeline(), data, toys.cache)
    data.records.reverse()
    toys.calls.clear()
    toys.detections(toys.pipeline(), data, toys.cache)
    assert not toys.calls


def test_two_images_of_one_id_are_refused(toys: Any) -> None:
    data = RecordList([toys.record("x", 0), toys.record("x", 1)], ("cat",))
    with pytest.raises(UserError, match="two images of the data set have the id 'x'"):
        toys.detections(toys.pipeline(), data, toys.cache)


def test_a_data_set_with_nothing_to_learn_is_refused(toys: Any) -> None:
    with pytest.raises(UserError, match="no images"):
        toys.detections(toys.pipeline(), RecordList([], ("cat",)), toys.cache)
    with pytest.raises(UserError, match="no annotations"):
        toys.detections(toys.pipeline(), RecordList(toys.data().records), toys.cache)


def test_a_damaged_entry_is_named_and_made_again(toys: Any, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = toys.detections(toys.pipeline(), toys.data(), toys.cache)
    (shelf,) = toys.cache.glob("suppression-*")
    entry = sorted(shelf.glob("??/*.safetensors"))[0]
    raw = bytearray(entry.read_bytes())
    raw[-1] ^= 1
    entry.write_bytes(raw)
    second, _ = toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert toys.same(first, second)
    assert str(entry) in caplog.text


def test_a_damaged_state_is_named_and_learned_again(toys: Any, caplog: pytest.LogCaptureFixture) -> None:
    first, _ = toys.detections(toys.pipeline(), toys.data(), toys.cache)
    (state,) = toys.cache.glob("classifier-*/state.safetensors")
    state.write_bytes(state.read_bytes()[:-3])
    second, _ = toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert toys.same(first, second)
    assert str(state) in caplog.text


def test_an_untrained_pipeline_says_so(toys: Any) -> None:
    with pytest.raises(UserError, match="step 'classifier' has learned nothing yet"):
        toys.pipeline()(np.zeros((20, 30, 3), np.uint8))


def test_a_trained_pipeline_takes_an_array(toys: Any) -> None:
    pipeline = toys.pipeline().fit(toys.data(), cache=toys.cache)
    found = pipeline(np.full((20, 30, 3), 90, np.uint8))
    assert found["det_boxes"].shape == (2, 4)
    with pytest.raises(UserError, match="H W 3 uint8 RGB"):
        pipeline(np.zeros((20, 30), np.float32))


def test_about_says_what_made_a_shelf(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    from rcnn.cache.store import Store

    about = {shelf.about()["step"]: shelf.about() for shelf in Store(toys.cache).shelves()}
    assert about["proposals"]["parameters"] == {"share": 0.5}
    assert about["classifier"]["classes"] == ["cat", "dog"]
    assert about["suppression"]["reads"]["scores"] == about["classifier"]["key"]
    assert about["features"]["filled_by"][0]["threads"] >= 1
