from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.pipeline import twins
from rcnn.pipeline.twins import Picture, letter, nearest, standardised
from rcnn.stages.datasets.image_file import SIDE, Verdict

RNG = np.random.default_rng(0)


def thumbnails(n: int) -> Any:
    return RNG.integers(0, 256, (n, SIDE, SIDE), np.uint8)


def pictures(rows: Any, number: int = 0, hashes: str | None = None) -> list[Picture]:
    names = hashes or "".join(chr(65 + 30 * number + i) for i in range(len(rows)))
    return [Picture(number, Path(f"{number}/{i}.jpg"), Verdict("", hash=h, thumbnail=row))
            for i, (row, h) in enumerate(zip(rows, names))]  # fmt: skip


def noisy(row: Any, amount: float) -> Any:
    return np.clip(row + RNG.normal(0, amount, row.shape), 0, 255).astype(np.uint8)


def test_products_of_rows_are_correlations() -> None:
    rows = thumbnails(5)
    mine = standardised(rows)
    np.testing.assert_allclose(mine @ mine.T, np.corrcoef(rows.reshape(5, -1)), atol=1e-5)


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_nearest_is_brute_force_in_any_blocks(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "BLOCK", block)
    queries, rows = standardised(thumbnails(11)), standardised(thumbnails(8))
    best, index = nearest(queries, rows)
    np.testing.assert_allclose(best, (queries @ rows.T).max(1), atol=1e-6)
    assert index.tolist() == (queries @ rows.T).argmax(1).tolist()
    best, index = nearest(queries, queries, before=True)
    lower = np.where(np.tri(11, k=-1, dtype=bool), queries @ queries.T, -1)
    np.testing.assert_allclose(best, lower.max(1), atol=1e-6)
    assert index[1:].tolist() == lower.argmax(1)[1:].tolist()
    assert best[0] == -1


def test_a_near_identical_pair_is_found_and_told_once() -> None:
    rows = thumbnails(4)
    rows[3] = noisy(rows[1], 5)
    ((number, problem),) = twins.twins(pictures(rows))
    assert (number, problem.kind, problem.file, problem.loses) == (0, "near-identical", "0/3.jpg", "")
    assert "with 1.jpg" in problem.what


def test_a_leak_is_told_though_a_nearer_twin_is_in_the_set() -> None:
    train, test = thumbnails(3), thumbnails(3)
    test[0] = noisy(train[2], 20)
    test[1] = noisy(test[0], 1)
    found = [(n, p.kind, p.file) for n, p in twins.twins([*pictures(train), *pictures(test, 1)])]
    assert found == [
        (1, "near-identical, in two sets", "1/0.jpg"),
        (1, "near-identical, in two sets", "1/1.jpg"),
        (1, "near-identical", "1/1.jpg"),
    ]


def test_equal_bytes_are_identical_whatever_they_show() -> None:
    flat = np.full((2, SIDE, SIDE), 9, np.uint8)  # no correlation is defined
    ((_number, problem),) = twins.twins(pictures(flat, hashes="xx"))
    assert (problem.kind, problem.file) == ("identical", "0/1.jpg")
    assert list(twins.twins(pictures(flat, hashes="xy"))) == []
    ((_number, problem),) = twins.twins([*pictures(flat[:1], 0, "x"), *pictures(flat[:1], 1, "x")])
    assert problem.kind == "identical, in two sets"
    assert "set A" in problem.what


def test_what_cannot_be_read_has_no_twin() -> None:
    broken = Picture(0, Path("a.jpg"), Verdict("cut short", hash="x"))
    assert list(twins.twins([broken, broken])) == []
    assert list(twins.twins([])) == []


def test_letters() -> None:
    assert [letter(i) for i in (0, 25, 26, 51, 52)] == ["A", "Z", "AA", "AZ", "BA"]
