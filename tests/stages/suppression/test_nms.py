"""Per-class NMS against a plain loop, and the order of R-CNN's steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.boxes import clip, decode
from rcnn.stages.record import Record
from rcnn.stages.suppression.nms import PerClassNMS


def run(boxes: Any, scores: Any, deltas: Any = None, size: Any = (100, 100), **params: Any) -> dict[str, Any]:
    given = {"boxes": boxes, "scores": scores, "size": np.array(size)}
    if deltas is not None:
        given["deltas"] = deltas
    record = Record("a", given)
    stage = PerClassNMS(deltas=deltas is not None, **params)
    fields = stage([record.only(stage.needs)])[0]
    if isinstance(boxes, np.ndarray):
        record.add(fields)  # fits FIELDS
    return fields


def random_case(seed: int, regions: int = 60, classes: int = 4) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    corner, side = rng.uniform(0, 70, (regions, 2)), rng.uniform(5, 40, (regions, 2))
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
    deltas = rng.normal(0, 0.2, (regions, classes, 4)).astype(np.float32)
    return boxes, rng.normal(size=(regions, classes)).astype(np.float32), deltas


def plain(boxes: Any, scores: Any, deltas: Any, threshold: float, min_score: float, top: int) -> list[Any]:
    """(label, score, box) by falling score, by loops over one class and one pair of boxes at a time."""

    def iou(a: Any, b: Any) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(w, 0) * max(h, 0)
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

    found = []
    for k in range(scores.shape[1]):
        best = sorted((r for r in range(len(boxes)) if scores[r, k] > min_score), key=lambda r: -scores[r, k])
        kept: list[Any] = []
        for r in best[:top]:
            box = clip(decode(boxes[r], deltas[r, k]), (100, 100))
            if box[2] > box[0] and box[3] > box[1] and all(iou(box, other) <= threshold for other in kept):
                kept.append(box)
                found.append((k + 1, scores[r, k], box))
    return sorted(found, key=lambda entry: -entry[1])


@pytest.mark.parametrize("seed", range(8))
def test_against_a_plain_loop(seed: int) -> None:
    boxes, scores, deltas = random_case(seed)
    expected = plain(boxes, scores, deltas, threshold=0.3, min_score=-0.2, top=15)
    fields = run(boxes, scores, deltas, min_score=-0.2, top_per_class=15)
    assert fields["det_labels"].tolist() == [label for label, _, _ in expected]
    assert fields["det_scores"].tolist() == [score for _, score, _ in expected]
    np.testing.assert_allclose(fields["det_boxes"], [box for _, _, box in expected], atol=1e-4)


def test_a_box_at_the_threshold_stays() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 5]], np.float32)  # IoU 0.5, exactly
    scores = np.array([[2.0], [1.0]], np.float32)
    assert len(run(boxes, scores, threshold=0.5)["det_boxes"]) == 2
    assert len(run(boxes, scores, threshold=0.499)["det_boxes"]) == 1


def test_classes_do_not_suppress_each_other() -> None:
    boxes = np.array([[0, 0, 10, 10]], np.float32)
    fields = run(boxes, np.array([[1.0, 3, 2]], np.float32))
    assert fields["det_labels"].tolist() == [2, 3, 1]
    assert fields["det_scores"].tolist() == [3, 2, 1]


def test_many_classes_are_as_exact_as_one() -> None:
    """Every class sees the same boxes and scores, so every class must keep the same ones."""
    boxes, scores, _ = random_case(0, regions=200)
    boxes *= np.float32(1.2345)
    one = run(boxes, scores[:, :1], size=(130, 130))
    many = run(boxes, np.repeat(scores[:, :1], 80, 1), size=(130, 130))
    for label in (1, 40, 80):
        mine = many["det_labels"] == label
        np.testing.assert_array_equal(many["det_boxes"][mine], one["det_boxes"])


def test_top_per_class_comes_before_suppression() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    scores = np.array([[3.0], [2.0], [1.0]], np.float32)
    assert run(boxes, scores, top_per_class=2)["det_scores"].tolist() == [3]
    assert run(boxes, scores, top_per_class=None)["det_scores"].tolist() == [3, 1]


def test_top_per_image_comes_last() -> None:
    boxes, scores, _ = random_case(1)
    full = run(boxes, scores)
    cut = run(boxes, scores, top_per_image=5)
    assert len(full["det_scores"]) > 5
    for name in full:
        np.testing.assert_array_equal(cut[name], full[name][:5])


def test_regression_comes_before_suppression() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    scores = np.array([[2.0], [1.0]], np.float32)
    deltas = np.zeros((2, 1, 4), np.float32)
    deltas[1, 0, 0] = -2  # onto the first
    assert len(run(boxes, scores)["det_boxes"]) == 2
    assert run(boxes, scores, deltas)["det_boxes"].tolist() == [[0, 0, 10, 10]]


def test_empty_boxes_and_wild_deltas() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10]], np.float32)
    scores = np.array([[2.0], [1.0]], np.float32)
    deltas = np.zeros((2, 1, 4), np.float32)
    deltas[0, 0, 0] = -5  # wholly outside
    deltas[1, 0, 2] = 500  # e^500 is infinite: as wide as the image
    assert run(boxes, scores, deltas)["det_boxes"].tolist() == [[0, 0, 100, 10]]


def test_min_score_is_exclusive_and_minus_infinity_is_never_a_detection() -> None:
    boxes = np.array([[0, 0, 10, 10]], np.float32)
    scores = np.array([[0.5, -np.inf, -7]], np.float32)
    assert run(boxes, scores)["det_labels"].tolist() == [1, 3]
    assert run(boxes, scores, min_score=0.5)["det_labels"].tolist() == []


@pytest.mark.parametrize(("regions", "classes"), [(0, 3), (3, 0)])
def test_nothing_in_nothing_out(regions: int, classes: int) -> None:
    boxes, scores, deltas = random_case(0, regions, classes)
    fields = run(boxes, scores, deltas)
    assert [fields[name].shape for name in fields] == [(0, 4), (0,), (0,)]


def test_tensors_give_the_same() -> None:
    case = random_case(3)
    from_numpy, from_torch = run(*case), run(*(torch.from_numpy(array) for array in case))
    for name in from_numpy:
        np.testing.assert_array_equal(from_numpy[name], from_torch[name])


def test_equal_scores_keep_the_order_of_the_regions() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 9]], np.float32)
    fields = run(boxes, np.ones((3, 1), np.float32))
    assert fields["det_boxes"].tolist() == boxes[[0, 2]].tolist()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_numbers_name_the_image(bad: float) -> None:
    with pytest.raises(UserError, match="image 'a': scores"):
        run(np.array([[0, 0, 1, 1]], np.float32), np.array([[bad]], np.float32))


@pytest.mark.parametrize("params", [{"threshold": 1.5}, {"top_per_class": 0}, {"top_per_image": 0}])
def test_wrong_parameters_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        PerClassNMS(**params).validate()
    PerClassNMS().validate()


def test_needs_follow_from_deltas() -> None:
    assert "deltas" in PerClassNMS().needs
    assert "deltas" not in PerClassNMS(deltas=False).needs
