"""The promises of the run loop: what is run again when something changes, and what is not."""

from __future__ import annotations

import gc
import os
import sys
from typing import Any

import numpy as np
import pytest
from rcnn.cache import files, use
from rcnn.cache.inputs import Inputs
from rcnn.cache.keys import digest_value
from rcnn.errors import UserError
from rcnn.pipeline.pipeline import Pipeline, Step
from rcnn.pipeline.run import Run
from rcnn.stages.proposals.sliding_window import SlidingWindow
from rcnn.stages.record import Lazy, MissingField, Record, RecordList, Records


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


def test_what_one_pipeline_learns_is_in_no_other(toys: Any) -> None:
    whole = toys.pipeline().fit(toys.data(), cache=toys.cache)
    before = whole["classifier"].means_.copy()
    part = whole[:"classifier"]
    np.testing.assert_array_equal(part["classifier"].means_, before)
    part.fit(toys.data(3), cache=toys.cache)
    np.testing.assert_array_equal(whole["classifier"].means_, before)
    assert part.keys != whole.keys


def test_a_run_follows_its_pipeline(toys: Any) -> None:
    pipeline = toys.pipeline()
    run = Run(pipeline, cache=toys.cache, progress=False)
    old = next(iter(run.over(toys.data(), ["boxes"])))["boxes"]
    pipeline.set_params(proposals__share=1.0)
    new = next(iter(run.over(toys.data(), ["boxes"])))["boxes"]
    assert not np.array_equal(old, new)
    run.fit(toys.data(4))
    first = [r["scores"] for r in run.over(toys.data(4), ["scores"])]
    pipeline.fit(toys.data(5), cache=toys.cache)
    list(run.over(toys.data(4), ["scores"]))
    honest = toys.pipeline().set_params(proposals__share=1.0).fit(toys.data(4), cache=toys.cache)
    again = [r["scores"] for r in Run(honest, cache=toys.cache, progress=False).over(toys.data(4), ["scores"])]
    assert all(np.array_equal(a, b) for a, b in zip(first, again))


def test_a_file_overwritten_between_two_runs_is_read_again(toys: Any, tmp_path: Any) -> None:
    from rcnn.stages.proposals.precomputed import Precomputed

    file = tmp_path / "boxes.npz"
    pipeline = Pipeline([("proposals", Precomputed(str(file)))], outputs=["boxes"])
    found = []
    for side in (5, 9):
        np.savez(file, **{f"a/{i}": np.array([[0, 0, side, side]], np.float32) for i in range(2)})
        run = Run(pipeline, cache=toys.cache, progress=False)
        found.append(next(iter(run.over(toys.data(2), ["boxes"])))["boxes"].tolist())
    assert found == [[[0, 0, 5, 5]], [[0, 0, 9, 9]]]


def test_a_record_is_as_it_was_when_another_of_its_id_is_written(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcnn.pipeline.wrap.IN_MEMORY", 0)  # every field is read back from its file
    run = Run(toys.pipeline(), cache=toys.cache, progress=False)
    fields = ["features.mean"]
    expected = np.array(next(iter(run.over(RecordList([toys.record("x", 1)]), fields)))["features.mean"])
    kept = next(iter(run.over(RecordList([toys.record("x", 1)]), fields)))
    other = next(iter(run.over(RecordList([toys.record("x", 2)]), fields)))["features.mean"]
    np.testing.assert_array_equal(kept["features.mean"], expected)
    assert not np.array_equal(other, expected)
    toys.calls.clear()
    for seed in (1, 2):
        list(run.over(RecordList([toys.record("x", seed)]), fields))
    assert not toys.calls  # both entries are there


def test_other_proposals_leave_the_features_of_truth_as_they_are(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    toys.calls.clear()
    toys.detections(toys.pipeline(proposals=toys.Corners(0.4)), toys.data(), toys.cache)
    assert toys.calls["Means"] == 6  # of the proposals alone


def test_a_path_is_keyed_by_its_content(toys: Any, tmp_path: Any) -> None:
    (tmp_path / "w.txt").write_text("1.0")
    first, _ = toys.detections(toys.pipeline(features=toys.Means(tmp_path / "w.txt")), toys.data(), toys.cache)
    (tmp_path / "w.txt").write_text("2.0")
    second, _ = toys.detections(toys.pipeline(features=toys.Means(tmp_path / "w.txt")), toys.data(), toys.cache)
    assert not toys.same(first, second)


def test_equal_numbers_are_one_parameter(toys: Any) -> None:
    toys.detections(toys.pipeline(classifier=toys.Nearest(bias=1)), toys.data(), toys.cache)
    toys.calls.clear()
    toys.detections(toys.pipeline(classifier=toys.Nearest(bias=1.0)), toys.data(), toys.cache)
    assert not toys.calls


def test_a_missing_weight_file_is_told_before_any_work(toys: Any) -> None:
    run = Run(toys.pipeline(features=toys.Means("nowhere.txt")), cache=toys.cache, progress=False)
    with pytest.raises(UserError, match=r"weights of Means: there is no file nowhere\.txt"):
        list(run.over(toys.data(), ["features.mean"]))
    assert not toys.calls


def test_torch_stages_take_images_in_chunks(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    call = toys.Means.__call__
    monkeypatch.setattr(toys.Means, "chunk", 4)
    monkeypatch.setattr(toys.Means, "__call__", lambda self, records: sizes.append(len(records)) or call(self, records))
    alone, _ = toys.detections(toys.pipeline(), toys.data(6), None)
    assert set(sizes) == {1}  # lazily, one by one
    sizes.clear()
    found, _ = toys.detections(toys.pipeline(), toys.data(6), toys.cache)
    assert sizes[:4] == [4, 4, 2, 2]  # proposals and truth of each group
    assert toys.same(alone, found)


def test_a_parallel_step_reads_what_another_cached(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With bars on, which cannot travel to a worker process."""
    cloudpickle = pytest.importorskip("cloudpickle")  # joblib's own, from 1.6 on
    cloudpickle.register_pickle_by_value(sys.modules[toys.Means.__module__])
    try:
        alone, _ = toys.detections(toys.pipeline(), toys.data(), None)
        list(Run(toys.pipeline(), cache=toys.cache, progress=False).over(toys.data(), ["boxes"]))
        monkeypatch.setattr(toys.Means, "parallel", True)
        run = Run(toys.pipeline(), cache=toys.cache, jobs=2, progress=True)
        run.fit(toys.data())
        found = {r.id: {n: r[n] for n in run.pipeline.outputs} for r in run.over(toys.data(), run.pipeline.outputs)}
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[toys.Means.__module__])
    assert toys.same(alone, found)
    assert run.clock["features"].computed == 6
    assert toys.calls["Means"] == 12  # of the run without a cache: the workers counted for themselves


def other_data(toys: Any) -> RecordList:
    """Other images of the same ids, as train/0001.jpg and val/0001.jpg are."""
    return RecordList([toys.record(f"a/{i}", 50 + i, 1 + i % 2) for i in range(6)], ("cat", "dog"))


def test_two_data_sets_of_the_same_ids_do_not_disturb_one_another(toys: Any) -> None:
    for time in range(2):
        run = Run(toys.pipeline(), cache=toys.cache, jobs=1, progress=False)
        run.fit(toys.data())
        list(run.over(other_data(toys), run.pipeline.outputs))
        assert bool(toys.calls) == (time == 0)
        toys.calls.clear()


@pytest.mark.parametrize("cache", [True, False])
def test_a_stage_that_loses_an_image_is_refused(toys: Any, cache: bool) -> None:
    class Losing(toys.Corners):  # type: ignore[misc]
        chunk = 3

        def __call__(self, records: Any) -> Any:
            return super().__call__([record for record in records if record.id != "a/4"])

    pipeline = Pipeline([("proposals", Losing())], outputs=["boxes"])
    run = Run(pipeline, cache=toys.cache if cache else None, jobs=1, progress=False)
    with pytest.raises(ValueError, match=r"step 'proposals' \(Losing\) gave . results for . image"):
        [record["boxes"] for record in run.over(toys.data(), ["boxes"])]
    if cache:
        assert sorted(entry.id for entry in run.shelf("proposals").entries()) == ["a/0", "a/1", "a/2"]


OPENED: list[str] = []  # of every file; a hook stays for good


def note_opened(event: str, args: Any) -> None:
    if event == "open" and isinstance(args[0], (str, os.PathLike)):
        OPENED.append(os.path.basename(os.fspath(args[0])))


def test_about_is_not_opened_image_by_image(toys: Any, tmp_path: Any) -> None:
    sys.addaudithook(note_opened)
    counts = []
    for images in (4, 9):
        for _time in range(2):
            OPENED.clear()
            toys.detections(toys.pipeline(), toys.data(images), tmp_path / f"{images}")
            counts.append(OPENED.count("about.json"))
    assert counts[0] > 0
    assert counts[:2] == counts[2:]


def test_a_shelf_on_which_nothing_was_written_is_not_tidied(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    swept = []
    sweep = files.sweep
    monkeypatch.setattr(files, "sweep", lambda path: swept.append(path.name.partition("-")[0]) or sweep(path))
    toys.detections(toys.pipeline(), toys.data(20), toys.cache)
    assert sorted(swept) == ["classifier", "features", "proposals", "suppression", "truth_features"]
    assert len(list(toys.cache.glob("*/packs/*"))) == 5
    swept.clear()
    toys.detections(toys.pipeline(), toys.data(20), toys.cache)
    assert swept == []


class Fresh(Records):
    """Records made anew at each access, as those of files; how often an image was read for its hash."""

    classes = ("cat", "dog")

    def __init__(self, toys: Any, n: int):
        self.toys, self.n, self.hashed = toys, n, 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: Any) -> Any:
        record = self.toys.record(f"a/{index}", index, 1 + index % 2)
        image = record.raw("image")
        fields = {name: record.raw(name) for name in record}
        return Record(record.id, {**fields, "image": Lazy(image.value, lambda: self._identity(image))})

    def _identity(self, image: Lazy) -> bytes:
        self.hashed += 1
        return image.identity()


def test_before_a_fit_each_image_is_hashed_once(toys: Any) -> None:
    data = Fresh(toys, 5)
    Run(toys.pipeline(), cache=toys.cache, jobs=1, progress=False).fit(data)
    data.hashed = 0
    run = Run(toys.pipeline(), cache=toys.cache, jobs=1, progress=False)
    run.fit(data)
    assert data.hashed == 5
    again = Run(toys.pipeline(), cache=toys.cache, jobs=1, progress=False)
    assert again.remembered("classifier", data)
    assert again.pipeline.keys == run.pipeline.keys


def test_what_a_fit_learns_from_is_not_in_memory_while_it_learns(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def known() -> int:
        gc.collect()
        return sum(isinstance(one, Inputs) for one in gc.get_objects())

    held, before = [], known()  # other tests of the process may have left some
    fit = toys.Nearest.fit

    def looking(self: Any, records: Any, checkpoint: Any) -> None:
        held.append(known() - before)
        fit(self, records, checkpoint)

    monkeypatch.setattr(toys.Nearest, "fit", looking)
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert held == [0]


def test_what_was_learned_from_is_noted_again_where_it_is_lost(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    (path,) = toys.cache.glob("classifier-*/inputs.json")
    before = path.read_bytes()
    path.unlink()
    toys.calls.clear()
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert not toys.calls
    assert path.read_bytes() == before


def test_a_run_lets_go_of_the_cache_when_it_is_closed(toys: Any) -> None:
    with Run(toys.pipeline(), cache=toys.cache, jobs=1, progress=False) as run:
        list(run.over(toys.data(), ["boxes"]))
        assert len(use.live_runs(toys.cache)) == 1
    assert use.live_runs(toys.cache) == []
    list(run.over(toys.data(), ["boxes"]))
    assert len(use.live_runs(toys.cache)) == 1
    run.close()
    with Run(toys.pipeline(), cache=None, progress=False) as run:
        list(run.over(toys.data(), ["boxes"]))


def test_method_keys_are_as_they_always_were(toys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that caches hold: other words for the same method would be another key."""
    for name in ("Corners", "Means", "Nearest", "Best"):
        monkeypatch.setattr(getattr(toys, name), "__module__", "toys")
    run = Run(toys.pipeline(), cache=toys.cache, jobs=1, progress=False)
    assert run.method_key("proposals") == "b21be3c35648f94384a2a6773ad1c15d"
    assert run.method_key("features") == "ffce100f5934f87148af8d51505ac899"
    assert run.method_key("truth_features") == "edeed7fba2c581ba3c899b1d57a7e9e5"
    assert run.method_key("classifier") == "6f735055d2c957efb9dc6da78fb0dc9a"
    run.fit(toys.data())
    words = {"class": "toys.Best", "version": 1, "parameters": {}, "again": []}
    reads = {"boxes": run.method_key("proposals"), "scores": run.pipeline.keys["classifier"]}
    assert run.method_key("suppression") == digest_value({**words, "reads": reads})


def test_a_stage_is_prepared_before_its_first_image_also_under_another_name(
    toys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`truth_features` is the stage `features` again: it is prepared through it."""
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(toys.Means, "prepare", lambda stage: seen.append(("prepare", toys.calls["Means"])))
    Run(toys.pipeline(), cache=toys.cache, progress=False).fit(toys.data())
    assert seen[0] == ("prepare", 0)
    calls = toys.calls["Means"]
    assert calls > 6  # of proposals and of annotated boxes
    assert max(made for _, made in seen) < calls
    seen.clear()
    Run(toys.pipeline(), cache=toys.cache, progress=False).fit(toys.data())
    assert not seen  # all is from the cache: nothing to prepare
