"""Class-wise box regression by ridge on cached features.

R-CNN (Girshick et al., 2014), section 2.3 "Bounding-box regression" and appendix C; numbers as in the
authors' released code. For each class: minimise ||A beta - Y||^2 + alpha ||beta||^2, where A is the scaled
features and a column of ones (regularised like the rest) and Y the whitened deltas.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import UserError
from ..boxes import encode
from ..record import Record, Records
from ..sample import (
    affine,
    best_truths,
    feature_scale,
    training_boxes,
    training_rows,
    usable_truths,
)
from ..stage import Checkpoint, NoCheckpoint, Stage

BLOCK = 1024  # rows or columns in float64 at a time: 151 MB at 18,432 features
STRIP = 2048  # rows of a triangle that are multiplied at a time


def whiten(targets: Any, floor: float = 0.001) -> tuple[Any, Any, Any]:
    """Mean (4), whitened targets (n 4) and the inverse of the whitening (4 4) of targets n 4.

    floor: added to the variances, so that a direction in which no target differs stays finite; 0.001.
    """
    mean = targets.mean(0)
    centred = targets - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / len(targets))
    sd = np.sqrt(np.maximum(values, 0) + floor)  # 4
    return mean, centred @ (vectors / sd) @ vectors.T, (vectors * sd) @ vectors.T


class Primal:
    """Ridge on the features' side: (A'A + alpha I) beta = A'Y, the sums taken over blocks of rows."""

    def __init__(self, length: int, scale: float):
        import torch

        self.scale = scale
        self.gram = torch.zeros(length + 1, length + 1, dtype=torch.float64)  # lower triangle of A'A
        self.cross = np.zeros((length + 1, 4))  # A'Y
        self.waiting: list[tuple[Any, Any]] = []

    def add(self, rows: Any, targets: Any) -> None:
        """Take rows n F with their targets n 4; they wait for a full block, as an update walks all of A'A."""
        for start in range(0, len(rows), BLOCK):
            self.waiting.append((rows[start : start + BLOCK], targets[start : start + BLOCK]))
            if sum(len(part) for part, _ in self.waiting) >= BLOCK:
                self._update()

    def _update(self) -> None:
        a = _with_ones(np.concatenate([rows for rows, _ in self.waiting]), self.scale)  # m F+1
        add_products(self.gram, a.T)
        self.cross += a.T @ np.concatenate([targets for _, targets in self.waiting])
        self.waiting = []

    def solve(self, alpha: float) -> Any:
        """Beta, F+1 4. Uses the Gram matrix up."""
        if self.waiting:
            self._update()
        return _solve(self.gram, self.cross, alpha)


class Dual:
    """Ridge on the pairs' side: beta = A' (AA' + alpha I)^-1 Y; the rows are kept as they come."""

    def __init__(self, scale: float):
        self.scale = scale
        self.rows: list[Any] = []
        self.targets: list[Any] = []

    def add(self, rows: Any, targets: Any) -> None:
        """Take rows n F with their targets n 4."""
        self.rows.append(rows)
        self.targets.append(targets)

    def solve(self, alpha: float) -> Any:
        """Beta, F+1 4. Uses the rows up."""
        import torch

        rows, targets = np.concatenate(self.rows), np.concatenate(self.targets)
        self.rows = []
        kernel = torch.ones(len(rows), len(rows), dtype=torch.float64)  # the column of ones gives the ones
        for columns in self._columns(rows):
            add_products(kernel, columns)  # n n
        weights = _solve(kernel, targets, alpha)  # n 4
        return np.concatenate([*(c.T @ weights for c in self._columns(rows)), weights.sum(0)[None]])  # F+1 4

    def _columns(self, rows: Any) -> Iterator[Any]:
        for start in range(0, rows.shape[1], BLOCK):
            yield np.multiply(rows[:, start : start + BLOCK], self.scale, dtype=np.float64)  # n m


def add_products(gram: Any, a: Any) -> None:
    """Add a a' (a: n m, float64) to the lower triangle of gram (n n, a tensor), in place.

    In torch: scipy's OpenBLAS 0.3 ends in a segmentation fault in dsyrk and dpotrf of 18,433 columns on two threads.
    """
    import torch

    rows = torch.from_numpy(a)
    for start in range(0, len(rows), STRIP):
        strip = slice(start, start + STRIP)
        gram[strip, : start + STRIP].addmm_(rows[strip], rows[: start + STRIP].T)


def smaller_side(pairs: int, length: int, scale: float) -> Primal | Dual:
    """The side to solve a problem of so many pairs and features on; features are multiplied by scale."""
    return Dual(scale) if pairs <= length else Primal(length, scale)


@dataclass
class Pairs:
    """Rows and the annotated boxes that they are to be moved onto.

    image, row: n each; label: n, 1..K; target: n 4, deltas.
    """

    image: Any
    row: Any
    label: Any
    target: Any

    def of(self, label: int) -> Pairs:
        """Those of one class."""
        mine = self.label == label
        return Pairs(self.image[mine], self.row[mine], self.label[mine], self.target[mine])


def find_pairs(boxes: Any, truth_boxes: Any, truth_labels: Any, min_iou: float) -> tuple[Any, Any, Any]:
    """Rows (n), labels (n) and deltas (n 4 float64) of boxes (R 4) that overlap an annotated box enough."""
    best, iou = best_truths(boxes, truth_boxes)  # R, R
    rows = np.flatnonzero(iou > min_iou)
    if not len(rows):
        return rows, np.zeros(0, np.int64), np.zeros((0, 4))
    truth = truth_boxes[best[rows]].astype(np.float64)
    return rows, truth_labels[best[rows]], encode(boxes[rows].astype(np.float64), truth)


class RidgeBoxRegressors(Stage):
    """Ridge from cached features to the deltas of each class (R-CNN, appendix C).

    A pair is a proposal, or an annotated box itself (whose deltas are 0), and the annotated box it overlaps
    most, by more than `min_iou`; it counts for the class of that box.

    layer: features to read; "pool5".
    alpha: weight of the regulariser, lambda in the paper; 1000.
    min_iou: overlap above which a row makes a pair; 0.6.
    norm: mean L2 norm that features are scaled to; 20.
    difficult: whether objects marked difficult make pairs; True. Crowds make none.
    memory: GB that the classes learned in one pass may keep between images; 1.5. More classes, more passes.
    random_state: seed of the sample behind the scale; 0.

    A class without a pair gets deltas of 0, which leave boxes as they are; a warning names it. UserError if
    there is no image, class or feature.

    Learns beta_ (K F+1 4; the bias last, the whitening undone) and scale_.
    """

    version = 2  # the factor solves by two triangles: other last bits
    gives = ("deltas",)
    speed = ("memory",)

    def __init__(
        self,
        layer: str = "pool5",  # appendix C: pool5 features
        *,
        alpha: float = 1000.0,  # appendix C: lambda = 1000
        min_iou: float = 0.6,  # appendix C: from a validation set
        norm: float = 20.0,  # rcnn_scale_features.m
        difficult: bool = True,  # roidb_from_voc.m takes every annotated object, difficult or not
        memory: float = 1.5,
        random_state: int = 0,
    ):
        self.layer = layer
        self.alpha = alpha
        self.min_iou = min_iou
        self.norm = norm
        self.difficult = difficult
        self.memory = memory
        self.random_state = random_state

    @property
    def needs(self) -> Sequence[str]:  # type: ignore[override]
        return ("boxes", "features." + self.layer)

    @property
    def learns(self) -> Sequence[str]:  # type: ignore[override]
        truth = ("truth_boxes", "truth_labels", "truth_difficult", "truth_crowd")
        return (*truth, "truth_features." + self.layer)

    def validate(self) -> None:
        for name in ("alpha", "norm", "memory"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        if not 0 < self.min_iou < 1:
            raise ValueError(f"min_iou must be in (0, 1), not {self.min_iou}")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [{"deltas": self._deltas(record["features." + self.layer])} for record in records]

    def fit(self, records: Records, checkpoint: Checkpoint | None = None) -> None:
        checkpoint = checkpoint or NoCheckpoint()
        K = len(records.classes)
        if not len(records) or not K:
            raise UserError(f"RidgeBoxRegressors: {len(records)} images of {K} classes teach nothing")
        saved = checkpoint.load()
        if saved is None:
            self.scale_ = feature_scale(records, self.layer, self.norm, self.random_state)
        else:
            self.scale_ = float(np.array(saved["scale"])[0])
        pairs = self._find_pairs(records)
        first = records[0]["truth_features." + self.layer]  # T F
        F = first.shape[1]
        self.beta_ = np.zeros((K, F + 1, 4), np.float32) if saved is None else np.array(saved["beta"])
        done = 0 if saved is None else int(np.array(saved["done"])[0])
        counts = np.bincount(pairs.label, minlength=K + 1)  # K + 1, that of background first
        for group in self._groups(counts, done + 1, F, first.itemsize):
            for label, beta in self._fit_classes(group, pairs, records, F):
                self.beta_[label - 1] = beta
                checkpoint.progress(label, K, f"{records.classes[label - 1]}: {counts[label]} pairs")
                checkpoint.save(lambda label=label: self._arrays(label))  # type: ignore[misc]
        lost = [name for name, n in zip(records.classes, counts[1:]) if not n]
        if lost:
            warnings.warn(f"no box regressor for {', '.join(lost)}: no pair in the data", stacklevel=2)

    def _find_pairs(self, records: Records) -> Pairs:
        """All pairs of all images; reads no features."""
        found = [self._pairs_of(record) for record in records]
        image = np.repeat(np.arange(len(found)), [len(rows) for rows, _, _ in found])
        return Pairs(image, *(np.concatenate(parts) for parts in zip(*found)))

    def _pairs_of(self, record: Record) -> tuple[Any, Any, Any]:
        use = usable_truths(record, self.difficult)  # T
        truth, labels = record["truth_boxes"][use], record["truth_labels"][use]
        return find_pairs(training_boxes(record), truth, labels, self.min_iou)

    def _groups(self, counts: Any, first: int, length: int, itemsize: int) -> list[list[int]]:
        """Labels from `first` on in runs, each keeping at most `memory` GB while features stream by."""
        groups: list[list[int]] = []
        room = 0.0
        for label in range(first, len(counts)):
            pairs = counts[label]
            size = (pairs * length * itemsize if pairs <= length else (length + 1) ** 2 * 8) / 1e9  # rows, or A'A
            if not groups or size > room:
                groups.append([])
                room = self.memory
            groups[-1].append(label)
            room -= size
        return groups

    def _fit_classes(self, labels: list[int], pairs: Pairs, records: Records, length: int) -> Iterator[tuple[int, Any]]:
        """Each of these labels that has pairs with its beta, F+1 4, in one pass over the images it is in."""
        mine = {label: pairs.of(label) for label in labels}
        mine = {label: own for label, own in mine.items() if len(own.row)}
        white = {label: whiten(own.target) for label, own in mine.items()}
        systems = {label: smaller_side(len(own.row), length, self.scale_) for label, own in mine.items()}
        for image in np.unique(np.concatenate([own.image for own in mine.values()])) if mine else ():
            record = records[int(image)]
            for label, own in mine.items():
                here = slice(*np.searchsorted(own.image, (image, image + 1)))
                if here.start < here.stop:
                    rows = training_rows(record, self.layer, own.row[here])  # n F
                    systems[label].add(rows, white[label][1][here])
        for label in list(mine):
            mean, _, unwhiten = white[label]
            beta = systems.pop(label).solve(self.alpha) @ unwhiten  # F+1 4
            beta[-1] += mean
            yield label, beta

    def _arrays(self, done: int) -> dict[str, Any]:
        return {"scale": np.array([self.scale_]), "beta": self.beta_, "done": np.array([done])}

    def _deltas(self, features: Any) -> Any:
        K, rows, _ = self.beta_.shape
        weights = self.beta_[:, :-1].transpose(1, 0, 2).reshape(rows - 1, K * 4)  # F 4K
        return affine(features, self.scale_, weights, self.beta_[:, -1].reshape(-1)).reshape(-1, K, 4)  # R K 4


def _solve(gram: Any, right: Any, alpha: float) -> Any:
    """(gram + alpha I)^-1 right by one Cholesky factorisation; reads the lower triangle and overwrites it."""
    import torch

    gram.diagonal().add_(alpha)
    factor = gram.mT  # column-major, as LAPACK wants it: factored in its own place, with one copy less
    torch.linalg.cholesky(factor, upper=True, out=factor)
    half = torch.linalg.solve_triangular(factor.mT, torch.from_numpy(right), upper=False)
    return torch.linalg.solve_triangular(factor, half, upper=True).numpy()  # cholesky_solve would copy the factor


def _with_ones(rows: Any, scale: float) -> Any:
    a = np.ones((len(rows), rows.shape[1] + 1))  # n F+1
    np.multiply(rows, scale, out=a[:, :-1], dtype=np.float64)
    return a
