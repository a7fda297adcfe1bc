"""One linear SVM per class, trained with hard negative mining, all classes in one pass over the features.

R-CNN (Girshick et al., 2014), section 2.3 and appendix B; numbers as in the authors' released code.

For each class: minimise 0.5 |w|^2 + 0.5 (b / B)^2 + C (2 sum of hinge over positives + sum over negatives).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import UserError
from ..record import Record, Records
from ..sample import (
    affine,
    class_overlaps,
    feature_scale,
    training_boxes,
    training_features,
    training_rows,
    usable_truths,
)
from ..stage import Checkpoint, NoCheckpoint, Stage, State

HISTORY = (  # columns of history_, a row for each time that a class was trained
    "class",  # 1..K
    "image",  # position, in the canonical order, of the image after which it was trained
    "positives",  # annotated boxes of the class
    "held",  # negatives left over from the training before
    "added",  # negatives added since
    "evicted",  # negatives dropped after this training
    "hinge_positives",  # the terms of the objective, weighted as they stand in it
    "hinge_negatives",
    "regulariser",
    "objective",
)
BLOCK = 256  # rows looked through for non-zeros at a time


def sparse_rows(blocks: Sequence[Any], scale: float, length: int) -> Any:
    """The rows of all blocks (n F each), times scale, as one float64 CSR matrix N F.

    Sparse because liblinear keeps 16 bytes per non-zero anyway, and after a ReLU most features are zero: a
    dense float64 copy of 18,432-wide rows would be the largest thing in memory.
    """
    from scipy.sparse import csr_matrix

    pieces = [block[i : i + BLOCK] for block in blocks for i in range(0, len(block), BLOCK)]
    found = [_nonzeros(piece, scale) for piece in pieces]
    values, columns, counts = (np.concatenate(parts) for parts in zip(*found))
    ends = np.concatenate([[0], np.cumsum(counts)])  # N + 1
    return csr_matrix((values, columns, ends), shape=(len(counts), length))  # N F


def train_svm(
    rows: Any,
    positives: int,
    *,
    C: float,
    bias: float,
    positive_weight: float,
    tol: float,
    max_iter: int,
    random_state: int,
) -> tuple[Any, float]:
    """Weights (F float32) and bias of an SVM by liblinear -s 3. Rows: N F, the `positives` first."""
    from sklearn.svm import LinearSVC

    labels = np.where(np.arange(rows.shape[0]) < positives, 1, -1)  # N
    svm = LinearSVC(
        loss="hinge",
        dual=True,
        C=C,
        intercept_scaling=bias,
        class_weight={1: positive_weight, -1: 1.0},
        tol=tol,
        max_iter=max_iter,
        random_state=random_state,
    ).fit(rows, labels)
    return svm.coef_[0].astype(np.float32), float(np.float32(svm.intercept_[0]))


def objective(
    margins: Any, positives: int, weights: Any, b: float, *, C: float, bias: float, positive_weight: float
) -> Any:
    """The terms (hinge of positives, hinge of negatives, regulariser, their sum) at scores `margins` (N)."""
    hinge_positives = C * positive_weight * np.maximum(0, 1 - margins[:positives]).sum()
    hinge_negatives = C * np.maximum(0, 1 + margins[positives:]).sum()
    regulariser = 0.5 * float(weights.astype(np.float64) @ weights) + 0.5 * (b / bias) ** 2
    terms = [hinge_positives, hinge_negatives, regulariser]
    return np.array([*terms, sum(terms)])  # 4


@dataclass
class Pool:
    """The negatives that are held: each row once, whichever classes hold it.

    keys: N 2, image and row; held: N K, by which class; blocks: the N rows, in the order of keys.
    """

    keys: Any
    held: Any
    blocks: list[Any] = field(default_factory=list)

    def add(self, image: int, wanted: Any, features: Any) -> Any:
        """Hold the rows of an image that classes want (R K bool), none twice. How many each class got, K."""
        at = np.flatnonzero(self.keys[:, 0] == image)
        known = self.keys[at, 1]
        added = wanted.sum(0) - (wanted[known] & self.held[at]).sum(0)  # K
        self.held[at] |= wanted[known]
        new = np.setdiff1d(np.flatnonzero(wanted.any(1)), known)
        if len(new):
            self.keys = np.concatenate([self.keys, np.stack([np.full_like(new, image), new], 1)])  # N 2
            self.held = np.concatenate([self.held, wanted[new]])  # N K
            self.blocks.append(features[new])
        return added

    def rows(self, c: int) -> list[Any]:
        """The rows that class c (from 0) holds, as blocks."""
        return [block[mine] for block, mine in zip(self.blocks, self._split(self.held[:, c])) if mine.any()]

    def evict(self, c: int, easy: Any) -> None:
        """Class c lets go of those of its rows that are easy."""
        self.held[np.flatnonzero(self.held[:, c])[easy], c] = False

    def compact(self) -> None:
        """Forget the rows that no class holds."""
        keep = self.held.any(1)  # N
        if keep.all():
            return
        pairs = zip(self.blocks, self._split(keep))
        self.blocks = [block if mine.all() else block[mine] for block, mine in pairs if mine.any()]
        self.keys, self.held = self.keys[keep], self.held[keep]

    def read(self, records: Records, layer: str) -> None:
        """Fetch the rows again by their keys, each image once for each run of its rows."""
        starts = np.flatnonzero(np.diff(self.keys[:, 0], prepend=-1))
        for run in np.split(self.keys, starts[1:]) if len(starts) else []:
            self.blocks.append(training_rows(records[int(run[0, 0])], layer, run[:, 1]))

    def _split(self, values: Any) -> list[Any]:
        ends = np.cumsum([len(block) for block in self.blocks])
        return np.split(values, ends[:-1]) if len(ends) else []


@dataclass
class Mining:
    """Where a fit stands: the SVMs, the negatives they hold and how many came since they were trained."""

    weights: Any  # F K
    bias: Any  # K, -inf before a class is trained
    added: Any  # K
    pool: Pool
    history: list[Any] = field(default_factory=list)
    done: int = 0  # images

    @classmethod
    def start(cls, length: int, classes: int) -> Mining:
        pool = Pool(np.zeros((0, 2), np.int64), np.zeros((0, classes), bool))
        bias = np.full(classes, -np.inf, np.float32)
        return cls(np.zeros((length, classes), np.float32), bias, np.zeros(classes, np.int64), pool)

    @classmethod
    def resume(cls, state: State, records: Records, layer: str) -> Mining:
        """The Mining that gave `arrays`; its rows are read again from the records."""
        saved = {name: np.array(value) for name, value in state.items()}
        mining = cls(saved["weights"], saved["bias"], saved["added"], Pool(saved["keys"], saved["held"]))
        mining.history, mining.done = list(saved["history"]), int(saved["done"][0])
        mining.pool.read(records, layer)
        return mining

    def arrays(self) -> State:
        """What a checkpoint keeps: everything but the rows."""
        return {
            "weights": self.weights,
            "bias": self.bias,
            "added": self.added,
            "keys": self.pool.keys,
            "held": self.pool.held,
            "history": history_table(self.history),
            "done": np.array([self.done]),
        }


def history_table(rows: Sequence[Any]) -> Any:
    """The history as one float64 array, a row for each training, a column for each name in HISTORY."""
    return np.array(rows, np.float64).reshape(-1, len(HISTORY))


class LinearSVMs(Stage):
    """One linear SVM per class on cached features, trained with hard negative mining (R-CNN, section 2.3).

    Positives are the annotated boxes of the class alone. Negatives are the proposals, and the annotated boxes
    of other classes, that overlap every box of the class by less than `negative_iou`; the rest is ignored.
    Of the first image all negatives are taken; from then on those that the SVM finds hard. Rows are kept as
    they come (float16, say), once for all classes that hold them.

    layer: features to read; "fc7".
    C: weight of the hinge loss; 1e-3.
    bias: value of the constant feature, B above; 10.
    positive_weight: weight of a positive against a negative; 2.
    negative_iou: overlap below which a row is a negative; 0.3.
    hard: score above which a negative is added; -1.0001.
    evict: score below which a negative is dropped after a training; -1.2.
    retrain: train a class again when more negatives than this were added; 2000.
    passes: passes over the images; 1, which converges.
    norm: mean L2 norm that features are scaled to; 20.
    difficult: whether objects marked difficult are positives too; True. If not they are ignored, as crowds
        always are: neither positives, nor negatives of their class.
    tol, max_iter: when liblinear stops; 0.1 and 1000.
    random_state: seed of the sample behind the scale and of liblinear's order; 0.

    A class without an annotated box, or without any negative, gets zero weights and the bias -inf, so that it
    never scores above a threshold; a warning names it. UserError if that is every class, or if there is no image,
    class or feature.

    Learns weights_ (F K), bias_ (K), scale_ and history_ (columns: HISTORY).
    """

    gives = ("scores",)

    def __init__(  # numbers without a section are those of rcnn_train.m
        self,
        layer: str = "fc7",  # section 3.2: the best layer after fine-tuning
        *,
        C: float = 1e-3,  # svm_C
        bias: float = 10.0,  # bias_mult
        positive_weight: float = 2.0,  # pos_loss_weight
        negative_iou: float = 0.3,  # section 2.3: from a grid search over 0, 0.1 .. 0.5
        hard: float = -1.0001,  # hard_thresh
        evict: float = -1.2,  # evict_thresh
        retrain: int = 2000,  # retrain_limit
        passes: int = 1,  # section 2.3: "mAP stops increasing after only a single pass"
        norm: float = 20.0,  # rcnn_scale_features.m
        difficult: bool = True,  # roidb_from_voc.m takes every annotated object, difficult or not
        tol: float = 0.1,  # liblinear's default for -s 3
        max_iter: int = 1000,  # liblinear's limit
        random_state: int = 0,
    ):
        self.layer = layer
        self.C = C
        self.bias = bias
        self.positive_weight = positive_weight
        self.negative_iou = negative_iou
        self.hard = hard
        self.evict = evict
        self.retrain = retrain
        self.passes = passes
        self.norm = norm
        self.difficult = difficult
        self.tol = tol
        self.max_iter = max_iter
        self.random_state = random_state

    @property
    def needs(self) -> Sequence[str]:  # type: ignore[override]
        return ("features." + self.layer,)

    @property
    def learns(self) -> Sequence[str]:  # type: ignore[override]
        truth = ("truth_boxes", "truth_labels", "truth_difficult", "truth_crowd")
        return ("boxes", *truth, "truth_features." + self.layer)

    def validate(self) -> None:
        for name in ("C", "bias", "positive_weight", "norm", "tol"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("passes", "max_iter"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if not 0 < self.negative_iou <= 1:
            raise ValueError(f"negative_iou must be in (0, 1], not {self.negative_iou}")
        if not self.evict < self.hard:
            raise ValueError(f"evict ({self.evict}) must be below hard ({self.hard})")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [{"scores": self._scores(record["features." + self.layer])} for record in records]

    def fit(self, records: Records, checkpoint: Checkpoint | None = None) -> None:
        checkpoint = checkpoint or NoCheckpoint()
        if not len(records) or not records.classes:
            raise UserError(f"LinearSVMs: {len(records)} images of {len(records.classes)} classes teach nothing")
        saved = checkpoint.load()
        self.scale_ = self._find_scale(records) if saved is None else float(np.array(saved["scale"])[0])
        positives = self._positives(records)  # K arrays n F
        length = positives[0].shape[1]
        mining = Mining.resume(saved, records, self.layer) if saved else Mining.start(length, len(positives))
        total = self.passes * len(records)
        for step in range(mining.done, total):
            added = self._mine(mining, step % len(records), records, positives)
            mining.done = step + 1
            checkpoint.progress(mining.done, total, f"{len(mining.pool.keys)} negatives held, {added} new")
            checkpoint.save(lambda: {"scale": np.array([self.scale_]), **mining.arrays()})
        self._finish(mining, records.classes)

    def _find_scale(self, records: Records) -> float:
        def read(i: int) -> Any:
            return training_features(records[i], self.layer)

        return feature_scale(read, len(records), self.norm, self.random_state)

    def _positives(self, records: Records) -> list[Any]:
        """The features, n F, of the annotated boxes of each class."""
        rows, labels = [], []
        for record in records:
            use = usable_truths(record, self.difficult)  # T
            rows.append(record["truth_features." + self.layer][use])  # n F
            labels.append(record["truth_labels"][use])
        everything, label = np.concatenate(rows), np.concatenate(labels)
        return [everything[label == c + 1] for c in range(len(records.classes))]

    def _mine(self, mining: Mining, image: int, records: Records, positives: list[Any]) -> int:
        """Take the hard negatives of one image and train the classes that are due. How many were taken."""
        record = records[image]
        features = training_features(record, self.layer)  # R F, annotated boxes first
        wanted = self._negatives(record, len(positives))  # R K
        wanted &= [len(rows) > 0 for rows in positives]
        untrained = np.isneginf(mining.bias)  # an SVM that never saw a negative takes all of them
        wanted &= untrained | (affine(features, self.scale_, mining.weights, mining.bias) > self.hard)
        added = mining.pool.add(image, wanted, features)
        mining.added += added
        last = mining.done == self.passes * len(records) - 1
        due = last | untrained | (mining.added > self.retrain)
        for c in np.flatnonzero(due & mining.pool.held.any(0)):
            self._train(mining, int(c), positives[c], image)
        mining.pool.compact()
        return int(added.sum())

    def _negatives(self, record: Record, classes: int) -> Any:
        """Which rows are negatives of which class, R K."""
        truth, labels = record["truth_boxes"], record["truth_labels"]
        return class_overlaps(training_boxes(record), truth, labels, classes) < self.negative_iou

    def _train(self, mining: Mining, c: int, positives: Any, image: int) -> None:
        """Train class c on what it holds, note how it went and let go of its easy negatives."""
        n = len(positives)
        rows = sparse_rows([positives, *mining.pool.rows(c)], self.scale_, len(mining.weights))  # N F
        terms: dict[str, Any] = {"C": self.C, "bias": self.bias, "positive_weight": self.positive_weight}
        stop: dict[str, Any] = {"tol": self.tol, "max_iter": self.max_iter, "random_state": self.random_state}
        w, b = train_svm(rows, n, **terms, **stop)
        margins = rows @ w + b  # N
        easy = margins[n:] < self.evict
        mining.pool.evict(c, easy)
        held = len(easy) - mining.added[c]
        counts = (c + 1, image, n, held, mining.added[c], easy.sum())
        mining.history.append(np.array([*counts, *objective(margins, n, w, b, **terms)], np.float64))
        mining.weights[:, c], mining.bias[c], mining.added[c] = w, b, 0

    def _scores(self, features: Any) -> Any:
        return affine(features, self.scale_, self.weights_, self.bias_)  # R K

    def _finish(self, mining: Mining, classes: Sequence[str]) -> None:
        self.weights_, self.bias_ = mining.weights, mining.bias
        self.history_ = history_table(mining.history)
        lost = [name for name, b in zip(classes, mining.bias) if np.isneginf(b)]
        if len(lost) == len(classes):
            raise UserError("LinearSVMs: no class has both annotated boxes and negatives in the data")
        if lost:
            warnings.warn(f"no SVM for {', '.join(lost)}: no positive or no negative in the data", stacklevel=3)


def _nonzeros(rows: Any, scale: float) -> tuple[Any, Any, Any]:
    """Non-zeros of rows n F times scale, their columns, and how many stand in each row, n."""
    row, column = np.nonzero(rows)
    counts = np.bincount(row, minlength=len(rows))  # n
    return rows[row, column].astype(np.float64) * scale, column.astype(np.int32), counts
