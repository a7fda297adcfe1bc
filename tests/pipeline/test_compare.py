"""RUNs side by side: the numbers are measure's own, and what changed is named, no more and no less."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.pipeline import cli, compare, compare_tables, measure, report, saved
from rcnn.pipeline.changes import Method, changes, method_of, parts
from rcnn.pipeline.compare import Measured, bases, measured, only, run_names
from rcnn.pipeline.measure import Detections
from rcnn.pipeline.pipeline import Again, Pipeline
from rcnn.pipeline.recipes import rcnn
from rcnn.pipeline.run import Run
from rcnn.pipeline.wrap import Clock
from rcnn.stages import masks
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.record import Record, RecordList
from rcnn.stages.stage import NamedFile, Stage

CLASSES = ("cat", "dog", "unicorn")  # there is no unicorn


def dataset(images: int = 12) -> RecordList:
    rng = np.random.default_rng(0)
    records = []
    for i in range(images):
        corner = rng.integers(0, 50, (3, 2)).astype(np.float32)
        labels = rng.integers(1, 3, 3)
        difficult = rng.random(3) < 0.2
        fields = {
            "truth_boxes": np.concatenate([corner, corner + 20], 1),
            "truth_labels": labels,
            "truth_difficult": difficult,
        }
        records.append(Record(f"{i}", fields))
    return RecordList(records, CLASSES)


def detector(name: str, data: RecordList, shift: float, seed: int = 0) -> Measured:
    """Finds every object, up to a random shift, and one that is not there."""
    rng = np.random.default_rng(seed)
    results = {}
    for record in data:
        boxes = record["truth_boxes"] + rng.normal(0, shift, (3, 1)).astype(np.float32)
        boxes = np.concatenate([boxes, [[90, 90, 99, 99]]]).astype(np.float32)
        labels = np.append(record["truth_labels"], 1)
        results[record.id] = Detections(boxes, rng.random(4).astype(np.float32), labels)
    scores = {**measure.evaluate(results, data), "lost": {}}
    return Measured(name, Method({}, {}, {}), results, None, scores, Clock())


def runs_of(data: RecordList) -> list[Measured]:
    return [detector(name, data, shift, i) for i, (name, shift) in enumerate([("a", 9), ("b", 3), ("c", 0)])]


# -- numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["voc_area", "voc_11pt"])
def test_a_difference_is_the_bootstrap_of_measure(metric: str) -> None:
    data = dataset()
    runs, truths = runs_of(data), measure.read_truths(data)
    found = compare.compare(runs, data, bases("previous", 3), metric, resamples=150)
    assert [row["against"] for row in found["runs"]] == [None, "a", "b"]
    for before, after, row in zip(runs, runs[1:], found["runs"][1:]):
        assert row["difference"] == measure.bootstrap(before.results, after.results, truths, metric, n=150)
        both = [one.scores["metrics"][metric] for one in (before, after)]
        assert row["difference"]["difference"] == pytest.approx(both[1] - both[0])
    first = compare.compare(runs, data, bases("first", 3), metric, resamples=150)
    assert [row["against"] for row in first["runs"]] == [None, "a", "a"]
    assert first["runs"][2]["difference"] == measure.bootstrap(runs[0].results, runs[2].results, truths, metric, n=150)
    assert (found["images"], found["objects"]) == (12, int(sum((~t.ignored).sum() for t in truths.values())))
    json.dumps(found)


def test_by_class_is_the_bootstrap_of_that_class_alone() -> None:
    data = dataset()
    runs, truths = runs_of(data), measure.read_truths(data)
    row = compare.compare(runs, data, [None, 0, 0], resamples=120, by_class=True)["runs"][1]
    assert row["by_class"]["unicorn"] is None
    for label, name in enumerate(CLASSES[:2], 1):
        ours = row["by_class"][name]
        sides = [only(run.results, label) for run in runs[:2]]
        assert ours == measure.bootstrap(sides[0], sides[1], only(truths, label), n=120)
        aps = [run.scores["per_class"][name]["voc_area"] for run in runs[:2]]
        assert ours["difference"] == pytest.approx(aps[1] - aps[0])


def test_only_takes_every_field_of_a_class() -> None:
    side = {"x": Detections(np.arange(12).reshape(3, 4), np.array([0.1, 0.2, 0.3]), np.array([1, 2, 1]))}
    (one,) = only(side, 1).values()
    assert one.boxes.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert one.scores.tolist() == [0.1, 0.3]
    assert one.labels.tolist() == [1, 1]


def test_tables_hold_what_was_found() -> None:
    data = dataset()
    found = compare.compare(runs_of(data), data, bases("first", 3), resamples=200, by_class=True)
    accuracy, difference, *classes = compare_tables.tables(json.loads(json.dumps(found)))
    assert accuracy.head == ["RUN", "VOC 11-point AP", "VOC area AP", "COCO AP50", "COCO AP", "COCO AP75"]
    assert accuracy.rows[2][2] == f"{found['runs'][2]['metrics']['voc_area']:.3f}"
    assert difference.title == "difference in VOC area AP, against a"
    assert difference.rows[0][2:] == ["", "", "", "", ""]
    for row, cells in zip(found["runs"][1:], difference.rows[1:]):
        interval = row["difference"]
        assert cells[2:5] == [f"{interval[key]:+.3f}" for key in ("difference", "low", "high")]
        assert cells[5] == ("resolved" if interval["resolved"] else "not resolved")
    assert {cells[5] for cells in difference.rows[1:]} == {"resolved"}  # 9 pixels of 20 against 3 and 0
    assert [table.title for table in classes] == [f"VOC area AP by class: {name} against a" for name in "bc"]
    assert classes[0].rows[2] == ["unicorn", "0", "-", "-", "", "", "", ""]
    previous = compare.compare(runs_of(data), data, bases("previous", 3), resamples=100)
    assert compare_tables.difference_table(previous).title.endswith("each against the one above")


def test_objects_lost_stand_side_by_side() -> None:
    data = dataset()
    counts = dict(zip(measure.ERRORS, (5, 3, 1, 1, 0)))
    runs = [run._replace(scores={**run.scores, "lost": counts}) for run in runs_of(data)[:2]]
    found = compare.compare(runs, data, bases("first", 2), resamples=100)
    assert compare_tables.lost_table(found).rows[1] == ["b", "5 (50 %)", "3 (30 %)", "1 (10 %)", "1 (10 %)", "0 (0 %)"]


def test_against_and_metric_are_held_to_what_there_is() -> None:
    assert bases("first", 4) == [None, 0, 0, 0]
    assert bases("previous", 4) == [None, 0, 1, 2]
    with pytest.raises(UserError, match="--against last: it is first or previous"):
        bases("last", 2)
    with pytest.raises(UserError, match="coco_ap: intervals are made for voc_area and voc_11pt"):
        compare.refuse_metric("coco_ap")


@pytest.mark.parametrize(
    ("value", "resolved", "text"),
    [
        (0.25, True, "+0.250"),
        (-0.0004, True, "-0.0004"),
        (-0.00004, True, "-0.00004"),
        (0.0001, True, "+0.0001"),
        (-0.0004, False, "0.000"),
        (0.0, False, "0.000"),
        (-0.0006, False, "-0.001"),
    ],
)
def test_a_bound_that_excludes_0_is_not_shown_as_0(value: float, resolved: bool, text: str) -> None:
    assert compare_tables.signed(value, resolved) == text


def test_of_many_intervals_some_are_said_to_miss() -> None:
    data = dataset()
    runs = runs_of(data)
    one = compare.compare(runs[:2], data, bases("first", 2), resamples=100)
    assert "by chance" not in compare_tables.difference_table(one).caption
    found = compare.compare(runs, data, bases("first", 3), resamples=100, by_class=True)
    said = "of 2 such intervals some miss the truth by chance"
    assert said in compare_tables.difference_table(found).caption
    for table in compare_tables.class_tables(found):  # of the unicorn there is none
        assert table.caption.endswith(said)


# -- names -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a", "runs/b/"], ["a", "b"]),
        (["x/run", "y/run", "z/other"], ["x/run", "y/run", "other"]),
        (["p/x/run", "q/x/run", "q/run"], ["p/x/run", "q/x/run", "q/run"]),
        (["/", "/run"], ["/", "run"]),
    ],
)
def test_a_run_is_named_by_its_folder_and_as_much_as_it_takes(paths: list[str], names: list[str]) -> None:
    assert run_names(paths) == names


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(UserError, match="is named twice"):
        run_names(["a", "./b/../a"])


# -- what changed ----------------------------------------------------------------------------------------


def told(before: Pipeline, after: Pipeline) -> list[str]:
    """What changed, without a cache that knows the data."""
    return changes(*(Method(parts(p), p.keys, {}) for p in (before, after)))


def test_parameters_that_differ_are_named(toys: Any, tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("2.0")
    (tmp_path / "same.txt").write_text("2.0")
    plain = toys.pipeline()
    assert told(plain, toys.pipeline()) == ["nothing"]
    assert told(plain, toys.pipeline(features=toys.Means(batch=7))) == ["nothing"]  # changes only speed
    assert told(plain, toys.pipeline(classifier=toys.Nearest(bias=2.5))) == ["classifier.bias: 0 -> 2.5"]
    weights = toys.pipeline(features=toys.Means(str(tmp_path / "w.txt")))
    (line,) = told(plain, weights)
    assert line.startswith("features.weights: None -> file ")
    assert told(weights, toys.pipeline(features=toys.Means(str(tmp_path / "same.txt")))) == ["nothing"]


def test_weights_by_name_are_the_same_wherever_they_are_kept(toys: Any) -> None:
    kept = toys.pipeline(features=toys.Means(NamedFile("files/0.safetensors", "V1")))
    assert told(toys.pipeline(features=toys.Means("V1")), kept) == ["nothing"]


def test_a_change_in_several_steps_is_one_line() -> None:
    pool5, gap = (rcnn(backbone="shapenet", weights=None, layer=layer) for layer in ("pool5", "gap"))
    fine = rcnn(backbone="shapenet", weights=None).set_params(features__random_state=3, classifier__random_state=3)
    assert "features.random_state, classifier.random_state: 0 -> 3" in told(pool5, fine)
    assert told(pool5, gap) == ["features.layers: (pool5) -> (gap, pool5)", "classifier.layer: pool5 -> gap"]


def test_steps_that_came_or_went_are_named() -> None:
    full, bare = rcnn(weights=None), rcnn(weights=None, box_regression=False)
    assert told(full, bare) == ["suppression.deltas: True -> False", "- regressor: RidgeBoxRegressors"]
    assert told(bare, full) == ["suppression.deltas: False -> True", "+ regressor: RidgeBoxRegressors"]
    lines = told(rcnn(weights=None, layer="pool5"), full)
    assert "+ fc: FCLayers" in lines
    assert not any("truth_fc" in line for line in lines)  # follows from fc


class Thirds(Stage):
    """Boxes of a third."""

    needs = ("size",)
    gives = ("boxes",)

    def __init__(self, share: float = 0.3, top: int = 5):
        self.share = share
        self.top = top


def test_another_class_is_named_with_what_is_unusual_in_it(toys: Any) -> None:
    before, after = toys.pipeline(), toys.pipeline(proposals=Thirds(top=7))
    assert told(before, after) == ["proposals: Corners -> Thirds(top=7)"]
    assert told(toys.pipeline(proposals=toys.Corners(0.9)), after) == ["proposals: Corners(share=0.9) -> Thirds(top=7)"]


def test_another_order_is_named(toys: Any) -> None:
    steps = [("features", toys.Means()), ("again", Again("features", boxes="truth_boxes", features="truth_features"))]
    two = [("proposals", toys.Corners()), *steps]
    other = [*two, ("size", toys.Prying())]
    moved = [two[0], ("size", toys.Prying()), *steps]
    lines = told(*(Pipeline(row, outputs=("boxes",)) for row in (other, moved)))
    assert lines == ["order: proposals, size, features, again"]


def test_other_training_data_are_noticed(toys: Any) -> None:
    first, more = (toys.pipeline().fit(toys.data(n), cache=toys.cache) for n in (4, 6))
    (line,) = told(first, more)
    assert line.startswith("classifier: the same method, learned from other inputs")
    assert told(first, toys.pipeline().fit(toys.data(4), cache=toys.cache)) == ["nothing"]
    other = toys.pipeline(proposals=toys.Corners(0.9)).fit(toys.data(4), cache=toys.cache)
    assert told(first, other) == ["proposals.share: 0.5 -> 0.9"]  # its other key follows from that


def test_other_training_data_are_named_where_the_cache_knows_them(toys: Any) -> None:
    relabelled = RecordList([*toys.data(4)[:3], toys.record("a/3", 3, label=1)], ("cat", "dog"))
    fits = [(toys.data(4), 0.5), (toys.data(6), 0.9), (relabelled, 0.5), (toys.data(4), 0.9)]
    pipelines = [toys.pipeline(proposals=toys.Corners(share)).fit(data, cache=toys.cache) for data, share in fits]
    base, more, other, same = (method_of(Run(p, cache=toys.cache, jobs=1)) for p in pipelines)
    assert changes(base, more) == ["proposals.share: 0.5 -> 0.9", "training data: 4 images -> 6, 4 of them in both"]
    assert changes(base, other) == ["training data: 1 of 4 images are other or otherwise annotated"]
    assert changes(base, same) == ["proposals.share: 0.5 -> 0.9"]


def test_a_damaged_account_of_the_data_is_named(toys: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(toys.pipeline().fit(toys.data(), cache=toys.cache), cache=toys.cache, jobs=1)
    assert list(method_of(run).data) == ["classifier"]
    (run.shelf("classifier").path / "inputs.json").write_text("{")
    assert method_of(run).data == {}
    assert "inputs.json is damaged" in caplog.text


def test_a_run_folder_tells_what_the_pipeline_told(toys: Any, tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("2.0")
    pipeline = toys.pipeline(features=toys.Means(str(tmp_path / "w.txt"))).fit(toys.data(), cache=toys.cache)
    saved.save(pipeline, tmp_path / "run")
    loaded = saved.load(tmp_path / "run", allow=[toys.Means.__module__])
    assert parts(loaded) == parts(pipeline)
    assert told(pipeline, loaded) == ["nothing"]


def test_measured_is_what_the_run_found_through_its_cache(toys: Any) -> None:
    pipeline = toys.pipeline().fit(toys.data(), cache=toys.cache)
    first, second = (measured("x", Run(pipeline, cache=toys.cache, jobs=1), toys.data()) for _ in range(2))
    assert first.scores == {
        **measure.evaluate(first.results, toys.data()),
        "lost": {**dict.fromkeys(measure.ERRORS, 0), "no proposal": 6},
    }
    assert first.clock.calls() > 0
    assert second.clock.calls() == 0
    assert report.cost_words(second.clock) == "no stage was called: all is from the cache"
    assert "suppression on 6 images" in report.cost_words(first.clock)


# -- the command -----------------------------------------------------------------------------------------

SMALL = ["--set", "backbone=shapenet", "--set", "pretrain__epochs=1", "--jobs", "1",
         "--swap", "proposals=sliding_window.SlidingWindow", "--set", "proposals__top=40"]  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a cache and two RUNs trained on three drawn images, and a way to run the command in it."""
    place = tmp_path_factory.mktemp("compare")

    def rcnn(*words: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rcnn.pipeline.recipes.pretraining.CROPS", 64)
            patch.setattr(sys, "argv", ["rcnn", *words])
            patch.setenv("RCNN_CACHE", str(place / "cache"))
            patch.chdir(place)
            try:
                cli.main()
            except SystemExit as stop:
                return int(stop.code or 0)
            return 0

    def train(name: str, more: Sequence[str] = ()) -> None:
        assert rcnn("train", "rcnn", "--data", "shapes:3", "--out", name, *SMALL, *more) == 0

    train("full")
    train("bare", ["--set", "box_regression=false"])
    return SimpleNamespace(rcnn=rcnn, place=place)


WORDS = ("compare", "bare", "full", "--data", "shapes:3:9", "--resamples", "100", "--jobs", "1")


def test_compare_prints_tables_json_and_markdown(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workshop.rcnn(*WORDS, "--json", "--out", "out") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((workshop.place / "out/compare.json").read_text())
    assert found["data"] == "shapes:3:9"
    bare, full = found["runs"]
    assert (bare["run"], full["run"], full["against"]) == ("bare", "full", "bare")
    assert full["changed"] == ["suppression.deltas: False -> True", "+ regressor: RidgeBoxRegressors"]
    workshop.rcnn("evaluate", "full", "--data", "shapes:3:9", "--json", "--jobs", "1")
    alone = json.loads(capsys.readouterr().out)
    assert found["left_out"] == alone.pop("left_out") == {"images": 0, "objects": 0, "first": []}
    assert {key: full[key] for key in alone} == alone
    assert workshop.rcnn(*WORDS, "--markdown") == 0
    text = capsys.readouterr().out
    assert text == (workshop.place / "out/compare.md").read_text()
    row = next(line for line in text.splitlines() if line.endswith("+ regressor: RidgeBoxRegressors |"))
    cells = [compare_tables.signed(full["difference"][name], False) for name in ("difference", "low", "high")]
    assert f"| {' | '.join(cells)} | not resolved |" in row
    assert workshop.rcnn(*WORDS, "--by-class") == 0
    shown = capsys.readouterr().out
    for title in ("accuracy on the same 3 images", "against bare", "objects were lost", "by class: full against bare"):
        assert title in shown


def test_the_second_comparison_calls_no_stage(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.rcnn(*WORDS)
    capsys.readouterr()
    workshop.rcnn(*WORDS)
    assert capsys.readouterr().err.splitlines() == [
        f"{name}: no stage was called: all is from the cache" for name in ("bare", "full")
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("full", "--data", "shapes:3"), "name two RUNs at least"),
        (("full", "full", "--data", "shapes:3"), "full is named twice"),
        (("full", "rcnn", "--data", "shapes:3"), "rcnn is no trained run"),
        (("full", "bare", "--data", "shapes:3", "--metric", "coco_ap"), "--metric coco_ap"),
        (("full", "bare", "--data", "shapes:3", "--against", "best"), "--against best"),
        (("full", "bare", "--data", "shapes:3", "--json", "--markdown"), "--json and --markdown both print"),
        (("full", "other", "--data", "shapes:3"), "knows the classes cat"),
        (("full", "bare", "--data", "coco:empty.json"), "there is no object in these images"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    workshop: Any, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30)).save(workshop.place / "plain.png")
    categories = [{"id": i, "name": name} for i, name in enumerate(Shapes(1).classes, 1)]
    image = {"id": 1, "file_name": "plain.png", "width": 40, "height": 30}
    empty = json.dumps({"images": [image], "annotations": [], "categories": categories})
    (workshop.place / "empty.json").write_text(empty)
    other = workshop.place / "other"
    if not other.exists():
        shutil.copytree(workshop.place / "full", other)
        recipe = json.loads((other / "recipe.json").read_text())
        (other / "recipe.json").write_text(json.dumps({**recipe, "classes": ["cat", *recipe["classes"][1:]]}))
    capsys.readouterr()
    assert workshop.rcnn("compare", *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1  # and nothing was run before


def test_masks_are_compared_over_cocos_ious() -> None:
    """Two RUNs alike but for their masks, of which one has them all."""
    data, y = [], np.mgrid[:40, :40][0]
    for i in range(6):
        whole = np.ones((40, 40), bool) & (y >= i)
        fields = {"truth_boxes": np.array([[0, i, 40, 40]], np.float32), "truth_labels": np.ones(1, np.int64),
                  "truth_masks": [masks.encode(whole)]}  # fmt: skip
        data.append(Record(f"{i}", fields))
    records = RecordList(data, ["thing"])
    sides = []
    for name, cut in (("half", 20), ("whole", 40)):
        found = []
        for record in records:
            kept = masks.decode(record["truth_masks"][0]) & (y < cut)
            (grid,) = masks.shares(kept, record["truth_boxes"], 28)
            own = {"det_boxes": record["truth_boxes"], "det_scores": np.ones(1, np.float32),
                   "det_labels": np.ones(1, np.int64), "det_masks": grid[None].astype(np.float32),
                   "size": np.array([40, 40])}  # fmt: skip
            found.append(Record(record.id, own))
        sides.append(Measured(name, Method({}, {}, {}), *measure.scored(found, records), Clock()))
    row = compare.compare(sides, records, [None, 0], resamples=50)
    first, second = row["runs"]
    assert first["mask_difference"] is None
    assert second["difference"]["difference"] == 0
    assert second["mask_difference"]["resolved"]
    assert second["mask_difference"]["difference"] > 0.5
    titles = [table.title for table in compare_tables.tables(row)]
    assert "COCO's AP of masks, mean over classes" in titles
    assert "difference of masks in VOC area AP, mean over IoU 0.5 to 0.95, against half" in titles
