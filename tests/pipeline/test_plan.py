"""`rcnn plan` against what a run then does: the steps that compute, the bytes, the rates that stay."""

from __future__ import annotations

import json
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.cache.files import folder_size
from rcnn.cache.store import Store
from rcnn.errors import UserError
from rcnn.pipeline import cli, disk, rates
from rcnn.pipeline.pipeline import Again, Pipeline, Step
from rcnn.pipeline.plan import Plan, Row, plan, waiting
from rcnn.pipeline.plan_cost import Sizes, runnable
from rcnn.pipeline.plan_table import as_json, duration, plan_table, rate
from rcnn.pipeline.rates import Cost
from rcnn.pipeline.recipes import fast, rcnn, sppnet
from rcnn.pipeline.run import Run
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.nets.backbones import lengths_of
from rcnn.stages.record import Record, RecordList
from rcnn.stages.stage import Ref

TAUGHT = {"proposals": 6, "features": 6, "truth_features": 6}


def run_of(pipeline: Pipeline, cache: Path) -> Run:
    return Run(pipeline, cache=cache, jobs=1, progress=False)


def planned(toys: Any, data: Any, test: Any = None, sample: int = 0, pipeline: Pipeline | None = None) -> Plan:
    return plan(run_of(pipeline or toys.pipeline(), toys.cache), data, test, sample)


def to_run(made: Plan, *uses: str) -> dict[str, int]:
    return {row.step: row.run for row in made.rows if row.use in uses}


def computed(run: Run) -> dict[str, int]:
    return {name: tally.computed for name, tally in run.clock.tallies.items() if tally.computed}


def nonzero(rows: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in rows.items() if n}


def test_with_an_empty_cache_all_runs_and_nothing_is_written(toys: Any) -> None:
    made = planned(toys, toys.data(), toys.data(3))
    assert to_run(made, "train") == TAUGHT
    assert to_run(made, "fit") == {"classifier": 6}
    assert to_run(made, "test") == dict.fromkeys(("proposals", "features", "classifier", "suppression"), 3)
    assert {row.step: row.waits for row in made.rows if row.waits and row.use == "test"} == {
        "classifier": "classifier",
        "suppression": "classifier",
    }
    assert not toys.cache.exists()
    assert not toys.calls


def test_after_a_run_nothing_is_left_to_do(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    toys.calls.clear()
    made = planned(toys, toys.data(), toys.data(), sample=3)
    assert set(to_run(made, "train", "fit", "test").values()) == {0}
    assert {row.reused for row in made.rows} == {6}
    assert made.sizes.stored == made.seconds == 0
    assert made.untimed == made.unsized == []
    assert not toys.calls


@pytest.mark.parametrize(
    "change", ["nothing fitted", "another bias", "a changed image", "more images", "another share"]
)
def test_the_plan_is_what_the_run_then_does(toys: Any, change: str) -> None:
    if change == "nothing fitted":
        run = run_of(toys.pipeline(), toys.cache)
        list(run.over(toys.data(4), ["features.mean"]))
    else:
        toys.detections(toys.pipeline(), toys.data(), toys.cache)
    data, pipeline = toys.data(), toys.pipeline()
    if change == "another bias":
        pipeline.set_params(classifier__bias=1.0)
    elif change == "a changed image":
        data = RecordList([toys.record("a/0", 77), *data.records[1:]], data.classes)
    elif change == "more images":
        data = toys.data(8)
    elif change == "another share":
        pipeline.set_params(proposals__share=0.25)
    made = planned(toys, data, pipeline=pipeline)
    run = run_of(pipeline, toys.cache)
    run.fit(data)
    assert nonzero(to_run(made, "train")) == computed(run)
    assert bool(to_run(made, "fit")["classifier"]) == (run.clock["classifier"].fit_seconds > 0)


def test_a_step_that_is_not_kept_runs_only_where_something_reads_it(toys: Any) -> None:
    def pipeline() -> Pipeline:
        steps = [
            ("proposals", toys.Corners()),
            Step("features", toys.Means(), keep=False),
            Step("truth_features", Again("features", boxes="truth_boxes", features="truth_features"), keep=False),
            ("classifier", toys.Nearest()),
            ("suppression", toys.Best()),
        ]
        return Pipeline(steps, name="toy")

    before = planned(toys, toys.data(), toys.data(), pipeline=pipeline())
    assert to_run(before, "train")["features"] == to_run(before, "test")["features"] == 6
    assert [row.size for row in before.rows if row.step == "features"] == [None, None]
    toys.detections(pipeline(), toys.data(), toys.cache)
    after = planned(toys, toys.data(), toys.data(), pipeline=pipeline())
    assert set(to_run(after, "train", "fit", "test").values()) == {0}


def test_a_trained_pipeline_is_planned_in_use(toys: Any) -> None:
    pipeline = toys.pipeline()
    run_of(pipeline, toys.cache).fit(toys.data())
    made = planned(toys, toys.data(8), pipeline=pipeline)
    assert {row.use for row in made.rows} == {"data"}
    assert to_run(made, "data") == {"proposals": 2, "features": 2, "classifier": 8, "suppression": 8}
    assert not any(row.waits for row in made.rows)


def test_a_sample_gives_sizes_and_rates_and_leaves_nothing(toys: Any) -> None:
    made = planned(toys, toys.data(), toys.data(), sample=2)
    rows = {(row.step, row.use): row for row in made.rows}
    assert rows["proposals", "train"].size == Sizes(6 * 32, 6 * 32, 6 * 32, at_most=False)
    assert rows["features", "train"].size == Sizes(6 * 2 * 3 * 4, 6 * 2 * 3 * 2, 6 * 2 * 3 * 4, at_most=False)
    assert rate(rows["features", "train"]).endswith("s (2 now)")
    assert made.untimed == ["fit classifier", "classifier", "suppression"]
    assert made.unsized == ["classifier", "suppression"]
    assert toys.calls["Corners"] == 2
    assert not toys.cache.exists()


def test_what_will_be_written_is_no_more_than_what_is_said(toys: Any) -> None:
    made = planned(toys, toys.data(), sample=6)
    run = run_of(toys.pipeline(), toys.cache)
    run.fit(toys.data())
    entries = sum(entry.nbytes for shelf in run.store.shelves() for entry in shelf.entries())  # type: ignore[union-attr]
    assert made.sizes.stored == pytest.approx(entries)
    assert folder_size(toys.cache) > entries


def test_rates_of_an_earlier_run_are_remembered(toys: Any) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    shelves = {shelf.path.name.split("-")[0]: shelf for shelf in run_of(toys.pipeline(), toys.cache).store.shelves()}  # type: ignore[union-attr]
    assert rates.noted(shelves["features"])["call"].images == 6
    rates.note(shelves["classifier"], "fit", Cost(6, 30.0))
    rates.note(shelves["features"], "call", Cost(6, 12.0))
    made = planned(toys, toys.data(12), pipeline=toys.pipeline(classifier=toys.Nearest(bias=3.0)))
    rows = {(row.step, row.use): row for row in made.rows}
    assert rows["classifier", "fit"].seconds == pytest.approx(60)
    assert rate(rows["classifier", "fit"]) == "30 s (6 before, other parameters)"
    assert rows["features", "train"].run == 6
    assert rows["features", "train"].seconds == pytest.approx(12)
    assert rows["truth_features", "train"].seconds != rows["features", "train"].seconds  # other boxes, another rate


def test_a_fit_that_went_on_from_a_checkpoint_leaves_no_rate(toys: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_of(toys.pipeline(classifier=toys.Nearest(fail_at="a/3")), toys.cache).fit(toys.data())
    run = run_of(toys.pipeline(), toys.cache)
    run.fit(toys.data())
    assert "fit" not in rates.noted(run.shelf("classifier"))


def test_a_note_is_kept_unless_more_images_were_measured_and_damage_is_no_note(toys: Any) -> None:
    run = run_of(toys.pipeline(), toys.cache)
    list(run.over(toys.data(), ["boxes"]))
    shelf = run.shelf("proposals")
    rates.note(shelf, "call", Cost(3, 99.0))
    assert rates.noted(shelf)["call"].images == 6
    (shelf.path / "rates.json").write_text('{"call": [1')
    assert rates.noted(shelf) == {}


def test_what_waits_for_a_fit_is_found_through_states_fields_and_repetition(toys: Any) -> None:
    pipeline = Pipeline(
        [
            Step("pretrain", toys.Nearest(), data=toys.labelled()),
            ("proposals", toys.Corners()),
            ("features", toys.Means(weights=Ref("pretrain"))),
            ("truth_features", Again("features", boxes="truth_boxes", features="truth_features")),
        ],
        name="toy",
        outputs=("boxes", "truth_features.mean"),
    )
    assert waiting(pipeline) == dict.fromkeys(("pretrain", "features", "truth_features"), "pretrain")
    part = runnable(pipeline)
    assert [step.name for step in part] == ["proposals", "features", "truth_features"]
    assert part["features"].weights is None


def test_a_fit_on_data_of_its_own_is_remembered_too(toys: Any) -> None:
    class Given(toys.Means):  # type: ignore[misc, name-defined]
        def __call__(self, records: Any) -> Any:
            assert "means_" in self.given("weights")
            return toys.Means()(records)

    def pipeline() -> Pipeline:
        first = Step("pretrain", toys.Nearest(), data=toys.labelled())
        steps = [first, ("proposals", toys.Corners()), ("features", Given(weights=Ref("pretrain")))]
        return Pipeline(steps, name="toy", outputs=("features.mean",))

    before = planned(toys, toys.data(), toys.data(), pipeline=pipeline())
    assert to_run(before, "fit") == {"pretrain": 1}
    run = run_of(pipeline(), toys.cache)
    run.fit(toys.data())
    list(run.over(toys.data(), ["features.mean"]))
    after = planned(toys, toys.data(), toys.data(8), pipeline=pipeline())
    assert to_run(after, "fit") == {"pretrain": 0}
    assert to_run(after, "test") == {"proposals": 2, "features": 2}
    assert not any(row.waits for row in after.rows)


def test_lengths_of_layers_are_those_of_the_net() -> None:
    assert lengths_of("alexnet", ["pool5", "fc6"]) == {"pool5": 9216, "fc6": 4096}
    assert lengths_of("shapenet", ["pool5", "gap"], 3) == {"pool5": 128 * 9, "gap": 128}


def test_no_classes_and_no_images_are_one_sentence(toys: Any) -> None:
    with pytest.raises(UserError, match="no annotations"):
        planned(toys, RecordList(toys.data().records))
    with pytest.raises(UserError, match="no images"):
        planned(toys, RecordList([], ("cat",)))


def voc07(n: int = 9963) -> RecordList:
    fields = {
        "image": np.zeros((1, 1, 3), np.uint8),
        "size": np.array([1, 1]),
        "truth_boxes": np.zeros((0, 4), np.float32),
        "truth_labels": np.zeros(0, np.int64),
    }
    return RecordList([Record(f"{i:06d}", fields) for i in range(n)], [f"class {k}" for k in range(20)])


def test_pool5_of_voc07_is_735_gigabytes_in_float32(tmp_path: Path) -> None:
    pipeline = rcnn().set_params(features__storage="float32")
    made = plan(run_of(pipeline, tmp_path / "cache"), voc07(), sample=0)
    (features,) = (row for row in made.rows if row.step == "features")
    assert features.size == Sizes(*(9963 * 2000 * 9216 * width for width in (4, 2, 4)))
    assert round(features.size.stored / 1e9) == round(made.sizes.stored / 1e9) == 735
    half = plan(run_of(rcnn(), tmp_path / "cache"), voc07(10), sample=0)
    (features,) = (row for row in half.rows if row.step == "features")
    assert features.size.stored == features.size.float16 == 10 * 2000 * 9216 * 2  # type: ignore[union-attr]


@pytest.mark.parametrize(("free", "fits"), [(734 * 10**9, False), (736 * 10**9, True)])
def test_a_plan_fits_a_disk_that_has_room_for_it(
    free: int, fits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _path: free)
    pipeline = rcnn().set_params(features__storage="float32")
    made = plan(run_of(pipeline, tmp_path / "cache"), voc07(), sample=0)
    assert (made.free, made.fits) == (free, fits)


def test_a_damaged_shelf_of_something_else_stops_no_plan(
    toys: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    toys.detections(toys.pipeline(proposals=toys.Corners(0.4)), toys.data(), toys.cache)
    for shelf in Store(toys.cache).shelves():
        if shelf.about()["parameters"] == {"share": 0.4}:
            hurt = shelf
            (shelf.path / "about.json").write_text("{")
    read: list[str] = []
    noted = rates.noted
    monkeypatch.setattr(rates, "noted", lambda shelf: read.append(shelf.path.name) or noted(shelf))  # type: ignore[func-returns-value]
    made = planned(toys, toys.data(9))
    assert nonzero(to_run(made, "train")) == dict.fromkeys(TAUGHT, 3)
    assert all(row.rate for row in made.rows if row.run and row.use == "train")
    assert sorted(read) == sorted(shelf.path.name for shelf in Store(toys.cache).shelves())  # once, not once a row
    assert f"{hurt.path.name}/about.json is damaged" in caplog.text


def test_the_table_of_a_plan(toys: Any) -> None:
    made = planned(toys, toys.data(), toys.data(3), sample=2)
    table = plan_table(made, "[/x]")
    assert table.title == "plan of [/x]"
    assert [row[0] for row in table.rows] == [*(row.step for row in made.rows), "in all"]
    assert table.sections == [3, 7]
    assert table.rows[0][4:7] == ["192 bytes"] * 3
    assert table.rows[-1][4] == f"{made.sizes.stored:.0f} bytes"


def test_the_command_warns_of_a_disk_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(2, 1, 1))
    words = [
        "plan",
        "rcnn",
        "--data",
        "shapes:3",
        "--test",
        "shapes:2:9",
        "--sample",
        "0",
        "--cache",
        str(tmp_path / "c"),
    ]
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["rcnn", *words, *more])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code
        said = capsys.readouterr()
        assert "will not fit" in said.err
    found = json.loads(said.out)
    assert not found["fits"]
    assert found["bytes"]["stored"] > 3 * 2000 * 9216 * 2
    assert {row["use"] for row in found["rows"]} == {"train", "fit", "test"}


def test_sums_leave_out_what_is_not_known() -> None:
    rows = [Row("a", "train", 3, 3, size=Sizes(10, 5, 10), seconds=2.0), Row("b", "fit", 3, 3), Row("c", "test", 3, 3)]
    made = Plan(rows, 5, "place")
    assert (made.seconds, made.sizes.stored, made.fits) == (2.0, 10, False)
    assert (made.untimed, made.unsized) == (["fit b", "c"], ["c"])
    assert as_json(made)["rows"][0]["reused"] == 0


def test_durations() -> None:
    assert [duration(s) for s in (0.25, 41, 90, 7200)] == ["0.2 s", "41 s", "1.5 min", "2.0 h"]


def test_file_systems(tmp_path: Path) -> None:
    mounts = f"overlay / overlay rw 0 0\nserver:/x {tmp_path} nfs4 rw 0 0\n"
    assert disk.file_system(tmp_path / "not/there", mounts) == "nfs4"
    assert disk.file_system(tmp_path.parent, mounts) == "overlay"
    assert disk.file_system(tmp_path, "") == ""
    assert disk.is_shared("nfs4")
    assert not disk.is_shared("ext4")
    assert disk.existing(tmp_path / "not/there") == tmp_path


def test_a_fit_of_other_parameters_counts_by_its_work(tmp_path: Path) -> None:
    """Two steps of fine-tuning were run: seventy thousand take thirty-five thousand times as long."""

    def made(steps: int) -> Run:
        model = rcnn(backbone="shapenet", weights=None, finetune=True, proposals=30)
        model.set_params(finetune__steps=steps, finetune__positives=2, finetune__negatives=2)
        return Run(model, cache=tmp_path / "cache", jobs=1, device="cpu")

    run = made(2)
    run.fit(Shapes(3), (), steps=["finetune"])
    took = rates.noted(run.store.shelf("finetune", run.pipeline.keys["finetune"]))["fit"].seconds
    run.close()
    (row,) = [row for row in plan(made(70_000), Shapes(3), sample=0).rows if (row.step, row.use) == ("finetune", "fit")]
    assert row.seconds == pytest.approx(35_000 * took)
    assert row.rate.other
    tried = plan(made(70_000), Shapes(3), sample=2)
    (row,) = [row for row in tried.rows if (row.step, row.use) == ("finetune", "fit")]
    assert row.rate.now
    assert 0 < row.seconds < 35_000 * took  # without what a fit costs at its beginning
    assert "fit classifier" in tried.untimed
    assert "at least" in str(plan_table(tried, "rcnn").rows[-1])


def test_what_is_trained_together_is_planned(tmp_path: Path) -> None:
    pipeline = fast("shapenet", None, proposals=30, scales=(120,), fc=(16,))
    made = plan(run_of(pipeline.set_params(training__steps=5), tmp_path), Shapes(3), Shapes(2, 1), sample=1)
    assert to_run(made, "fit") == {"training": 3}
    assert {row.step for row in made.rows if row.waits and row.use == "test"} >= {"map", "head"}


def test_a_training_on_features_and_one_of_two_trainings_are_planned(tmp_path: Path) -> None:
    """Sampled, so that what can run today does: features are there, a map that waits for a second training is not."""
    pipeline = sppnet("shapenet", None, proposals=30, scales=(120,), finetune=True, fc=(16,))
    made = plan(run_of(pipeline.set_params(training__steps=5), tmp_path), Shapes(3), sample=2)
    assert next(row for row in made.rows if row.step == "training" and row.use == "fit").seconds
    steps = {"training__steps": 2, "box_training__steps": 2}
    first, second = (fast("shapenet", None, proposals=30, scales=(120,), fc=(16,), stage_wise=True).set_params(**steps)
                     for _ in range(2))  # fmt: skip
    with run_of(first, tmp_path) as run:
        run.fit(Shapes(3), (), steps=("training",))
        assert list(first.keys) == ["training"]
    made = plan(run_of(second, tmp_path), Shapes(3), sample=1)
    assert to_run(made, "fit") == {"training": 0, "box_training": 3}
