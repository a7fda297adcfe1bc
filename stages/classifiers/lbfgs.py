"""The squared-hinge SVMs of all classes at once, by L-BFGS on one shared set of rows.

Nocedal and Wright, Numerical Optimization (2nd ed., 2006), algorithms 7.4 and 7.5, each class with a direction, a step
and an end of its own. For each class, with v = (w, b / B): minimise 0.5 |v|^2 + sum of cost x max(0, 1 - y m)^2 over
the rows that it holds, where a row's margin m is scale x w + b.

The rows are read twice an iteration: for what a step along the directions adds to the margins, and for the gradient at
its end. The search for the step needs no more, as margins are linear in it and what it minimises is piecewise
quadratic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

BLOCK = 256  # rows in float32 at a time, so that a product finds them in the processor's cache
PAIRS = 10  # steps and changes of gradient remembered; 5 took 6 to 9 % more iterations, 20 up to 6 % fewer
SEARCHES = 50  # Newton steps of one line search, at most; it takes about 3


@dataclass
class Rows:
    """Rows that all classes share, with a constant feature behind.

    blocks: arrays n F of one float type; scale: multiplies them; bias: the constant feature, B.
    Products are made in float32 (float64 for rows of float64), whatever the rows are kept in; what there is one of for
    a class and a row is float64, as sums of its squares in float32 hide the last of the descent.
    """

    blocks: Sequence[Any]
    scale: float
    bias: float

    def margins(self, v: Any) -> Any:
        """What v (K F+1) gives each row, K N."""
        import torch

        out = torch.empty(len(v), sum(map(len, self.blocks)), dtype=torch.float64)  # K N
        weights = (v[:, :-1] * self.scale).to(self.dtype)  # K F
        for at, block in self._converted():
            out[:, at] = weights @ block.T
        return out.add_(v[:, -1:] * self.bias)

    def transposed(self, weights: Any) -> Any:
        """The sums of the rows with these weights (K N), K F+1 float64: the product that `margins` is not."""
        import torch

        out = torch.zeros(len(weights), self.blocks[0].shape[1] + 1, dtype=torch.float64)
        for at, block in self._converted():
            out[:, :-1] += weights[:, at].to(self.dtype) @ block
        out[:, :-1] *= self.scale
        out[:, -1] = self.bias * weights.sum(1)
        return out

    @property
    def dtype(self) -> Any:
        import torch

        return torch.float64 if self.blocks[0].dtype.itemsize == 8 else torch.float32

    def _converted(self) -> Iterator[tuple[slice, Any]]:
        """The rows, BLOCK at a time in one buffer, each with the slice of all rows that it holds."""
        import torch

        buffer = torch.empty(BLOCK, self.blocks[0].shape[1], dtype=self.dtype)
        done = 0
        for block in self.blocks:
            for start in range(0, len(block), BLOCK):
                piece = torch.from_numpy(block[start : start + BLOCK])
                yield slice(done, done + len(piece)), buffer[: len(piece)].copy_(piece)
                done += len(piece)


@dataclass
class Problem:
    """What K classes minimise.

    y: K N int8, 1 for a positive of a class, -1 for a negative, 0 for a row that it does not hold; cost: K N, 0 there.
    """

    rows: Rows
    y: Any
    cost: Any

    @classmethod
    def of(cls, rows: Rows, signs: Any, C: float, positive_weight: float) -> Problem:
        import torch

        y = torch.from_numpy(signs)  # K N
        return cls(rows, y, C * torch.where(y > 0, positive_weight * y.double(), -y.double()))

    def those(self, which: Any) -> Problem:
        """Of some classes alone."""
        return Problem(self.rows, self.y[which], self.cost[which])


@dataclass
class Point:
    """Where K classes stand.

    v: K F+1; value: K, the objectives; gradient: K F+1; margins: K N.
    """

    v: Any
    value: Any
    gradient: Any
    margins: Any

    def those(self, which: Any) -> Point:
        """Of some classes alone."""
        return Point(self.v[which], self.value[which], self.gradient[which], self.margins[which])

    def put(self, where: Any, other: Point) -> None:
        """Let the classes at `where` stand where the other's do."""
        self.v[where] = other.v
        self.value[where] = other.value
        self.gradient[where] = other.gradient
        self.margins[where] = other.margins

    def converged(self, tol: float) -> Any:
        """K bool."""
        return self.gradient.norm(dim=1) <= tol * self.v.norm(dim=1)


@dataclass
class Descent:
    """The classes that are not done yet.

    active: n, which of all; at: where they stand; pairs: steps and changes of gradient, n F+1 each, 0 where forgotten;
    stuck: n bool, whose objective the last step did not lower; refreshed: n, the objectives when they were last stuck.
    """

    active: Any
    problem: Problem
    at: Point
    pairs: list[tuple[Any, Any]]
    stuck: Any
    refreshed: Any

    @classmethod
    def begin(cls, problem: Problem, v: Any) -> Descent:
        import torch

        active = torch.arange(len(v))
        never = torch.full((len(v),), torch.inf, dtype=torch.float64)
        return cls(active, problem, evaluate(problem, v), [], torch.zeros(len(v), dtype=torch.bool), never)

    def those(self, which: Any) -> Descent:
        """Of some classes alone."""
        pairs = [(s[which], g[which]) for s, g in self.pairs]
        problem, at = self.problem.those(which), self.at.those(which)
        return Descent(self.active[which], problem, at, pairs, self.stuck[which], self.refreshed[which])

    def advance(self) -> None:
        """One step of every class."""
        before = self.at
        self.at = step(self.problem, before, direction(before.gradient, self.pairs))
        self.stuck = self.at.value >= before.value
        self.pairs = [*self.pairs, (self.at.v - before.v, self.at.gradient - before.gradient)][-PAIRS:]

    def refresh(self) -> Any:
        """Let the stuck go on from margins made anew, and without pairs. Which of them it brings no further, n bool."""
        stuck = self.stuck
        if not stuck.any():
            return stuck
        self.at.put(stuck, evaluate(self.problem.those(stuck), self.at.v[stuck]))
        for part in chain.from_iterable(self.pairs):
            part[stuck] = 0
        hopeless = stuck & (self.at.value >= self.refreshed)
        self.refreshed[stuck] = self.at.value[stuck]
        return hopeless


@dataclass
class Solution:
    """What was found.

    weights: F K and bias: K, float64; margins: K N; converged: K bool, |gradient| <= tol |v|; iterations: K.
    All numpy.
    """

    weights: Any
    bias: Any
    margins: Any
    converged: Any
    iterations: Any


def minimise(
    rows: Rows,
    signs: Any,
    start: tuple[Any, Any],
    *,
    C: float,
    positive_weight: float,
    tol: float,
    max_iter: int,
) -> Solution:
    """The SVMs of K classes.

    signs: K N int8, 1 where a row is a positive of a class, -1 where a negative, 0 where the class does not hold it.
    start: weights (F K) and bias (K) to begin from.
    tol: a class has converged when |gradient| <= tol |v|, as the products of `rows` give it. As the objective is
        1-strongly convex, v is then within tol |v| of the optimum, and the objective within 0.5 tol^2 |v|^2. A class is
        over without that where rounding hides the rest: its objective falls no more, nor did it since it was last so
        and its margins were made anew.
    max_iter: iterations; 0 gives the start with its margins.
    """
    import torch

    descent = Descent.begin(Problem.of(rows, signs, C, positive_weight), _joined(start, rows.bias))
    end, iterations = descent.at.those(descent.active), torch.zeros_like(descent.active)
    for iteration in count():
        done = descent.refresh() | descent.at.converged(tol) | (iteration == max_iter)
        if done.any():
            end.put(descent.active[done], descent.at.those(done))
            iterations[descent.active[done]] = iteration
            descent = descent.those(~done)
        if not len(descent.active):
            break
        descent.advance()
    w, b = end.v[:, :-1].T, end.v[:, -1] * rows.bias
    return Solution(*(part.numpy() for part in (w, b, end.margins, end.converged(tol), iterations)))


def evaluate(problem: Problem, v: Any, margins: Any = None) -> Point:
    """The Point at v (K F+1), whose margins (K N) may be known."""
    margins = problem.rows.margins(v) if margins is None else margins
    slack = (1 - problem.y * margins).clamp_(min=0)  # K N
    value = 0.5 * (v * v).sum(1) + (problem.cost * slack * slack).sum(1)  # K
    gradient = v + problem.rows.transposed(-2 * problem.cost * problem.y * slack)  # K F+1
    return Point(v, value, gradient, margins)


def direction(gradient: Any, pairs: Sequence[tuple[Any, Any]]) -> Any:
    """-H gradient (K F+1), H the inverse Hessian that the pairs (step, change of gradient) tell of (algorithm 7.4)."""
    q, seen = -gradient, []
    for s, g in reversed(pairs):
        rho = _inverse((s * g).sum(1))  # K
        a = rho * (s * q).sum(1)
        q = q - a[:, None] * g
        seen.append((s, g, rho, a))
    if pairs:
        s, g = pairs[-1]
        gamma = (s * g).sum(1) * _inverse((g * g).sum(1))  # K
        q = q * gamma.where(gamma > 0, 1)[:, None]  # 1 where the pair is forgotten: 0 would leave no direction
    for s, g, rho, a in reversed(seen):
        q = q + (a - rho * (g * q).sum(1))[:, None] * s
    return q


def step(problem: Problem, at: Point, d: Any) -> Point:
    """The Point that minimises each class along its direction d (K F+1)."""
    import torch

    slope = (at.gradient * d).sum(1)  # K
    moved = problem.rows.margins(d)  # K N, what the whole of d adds to the margins
    quadratic = torch.stack([(at.v * d).sum(1), (d * d).sum(1)])  # 2 K
    size = line_search(slope, quadratic, 1 - problem.y * at.margins, problem.y * moved, problem.cost)[:, None]  # K 1
    return evaluate(problem, at.v + size * d, at.margins + size * moved)


def line_search(slope: Any, quadratic: Any, slack: Any, closing: Any, cost: Any, exact: float = 1e-3) -> Any:
    """The sizes (K) that minimise q0 a + 0.5 q1 a^2 + sum of cost x max(0, slack - a closing)^2; 0 if slope >= 0.

    slope: K, the derivative at 0; quadratic: 2 K, q0 and q1; slack, closing, cost: K N.
    exact: share of `slope` that the derivative may keep; 0.001, well within the curvature condition (eq. 3.6b).
    Newton on the derivative, which rises; within what is known to hold its root.
    """
    import torch

    a = (slope < 0).to(slope.dtype)  # K: a quasi-Newton step is about 1
    low, high = torch.zeros_like(a), torch.full_like(a, torch.inf)
    push = cost * closing  # K N
    for _ in range(SEARCHES):
        short = (slack - a[:, None] * closing).clamp_(min=0)  # K N
        first = quadratic[0] + a * quadratic[1] - 2 * (push * short).sum(1)  # K
        open_ = (first.abs() > -exact * slope) & (slope < 0)
        if not open_.any():
            break
        low, high = torch.where(first < 0, a, low), torch.where(first > 0, a, high)
        second = quadratic[1] + 2 * (push * closing * (short > 0)).sum(1)
        newton = a - first / second
        halved = torch.where(high.isinf(), 2 * a, (low + high) / 2)
        a = torch.where(open_, torch.where((low < newton) & (newton < high), newton, halved), a)
    return a


def _inverse(x: Any) -> Any:
    """1 / x where x is above 0, as theory has it; 0, which forgets the pair, where rounding made it none."""
    return (x > 0) / x.where(x > 0, 1)


def _joined(start: tuple[Any, Any], bias: float) -> Any:
    import torch

    weights, b = (torch.as_tensor(part).to(torch.float64) for part in start)
    return torch.cat([weights.T, b[:, None] / bias], 1)  # K F+1
