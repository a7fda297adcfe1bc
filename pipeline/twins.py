"""Images that are the same or nearly so: within a data set, and between two, where they leak truth into a test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..stages.datasets.image_file import Verdict
from ..stages.datasets.problem import Kind, Problem

SAME = 0.95  # correlation of thumbnails above which two images are near-identical
BLOCK = 2048  # thumbnails on a side of one product: 16 MB


class Picture(NamedTuple):
    """An image file of a set, and what it is."""

    set: int
    path: Path
    verdict: Verdict


def standardised(thumbnails: Any) -> Any:
    """Thumbnails (N h w) as rows (N hw, float32) whose products are correlations; 0 for one of a single grey."""
    rows = np.asarray(thumbnails, np.float32).reshape(len(thumbnails), -1)
    rows = rows - rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 1e-3)


def nearest(queries: Any, rows: Any, before: bool = False) -> tuple[Any, Any]:
    """For each query (Q F) the row (N F) that correlates most, and how much (-1 where there is none).

    before: queries and rows are the same, and only rows before the query count, so that no pair is told twice.
    In blocks: memory does not grow with Q x N.
    """
    best, index = np.full(len(queries), -1, np.float32), np.zeros(len(queries), np.int64)
    for i in range(0, len(queries), BLOCK):
        part = slice(i, min(i + BLOCK, len(queries)))
        for j in range(0, part.stop if before else len(rows), BLOCK):
            product = queries[part] @ rows[j : j + BLOCK].T  # q n
            if before and i == j:
                product[np.triu_indices(len(product))] = -1
            at = product.argmax(1)
            score = product[np.arange(len(at)), at]
            better = score > best[part]
            best[part][better], index[part][better] = score[better], at[better] + j
    return best, index


def twins(pictures: Sequence[Picture]) -> Iterator[tuple[int, Problem]]:
    """(set, problem) for each image that is another one's twin: at most one line for each set that has a twin.

    pictures: of all sets, in the order of the sets.
    """
    whole = [picture for picture in pictures if not picture.verdict.fault]
    sets = [list(group) for _set, group in groupby(whole, key=lambda picture: picture.set)]
    rows = [standardised(np.stack([p.verdict.thumbnail for p in of])) for of in sets]
    for b, later in enumerate(sets):
        for a, earlier in enumerate(sets[: b + 1]):
            best, index = nearest(rows[b], rows[a], before=a == b)
            first = _first_of_hash(earlier)
            for i, picture in enumerate(later):
                same = first.get(picture.verdict.hash)
                if same is not None and (a != b or same < i):
                    yield picture.set, _problem(picture, earlier[same], None)
                elif best[i] > SAME:
                    yield picture.set, _problem(picture, earlier[index[i]], float(best[i]))


def _first_of_hash(pictures: Sequence[Picture]) -> Mapping[str, int]:
    return {picture.verdict.hash: i for i, picture in reversed(list(enumerate(pictures)))}


def _problem(picture: Picture, other: Picture, correlation: float | None) -> Problem:
    across = picture.set != other.set
    if correlation is None:
        same_file = picture.path.resolve() == other.path.resolve()
        what = f"it is {'also an image' if same_file else f'byte for byte {other.path.name}'}"
        kind: Kind = "identical, in two sets" if across else "identical"
    else:
        what = f"it correlates {correlation:.3f} with {other.path.name}"
        kind = "near-identical, in two sets" if across else "near-identical"
    return Problem(kind, str(picture.path), f"{what} of set {letter(other.set)}" if across else what)


def letter(number: int) -> str:
    """How a report calls its sets: A, B .. Z, AA .."""
    return (letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)
