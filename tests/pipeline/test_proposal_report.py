"""`rcnn proposals`: what --with may name, what is measured, and what is printed and drawn."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.pipeline import cli, proposal_plots
from rcnn.pipeline.measure import Truth, best_overlaps, join, recall_table
from rcnn.pipeline.proposal_differences import difference
from rcnn.pipeline.proposal_report import TOPS, contender, contenders, measure_one, ordered, short
from rcnn.stages.record import Record, RecordList
from torchvision.ops import box_iou

SLIDING = "sliding_window.SlidingWindow"


def boxes_of(rng: np.random.Generator, n: int) -> Any:
    corner, side = rng.integers(0, 40, (n, 2)), rng.integers(5, 40, (n, 2))
    return np.concatenate([corner, corner + side], 1).astype(np.float32)


def image_of(rng: np.random.Generator, n: int, objects: int) -> tuple[Any, Truth]:
    boxes = boxes_of(rng, objects)
    return boxes_of(rng, n), Truth(boxes, rng.integers(1, 4, objects), rng.random(objects) < 0.2, boxes[:, 0])


def test_recall_ar_and_overlaps_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(3)
    images = [image_of(rng, n, objects) for n, objects in ((50, 6), (3, 4), (0, 2), (20, 0))]
    tops = (1, 10, None)
    found = recall_table(join([best_overlaps(b, t, tops) for b, t in images], tops), (0.5, 0.7), tops)
    import torch

    for top in tops:
        best, labels = [], []
        for boxes, truth in images:
            for box, label, ignored in zip(truth.boxes, truth.labels, truth.ignored):
                if not ignored:
                    first = torch.as_tensor(boxes[: len(boxes) if top is None else top])
                    ious = [float(box_iou(torch.as_tensor(box)[None], one[None])) for one in first]
                    best.append(max(ious, default=0.0))
                    labels.append(int(label))
        by_class = [np.mean([v for v, k in zip(best, labels) if k == label]) for label in sorted(set(labels))]
        grid = np.linspace(0.5, 1, 20001)
        assert found["recall"][top] == {iou: pytest.approx(np.mean([v >= iou for v in best])) for iou in (0.5, 0.7)}
        assert found["abo"][top] == pytest.approx(np.mean(best), abs=1e-6)
        assert found["mabo"][top] == pytest.approx(np.mean(by_class), abs=1e-6)
        integral = 2 * np.trapezoid([np.mean(np.array(best) >= iou) for iou in grid], grid)
        assert found["ar"][top] == pytest.approx(integral, abs=1e-3)
    assert found["truths"] == len(labels)
    assert found["ar"][None] > 0


def test_differences_in_recall_are_paired_over_images() -> None:
    rng = np.random.default_rng(0)
    objects = rng.integers(0, 4, 60)
    first = rng.random(objects.sum()) < 0.5
    second = first | (rng.random(objects.sum()) < 0.2)
    found = difference(first, second, objects)
    assert found["difference"] == pytest.approx(second.mean() - first.mean())
    parts = np.split(second.astype(int) - first, np.cumsum(objects)[:-1])
    drawn = [rng.integers(0, 60, 60) for _ in range(3000)]
    plain = [sum(parts[i].sum() for i in some) / objects[some].sum() for some in drawn]
    np.testing.assert_allclose([found["low"], found["high"]], np.percentile(plain, [2.5, 97.5]), atol=0.01)
    assert found["resolved"]
    none = difference(first, first, objects)
    assert (none["difference"], none["low"], none["high"], none["resolved"]) == (0, 0, 0, False)
    assert difference(second, first, objects)["high"] < 0


def test_parameters_may_hold_commas() -> None:
    made = contender(f"{SLIDING}:scales=[32, 64],ratios=[1],stride=0.5").pipeline.stage("proposals")
    assert (made.scales, made.ratios, made.stride) == ((32, 64), (1,), 0.5)
    path = "precomputed.Precomputed:file=some, odd:name.npz,top=7"
    made = contender(path).pipeline.stage("proposals")
    assert (made.file, made.top) == ("some, odd:name.npz", 7)


def test_a_recipe_is_its_boxes_step_and_shares_its_entries() -> None:
    recipe, alone = contender("rcnn:proposals=50"), contender("selective_search.SelectiveSearch:top=50")
    from rcnn.pipeline.run import Run

    keys = [Run(one.pipeline, cache=None).method_key("proposals") for one in (recipe, alone)]
    assert keys[0] == keys[1]
    assert recipe.pipeline.outputs == ("boxes", "objectness")


def test_windows_are_not_ranked_and_selective_search_is() -> None:
    assert not contender(SLIDING).ranked
    assert contender("selective_search.SelectiveSearch").ranked


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("runs/missing", "no stage"),
        ("svm.Such", "--with svm.Such"),
        (f"{SLIDING}:stride", "write CLASS:parameter=value"),
        (f"{SLIDING}:wide=3", "wide"),
        (f"{SLIDING}:stride=-1", "stride"),
        ("nms.PerClassNMS", "PerClassNMS"),
        ("rcnn:wide=3", "wide"),
        ("edge_boxes.EdgeBoxes:top=9", "EdgeBoxes needs its parameters: edge_boxes.EdgeBoxes:model="),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(text: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        contender(text)


def test_there_must_be_some_and_none_twice() -> None:
    with pytest.raises(UserError, match="--with"):
        contenders([])
    with pytest.raises(UserError, match="twice"):
        contenders([SLIDING, SLIDING])


def test_boxes_are_taken_by_falling_objectness_only_where_that_is_a_rank() -> None:
    boxes = np.arange(12, dtype=np.float32).reshape(3, 4)
    record = Record("a", {"boxes": boxes, "objectness": np.array([0.1, 0.9, 0.1], np.float32)})
    assert ordered(record, True).tolist() == boxes[[1, 0, 2]].tolist()
    assert ordered(record, False).tolist() == boxes.tolist()


def drawn(n: int, classes: tuple[str, ...] = ("one",)) -> RecordList:
    fields = {
        "size": np.array([128, 128]),
        "truth_boxes": np.array([[0, 0, 64, 64], [0, 0, 128, 128]], np.float32),
        "truth_labels": np.array([1, 1]),
        "truth_crowd": np.array([False, True]),
    }
    return RecordList([Record(str(i), fields) for i in range(n)], classes)


def test_a_hit_of_the_cache_has_no_time_and_crowd_does_not_count(tmp_path: Path) -> None:
    one = contender(f"{SLIDING}:scales=[64],ratios=[1],stride=1")
    first = measure_one(one, drawn(3), range(3), tmp_path, jobs=1, progress=False)
    assert first.computed == 3
    assert first.seconds is not None
    assert first.overlaps.best[TOPS.index(None)].tolist() == [1, 1, 1]
    again = contender(f"{SLIDING}:scales=[64],ratios=[1],stride=1")
    second = measure_one(again, drawn(4), range(1, 3), tmp_path, jobs=1, progress=False)
    assert (second.computed, second.seconds) == (0, None)
    assert second.counts.tolist() == [4, 4]


def test_data_without_truth_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no annotations"):
        measure_one(contender(SLIDING), drawn(1, ()), range(1), tmp_path)
    with pytest.raises(UserError, match="no object"):
        measure_one(contender(SLIDING), drawn(1), range(0), tmp_path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["proposals", "shapes:3", "--with", f"{SLIDING}:stride=0.5,top=500", "--with", f"{SLIDING}:scales=[64]"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["rcnn", *words, "--cache", "cache", "--jobs", "1", "--by-class"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr().out
    assert not stop.value.code
    assert "SlidingWindow:stride=0.5,top=500 *" in said
    assert "MABO" in said
    assert "difference in recall, against SlidingWindow:stride=0.5,top=500" in said
    found = json.loads((tmp_path / "proposals/proposals.json").read_text())
    assert [row["boxes"] for row in found["stages"][0]["by_boxes"]] == [10, 30, 100, 300, 1000, 2000, "all"]
    assert found["stages"][0]["by_boxes"][-1]["used"] == found["stages"][0]["boxes_an_image"] <= 500
    assert [(row["boxes"], row["against_boxes"]) for row in found["against_first"]] == [
        (100, 100), (100, 2000), (300, 300), (300, 2000), (1000, 1000), (1000, 2000), (2000, 2000)
    ]  # fmt: skip
    by_class = found["stages"][0]["by_class"]
    assert sum(rows[0]["objects"] for rows in by_class.values()) == found["objects"]
    for name in ("recall-by-boxes.png", "recall-by-iou.png"):
        picture = np.asarray(Image.open(tmp_path / "proposals" / name).convert("RGB"))
        assert min(picture.shape[:2]) > 400
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    monkeypatch.setattr(sys, "argv", ["rcnn", *words, "--cache", "cache", "--json"])
    with pytest.raises(SystemExit):
        cli.main()
    assert json.loads(capsys.readouterr().out)["stages"][1]["computed"] == 0


def test_short_names() -> None:
    assert short("proposals.sliding_window.SlidingWindow:file=a/b.npz") == "SlidingWindow:file=a/b.npz"
    assert short("runs/mine/") == "mine"


def test_numbers_on_the_axis_of_boxes_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {"stage": "a", "ranked": True, "by_boxes": [{"used": n, "abo": 0.1} for n in (10, 100, 1000)]}
    drawn: list[Any] = []
    monkeypatch.setattr(proposal_plots, "save", lambda figure, _path: drawn.append(figure))
    monkeypatch.setattr(proposal_plots, "PANELS", dict.fromkeys("ab", lambda row: row["abo"]))
    proposal_plots.against_boxes({"stages": [stage], "objects": 1, "images": 1}, tmp_path)
    drawn[0].canvas.draw()
    labels = [label.get_text() for label in drawn[0].axes[0].get_xticklabels()]
    assert {"10", "100", "1000"} <= set(labels)


def test_boxes_that_are_saved_are_those_that_precomputed_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def rcnn(*words: str) -> int | str | None:
        monkeypatch.setattr(sys, "argv", ["rcnn", *words, "--cache", "cache", "--jobs", "1"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code

    search = "selective_search.SelectiveSearch:top=30"
    assert not rcnn("proposals", "shapes:2:1", "--with", search, "--save", "boxes.npz")
    assert not rcnn("proposals", "shapes:3:7", "--with", search, "--save", "boxes.npz")  # added to
    with np.load("boxes.npz") as held:
        assert len(held.files) == 5
    for spec in ("shapes:2:1", "shapes:3:7"):
        both = ("--with", search, "--with", "precomputed.Precomputed:file=boxes.npz")
        assert not rcnn("proposals", spec, *both)
        one, other = json.loads(Path("proposals/proposals.json").read_text())["stages"]
        assert one["by_boxes"] == other["by_boxes"]
    for words, why in (
        (("--with", search, "--save", "boxes.txt"), "boxes are saved as .npz"),
        (("--with", search, "--with", SLIDING, "--save", "boxes.npz"), "name one stage or RUN"),
    ):
        capsys.readouterr()
        assert rcnn("proposals", "shapes:1", *words) == 2
        assert why in capsys.readouterr().err
