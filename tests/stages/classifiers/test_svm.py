"""Linear SVMs with hard negative mining against brute-force solvers and training on everything."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.stages.boxes import coverage, overlap
from rcnn.stages.classifiers.liblinear import sparse_rows, train_svm
from rcnn.stages.classifiers.mining import HISTORY
from rcnn.stages.classifiers.svm import LinearSVMs, objective, sample_rows
from rcnn.stages.record import Lazy, Record, RecordList, Records
from rcnn.stages.stage import NoCheckpoint
from scipy.optimize import minimize

F = 8
TERMS: dict[str, Any] = {"C": 0.01, "bias": 10.0, "positive_weight": 2.0}
EXACT: dict[str, Any] = {"tol": 1e-8, "max_iter": 100_000, "random_state": 0}


# -- the solver --------------------------------------------------------------------------------------


def best_objective(rows: Any, n: int, C: float, bias: float, positive_weight: float) -> float:
    """The least objective, from its dual (a box-constrained quadratic) by L-BFGS-B."""
    y = np.where(np.arange(len(rows)) < n, 1.0, -1.0)
    cap = np.where(y > 0, C * positive_weight, C)
    A = np.concatenate([rows, np.full((len(rows), 1), bias)], 1) * y[:, None]
    Q = A @ A.T
    options = {"maxiter": 100_000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-12}
    found = minimize(
        lambda a: (0.5 * a @ Q @ a - a.sum(), Q @ a - 1),
        np.zeros(len(rows)),
        jac=True,
        bounds=[(0, c) for c in cap],
        method="L-BFGS-B",
        options=options,
    )
    return float(-found.fun)


def problem(seed: int = 0, n: int = 15, negatives: int = 60) -> Any:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n + negatives, F)) * 3
    rows[:n] += 1.5
    return np.maximum(rows, 0)


@pytest.mark.parametrize("terms", [TERMS, {**TERMS, "positive_weight": 1.0}, {**TERMS, "bias": 1.0, "C": 1.0}])
def test_the_solver_reaches_the_least_objective(terms: dict[str, Any]) -> None:
    rows = problem()
    w, b, converged = train_svm(sparse_rows([rows], 1.0, F), 15, **terms, **EXACT)
    assert converged
    *parts, total = objective(rows @ w + b, 15, w, b, **terms)
    assert total == pytest.approx(sum(parts))
    assert total == pytest.approx(best_objective(rows, 15, **terms), rel=1e-4)


def test_the_objective_by_hand() -> None:
    got = objective(np.array([0.5, 2.0, -0.5, -3.0]), 2, np.array([3.0, 4.0]), 20.0, **TERMS)
    np.testing.assert_allclose(got, [0.01 * 2 * 0.5, 0.01 * 0.5, 12.5 + 2, 14.515])


def test_sparse_rows_are_the_rows() -> None:
    rng = np.random.default_rng(0)
    blocks = [np.maximum(rng.normal(size=(n, F)), 0).astype(np.float16) for n in (3, 0, 300, 1)]
    blocks[0][1] = 0
    got = sparse_rows(blocks, 0.3, F)
    assert got.dtype == np.float64
    np.testing.assert_array_equal(got.toarray(), np.concatenate(blocks).astype(np.float64) * 0.3)


# -- mining ------------------------------------------------------------------------------------------


def image(seed: int, truths: int = 2, proposals: int = 30, classes: int = 2) -> Record:
    """Annotated boxes far apart, proposals anywhere; a class shows as a shift of its own feature."""
    rng = np.random.default_rng(seed)
    corner = np.arange(truths)[:, None] * 150.0 + rng.uniform(0, 20, (truths, 2))
    truth = np.concatenate([corner, corner + rng.uniform(60, 100, (truths, 2))], 1).astype(np.float32)
    corner = rng.uniform(0, 250, (proposals, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(30, 110, (proposals, 2))], 1).astype(np.float32)
    labels = rng.integers(1, classes + 1, truths)
    own = rng.normal(size=(truths, F))
    own[np.arange(truths), (labels - 1) % F] += 4
    fields = {
        "boxes": boxes,
        "truth_boxes": truth,
        "truth_labels": labels,
        "truth_difficult": rng.uniform(size=truths) < 0.3,
        "truth_crowd": np.zeros(truths, bool),
        "features.fc7": np.maximum(rng.normal(size=(proposals, F)), 0).astype(np.float16),
        "truth_features.fc7": np.maximum(own, 0).astype(np.float16),
    }
    return Record(f"{seed:03}", fields)


def images(n: int = 12, classes: int = 2) -> RecordList:
    return RecordList([image(i, classes=classes) for i in range(n)], [f"c{i + 1}" for i in range(classes)])


def fitted(records: Records, checkpoint: Any = None, **params: Any) -> LinearSVMs:
    stage = LinearSVMs(**params)
    stage.fit(records, checkpoint or NoCheckpoint())
    return stage


def column(stage: LinearSVMs, name: str) -> Any:
    return stage.history_[:, HISTORY.index(name)]


def all_rows(records: Records, label: int, difficult: bool = True) -> tuple[Any, Any]:
    """Positives and all negatives of a class, straight from their definition."""
    positives, negatives = [], []
    for record in records:
        truth, labels = record["truth_boxes"], record["truth_labels"]
        boxes = np.concatenate([truth, record["boxes"]])
        features = np.concatenate([record["truth_features.fc7"], record["features.fc7"]])
        for row, (box, x) in enumerate(zip(boxes, features)):
            own = row < len(truth) and labels[row] == label
            if own and (difficult or not record["truth_difficult"][row]):
                positives.append(x)
            mine = truth[labels == label]
            if not len(mine) or overlap(box[None], mine).max() < 0.3:
                negatives.append(x)
    return np.array(positives), np.array(negatives)


MINING: dict[str, Any] = {"C": 0.01, "tol": 1e-7, "max_iter": 100_000}
LIBLINEAR2: dict[str, Any] = {**MINING, "loss": "squared_hinge"}
LBFGS: dict[str, Any] = {"C": 0.01, "tol": 1e-5, "solver": "lbfgs", "loss": "squared_hinge"}


@pytest.mark.parametrize("difficult", [True, False])
@pytest.mark.parametrize(("passes", "within"), [(1, 0.1), (6, 1e-4)])
def test_mining_reaches_the_objective_of_training_on_everything(passes: int, within: float, difficult: bool) -> None:
    records = images(20)
    stage = fitted(records, retrain=0, difficult=difficult, passes=passes, **MINING)
    for k in range(2):
        positives, negatives = all_rows(records, k + 1, difficult)
        rows = np.concatenate([positives, negatives]).astype(float) * stage.scale_
        w, b = stage.weights_[:, k].astype(float), float(stage.bias_[k])
        total = objective(rows @ w + b, len(positives), w, b, C=0.01, bias=10.0, positive_weight=2.0)[-1]
        assert total == pytest.approx(best_objective(rows, len(positives), **TERMS), rel=within)
        assert len(positives) == column(stage, "positives")[column(stage, "class") == k + 1][-1]


def test_the_first_image_gives_all_its_negatives_and_later_ones_only_hard_ones() -> None:
    records = images(12)
    stage = fitted(records, retrain=10, **MINING)
    first = stage.history_[:2]
    for k in range(2):
        _, negatives = all_rows(RecordList(records.records[:1]), k + 1)
        assert first[k, HISTORY.index("added")] == len(negatives)
        assert first[k, HISTORY.index("held")] == 0
    total = sum(len(all_rows(records, k + 1)[1]) for k in range(2))
    assert column(stage, "added").sum() < 0.8 * total


def test_a_class_is_trained_when_more_than_retrain_were_added_and_at_the_end() -> None:
    stage = fitted(images(12), retrain=10, **MINING)
    added, at, cls = column(stage, "added"), column(stage, "image"), column(stage, "class")
    for k in (1, 2):
        assert at[cls == k][0] == 0
        assert at[cls == k][-1] == 11
        assert (added[cls == k][1:-1] > 10).all()
        assert len(added[cls == k]) > 3
    assert sorted(zip(at, cls)) == list(zip(at, cls))  # after each image, in the order of the classes
    often = fitted(images(12), retrain=0, **MINING)
    assert len(often.history_) > len(stage.history_)
    assert len(fitted(images(12), **MINING).history_) == 4  # 2000 are never reached


def test_easy_negatives_are_evicted() -> None:
    stage = fitted(images(12), retrain=10, **MINING)
    held, added, evicted = (column(stage, name) for name in ("held", "added", "evicted"))
    mine = column(stage, "class") == 1
    assert evicted[mine].sum() > 0
    np.testing.assert_array_equal(held[mine][1:], (held + added - evicted)[mine][:-1])
    kept = fitted(images(12), retrain=10, evict=-1e9, **MINING)
    assert not column(kept, "evicted").any()
    assert column(kept, "held").max() > held.max()


def test_no_class_holds_a_row_twice_even_in_a_second_pass() -> None:
    checkpoint = Saves()
    stage = fitted(images(12), checkpoint, passes=2, evict=-1e9, retrain=10, **MINING)
    keys = [tuple(key) for key in checkpoint.state["keys"].tolist()]
    assert len(keys) == len(set(keys))
    for k in range(2):
        _, negatives = all_rows(images(12), k + 1)
        assert checkpoint.state["held"][:, k].sum() <= len(negatives)
        mine = column(stage, "class") == k + 1
        assert column(stage, "added")[mine].sum() == checkpoint.state["held"][:, k].sum()


def test_some_rows_are_drawn_alike_from_those_that_are_wanted() -> None:
    rows = np.zeros((10, 3), bool)
    rows[:6, 0] = rows[4:6, 1] = True
    drawn = np.stack([sample_rows(rows, 3, np.random.default_rng(seed)) for seed in range(400)])
    assert not drawn[:, ~rows].any()
    assert (drawn.sum(1) == [3, 2, 0]).all()  # 2 where there are no more
    np.testing.assert_allclose(drawn[:, :6, 0].mean(0), 0.5, atol=0.1)


def test_without_mining_each_image_gives_so_many_and_each_class_is_trained_once() -> None:
    records = images()
    stage = fitted(records, sample=5)
    assert column(stage, "class").tolist() == [1, 2]
    assert column(stage, "added").tolist() == [60, 60]  # 12 images
    assert (column(stage, "image") == 11).all()
    again = fitted(records, sample=5)
    np.testing.assert_array_equal(stage.weights_, again.weights_)
    assert not np.array_equal(stage.weights_, fitted(records, sample=5, random_state=1).weights_)


def test_the_history_is_the_objective_of_the_learned_svm() -> None:
    records = images(6)
    stage = fitted(records, evict=-1e9, hard=-1e8, **MINING)
    assert len(stage.history_) == 4
    for k in range(2):
        positives, negatives = all_rows(records, k + 1)
        rows = np.concatenate([positives, negatives]).astype(float) * stage.scale_
        w, b = stage.weights_[:, k], float(stage.bias_[k])
        wanted = objective(rows @ w + b, len(positives), w, b, C=0.01, bias=10.0, positive_weight=2.0)
        np.testing.assert_allclose(stage.history_[2 + k, 6:], wanted, rtol=1e-9)
        assert stage.history_[2 + k, :3].tolist() == [k + 1, 5, len(positives)]
        assert stage.history_[2 + k, 3] + stage.history_[2 + k, 4] == len(negatives)


def test_classes_are_told_apart() -> None:
    stage = fitted(images(30, classes=3), **MINING)
    record = image(99, truths=3, classes=3)
    shown = Record("x", {"features.fc7": record["truth_features.fc7"]})
    (out,) = stage([shown])
    assert out["scores"].dtype == np.float32
    assert (out["scores"].argmax(1) + 1).tolist() == record["truth_labels"].tolist()
    wanted = record["truth_features.fc7"].astype(float) * stage.scale_ @ stage.weights_ + stage.bias_
    np.testing.assert_allclose(out["scores"], wanted, atol=1e-4)


def test_zero_proposals_give_zero_scores() -> None:
    stage = fitted(images(4), **MINING)
    (out,) = stage([Record("x", {"features.fc7": np.zeros((0, F), np.float16)})])
    assert out["scores"].shape == (0, 2)


def renamed(record: Record, name: str) -> Record:
    return Record(name, dict(record))


def test_images_without_boxes_change_nothing() -> None:
    full = images(8).records
    empty = [renamed(image(50 + i, truths=0, proposals=0), name) for i, name in enumerate(["", "003b", "9"])]
    holes = fitted(RecordList([*full, *empty], ["a", "b"]), retrain=10, **MINING)
    whole = fitted(RecordList(full, ["a", "b"]), retrain=10, **MINING)
    np.testing.assert_allclose(holes.weights_, whole.weights_, atol=2e-4)
    assert column(holes, "image")[:2].tolist() == [1, 1]  # the first image with rows is still taken whole
    assert column(holes, "image")[-1] == 10


def test_difficult_objects_are_neither_positive_nor_negative_when_left_out() -> None:
    records = images(12)
    hard = sum(int(record["truth_difficult"][record["truth_labels"] == 1].sum()) for record in records)
    assert hard > 0
    used, ignored = fitted(records, **MINING), fitted(records, difficult=False, **MINING)
    assert column(used, "positives")[0] - column(ignored, "positives")[0] == hard
    assert column(used, "added")[0] == column(ignored, "added")[0]


def test_a_crowd_is_neither_positive_nor_negative() -> None:
    full = images(6)
    crowded = [
        Record(record.id, {**record, "truth_crowd": np.arange(2) == 0}) if i == 0 else record
        for i, record in enumerate(full.records)
    ]
    label = int(full.records[0]["truth_labels"][0])
    used, ignored = fitted(full, **MINING), fitted(RecordList(crowded, full.classes), **MINING)
    assert column(used, "positives")[label - 1] - column(ignored, "positives")[label - 1] == 1
    boxes, crowd = full[0]["boxes"], full[0]["truth_boxes"][:1]
    inside = (coverage(boxes, crowd) >= 0.3) & (overlap(boxes, crowd) < 0.3)
    assert column(used, "added")[label - 1] - column(ignored, "added")[label - 1] == inside.sum() > 0


@pytest.mark.parametrize(("negative_iou", "added"), [(0.3, [3, 5]), (0.0, [2, 5])])
def test_what_lies_in_a_crowd_is_no_negative_of_its_class(negative_iou: float, added: list[int]) -> None:
    boxes = [[10, 10, 40, 40], [300, 300, 340, 340], [90, 0, 130, 20], [20, 0, 60, 30]]  # in, away, a quarter in, in
    truth = {
        "truth_boxes": np.array([[0, 0, 100, 100], [400, 400, 480, 480]], np.float32),
        "truth_labels": np.array([1, 2]),
        "truth_difficult": np.zeros(2, bool),
        "truth_crowd": np.array([True, False]),
    }
    crowded = Record("000", {**image(0, proposals=4), **truth, "boxes": np.array(boxes, np.float32)})
    single = Record("001", {**image(1), **truth, "truth_crowd": np.zeros(2, bool)})
    stage = fitted(RecordList([crowded, single], ["a", "b"]), negative_iou=negative_iou)
    assert column(stage, "image")[:2].tolist() == [0, 0]
    assert column(stage, "added")[:2].tolist() == added  # of the first image, with the object of the other class


@pytest.mark.filterwarnings("ignore:no SVM for")
def test_eighty_classes() -> None:
    records = RecordList([image(i, truths=8, classes=80) for i in range(40)], [str(i) for i in range(80)])
    stage = fitted(records)
    assert stage([image(99)])[0]["scores"].shape == (30, 80)
    assert np.isfinite(stage.bias_).sum() > 70


def test_a_class_without_an_object_never_scores_and_is_named() -> None:
    records = RecordList(images(6).records, ["cat", "dog", "emu"])
    with pytest.warns(UserWarning, match="no SVM for emu"):
        stage = fitted(records, **MINING)
    (out,) = stage([image(50)])
    assert np.isneginf(out["scores"][:, 2]).all()
    assert np.isfinite(out["scores"][:, :2]).all()
    assert not stage.weights_[:, 2].any()
    assert set(column(stage, "class")) == {1, 2}
    two = fitted(images(6), **MINING)
    np.testing.assert_array_equal(stage.weights_[:, :2], two.weights_)


def test_nothing_to_learn_at_all_is_refused() -> None:
    records = RecordList([image(0, truths=1, proposals=0, classes=1)], ["cat"])  # no negative
    with pytest.raises(UserError, match="no class has both annotated boxes and negatives"):
        fitted(records)


def test_no_warning_where_every_class_is_learned() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(images(6), **MINING)


class Counted(RecordList):
    """Counts the reads of each field of each image, and dies at the n-th read of proposals' features."""

    def __init__(self, records: Any, classes: Any, die: int = 0):
        super().__init__(records, classes)
        self.reads: Counter[tuple[str, str]] = Counter()
        self.die = die

    def __getitem__(self, index: Any) -> Any:
        record = self.records[index]
        return Record(record.id, {name: Lazy(self._load(record, name), bytes) for name in record})

    def _load(self, record: Record, name: str) -> Any:
        def load() -> Any:
            self.reads[record.id, name] += 1
            if name == "features.fc7":
                self.die -= 1
                if self.die == 0:
                    raise Killed
            return record[name]

        return load


class Killed(Exception):
    pass


class Saves(NoCheckpoint):
    """A checkpoint that always saves."""

    def __init__(self, state: Any = None):
        self.state = state

    def load(self) -> Any:
        return self.state

    def save(self, make: Any, *, now: bool = False) -> None:
        self.state = {name: np.array(value) for name, value in make().items()}


def test_features_are_read_once_for_the_scale_and_once_for_the_pass() -> None:
    records = Counted(images(12, classes=3).records, ["a", "b", "c"])
    fitted(records, retrain=5, **MINING)
    assert {records.reads[record.id, "features.fc7"] for record in records.records} == {2}
    assert {records.reads[record.id, "truth_features.fc7"] for record in records.records} == {3}


@pytest.mark.parametrize("die", [13, 14, 17, 24, 30, 36])  # 12 reads for the scale, then 12 for each pass
def test_a_fit_killed_in_mid_pass_and_resumed_gives_the_same_bits(die: int) -> None:
    params = {**MINING, "retrain": 5, "passes": 2}
    whole = images(12, classes=3)
    checkpoint = Saves()
    with pytest.raises(Killed):
        fitted(Counted(whole.records, whole.classes, die), checkpoint, **params)
    resumed, straight = fitted(whole, Saves(checkpoint.state), **params), fitted(whole, **params)
    for name in ("weights_", "bias_", "history_"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(straight, name))
    assert resumed.scale_ == straight.scale_


@pytest.mark.parametrize("die", [17, 24, 36])
def test_a_killed_lbfgs_fit_resumes_to_the_same_bits(die: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcnn.stages.classifiers.mining.SLAB", 16)
    params = {**LBFGS, "retrain": 5, "passes": 2}
    whole = images(12, classes=3)
    checkpoint = Saves()
    with pytest.raises(Killed):
        fitted(Counted(whole.records, whole.classes, die), checkpoint, **params)
    assert checkpoint.state["held"].any()
    resumed, straight = fitted(whole, Saves(checkpoint.state), **params), fitted(whole, **params)
    for name in ("weights_", "bias_", "history_"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(straight, name))


def test_what_a_checkpoint_keeps_are_arrays_without_the_rows() -> None:
    checkpoint = Saves()
    fitted(images(12), checkpoint, **MINING)
    assert set(checkpoint.state) == {"scale", "weights", "bias", "added", "keys", "held", "history", "done"}
    assert checkpoint.state["done"].tolist() == [12]


def test_rows_that_no_class_holds_are_let_go() -> None:
    checkpoint = Saves()
    stage = fitted(images(12), checkpoint, retrain=10, **MINING)
    assert checkpoint.state["held"].any(1).all()
    assert column(stage, "evicted").sum() > 0


def squared_objective(rows: Any, n: int, w: Any, b: float) -> float:
    return float(objective(rows @ w + b, n, w, b, loss="squared_hinge", **TERMS)[-1])


@pytest.mark.parametrize("solver", [LIBLINEAR2, LBFGS], ids=["liblinear", "lbfgs"])
def test_mining_with_the_squared_hinge_reaches_training_on_everything(solver: dict[str, Any]) -> None:
    records = images(20)
    stage = fitted(records, retrain=0, passes=6, **solver)
    for k in range(2):
        positives, negatives = all_rows(records, k + 1)
        rows = np.concatenate([positives, negatives]).astype(float) * stage.scale_
        n = len(positives)
        w, b, _ = train_svm(sparse_rows([rows], 1.0, F), n, loss="squared_hinge", **TERMS, **EXACT)
        got = squared_objective(rows, n, stage.weights_[:, k].astype(float), float(stage.bias_[k]))
        assert got == pytest.approx(squared_objective(rows, n, w, b), rel=1e-4)


def test_the_solvers_learn_the_same_svms_of_the_squared_hinge() -> None:
    records, how = images(12, classes=3), {"retrain": 10**9, "evict": -1e9, "hard": -1e8}
    ours, theirs = fitted(records, **{**LBFGS, **how}), fitted(records, **{**LIBLINEAR2, **how})
    np.testing.assert_allclose(ours.weights_, theirs.weights_, atol=1e-3)
    np.testing.assert_allclose(ours.bias_, theirs.bias_, atol=1e-3)
    np.testing.assert_allclose(ours.history_, theirs.history_, rtol=1e-4)  # every column of every training


def test_lbfgs_trains_all_classes_with_new_rows_when_one_is_due() -> None:
    stage = fitted(images(12, classes=3), **{**LBFGS, "retrain": 10})
    at, cls, added = (column(stage, name) for name in ("image", "class", "added"))
    early = (at > 0) & (at < 11)
    assert (added[early] > 0).all()
    assert (added[early] <= 10).any()  # not due itself
    for image in set(at[early]):
        assert added[at == image].max() > 10
        assert (np.diff(cls[at == image]) > 0).all()
    held, evicted = column(stage, "held"), column(stage, "evicted")
    for k in (1, 2, 3):
        mine = cls == k
        np.testing.assert_array_equal(held[mine][1:], (held + added - evicted)[mine][:-1])


def test_a_class_without_an_object_is_left_out_by_lbfgs_too() -> None:
    records = RecordList(images(6).records, ["cat", "dog", "emu"])
    with pytest.warns(UserWarning, match="no SVM for emu"):
        stage = fitted(records, **LBFGS)
    assert np.isneginf(stage.bias_).tolist() == [False, False, True]
    assert not stage.weights_[:, 2].any()
    two = fitted(images(6), **LBFGS)
    np.testing.assert_allclose(stage.weights_[:, :2], two.weights_, atol=1e-5)


@pytest.mark.parametrize("solver", [LIBLINEAR2, LBFGS], ids=["liblinear", "lbfgs"])
def test_a_solver_that_runs_out_of_iterations_names_the_classes_once(solver: dict[str, Any]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fitted(images(6), **{**solver, "max_iter": 1, "sample": 10})
    name, tol = solver.get("solver", "liblinear"), solver["tol"]
    wanted = f"the SVMs of c1, c2 did not converge: {name} stopped short of tol {tol} (max_iter 1)"
    assert [str(one.message) for one in told] == [wanted]


def test_lbfgs_names_the_class_that_rounding_keeps_from_its_tolerance() -> None:
    with pytest.warns(UserWarning, match=r"SVMs of c1, c2 did not converge: lbfgs stopped short of tol 1e-30"):
        stage = fitted(images(6), **{**LBFGS, "tol": 1e-30, "sample": 10})
    np.testing.assert_allclose(stage.weights_, fitted(images(6), **LBFGS, sample=10).weights_, atol=1e-5)


@pytest.mark.parametrize(("solver", "tol"), [(LIBLINEAR2, 0.1), (LBFGS, 0.01)], ids=["liblinear", "lbfgs"])
def test_the_tolerance_is_the_solvers_own_unless_it_is_given(solver: dict[str, Any], tol: float) -> None:
    records = images(6)
    default, same, other = (fitted(records, **{**solver, "tol": one}) for one in (None, tol, tol / 1000))
    np.testing.assert_array_equal(default.weights_, same.weights_)
    assert not np.array_equal(default.weights_, other.weights_)


def test_negatives_of_overlap_zero_touch_no_box_of_the_class() -> None:
    record = next(record for record in images(12) if len(set(record["truth_labels"])) == 2)
    stage = fitted(RecordList([record], ["a", "b"]), negative_iou=0, **MINING)
    boxes = np.concatenate([record["truth_boxes"], record["boxes"]])
    for k in range(2):
        iou = overlap(boxes, record["truth_boxes"][record["truth_labels"] == k + 1]).max(1)
        assert 0 < (iou == 0).sum() < (iou < 0.1).sum()
        assert column(stage, "added")[k] == (iou == 0).sum()


def test_nothing_to_learn_from_is_an_error() -> None:
    with pytest.raises(UserError, match="0 images"):
        fitted(RecordList([], ["a"]))
    with pytest.raises(UserError, match="0 classes"):
        fitted(RecordList([image(0)], []))


@pytest.mark.parametrize(
    "bad",
    [
        {"sample": 0},
        {"C": 0},
        {"bias": 0},
        {"tol": 0},
        {"passes": 0},
        {"negative_iou": -0.1},
        {"evict": -1.0},
        {"max_iter": 0},
        {"solver": "sgd"},
        {"loss": "logistic"},
        {"solver": "lbfgs"},
    ],
)
def test_parameters_that_cannot_be_meant(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        LinearSVMs(**bad).validate()


def test_the_defaults_are_those_of_the_papers_code() -> None:
    stage = LinearSVMs()
    stage.validate()
    assert (stage.C, stage.bias, stage.positive_weight, stage.negative_iou) == (1e-3, 10.0, 2.0, 0.3)
    assert (stage.hard, stage.evict, stage.retrain, stage.passes) == (-1.0001, -1.2, 2000, 1)
    assert (stage.layer, stage.norm, stage.tol) == ("fc7", 20.0, None)  # 0.1 for liblinear
    assert (stage.solver, stage.loss) == ("liblinear", "hinge")
    assert stage.needs == ("features.fc7",)


def test_state_round_trip() -> None:
    stage, other = fitted(images(6)), LinearSVMs()
    other.load_state({name: np.asarray(value) for name, value in stage.state().items()})
    record = image(50)
    np.testing.assert_array_equal(stage([record])[0]["scores"], other([record])[0]["scores"])
