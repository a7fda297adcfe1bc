"""Labels by overlap, training rows, feature scale, chunked products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.stages import sample
from rcnn.stages.record import Record, RecordList


def random_boxes(rng: Any, n: int) -> Any:
    corner = rng.uniform(0, 60, (n, 2))
    return np.concatenate([corner, corner + rng.uniform(5, 50, (n, 2))], 1).astype(np.float32)


def iou(a: Any, b: Any) -> float:
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


def test_class_overlaps_is_the_best_of_each_class() -> None:
    rng = np.random.default_rng(0)
    boxes, truth, labels = random_boxes(rng, 20), random_boxes(rng, 6), np.array([1, 3, 3, 1, 4, 3])
    got = sample.class_overlaps(boxes, truth, labels, np.zeros(6, bool), 4)
    for r, box in enumerate(boxes):
        for c in range(4):
            wanted = max([iou(box, t) for t, label in zip(truth, labels) if label == c + 1], default=0)
            assert got[r, c] == pytest.approx(wanted, abs=1e-6)
    assert not got[:, 1].any()


def test_what_lies_in_a_crowd_overlaps_it_by_its_own_area() -> None:
    boxes = np.array([[10, 10, 40, 40], [90, 0, 110, 20], [200, 200, 220, 220]], np.float32)
    truth = np.array([[0, 0, 100, 100], [0, 0, 100, 100]], np.float32)
    got = sample.truth_overlaps(boxes, truth, np.array([True, False]))
    np.testing.assert_allclose(got, [[1, 0.09], [0.5, 200 / 10200], [0, 0]], rtol=1e-6)
    best = sample.class_overlaps(boxes, truth, np.array([2, 1]), np.array([True, False]), 2)
    np.testing.assert_array_equal(best, got[:, ::-1])


@pytest.mark.parametrize(("boxes", "truths"), [(0, 3), (3, 0), (0, 0)])
def test_overlaps_of_nothing(boxes: int, truths: int) -> None:
    a, b, labels = (
        np.zeros((boxes, 4), np.float32),
        np.zeros((truths, 4), np.float32),
        np.ones(truths, np.int64),
    )
    assert sample.truth_overlaps(a, b, np.ones(truths, bool)).shape == (boxes, truths)
    assert sample.class_overlaps(a, b, labels, np.zeros(truths, bool), 2).shape == (boxes, 2)
    best, overlap = sample.best_truths(a, b)
    assert best.shape == overlap.shape == (boxes,)


def test_best_truths_takes_the_first_of_equals() -> None:
    box = np.array([[0, 0, 10, 10]], np.float32)
    best, overlap = sample.best_truths(box, np.repeat(box, 2, 0))
    assert best.tolist() == [0]
    assert overlap.tolist() == [1]


def a_record(rng: Any, truths: int, proposals: int) -> Record:
    fields = {
        "truth_boxes": random_boxes(rng, truths),
        "boxes": random_boxes(rng, proposals),
        "truth_features.f": rng.normal(size=(truths, 5)).astype(np.float16),
        "features.f": rng.normal(size=(proposals, 5)).astype(np.float16),
    }
    return Record("a", fields)


def test_training_rows_are_rows_of_training_features_in_the_order_asked_for() -> None:
    record = a_record(np.random.default_rng(0), 3, 4)
    everything = sample.training_features(record, "f")
    assert everything.shape == (7, 5)
    assert len(sample.training_boxes(record)) == 7
    order = np.array([5, 0, 6, 2, 3])
    np.testing.assert_array_equal(sample.training_rows(record, "f", order), everything[order])
    assert sample.training_rows(record, "f", order[:0]).shape == (0, 5)


def featured(images: Any) -> RecordList:
    """Records of these features; the first two rows are those of annotated boxes."""
    parts = [{"truth_features.f": rows[:2], "features.f": rows[2:]} for rows in images]
    return RecordList([Record(f"{i:03}", fields) for i, fields in enumerate(parts)], ["a"])


def test_feature_scale_brings_the_mean_norm_to_20() -> None:
    images = [np.random.default_rng(i).normal(size=(9, 7)).astype(np.float16) for i in range(5)]
    images[2] = images[2][:0]
    images[3] = images[3][:2]
    scale = sample.feature_scale(featured(images), "f", 20.0, random_state=0)
    norms = np.linalg.norm(np.concatenate(images).astype(np.float64) * scale, axis=1)
    assert norms.mean() == pytest.approx(20, rel=1e-5)


class Seen(RecordList):
    """Notes which records are asked for."""

    def __init__(self, records: RecordList):
        super().__init__(records.records, records.classes)
        self.seen: list[int] = []

    def __getitem__(self, index: Any) -> Any:
        self.seen.append(index)
        return super().__getitem__(index)


def test_feature_scale_samples_200_images_and_200_rows_by_its_seed() -> None:
    values = [np.random.default_rng(i).uniform(1, 9, (200, 1)) for i in range(250)]  # a norm is the value itself
    records = Seen(featured(values))
    first = sample.feature_scale(records, "f", 20.0, random_state=1)
    assert records.seen == sorted(set(records.seen))
    assert len(records.seen) == 200
    assert records.seen != list(range(200))
    assert sample.feature_scale(records, "f", 20.0, random_state=1) == first
    assert sample.feature_scale(records, "f", 20.0, random_state=2) != first
    assert 20 / first == pytest.approx(5, rel=0.02)


def test_feature_scale_samples_rows_from_all_over_an_image() -> None:
    records = featured([np.arange(1.0, 1001)[:, None]])  # ranked proposals: the first are unlike the last
    scale = sample.feature_scale(records, "f", 20.0, random_state=0)
    assert 20 / scale == pytest.approx(500, rel=0.1)
    assert scale != sample.feature_scale(records, "f", 20.0, random_state=1)


def test_norms_of_float16_do_not_overflow() -> None:
    assert sample.row_norms(np.full((1, 100), 300, np.float16)) == pytest.approx(3000)


@pytest.mark.parametrize("features", [np.zeros((0, 3)), np.zeros((4, 3)), np.full((2, 3), np.inf)])
def test_features_that_cannot_be_scaled_are_named(features: Any) -> None:
    with pytest.raises(UserError, match="mean norm"):
        sample.feature_scale(featured([features] * 3), "f", 20.0, 0)


@pytest.mark.parametrize("n", [0, 1, sample.CHUNK, 2 * sample.CHUNK + 3])
def test_affine_is_the_product_of_all_rows_at_once(n: int) -> None:
    rng = np.random.default_rng(n)
    features = rng.normal(size=(n, 6)).astype(np.float16)
    weights, bias = rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    got = sample.affine(features, 0.7, weights, bias)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, features.astype(np.float64) * 0.7 @ weights + bias, atol=1e-5)
