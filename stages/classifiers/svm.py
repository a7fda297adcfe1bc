"""One linear SVM per class, trained with hard negative mining, all classes in one pass over the features.

R-CNN (Girshick et al., 2014), section 2.3 and appendix B; numbers as in the authors' released code.

For each class: minimise 0.5 |w|^2 + 0.5 (b / B)^2 + C (2 sum of hinge over positives + sum over negatives),
where the hinge may be squared.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from ...errors import UserError
from ..record import Record, Records
from ..sample import affine, class_overlaps, feature_scale, training_boxes, training_features
from ..stage import Checkpoint, NoCheckpoint, Stage
from .lbfgs import Rows, minimise
from .liblinear import sparse_rows, train_svm
from .mining import Mining, Positives, history_table

SOLVERS = {"liblinear": 0.1, "lbfgs": 0.01}  # with the default tolerance of each
LOSSES = ("hinge", "squared_hinge")


def objective(
    margins: Any,
    positives: int,
    weights: Any,
    b: float,
    *,
    C: float,
    bias: float,
    positive_weight: float,
    loss: str = "hinge",
) -> Any:
    """The terms (hinge of positives, of negatives, regulariser, their sum) at the scores of N rows, positives first."""
    power = LOSSES.index(loss) + 1
    hinge_positives = C * positive_weight * (np.maximum(0, 1 - margins[:positives]) ** power).sum(dtype=np.float64)
    hinge_negatives = C * (np.maximum(0, 1 + margins[positives:]) ** power).sum(dtype=np.float64)
    regulariser = 0.5 * float(weights.astype(np.float64) @ weights) + 0.5 * (b / bias) ** 2
    terms = [hinge_positives, hinge_negatives, regulariser]
    return np.array([*terms, sum(terms)])  # 4


def sample_rows(rows: Any, count: int, rng: np.random.Generator) -> Any:
    """Of the rows that each class wants (R K bool) so many at random, or all where they are fewer."""
    drawn = np.where(rows, rng.random(rows.shape), np.inf)  # R K
    return rows & (drawn.argsort(0).argsort(0) < count)


class LinearSVMs(Stage):
    """One linear SVM per class on cached features, trained with hard negative mining (R-CNN, section 2.3).

    Positives are the annotated boxes of the class alone. Negatives are the proposals, and the annotated boxes
    of other classes, that overlap every box of the class by less than `negative_iou`, and of which less than that
    share lies in a crowd of the class; the rest is ignored.
    Of the first image all negatives are taken; from then on those that the SVM finds hard. Rows are kept as
    they come (float16, say), once for all classes that hold them.

    layer: features to read; "fc7".
    C: weight of the hinge loss; 1e-3.
    bias: value of the constant feature, B above; 10.
    positive_weight: weight of a positive against a negative; 2.
    negative_iou: overlap below which a row is a negative; 0.3. 0 takes those alone that touch no box of the class.
    hard: score above which a negative is added; -1.0001.
    evict: score below which a negative is dropped after a training; -1.2.
    retrain: train a class again when more negatives than this were added; 2000.
    passes: passes over the images; 1, which converges.
    sample: None mines; a number takes, instead, so many negatives of each class at random from each image, and trains
        once: what mining is compared with.
    norm: mean L2 norm that features are scaled to; 20.
    difficult: whether objects marked difficult are positives too; True. If not they are ignored, as crowds
        always are: neither positives, nor negatives of their class.
    solver: "liblinear" trains one class after another from nothing, by its dual; "lbfgs" all classes that have new
        rows together, from where they stand, and needs loss="squared_hinge"; "liblinear".
    loss: "hinge", the paper's, or "squared_hinge"; "hinge". Both are 0 beyond the margins, so `hard` and `evict`
        mean the same.
    tol: when the solver stops; None is 0.1 for liblinear, its default for -s 3, and 0.01 for lbfgs. The two are not on
        one scale: liblinear's bounds how much the dual's projected gradients differ over the rows; lbfgs stops at
        |gradient| <= tol |v|, v = (w, b / B), where the objective is within 0.5 tol^2 |v|^2 of the least.
    max_iter: iterations after which it stops before that; 1000. A warning names the classes.
    random_state: seed of the sample behind the scale, of `sample` and of liblinear's order; 0.

    A class without an annotated box, or without any negative, gets zero weights and the bias -inf, so that it
    never scores above a threshold; a warning names it. UserError if that is every class, or if there is no image,
    class or feature.

    Learns weights_ (F K), bias_ (K), scale_ and history_ (columns: HISTORY).
    """

    version = 2  # a crowd covers what lies in it; tol is each solver's own; lbfgs sums up in float64
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
        sample: int | None = None,
        norm: float = 20.0,  # rcnn_scale_features.m
        difficult: bool = True,  # roidb_from_voc.m takes every annotated object, difficult or not
        solver: str = "liblinear",  # its -s 3
        loss: str = "hinge",
        tol: float | None = None,
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
        self.sample = sample
        self.norm = norm
        self.difficult = difficult
        self.solver = solver
        self.loss = loss
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

    def work(self, images: int) -> float:
        return self.passes * images

    def validate(self) -> None:
        for name in ("C", "bias", "positive_weight", "norm", "tol"):
            value = getattr(self, name)
            if not (value is None and name == "tol") and not value > 0:
                raise ValueError(f"{name} must be above 0, not {value}")
        for name in ("passes", "max_iter"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}")
        if self.sample is not None and self.sample < 1:
            raise ValueError(f"sample must be 1 or more, not {self.sample}")
        if not 0 <= self.negative_iou <= 1:
            raise ValueError(f"negative_iou must be in [0, 1], not {self.negative_iou}")
        if not self.evict < self.hard:
            raise ValueError(f"evict ({self.evict}) must be below hard ({self.hard})")
        for name, known in (("solver", SOLVERS), ("loss", LOSSES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(known)}")
        if (self.solver, self.loss) == ("lbfgs", "hinge"):
            raise ValueError("solver 'lbfgs' needs a smooth loss, and the hinge is none: set loss to 'squared_hinge'")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [{"scores": self._scores(record["features." + self.layer])} for record in records]

    def fit(self, records: Records, checkpoint: Checkpoint | None = None) -> None:
        checkpoint = checkpoint or NoCheckpoint()
        if not len(records) or not records.classes:
            raise UserError(f"LinearSVMs: {len(records)} images of {len(records.classes)} classes teach nothing")
        saved = checkpoint.load()
        if saved is None:
            self.scale_ = feature_scale(records, self.layer, self.norm, self.random_state)
        else:
            self.scale_ = float(np.array(saved["scale"])[0])
        positives = Positives.read(records, self.layer, self.difficult)
        mining = Mining.resume(saved, positives, records, self.layer) if saved else Mining.start(positives)
        total = self.passes * len(records)
        for step in range(mining.done, total):
            image = step % len(records)
            added = self._take(mining, image, records[image], positives.counts > 0)
            lost = self._train(mining, image, positives, last=step == total - 1)
            if len(lost):
                self._warn([records.classes[c] for c in lost])
            mining.done = step + 1
            checkpoint.progress(mining.done, total, f"{len(mining.pool.keys)} negatives held, {added} new")
            checkpoint.save(lambda: {"scale": np.array([self.scale_]), **mining.arrays()})
        self._finish(mining, records.classes)

    def _take(self, mining: Mining, image: int, record: Record, able: Any) -> int:
        """Hold negatives of an image for the classes that have positives (K bool). How many were new."""
        features = training_features(record, self.layer)  # R F, annotated boxes first
        negatives = self._negatives(record, len(able)) & able  # R K
        if self.sample is None:
            untrained = np.isneginf(mining.bias)  # an SVM that never saw a negative takes all of them
            negatives &= untrained | (affine(features, self.scale_, mining.weights, mining.bias) > self.hard)
        else:
            negatives = sample_rows(negatives, self.sample, np.random.default_rng([self.random_state, image]))
        added = mining.pool.add(image, negatives, features)
        mining.added += added
        return int(added.sum())

    def _negatives(self, record: Record, classes: int) -> Any:
        """Which rows are negatives of which class, R K."""
        truths = record["truth_boxes"], record["truth_labels"], record["truth_crowd"]
        overlaps = class_overlaps(training_boxes(record), *truths, classes)  # R K
        return overlaps < self.negative_iou if self.negative_iou > 0 else overlaps == 0

    def _train(self, mining: Mining, image: int, positives: Positives, last: bool) -> Sequence[int]:
        """Train the classes that are due after this image. Those whose solver stopped short of `tol`."""
        able = mining.pool.held.any(0)  # K
        mined = np.isneginf(mining.bias) | (mining.added > self.retrain) if self.sample is None else False
        due = able & (last | mined)
        lost: Sequence[int] = ()
        if self.solver == "liblinear":
            lost = self._train_each(mining, np.flatnonzero(due), image, positives)
        elif due.any():
            lost = self._train_together(mining, np.flatnonzero(due | (able & (mining.added > 0))), image, positives)
        mining.pool.compact()
        return lost

    def _train_each(self, mining: Mining, classes: Any, image: int, positives: Positives) -> Sequence[int]:
        """Train these classes one after another by liblinear. Those that did not converge."""
        stop: dict[str, Any] = {"tol": self._tol, "max_iter": self.max_iter, "random_state": self.random_state}
        lost = []
        for c in classes:
            n = int(positives.counts[c])
            blocks = chain([positives.of(c)], mining.pool.rows_of(c))
            rows = sparse_rows(blocks, self.scale_, len(mining.weights))  # N F
            w, b, converged = train_svm(rows, n, loss=self.loss, **self._terms(), **stop)
            self._note(mining, c, image, n, w, b, rows @ w + b)
            if not converged:
                lost.append(int(c))
        return lost

    def _train_together(self, mining: Mining, classes: Any, image: int, positives: Positives) -> Sequence[int]:
        """Train these classes at once by L-BFGS, each from where it stands. Those that did not converge."""
        member, held = positives.members().T[classes], mining.pool.held.T[classes]  # K P, K N
        rows = Rows([positives.rows, *mining.pool.rows.blocks()], self.scale_, self.bias)  # P+N F
        signs = np.concatenate([member.astype(np.int8), -held.astype(np.int8)], 1)  # K P+N
        bias = np.where(np.isneginf(mining.bias), 0, mining.bias)
        start = mining.weights[:, classes], bias[classes]
        terms: dict[str, Any] = {"C": self.C, "positive_weight": self.positive_weight}
        found = minimise(rows, signs, start, **terms, tol=self._tol, max_iter=self.max_iter)
        for k, c in enumerate(classes):
            w, b = found.weights[:, k].astype(np.float32), float(np.float32(found.bias[k]))
            self._note(mining, c, image, int(positives.counts[c]), w, b, found.margins[k, signs[k] != 0])
        return [int(c) for c in classes[~found.converged]]

    def _note(self, mining: Mining, c: int, image: int, n: int, w: Any, b: float, margins: Any) -> None:
        """Take the SVM (w, b) of class c, that scores its n positives and its negatives so; let go of the easy ones."""
        easy = margins[n:] < self.evict
        mining.pool.evict(c, easy)
        held = len(easy) - mining.added[c]
        counts = (c + 1, image, n, held, mining.added[c], easy.sum())
        terms = objective(margins, n, w, b, loss=self.loss, **self._terms())
        mining.history.append(np.array([*counts, *terms], np.float64))
        mining.weights[:, c] = w
        mining.bias[c] = b
        mining.added[c] = 0

    def _warn(self, names: Sequence[str]) -> None:
        what = f"{self.solver} stopped short of tol {self._tol} (max_iter {self.max_iter})"
        warnings.warn(f"the SVMs of {', '.join(names)} did not converge: {what}", stacklevel=3)

    @property
    def _tol(self) -> float:
        return SOLVERS[self.solver] if self.tol is None else self.tol

    def _terms(self) -> dict[str, Any]:
        return {"C": self.C, "bias": self.bias, "positive_weight": self.positive_weight}

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
