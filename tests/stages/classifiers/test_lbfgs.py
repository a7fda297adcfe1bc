"""L-BFGS on the squared hinge against liblinear, numerical derivatives and itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.stages.classifiers.lbfgs import Descent, Problem, Rows, Solution, direction, evaluate, line_search, minimise
from rcnn.stages.classifiers.svm import objective
from scipy.optimize import minimize_scalar
from sklearn.svm import LinearSVC

F, K, P, N = 40, 4, 60, 400
TERMS: dict[str, Any] = {"C": 1e-2, "positive_weight": 2.0}
B = 10.0


def problem(seed: int = 0, classes: int = K) -> tuple[Any, Any]:
    """Rows N F float16 after a ReLU, positives first, and signs N K; a class holds nine tenths of the negatives."""
    rng = np.random.default_rng(seed)
    label = np.arange(P) % classes
    means = rng.normal(size=(classes, F))
    x = rng.normal(size=(N, F)) * 2 + 0.3
    x[:P] += means[label]
    signs = np.where(rng.random((N, classes)) < 0.1, 0, -1).astype(np.int8)
    signs[:P] = np.eye(classes, dtype=np.int8)[label]
    return np.maximum(x, 0).astype(np.float16), signs


def zeros(length: int = F, classes: int = K) -> tuple[Any, Any]:
    return np.zeros((length, classes), np.float32), np.zeros(classes, np.float32)


def solved(x: Any, signs: Any, start: Any = None, *, scale: float = 0.7, tol: float = 1e-4, **more: Any) -> Solution:
    start = start or zeros(x.shape[1], signs.shape[1])
    rows = Rows([x[:100], x[100:]], scale, B)
    return minimise(rows, signs.T.copy(), start, tol=tol, **{**TERMS, "max_iter": 1000, **more})


def totals(x: Any, signs: Any, weights: Any, bias: Any, scale: float = 0.7) -> Any:
    """The objective of each class, K, in float64."""
    out = []
    for sign, w, b in zip(signs.T, weights.T, bias):
        rows = np.concatenate([x[sign > 0], x[sign < 0]]).astype(float) * scale
        out.append(objective(rows @ w + b, (sign > 0).sum(), w, b, bias=B, loss="squared_hinge", **TERMS)[-1])
    return np.array(out)


def steepness(x: Any, signs: Any, found: Solution, scale: float = 0.7, C: float = TERMS["C"]) -> Any:
    """|gradient| / |v| of each class, K, in float64."""
    rows = np.concatenate([x.astype(float) * scale, np.full((len(x), 1), B)], 1)  # N F+1
    v = np.concatenate([found.weights, found.bias[None] / B])  # F+1 K
    cost = C * np.where(signs > 0, TERMS["positive_weight"] * signs, -signs)  # N K
    gradient = v - 2 * rows.T @ (cost * signs * np.maximum(0, 1 - signs * (rows @ v)))
    return np.linalg.norm(gradient, axis=0) / np.linalg.norm(v, axis=0)


def by_liblinear(x: Any, signs: Any, scale: float = 0.7) -> tuple[Any, Any]:
    """Weights F K and bias K of scikit-learn's LinearSVC, class by class."""
    found = []
    for sign in signs.T:
        svm = LinearSVC(
            loss="squared_hinge",
            dual=False,
            C=TERMS["C"],
            intercept_scaling=B,
            class_weight={1: TERMS["positive_weight"], -1: 1.0},
            tol=1e-10,
            max_iter=10_000,
        )
        svm.fit(x[sign != 0].astype(float) * scale, sign[sign != 0])
        found.append((svm.coef_[0], svm.intercept_[0]))
    return np.stack([w for w, _ in found], 1), np.array([b for _, b in found])


def test_it_minimises_what_liblinear_does() -> None:
    x, signs = problem()
    found, (w, b) = solved(x, signs), by_liblinear(x, signs)
    assert found.converged.all()
    np.testing.assert_allclose(totals(x, signs, found.weights, found.bias), totals(x, signs, w, b), rtol=1e-6)
    np.testing.assert_allclose(found.weights, w, atol=1e-3 * np.abs(w).max())
    np.testing.assert_allclose(found.bias, b, rtol=1e-3)


@pytest.mark.parametrize("tol", [0.3, 0.1, 0.01])
def test_the_tolerance_holds_what_it_promises(tol: float) -> None:
    x, signs = problem(1)
    loose, (w, b) = solved(x, signs, tol=tol), by_liblinear(x, signs)
    assert loose.converged.all()
    off, size = np.hypot(np.linalg.norm(loose.weights - w, axis=0), (loose.bias - b) / B), np.linalg.norm(w, axis=0)
    assert (off <= tol * size / (1 - tol)).all()  # the promise is relative to the weights found
    assert (loose.iterations < solved(x, signs).iterations).all()


def test_float64_rows_are_solved_in_float64() -> None:
    x, signs = problem()
    exact, close = solved(x.astype(float), signs, tol=1e-7), solved(x, signs)
    assert exact.converged.all()
    assert exact.margins.dtype == np.float64
    best = totals(x, signs, exact.weights, exact.bias)
    np.testing.assert_allclose(totals(x, signs, close.weights, close.bias), best, rtol=1e-6)
    assert (best <= totals(x, signs, *by_liblinear(x, signs)) * (1 + 1e-12)).all()


def test_classes_at_once_are_classes_one_by_one() -> None:
    x, signs = problem()
    together = solved(x, signs)
    for k in range(K):
        alone = solved(x, signs[:, [k]])
        np.testing.assert_allclose(alone.weights[:, 0], together.weights[:, k], atol=1e-4)
        assert abs(alone.iterations[0] - together.iterations[k]) <= 2


def test_a_warm_start_ends_at_the_same_optimum_sooner() -> None:
    x, signs = problem()
    cold = solved(x, signs)
    near = solved(x[:-20], signs[:-20], tol=0.1)
    warm = solved(x, signs, (near.weights.astype(np.float32), near.bias.astype(np.float32)))
    assert warm.iterations.max() < cold.iterations.max()
    want = totals(x, signs, cold.weights, cold.bias)
    np.testing.assert_allclose(totals(x, signs, warm.weights, warm.bias), want, rtol=1e-6)
    again = solved(x, signs, (cold.weights, cold.bias), tol=1e-3)
    assert again.iterations.tolist() == [0] * K
    np.testing.assert_array_equal(again.weights, cold.weights)


def test_the_gradient_is_the_slope_of_the_value() -> None:
    x, signs = problem()
    rng = np.random.default_rng(0)
    of_all = Problem.of(Rows([x.astype(float)], 0.7, B), signs.T.copy(), **TERMS)
    v, d = (torch.from_numpy(rng.normal(size=(K, F + 1)) * 0.1) for _ in range(2))
    at, ahead, behind = (evaluate(of_all, v + step * d) for step in (0, 1e-6, -1e-6))
    np.testing.assert_allclose((at.gradient * d).sum(1), (ahead.value - behind.value) / 2e-6, rtol=1e-5)
    want = totals(x, signs, v[:, :-1].T.numpy(), v[:, -1].numpy() * B)
    np.testing.assert_allclose(at.value, want, rtol=1e-12)


def test_the_line_search_finds_the_best_step() -> None:
    rng = np.random.default_rng(0)
    slack, closing = rng.normal(size=(3, 50)) + 0.5, rng.normal(size=(3, 50)) * [[0.01], [1], [30]]
    cost, quadratic = rng.random((3, 50)), np.array([[-0.1, -30.0, -0.5], [0.2, 1.0, 40.0]])

    def value(a: float, k: int) -> float:
        left = np.maximum(0, slack[k] - a * closing[k])
        return float(quadratic[0, k] * a + 0.5 * quadratic[1, k] * a * a + (cost[k] * left**2).sum())

    slope = quadratic[0] - 2 * (cost * closing * np.maximum(0, slack)).sum(1)
    assert (slope < 0).all()
    tensors = (torch.from_numpy(part) for part in (slope, quadratic, slack, closing, cost))
    found = line_search(*tensors, exact=1e-9)
    for k in range(3):
        best = minimize_scalar(lambda a, k=k: value(a, k), bounds=(0, 100), method="bounded", options={"xatol": 1e-9})
        assert found[k].item() == pytest.approx(best.x, rel=1e-4)


def test_uphill_no_step_is_taken() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    assert line_search(one[0], torch.ones(2, 1, dtype=torch.float64), one, one, one).tolist() == [0]


def test_margins_are_those_of_what_was_found() -> None:
    x, signs = problem()
    found = solved(x, signs, tol=0.05)
    assert found.margins.shape == (K, N)
    np.testing.assert_allclose(found.margins.T, x.astype(float) * 0.7 @ found.weights + found.bias, atol=1e-5)


def test_an_end_before_the_optimum_is_told() -> None:
    x, signs = problem()
    cut = solved(x, signs, tol=0.01, max_iter=2)
    assert not cut.converged.any()
    assert cut.iterations.tolist() == [2] * K


def test_a_tolerance_below_rounding_ends_too() -> None:
    x, signs = problem()
    found = solved(x, signs, tol=1e-30)
    assert not found.converged.any()
    assert found.iterations.max() < 200
    assert (steepness(x, signs, found) < 1e-4).all()


def ill_conditioned(seed: int) -> tuple[Any, Any]:
    """Rows 600 x 60 float16, whose columns differ in scale by 10^2.5, and signs 600 x 1 drawn by chance."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(600, 60)), 0) * np.logspace(0, -2.5, 60)
    return x.astype(np.float16), np.where(rng.random((600, 1)) < 0.3, 1, -1).astype(np.int8)


@pytest.mark.parametrize(("C", "tol"), [(1.0, 1e-3), (10.0, 1e-3), (30.0, 1e-2)])
@pytest.mark.parametrize("seed", [0, 3])
def test_no_class_is_said_to_have_converged_that_has_not(seed: int, C: float, tol: float) -> None:
    x, signs = ill_conditioned(seed)
    found = solved(x, signs, scale=1.0, tol=tol, C=C, max_iter=250)
    (true,) = steepness(x, signs, found, scale=1.0, C=C)
    assert found.converged[0] == (true <= tol)
    assert found.iterations[0] == 250 or found.converged[0]  # nor does it stop for rounding before that
    assert found.converged[0] or C > 1


def test_a_stuck_class_goes_on_from_new_margins_and_without_pairs_and_is_over_if_that_brings_it_no_further() -> None:
    x, signs = problem()
    of_all = Problem.of(Rows([x], 0.7, B), signs.T.copy(), **TERMS)
    descent = Descent.begin(of_all, torch.zeros(K, F + 1, dtype=torch.float64))
    descent.advance()
    descent.advance()
    descent.at.margins[0] += 1  # as if errors had summed up
    descent.stuck[0] = True
    assert not descent.refresh().any()
    assert torch.allclose(descent.at.margins, of_all.rows.margins(descent.at.v), atol=1e-5)
    assert all(not part[0].any() and part[1:].any(1).all() for pair in descent.pairs for part in pair)
    before = descent.at.value[0].item()
    descent.advance()
    assert descent.at.value[0] < before
    descent.stuck[0] = True
    assert not descent.refresh().any()  # it got further
    assert descent.refresh().tolist() == [True, False, False, False]


def test_pairs_that_tell_nothing_leave_steepest_descent() -> None:
    gradient = torch.tensor([[3.0, -4.0], [1.0, 2.0]], dtype=torch.float64)
    forgotten = torch.zeros(2, 2, dtype=torch.float64)
    against = torch.ones(2, 2, dtype=torch.float64)  # the gradient fell along the step, as no convex function's does
    for pairs in ([], [(forgotten, forgotten)], [(against, -against)]):
        assert torch.equal(direction(gradient, pairs), -gradient)


@pytest.mark.parametrize("value", [300, 60_000])
def test_float16_rows_do_not_overflow(value: float) -> None:
    x, signs = problem()
    large = (x.astype(np.float32) / x.max() * value).astype(np.float16)  # 300 x 300 is more than float16 holds
    scale = 0.7 * float(x.max()) / value
    got, want = solved(large, signs, scale=scale), solved(x, signs)
    assert np.isfinite(got.weights).all()
    np.testing.assert_allclose(got.weights, want.weights, atol=5e-3)


def test_one_class_and_more_features_than_rows() -> None:
    x, signs = problem(classes=1)
    wide = np.random.default_rng(0).random((N, 2000)).astype(np.float16) * np.repeat(x, 50, axis=1)
    found = solved(wide, signs, scale=0.1)
    w, b = by_liblinear(wide, signs, scale=0.1)
    want = totals(wide, signs, w, b, scale=0.1)
    np.testing.assert_allclose(totals(wide, signs, found.weights, found.bias, scale=0.1), want, rtol=1e-5)


def test_a_class_without_negatives_or_rows_is_solved_as_it_stands() -> None:
    x, signs = problem(classes=2)
    signs[signs < 0] = 0
    signs[:, 1] = 0
    found = solved(x, signs)
    assert found.converged.all()
    assert (found.margins[0, :P:2] > 0.5).all()
    assert not found.weights[:, 1].any()
