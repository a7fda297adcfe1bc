"""All classes' squared-hinge SVMs at once by batched L-BFGS, against scikit-learn's LinearSVC for each in parallel.

    python benchmarks/svm_solvers.py [--rows 20000] [--length 4096] [--classes 20] [--rounds 5]

Both sides minimise the same objective of the same rows on the same cores: L-BFGS in this process with as many threads,
LinearSVC in as many joblib workers of one thread each, primal or dual, whichever is the faster on the first class. Its
sparse float64 rows are made, and shared with the workers, before the clock starts; L-BFGS converts its float16 rows
while it runs. LinearSVC stops at --tol; L-BFGS at the loosest of a few tolerances that brings every class's
objective to within --within of LinearSVC's or below. Rounds are interleaved; the ratio is the median over rounds. The
objectives are compared at the default tolerances of the stage LinearSVMs, too, whose liblinear is the dual one.

The rows are max(0, scenes + prototypes + noise - 0.6) in float16, scaled to a mean norm of 20: one in fifty is a
positive, one in two shows some class weakly.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed, parallel_config
from rcnn.stages.classifiers.lbfgs import Rows, Solution, minimise
from rcnn.stages.classifiers.liblinear import sparse_rows
from rcnn.stages.classifiers.svm import SOLVERS, objective
from sklearn.svm import LinearSVC

TERMS: dict[str, Any] = {"C": 1e-3, "positive_weight": 2.0}  # LinearSVMs' defaults
BIAS = 10.0
TOLERANCES = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
SCENES = 100


def drawn(rows: int, length: int, classes: int) -> tuple[Any, Any]:
    """Rows (N F float16), positives first, and signs (K N int8): each class holds every row."""
    rng = np.random.default_rng(0)
    prototypes = np.maximum(rng.standard_normal((classes + SCENES, length), np.float32) - 0.5, 0) * 2
    label = np.where(np.arange(rows) < rows // 50, np.arange(rows) % classes, -1)
    x = rng.standard_normal((rows, length), np.float32) - 0.6
    for i, own in enumerate(label):  # row by row: no second array of this size
        x[i] += rng.uniform(0.3, 1) * prototypes[classes + rng.integers(SCENES)]
        weak = 0.7 * rng.random() ** 3 if rng.random() < 0.5 else 0.0
        x[i] += rng.uniform(0.5, 1) * prototypes[own] if own >= 0 else weak * prototypes[rng.integers(classes)]
    np.maximum(x, 0, out=x)
    x *= 20 / np.linalg.norm(x, axis=1).mean()
    return x.astype(np.float16), np.where(np.arange(classes)[:, None] == label, 1, -1).astype(np.int8)


def by_liblinear(rows: Any, sign: Any, dual: bool, tol: float) -> tuple[Any, float]:
    """Weights (F) and bias of one class."""
    weight = {1: TERMS["positive_weight"], -1: 1.0}
    how: dict[str, Any] = {"loss": "squared_hinge", "dual": dual, "tol": tol, "max_iter": 10_000, "random_state": 0}
    svm = LinearSVC(C=TERMS["C"], intercept_scaling=BIAS, class_weight=weight, **how).fit(rows, sign)
    return svm.coef_[0], float(svm.intercept_[0])


def by_lbfgs(rows: Any, signs: Any, tol: float) -> Solution:
    start = np.zeros((rows.shape[1], len(signs)), np.float32), np.zeros(len(signs), np.float32)
    return minimise(Rows([rows], 1.0, BIAS), signs, start, **TERMS, tol=tol, max_iter=1000)


def objectives(rows: Any, signs: Any, weights: Any, bias: Any) -> Any:
    """The objective of each class, K, in float64."""
    margins = rows @ weights + bias  # N K
    found = []
    for k, sign in enumerate(signs):
        order, n = np.argsort(-sign, kind="stable"), int((sign > 0).sum())
        terms = objective(margins[order, k], n, weights[:, k], bias[k], bias=BIAS, loss="squared_hinge", **TERMS)
        found.append(terms[-1])
    return np.array(found)


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"rows": 20_000, "length": 4096, "classes": 20, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--tol", type=float, default=SOLVERS["liblinear"], help="of LinearSVC; LinearSVMs' default")
    parser.add_argument("--within", type=float, default=1e-4, help="share of an objective that L-BFGS may be above")
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    rows, signs = drawn(args.rows, args.length, args.classes)
    shared = sparse_rows([rows], 1.0, args.length)
    first = {way: seconds(lambda way=way: by_liblinear(shared, signs[0], way, args.tol))[0] for way in (True, False)}
    dual = first[True] < first[False]
    with parallel_config("loky", n_jobs=cores, inner_max_num_threads=1), Parallel() as workers:

        def theirs(dual: bool = dual, tol: float = args.tol) -> tuple[Any, Any]:
            svms = workers(delayed(by_liblinear)(shared, sign, dual, tol) for sign in signs)
            return np.stack([w for w, _ in svms], 1), np.array([b for _, b in svms])

        reached = objectives(shared, signs, *theirs())  # warms the workers as well
        stage = by_lbfgs(rows, signs, SOLVERS["lbfgs"])
        its = objectives(shared, signs, *theirs(True, SOLVERS["liblinear"]))
        usual = objectives(shared, signs, stage.weights, stage.bias) / its - 1  # K
        for tol in TOLERANCES:
            ours = by_lbfgs(rows, signs, tol)
            apart = objectives(shared, signs, ours.weights, ours.bias) / reached - 1  # K
            if apart.max() <= args.within:
                break
        taken: list[tuple[float, float]] = []
        for i in range(args.rounds):
            runs = {"ours": lambda: by_lbfgs(rows, signs, tol), "theirs": theirs}
            spent = {name: seconds(runs[name])[0] for name in sorted(runs, reverse=bool(i % 2))}
            taken.append((spent["ours"], spent["theirs"]))
    own, other = (median(times) for times in zip(*taken))
    print(f"{args.classes} classes x {args.rows} rows x {args.length} features ({shared.nnz / rows.size:.2f} not 0), "
          f"{cores} cores, {args.rounds} rounds: "
          f"L-BFGS (tol {tol}, at most {ours.iterations.max()} iterations) {own:.2f} s, "
          f"LinearSVC ({'dual' if dual else 'primal'}, tol {args.tol}) {other:.2f} s; "
          f"LinearSVC / L-BFGS {median(b / a for a, b in taken):.2f}; "
          f"objectives, (ours - theirs) / theirs: {apart.max():+.1e} at worst, {apart.min():+.1e} at best; "
          f"at LinearSVMs' tolerances ({SOLVERS['lbfgs']} and {SOLVERS['liblinear']}) "
          f"{usual.max():+.1e} at worst, {usual.min():+.1e} at best")  # fmt: skip


if __name__ == "__main__":
    main()
