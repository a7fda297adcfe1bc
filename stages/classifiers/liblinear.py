"""One linear SVM by liblinear (Fan et al., 2008), on a sparse copy of its rows; `-s 3` is the paper's solver."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np

BLOCK = 256  # rows looked through for non-zeros at a time


def sparse_rows(blocks: Iterable[Any], scale: float, length: int) -> Any:
    """The rows of all blocks (n F each), times scale, as one float64 CSR matrix N F.

    Sparse because liblinear keeps 16 bytes per non-zero anyway, and after a ReLU most features are zero: a
    dense float64 copy of 18,432-wide rows would be the largest thing in memory.
    """
    from scipy.sparse import csr_matrix

    pieces = (block[i : i + BLOCK] for block in blocks for i in range(0, len(block), BLOCK))
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
    loss: str = "hinge",
) -> tuple[Any, float, bool]:
    """Weights (F float32) and bias of an SVM by liblinear, in the dual, and whether it reached `tol`.

    Rows: N F, the `positives` first. loss: "hinge" (-s 3) or "squared_hinge" (-s 1).
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    labels = np.where(np.arange(rows.shape[0]) < positives, 1, -1)  # N
    svm = LinearSVC(
        loss=loss,
        dual=True,
        C=C,
        intercept_scaling=bias,
        class_weight={1: positive_weight, -1: 1.0},
        tol=tol,
        max_iter=max_iter,
        random_state=random_state,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it names no class; the caller can
        svm.fit(rows, labels)
    return svm.coef_[0].astype(np.float32), float(np.float32(svm.intercept_[0])), svm.n_iter_ < max_iter


def _nonzeros(rows: Any, scale: float) -> tuple[Any, Any, Any]:
    """Non-zeros of rows n F times scale, their columns, and how many stand in each row, n."""
    row, column = np.nonzero(rows)
    counts = np.bincount(row, minlength=len(rows))  # n
    return rows[row, column].astype(np.float64) * scale, column.astype(np.int32), counts
