"""Measures against a plain reading of the VOC devkit, worked examples, pycocotools and brute force."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rcnn.errors import UserError
from rcnn.pipeline.measure import (
    COCO_METRICS,
    ERRORS,
    Detections,
    Truth,
    bootstrap,
    coco_ap,
    errors_by_stage,
    evaluate,
    left_out,
    mean_ap,
    proposal_recall,
    read_all,
    read_mask_truths,
    read_results,
    read_truths,
    scored,
    top_per_set,
    voc_ap,
)
from rcnn.stages import masks
from rcnn.stages.datasets.problem import Problem
from rcnn.stages.record import Record, RecordList


def truth(boxes: Any, labels: Any = None, ignored: Any = None) -> Truth:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    labels = np.ones(n, np.int64) if labels is None else np.asarray(labels, np.int64)
    ignored = np.zeros(n, bool) if ignored is None else np.asarray(ignored, bool)
    return Truth(boxes, labels, ignored, (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def found(boxes: Any, scores: Any, labels: Any = None) -> Detections:
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    labels = np.ones(len(boxes), np.int64) if labels is None else np.asarray(labels, np.int64)
    return Detections(boxes, np.asarray(scores, np.float32), labels)


A, B, C, FAR = [0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [80, 80, 90, 90]


def random_set(seed: int, images: int = 6, classes: int = 3, ties: bool = False) -> tuple[Any, Any]:
    """Whole-pixel boxes, detections near truths or anywhere; some images and classes without either."""
    rng = np.random.default_rng(seed)
    results, truths = {}, {}
    for i in range(images):
        n, m = int(rng.integers(0, 6)), int(rng.integers(0, 10))
        corner, side = rng.integers(0, 60, (n, 2)), rng.integers(4, 30, (n, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        labels = rng.integers(1, classes + 1, n)
        truths[f"{i}"] = truth(boxes, labels, rng.random(n) < 0.2)
        corner, side = rng.integers(0, 60, (m, 2)), rng.integers(4, 30, (m, 2))
        loose, loose_labels = np.concatenate([corner, corner + side], 1), rng.integers(1, classes + 1, m)
        if n:
            near = rng.integers(0, n, m)
            jitter = boxes[near] + rng.integers(-2, 3, (m, 4))
            use = rng.random(m) < 0.7
            loose = np.where(use[:, None], jitter, loose)
            loose_labels = np.where(use, labels[near], loose_labels)
            loose[:, 2:] = np.maximum(loose[:, 2:], loose[:, :2] + 1)
        scores = rng.integers(0, 4, m) if ties else rng.normal(size=m)
        results[f"{i}"] = found(loose, scores, loose_labels)
    return results, truths


# -- VOC -------------------------------------------------------------------------------------------------


def devkit_ap(results: Any, truths: Any, label: int, metric: str, min_overlap: float) -> float:
    """An independent reading of VOCevaldet.m: 1-based inclusive boxes, one detection after another."""
    lines = [
        (float(s), name, [b[0] + 1, b[1] + 1, b[2], b[3]])
        for name, d in results.items()
        for b, s, k in sorted(zip(d.boxes.tolist(), d.scores, d.labels), key=lambda line: -line[1])
        if k == label
    ]
    lines.sort(key=lambda line: -line[0])
    objects = {
        name: [
            {"box": [b[0] + 1, b[1] + 1, b[2], b[3]], "difficult": bool(g), "detected": False}
            for b, k, g in zip(t.boxes.tolist(), t.labels, t.ignored)
            if k == label
        ]
        for name, t in truths.items()
    }
    npos = sum(not o["difficult"] for group in objects.values() for o in group)
    if npos == 0:
        return math.nan
    tp, fp = [], []
    for _, name, box in lines:
        ovmax, best = -math.inf, None
        for o in objects[name]:
            gt = o["box"]
            iw = min(box[2], gt[2]) - max(box[0], gt[0]) + 1
            ih = min(box[3], gt[3]) - max(box[1], gt[1]) + 1
            if iw > 0 and ih > 0:
                union = (
                    (box[2] - box[0] + 1) * (box[3] - box[1] + 1) + (gt[2] - gt[0] + 1) * (gt[3] - gt[1] + 1) - iw * ih
                )
                if iw * ih / union > ovmax:
                    ovmax, best = iw * ih / union, o
        hit = miss = 0
        if best is not None and ovmax >= min_overlap:
            if not best["difficult"]:
                hit, miss = (0, 1) if best["detected"] else (1, 0)
                best["detected"] = True
        else:
            miss = 1
        tp.append(hit)
        fp.append(miss)
    recall = [sum(tp[: i + 1]) / npos for i in range(len(tp))]
    precision = [sum(tp[: i + 1]) / max(sum(tp[: i + 1]) + sum(fp[: i + 1]), 1e-300) for i in range(len(tp))]
    if metric == "11pt":
        matlab = [0, 0.1, 0.2, 3 * 0.1, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
        return sum(max((p for p, r in zip(precision, recall) if r >= t), default=0) for t in matlab) / 11
    mrec, mpre = [0, *recall, 1], [0, *precision, 0]
    for i in range(len(mpre) - 2, -1, -1):
        mpre[i] = max(mpre[i], mpre[i + 1])
    return sum((mrec[i] - mrec[i - 1]) * mpre[i] for i in range(1, len(mrec)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from(["area", "11pt"]),
    st.sampled_from([0.3, 0.5, 0.75]),
    st.booleans(),
)
def test_voc_ap_is_the_devkits(seed: int, metric: str, iou: float, ties: bool) -> None:
    results, truths = random_set(seed, ties=ties)
    aps = voc_ap(results, truths, metric, iou)
    for label, ap in aps.items():
        np.testing.assert_allclose(ap, devkit_ap(results, truths, label, metric, iou), atol=1e-12)


def test_worked_example_of_both_metrics() -> None:
    """Hit, false positive, hit, of 3: precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3."""
    truths = {"a": truth([A, B]), "b": truth([C])}
    results = {"a": found([A, FAR, B], [0.9, 0.8, 0.7]), "b": found([], [])}
    assert voc_ap(results, truths, "area")[1] == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # recall 0, .1, .2, .3 at precision 1; .4, .5, .6 at 2/3; nothing above
    assert voc_ap(results, truths, "11pt")[1] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)


def test_eleven_points_at_recall_one_half() -> None:
    """One of two objects, no false positive: area 1/2, but 6 of the 11 recall levels."""
    results, truths = {"a": found([A], [1])}, {"a": truth([A, B])}
    assert voc_ap(results, truths, "area")[1] == 0.5
    assert voc_ap(results, truths, "11pt")[1] == pytest.approx(6 / 11)


def test_eleven_points_are_matlabs() -> None:
    """3 of 10 is a recall of 0.3, which is under MATLAB's 3 * 0.1; 6 and 7 of 10 do reach their level."""
    boxes = [[20 * i, 0, 20 * i + 10, 10] for i in range(10)]
    for hits, levels in ((2, 3), (3, 3), (4, 5), (6, 7), (7, 8), (10, 11)):
        results = {"a": found(boxes[:hits], np.ones(hits))}
        assert voc_ap(results, {"a": truth(boxes)}, "11pt")[1] == pytest.approx(levels / 11)


def test_a_second_hit_is_a_false_positive() -> None:
    results = {"a": found([A, [0, 0, 10, 9], B], [0.9, 0.8, 0.7])}
    aps = voc_ap(results, {"a": truth([A, B])}, "area")
    assert aps[1] == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)


def test_difficult_is_neither_hit_nor_miss() -> None:
    results = {"a": found([A, A, B], [0.9, 0.8, 0.7])}
    assert voc_ap(results, {"a": truth([A, B], ignored=[True, False])}, "area")[1] == 1
    assert voc_ap(results, {"a": truth([A, B])}, "area")[1] < 1


def test_a_detection_belongs_to_the_object_it_overlaps_most() -> None:
    """The second lies on both, more on the one that is taken: false, though the other is free and covered."""
    left, right = [0, 0, 12, 10], [2, 0, 14, 10]
    results = {"a": found([left, [0, 0, 13, 10]], [0.9, 0.8])}
    assert voc_ap(results, {"a": truth([left, right])}, "area")[1] == 0.5


def test_overlap_of_exactly_one_half_is_a_hit() -> None:
    assert voc_ap({"a": found([[0, 0, 10, 5]], [1])}, {"a": truth([A])})[1] == 1
    assert voc_ap({"a": found([[0, 0, 10, 4]], [1])}, {"a": truth([A])})[1] == 0


def test_a_class_without_truth_is_left_out_of_the_mean() -> None:
    results = {"a": found([A, B, C], [1, 1, 1], [1, 2, 3])}
    aps = voc_ap(results, {"a": truth([A, B, B], [1, 2, 4], [False, True, False])})
    assert aps[1] == 1
    assert math.isnan(aps[2])  # only a difficult one
    assert math.isnan(aps[3])  # none
    assert aps[4] == 0  # not found
    assert mean_ap(aps) == 0.5
    assert math.isnan(mean_ap({1: math.nan}))


def test_images_must_be_the_same() -> None:
    with pytest.raises(UserError, match="'b' has truth"):
        voc_ap({"a": found([], [])}, {"a": truth([]), "b": truth([])})
    with pytest.raises(UserError, match="'b' has results"):
        coco_ap({"a": found([], []), "b": found([], [])}, {"a": truth([])})
    with pytest.raises(ValueError, match="metric"):
        voc_ap({"a": found([A], [1])}, {"a": truth([A])}, "12pt")


# -- COCO ------------------------------------------------------------------------------------------------


def coco_by_files(results: Any, truths: Any, folder: Any) -> Any:
    """pycocotools as its manual has it: an annotation file, a results file, summarize()."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, lines = [], []
    for i, name in enumerate(truths, 100):
        for box, k, ignored, size in zip(*truths[name]):
            x, y, w, h = [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": int(k)})
            annotations[-1].update(bbox=[x, y, w, h], area=float(size), iscrowd=int(ignored))
        for box, score, k in zip(*results[name]):
            x, y, w, h = [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])]
            lines.append({"image_id": i, "category_id": int(k), "bbox": [x, y, w, h], "score": float(score)})
    images = [{"id": i} for i, _ in enumerate(truths, 100)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": k} for k in (1, 2, 3)]}
    (folder / "truth.json").write_text(json.dumps(content))
    (folder / "results.json").write_text(json.dumps(lines))
    coco = COCO(str(folder / "truth.json"))
    evaluated = COCOeval(coco, coco.loadRes(str(folder / "results.json")), "bbox")
    evaluated.evaluate()
    evaluated.accumulate()
    evaluated.summarize()
    return evaluated.stats[:9]


@pytest.mark.parametrize("seed", range(4))
def test_coco_ap_is_pycocotools(seed: int, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    results, truths = random_set(seed, images=12)
    whole, by_label = coco_ap(results, truths, classes=3)
    assert capsys.readouterr().out == ""
    expected = coco_by_files(results, truths, tmp_path)
    np.testing.assert_allclose([-1 if math.isnan(v) else v for v in whole.values()], expected, atol=1e-12)
    assert list(whole) == list(COCO_METRICS)
    assert np.nanmean([one["coco_ap"] for one in by_label.values()]) == pytest.approx(whole["coco_ap"])


@pytest.mark.parametrize("seed", range(2))
def test_faster_coco_eval_gives_the_same(seed: int) -> None:
    results, truths = random_set(seed, images=12)
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="pip install faster-coco-eval"):
            coco_ap(results, truths, fast=True)
        return
    slow, fast = coco_ap(results, truths, classes=4), coco_ap(results, truths, classes=4, fast=True)
    for a, b in zip((slow[0], *slow[1].values()), (fast[0], *fast[1].values())):
        np.testing.assert_allclose(list(a.values()), list(b.values()), atol=1e-9)


def test_coco_crowd_is_ignored_and_sizes_are_told_apart() -> None:
    large = [0, 0, 100, 100]
    whole, _ = coco_ap({"a": found([A, large, large], [3, 2, 1])}, {"a": truth([A, large], ignored=[0, 1])})
    assert whole["coco_ap"] == pytest.approx(1)
    assert whole["coco_ap_small"] == pytest.approx(1)
    assert math.isnan(whole["coco_ap_large"])


def test_coco_sizes_are_by_the_area_of_the_mask() -> None:
    what = truth([[0, 0, 100, 100]])._replace(areas=np.array([500.0]))  # a thin thing in a large box
    whole, _ = coco_ap({"a": found(what.boxes, [1])}, {"a": what})
    assert whole["coco_ap_small"] == pytest.approx(1)
    assert math.isnan(whole["coco_ap_large"])


def test_coco_without_detections_or_truth() -> None:
    whole, by_label = coco_ap({"a": found([], [])}, {"a": truth([A])}, classes=2)
    assert whole["coco_ap"] == 0
    assert math.isnan(by_label[2]["coco_ap"])
    assert math.isnan(coco_ap({"a": found([A], [1])}, {"a": truth([])})[0]["coco_ap"])


# -- all of them -----------------------------------------------------------------------------------------


def records_of(truths: Any, results: Any | None = None, classes: Any = ("x", "y", "z")) -> RecordList:
    rows = []
    for name, t in truths.items():
        fields = {"truth_boxes": t.boxes, "truth_labels": t.labels, "truth_difficult": t.ignored}
        if results is not None:
            fields.update({f"det_{key}": value for key, value in results[name]._asdict().items()})
        rows.append(Record(name, fields))
    return RecordList(rows, classes)


def test_evaluate_gathers_the_same_numbers_and_is_json() -> None:
    results, truths = random_set(1)
    table = evaluate(results, records_of(truths, classes=("x", "y", "z", "never")))
    assert json.loads(json.dumps(table, allow_nan=False)) == table
    for metric in ("area", "11pt"):
        aps = voc_ap(results, truths, metric)
        assert table["metrics"][f"voc_{metric}"] == pytest.approx(mean_ap(aps))
        assert table["per_class"]["y"][f"voc_{metric}"] == pytest.approx(aps[2])
    whole, by_label = coco_ap(results, truths, 4)
    assert table["metrics"]["coco_ap50"] == pytest.approx(whole["coco_ap50"])
    assert table["per_class"]["z"]["coco_ap75"] == pytest.approx(by_label[3]["coco_ap75"])
    assert set(table["per_class"]["x"]) == set(table["metrics"]) | {"truths"}
    assert table["per_class"]["never"]["voc_area"] is None
    assert table["per_class"]["never"]["truths"] == 0
    counted = sum(((t.labels == 1) & ~t.ignored).sum() for t in truths.values())
    assert table["per_class"]["x"]["truths"] == counted


def test_evaluate_of_the_truth_itself_is_one() -> None:
    _, truths = random_set(2)
    results = {name: found(t.boxes, np.ones(len(t.boxes)), t.labels) for name, t in truths.items()}
    metrics = evaluate(results, records_of(truths))["metrics"]
    assert metrics["voc_area"] == metrics["voc_11pt"] == pytest.approx(1)
    assert metrics["coco_ap"] == pytest.approx(1)


def test_evaluate_refuses_a_label_without_a_class() -> None:
    with pytest.raises(UserError, match="image 'a': a detection"):
        evaluate({"a": found([A], [1], [2])}, records_of({"a": truth([A])}, classes=("x",)))
    with pytest.raises(UserError, match="image 'a': a truth"):
        evaluate({"a": found([A], [1])}, records_of({"a": truth([A], [0])}, classes=("x",)))


def test_two_images_of_one_id_are_refused_by_name() -> None:
    fields = {f"{side}_{name}": np.zeros((0, 4) if name == "boxes" else 0) for side in ("det", "truth")
              for name in ("boxes", "labels", "scores")}  # fmt: skip
    records = [Record(id, fields) for id in ("a", "b", "a")]
    for read in (read_truths, read_results, read_all):
        assert read(records[:2])
        with pytest.raises(UserError, match="two images of the data set have the id 'a'"):
            read(records)


def test_what_is_left_out_is_counted_and_the_first_told() -> None:
    assert left_out(RecordList([], ())) == {"images": 0, "objects": 0, "first": []}
    losses: list[Any] = ["", "object", "object", "image", "object"]
    problems = [Problem("box outside", f"{i}.xml", "it lies outside", loses) for i, loses in enumerate(losses)]
    data = SimpleNamespace(problems=problems)
    first = [f"{i}.xml: it lies outside" for i in (1, 2, 3)]
    assert left_out(data) == {"images": 1, "objects": 3, "first": first}  # type: ignore[arg-type]


def test_read_from_records() -> None:
    results, truths = random_set(3)
    records = records_of(truths, results)
    again = read_results(records)
    for name, one in results.items():
        assert all(np.array_equal(a, b) for a, b in zip(again[name], one))
    fields = {"truth_boxes": truth([A, B]).boxes, "truth_labels": np.array([1, 1])}
    crowd = np.array([False, True])
    plain, both = read_truths([Record("p", fields), Record("q", {**fields, "truth_crowd": crowd})]).values()
    assert plain.ignored.tolist() == [False, False]
    assert plain.areas.tolist() == [100, 100]
    assert both.ignored.tolist() == [False, True]


# -- proposals -------------------------------------------------------------------------------------------


def test_proposal_recall_worked_example() -> None:
    boxes = {"a": np.array([[0, 0, 10, 6], A, B], np.float32), "b": np.zeros((0, 4), np.float32)}
    truths = {"a": truth([A, B, FAR], ignored=[0, 0, 1]), "b": truth([C, C])}
    table = proposal_recall(boxes, truths, ious=(0.5, 0.7), tops=(1, 2, 100))
    assert table["truths"] == 4
    assert table["abo"] == pytest.approx({1: 0.6 / 4, 2: 1 / 4, 100: 2 / 4})
    assert table["recall"] == {
        1: {0.5: 0.25, 0.7: 0},
        2: {0.5: 0.25, 0.7: 0.25},
        100: {0.5: 0.5, 0.7: 0.5},
    }


def test_proposal_recall_without_objects() -> None:
    table = proposal_recall({"a": np.zeros((0, 4))}, {"a": truth([])}, ious=(0.5,), tops=(10,))
    nothing = {name: {10: None} for name in ("ar", "abo", "mabo")}
    assert table == {"recall": {10: {0.5: None}}, **nothing, "truths": 0}


# -- where objects are lost ------------------------------------------------------------------------------


def fate(detections: Detections, boxes: Any = (A,), scores: Any = ((1.0,),), what: Any = None) -> list[str]:
    what = truth([A]) if what is None else what
    return errors_by_stage(what, np.array(boxes, np.float32).reshape(-1, 4), np.array(scores), detections)


def test_each_fate_of_an_object() -> None:
    nothing = found([], [])
    assert fate(found([A], [1])) == ["found"]
    assert fate(nothing, boxes=[FAR]) == ["no proposal"]
    assert fate(nothing, boxes=[], scores=np.zeros((0, 1))) == ["no proposal"]
    assert fate(nothing, scores=[[-1.0]]) == ["classified low"]
    assert fate(nothing) == ["suppressed"]
    assert fate(found([FAR], [1])) == ["localised badly after regression"]
    assert fate(found([FAR], [7]), boxes=[A, FAR], scores=[[1.0], [7.0]]) == ["suppressed"]
    assert fate(found([A], [1]), boxes=[FAR]) == ["found"]  # regression brought it there
    assert fate(nothing, what=truth([A], ignored=[True])) == []
    assert fate(nothing, what=truth([])) == []
    fates = {"found", "no proposal", "classified low", "suppressed", "localised badly after regression"}
    assert set(ERRORS) == fates


def test_the_class_counts() -> None:
    what = truth([A], [2])
    assert fate(found([A], [1], [1]), scores=[[1.0, -1.0]], what=what) == ["classified low"]
    assert fate(found([A], [1], [1]), scores=[[1.0, 2.0]], what=what) == ["suppressed"]
    assert fate(found([A], [2], [2]), scores=[[1.0, 2.0]], what=what) == ["found"]


def test_two_objects_under_one_detection() -> None:
    """Two people in a crowd: the detection is the nearer one's, the other was lost in suppression."""
    near = [0, 0, 10, 9]
    what = truth([A, near])
    assert fate(found([A], [2]), boxes=[A, near], scores=[[2.0], [1.0]], what=what) == ["found", "suppressed"]


def test_found_are_those_that_voc_counts() -> None:
    for seed in range(20):
        results, truths = random_set(seed)
        for name, what in truths.items():
            fates = errors_by_stage(what, np.zeros((0, 4)), np.zeros((0, 3)), results[name])
            aps = voc_ap({name: results[name]}, {name: what})
            labels = what.labels[~what.ignored]
            for label in set(labels):
                mine = [f for f, k in zip(fates, labels) if k == label]
                assert (aps[int(label)] > 0) == ("found" in mine)
                assert aps[int(label)] <= mine.count("found") / len(mine) + 1e-12


# -- comparing -------------------------------------------------------------------------------------------


def bootstrap_by_copies(first: Any, second: Any, truths: Any, metric: str, n: int, seed: int) -> Any:
    """The slow way: build every resample as a data set and evaluate it."""
    names = list(truths)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=n)
    differences = []
    for counts in drawn:
        copies = [(f"{name}-{c}", name) for name, count in zip(names, counts) for c in range(count)]
        sample = {new: truths[old] for new, old in copies}
        aps = [mean_ap(voc_ap({new: one[old] for new, old in copies}, sample, metric)) for one in (first, second)]
        differences.append(aps[1] - aps[0])
    return np.nanpercentile(differences, [2.5, 97.5])


@pytest.mark.parametrize("metric", ["area", "11pt"])
def test_bootstrap_is_the_evaluation_of_copied_images(metric: str) -> None:
    first, truths = random_set(11, images=8)
    rng = np.random.default_rng(0)  # other scores, so that all scores differ and no tie is broken otherwise
    second = {n: d._replace(scores=rng.normal(size=len(d.scores)).astype(np.float32)) for n, d in first.items()}
    got = bootstrap(first, second, truths, f"voc_{metric}", n=25, seed=3)
    np.testing.assert_allclose(
        [got["low"], got["high"]], bootstrap_by_copies(first, second, truths, metric, 25, 3), atol=1e-12
    )
    aps = [mean_ap(voc_ap(one, truths, metric)) for one in (first, second)]
    assert got["difference"] == pytest.approx(aps[1] - aps[0])


def test_bootstrap_resolves_what_is_clear_and_only_that() -> None:
    truths = {f"{i}": truth([A, B]) for i in range(40)}
    good = {name: found([A, B], [0.9, 0.8]) for name in truths}
    bad = {name: found([A, FAR], [0.9, 0.8]) for name in truths}
    clear = bootstrap(bad, good, truths, n=200)
    assert clear["resolved"]
    assert 0 < clear["low"] <= clear["difference"] <= clear["high"]
    same = bootstrap(good, good, truths, n=200)
    assert same == {"difference": 0, "low": 0, "high": 0, "resolved": False}
    first, second = ({**good, "0": bad["0"]}, {**good, "1": bad["1"]})
    assert not bootstrap(first, second, truths, n=200)["resolved"]


def test_bootstrap_is_seeded_and_checks_its_input() -> None:
    first, truths = random_set(5)
    second, _ = random_set(6)
    assert bootstrap(first, second, truths, n=50, seed=1) == bootstrap(first, second, truths, n=50, seed=1)
    assert bootstrap(first, second, truths, n=50, seed=1) != bootstrap(first, second, truths, n=50, seed=2)
    with pytest.raises(ValueError, match="coco_ap"):
        bootstrap(first, second, truths, "coco_ap")
    with pytest.raises(UserError, match="no object"):
        bootstrap({"a": found([], [])}, {"a": found([], [])}, {"a": truth([])})


# -- R-CNN's data-set limit ------------------------------------------------------------------------------


def test_top_per_set() -> None:
    results = {
        "a": found([A, B, C, A], [0.9, 0.8, 0.1, 0.3], [1, 1, 1, 2]),
        "b": found([A, B], [0.7, 0.85], [1, 1]),
        "c": found([], []),
    }
    kept = top_per_set(results, per_image=1)  # 3 of class 1 in all
    assert kept["a"].scores.tolist() == pytest.approx([0.9, 0.8, 0.3])
    assert kept["a"].labels.tolist() == [1, 1, 2]
    assert kept["a"].boxes.tolist() == [A, B, A]
    assert kept["b"].scores.tolist() == pytest.approx([0.85])
    assert kept["c"].boxes.shape == (0, 4)
    assert top_per_set({}) == {}
    whole = top_per_set(results)
    assert all(np.array_equal(a, b) for name in results for a, b in zip(whole[name], results[name]))


# -- masks ---------------------------------------------------------------------------------------------


def discs(centres: Any, radius: float, side: int = 60) -> Any:
    """RLEs of discs, as the measures take them."""
    y, x = np.mgrid[:side, :side] + 0.5
    made = np.empty(len(centres), object)
    made[:] = [masks.encode((x - cx) ** 2 + (y - cy) ** 2 < radius**2) for cx, cy in centres]
    return made


def of_masks(rles: Any, scores: Any) -> Detections:
    return Detections(rles, np.asarray(scores, np.float32), np.ones(len(rles), np.int64))


def test_the_overlap_of_masks_is_that_of_masks() -> None:
    """A square's box is a disc's, and their masks overlap by pi / 4."""
    disc = discs([(30, 30)], 20)
    square = np.zeros((60, 60), bool)
    square[10:50, 10:50] = True
    other = np.empty(1, object)
    other[0] = masks.encode(square)
    assert masks.box_of(other[0]).tolist() == masks.box_of(disc[0]).tolist()
    truths = {"a": Truth(disc, np.ones(1, np.int64), np.zeros(1, bool), np.array([masks.area_of(disc[0])]))}
    results = {"a": of_masks(other, [0.9])}
    assert voc_ap(results, truths, iou=0.75) == {1: 1.0}
    assert voc_ap(results, truths, iou=0.8) == {1: 0.0}
    assert coco_ap(results, truths)[0]["coco_ap"] == pytest.approx(0.6)  # found at 0.5 to 0.75
    assert coco_ap({"a": of_masks(disc, [0.9])}, truths)[0]["coco_ap"] == pytest.approx(1)
    nothing = {"a": of_masks(discs([], 1), [])}
    assert coco_ap(nothing, truths)[0]["coco_ap"] == 0


def test_evaluate_measures_masks_where_all_are_annotated() -> None:
    """Boxes all right, masks of half of the images empty."""
    grid = np.ones((1, 28, 28), np.float32)
    records, detected = [], []
    for i in range(4):
        disc = discs([(30, 30)], 20)
        box = masks.box_of(disc[0])[None]
        truth_fields = {"truth_boxes": box, "truth_labels": np.ones(1, np.int64), "truth_masks": list(disc)}
        (share,) = masks.shares(masks.decode(disc[0]), box, 28)
        own = {"det_boxes": box, "det_scores": np.ones(1, np.float32), "det_labels": np.ones(1, np.int64),
               "det_masks": share[None].astype(np.float32) if i % 2 else 0 * grid}  # fmt: skip
        records.append(Record(f"{i}", truth_fields))
        detected.append(Record(f"{i}", {**own, "size": np.array([60, 60])}))
    data = RecordList(records, ["disc"])
    results, of_masks_too, scores = scored(detected, data)
    assert of_masks_too is not None
    assert results["0"].boxes.shape == (1, 4)
    assert scores["metrics"]["coco_ap50"] == 1
    assert 0 < scores["metrics"]["mask_coco_ap50"] < 1
    assert scores["per_class"]["disc"]["mask_coco_ap50"] == scores["metrics"]["mask_coco_ap50"]
    bare = RecordList([r if r.id != "2" else Record("2", {n: r[n] for n in r if n != "truth_masks"}) for r in records],
                      ["disc"])  # fmt: skip
    assert read_mask_truths(bare) is None
    assert not any(name.startswith("mask") for name in scored(detected, bare).scores["metrics"])
    json.dumps(scores)


def test_a_bootstrap_over_several_ious_is_of_their_mean() -> None:
    results, truths = random_set(3, images=8)
    other = {name: one._replace(boxes=one.boxes + 2) for name, one in results.items()}
    single = [bootstrap(results, other, truths, iou=iou, n=50)["difference"] for iou in (0.5, 0.7)]
    both = bootstrap(results, other, truths, iou=(0.5, 0.7), n=50)
    assert both["difference"] == pytest.approx(np.mean(single))
    assert both["low"] <= both["difference"] <= both["high"]
