"""Ridge box regressors against explicit solutions, scikit-learn and hand-made motions."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.stages import boxes as box_maths
from rcnn.stages.record import Lazy, Record, RecordList, Records
from rcnn.stages.regressors import ridge
from rcnn.stages.regressors.ridge import Dual, Primal, RidgeBoxRegressors, find_pairs, smaller_side, whiten
from rcnn.stages.stage import NoCheckpoint
from sklearn.linear_model import Ridge


def solved(system: Primal | Dual, rows: Any, targets: Any, alpha: float, pieces: int = 1) -> Any:
    for part, target in zip(np.array_split(rows, pieces), np.array_split(targets, pieces)):
        system.add(part, target)
    return system.solve(alpha)


@pytest.mark.parametrize(("n", "F"), [(7, 30), (30, 7), (12, 12), (1, 5), (13, 12)])
def test_both_sides_solve_the_normal_equations(n: int, F: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ridge, "BLOCK", 4)
    rng = np.random.default_rng(n)
    rows, targets = rng.normal(size=(n, F)).astype(np.float16), rng.normal(size=(n, 4))
    A = np.concatenate([rows.astype(np.float64) * 3, np.ones((n, 1))], 1)
    wanted = np.linalg.inv(A.T @ A + 5 * np.eye(F + 1)) @ A.T @ targets
    for pieces in (1, 3):
        np.testing.assert_allclose(solved(Primal(F, 3.0), rows, targets, 5, pieces), wanted, atol=1e-10)
        np.testing.assert_allclose(solved(Dual(3.0), rows, targets, 5, pieces), wanted, atol=1e-10)
    sklearn = Ridge(alpha=5, fit_intercept=False, solver="svd").fit(A, targets).coef_.T
    np.testing.assert_allclose(wanted, sklearn, atol=1e-10)


def test_the_smaller_side_is_taken() -> None:
    assert isinstance(smaller_side(10, 10, 1.0), Dual)
    assert isinstance(smaller_side(11, 10, 1.0), Primal)


def test_the_gram_matrix_is_updated_in_place() -> None:
    system = Primal(50, 1.0)
    before = system.gram
    system.add(np.ones((ridge.BLOCK, 50), np.float16), np.ones((ridge.BLOCK, 4)))
    assert system.gram is before or np.shares_memory(system.gram, before)
    assert system.gram[50, 50] == ridge.BLOCK


def test_whitened_targets_have_unit_covariance_and_come_back() -> None:
    rng = np.random.default_rng(0)
    targets = rng.normal(size=(5000, 4)) @ rng.normal(size=(4, 4)) + [1, 2, 3, 4]
    mean, white, back = whiten(targets, floor=0.0)
    np.testing.assert_allclose(white.T @ white / 5000, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(white @ back + mean, targets, atol=1e-9)
    mean, white, back = whiten(targets)
    np.testing.assert_allclose(white @ back + mean, targets, atol=1e-9)
    assert np.abs(white.T @ white / 5000 - np.eye(4)).max() > 1e-5


def test_whitening_targets_that_do_not_differ_is_finite() -> None:
    mean, white, back = whiten(np.ones((1, 4)))
    np.testing.assert_allclose(mean, 1)
    np.testing.assert_allclose(white, 0)
    np.testing.assert_allclose(back, np.sqrt(0.001) * np.eye(4))


def test_pairs_take_the_best_annotated_box_above_the_threshold() -> None:
    truth = np.array([[0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60]], np.float32)
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 18], [0, 0, 10, 6], [0, 0, 100, 100]], np.float32)
    rows, labels, deltas = find_pairs(boxes, truth, np.array([1, 2, 1]), 0.6)
    assert rows.tolist() == [0, 1]  # row 2 overlaps by 0.6 exactly, which is not above
    assert labels.tolist() == [1, 2]
    np.testing.assert_allclose(deltas[0], 0, atol=1e-12)
    np.testing.assert_allclose(box_maths.decode(boxes[rows].astype(float), deltas), truth[:2], atol=1e-9)


def test_no_annotated_box_no_pair() -> None:
    rows, labels, deltas = find_pairs(np.ones((3, 4), np.float32), np.zeros((0, 4), np.float32), np.zeros(0), 0.6)
    assert len(rows) == len(labels) == 0
    assert deltas.shape == (0, 4)


F = 6


def image(seed: int, truths: int = 2, proposals: int = 8, classes: int = 2) -> Record:
    """An image whose features tell the way to the annotated box: linear in its deltas, plus noise."""
    rng = np.random.default_rng(seed)
    corner = np.arange(truths)[:, None] * 200.0 + rng.uniform(0, 40, (truths, 2))
    truth = np.concatenate([corner, corner + rng.uniform(60, 100, (truths, 2))], 1).astype(np.float32)
    near = np.repeat(truth, proposals, 0)[: proposals if truths else 0]
    boxes = (near + rng.uniform(-9, 9, near.shape)).astype(np.float32)
    labels = rng.integers(1, classes + 1, truths)
    features = np.zeros((len(boxes), F))
    if len(boxes):
        features[:, :4] = box_maths.encode(boxes.astype(float), near) * 10
    fields = {
        "boxes": boxes,
        "truth_boxes": truth,
        "truth_labels": labels,
        "truth_difficult": rng.uniform(size=truths) < 0.3,
        "truth_crowd": np.zeros(truths, bool),
        "features.pool5": (features + rng.normal(size=(len(boxes), F)) * 0.1).astype(np.float16),
        "truth_features.pool5": (rng.normal(size=(truths, F)) * 0.1).astype(np.float16),
    }
    return Record(f"{seed:03}", fields)


def images(n: int = 12, classes: int = 2) -> RecordList:
    return RecordList([image(i, classes=classes) for i in range(n)], [f"c{i}" for i in range(classes)])


def brute_force(records: Records, scale: float, label: int, alpha: float, difficult: bool = True) -> Any:
    """Beta straight from the definition, one row after another."""
    X: list[Any] = []
    targets: list[Any] = []
    for record in records:
        use = np.full(len(record["truth_boxes"]), True) if difficult else ~record["truth_difficult"]
        truth, labels = record["truth_boxes"][use], record["truth_labels"][use]
        boxes = np.concatenate([record["truth_boxes"], record["boxes"]])
        features = np.concatenate([record["truth_features.pool5"], record["features.pool5"]])
        for box, x in zip(boxes, features):
            iou = [box_maths.overlap(box[None], t[None]).item() for t in truth]
            if iou and max(iou) > 0.6 and labels[np.argmax(iou)] == label:
                X.append([*(x.astype(float) * scale), 1])
                targets.append(box_maths.encode(box.astype(float), truth[np.argmax(iou)].astype(float)))
    A, Y = np.array(X), np.array(targets)
    mean = Y.mean(0)
    S = np.cov(Y.T, bias=True) + 0.001 * np.eye(4)
    values, V = np.linalg.eigh(S)
    T = V @ np.diag(values**-0.5) @ V.T
    beta = np.linalg.solve(A.T @ A + alpha * np.eye(F + 1), A.T @ ((Y - mean) @ T)) @ np.linalg.inv(T)
    beta[-1] += mean
    return beta


def fitted(records: Records, **params: Any) -> RidgeBoxRegressors:
    stage = RidgeBoxRegressors(**params)
    stage.fit(records, NoCheckpoint())
    return stage


@pytest.mark.parametrize("difficult", [True, False])
@pytest.mark.parametrize("n", [1, 12])  # fewer and more pairs than features
def test_fit_is_the_definition(n: int, difficult: bool) -> None:
    records = images(n, classes=1)
    stage = fitted(records, alpha=10.0, difficult=difficult)
    wanted = brute_force(records, stage.scale_, 1, 10.0, difficult)
    np.testing.assert_allclose(stage.beta_[0], wanted, atol=1e-6)


def test_difficult_objects_change_the_fit() -> None:
    records = images()
    assert np.abs(fitted(records).beta_ - fitted(records, difficult=False).beta_).max() > 1e-4


def test_a_crowd_makes_no_pair() -> None:
    records = images(6, classes=1).records
    crowds = [Record(r.id, {**r, "truth_crowd": np.ones(2, bool)}) for r in records[3:]]
    without = fitted(RecordList([*records[:3], *crowds], ["a"]))
    wanted = brute_force(RecordList(records[:3], ["a"]), without.scale_, 1, 1000.0)
    np.testing.assert_allclose(without.beta_[0], wanted, atol=1e-6)


def test_boxes_are_moved_nearer_to_the_annotated_ones() -> None:
    stage = fitted(images(20, classes=1), alpha=1.0)
    record = image(99, classes=1)
    (out,) = stage([record])
    assert out["deltas"].shape == (8, 1, 4)
    assert out["deltas"].dtype == np.float32
    moved = box_maths.decode(record["boxes"], out["deltas"][:, 0])
    before = box_maths.overlap(record["boxes"], record["truth_boxes"]).max(1)
    after = box_maths.overlap(moved, record["truth_boxes"]).max(1)
    assert after.mean() > before.mean() + 0.05


def test_deltas_are_those_of_each_class() -> None:
    stage = fitted(images(12, classes=2), alpha=10.0)
    record = image(50)
    (out,) = stage([record])
    X = record["features.pool5"].astype(np.float64) * stage.scale_
    for k in range(2):
        np.testing.assert_allclose(out["deltas"][:, k], X @ stage.beta_[k, :-1] + stage.beta_[k, -1], atol=1e-4)


def test_a_class_without_pairs_leaves_boxes_as_they_are_and_is_named() -> None:
    records = RecordList(images(4, classes=1).records, ["cat", "dog"])
    with pytest.warns(UserWarning, match="dog"):
        stage = fitted(records)
    (out,) = stage([image(50, classes=1)])
    assert not out["deltas"][:, 1].any()
    assert out["deltas"][:, 0].any()


def test_no_warning_when_all_classes_have_pairs() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(images())


def test_images_without_boxes_are_normal() -> None:
    full = images(12).records
    records = RecordList([image(100, truths=0), *full[:6], image(101, truths=0), *full[6:]], ["a", "b"])
    stage = fitted(records)
    assert stage([image(100, truths=0)])[0]["deltas"].shape == (0, 2, 4)
    np.testing.assert_allclose(stage.beta_, fitted(images(12)).beta_, rtol=1e-5, atol=1e-7)


def test_memory_changes_the_passes_and_not_a_bit() -> None:
    records = Counted(images(12, classes=3).records, ["a", "b", "c"])
    one = fitted(records)
    assert max(records.features.values()) == 2  # one for the scale, one for the pass
    assert RidgeBoxRegressors().key_params().keys() == RidgeBoxRegressors().get_params().keys() - {"memory"}
    records.features.clear()
    small = fitted(records, memory=1e-12)
    assert max(records.features.values()) == 3  # one for the scale, one for each of an image's two classes
    np.testing.assert_array_equal(one.beta_, small.beta_)


class Counted(RecordList):
    """Counts how often the features of each image are read."""

    features: dict[str, int]

    def __getitem__(self, index: Any) -> Any:
        record = self.records[index]
        counts = self.__dict__.setdefault("features", {})

        def load() -> Any:
            counts[record.id] = counts.get(record.id, 0) + 1
            return record["features.pool5"]

        return Record(record.id, {**record, "features.pool5": Lazy(load, bytes)})


class Killed(Exception):
    pass


class Saves(NoCheckpoint):
    """A checkpoint that always saves, and dies at the n-th save."""

    def __init__(self, die: int = -1, state: Any = None):
        self.die = die
        self.state = state

    def load(self) -> Any:
        return self.state

    def save(self, make: Any, *, now: bool = False) -> None:
        self.state = {name: np.array(value) for name, value in make().items()}
        self.die -= 1
        if self.die == 0:
            raise Killed


@pytest.mark.parametrize("die", [1, 2, 3])
@pytest.mark.parametrize("memory", [1.5, 1e-12])
def test_a_resumed_fit_gives_the_same_bits(die: int, memory: float) -> None:
    records = images(12, classes=3)
    checkpoint = Saves(die)
    with pytest.raises(Killed):
        RidgeBoxRegressors(memory=memory).fit(records, checkpoint)
    resumed = RidgeBoxRegressors(memory=memory)
    resumed.fit(records, Saves(state=checkpoint.state))
    straight = fitted(records)
    np.testing.assert_array_equal(resumed.beta_, straight.beta_)
    assert resumed.scale_ == straight.scale_


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(UserError, match="0 images"):
        fitted(RecordList([], ["a"]))
    with pytest.raises(UserError, match="0 classes"):
        fitted(RecordList([image(0)], []))


@pytest.mark.parametrize("bad", [{"alpha": 0}, {"norm": -1}, {"memory": 0}, {"min_iou": 1.0}, {"min_iou": 0}])
def test_parameters_that_cannot_be_meant(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        RidgeBoxRegressors(**bad).validate()


def test_the_defaults_are_the_papers() -> None:
    stage = RidgeBoxRegressors()
    stage.validate()
    assert (stage.layer, stage.alpha, stage.min_iou, stage.norm) == ("pool5", 1000.0, 0.6, 20.0)
    assert stage.needs == ("boxes", "features.pool5")
    assert not any(name.startswith("truth") for name in stage.needs)


def test_state_round_trip() -> None:
    stage, other = fitted(images()), RidgeBoxRegressors()
    other.load_state({name: np.asarray(value) for name, value in stage.state().items()})
    record = image(50)
    np.testing.assert_array_equal(stage([record])[0]["deltas"], other([record])[0]["deltas"])
