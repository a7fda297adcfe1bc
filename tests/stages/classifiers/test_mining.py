"""The rows that mining keeps, against plain arrays."""

from __future__ import annotations

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.stages.classifiers import mining
from rcnn.stages.classifiers.mining import Pool, Positives, Slabs
from rcnn.stages.record import Record, RecordList

F = 3


@pytest.fixture(autouse=True)
def _small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mining, "SLAB", 4)


def rows_in(slabs: Slabs) -> np.ndarray:
    return np.concatenate([np.zeros((0, F)), *slabs.blocks()])


# -- slabs -------------------------------------------------------------------------------------------


def test_slabs_are_an_array_that_grows_and_shrinks() -> None:
    rng = np.random.default_rng(0)
    slabs, plain = Slabs(F, np.float16), np.zeros((0, F), np.float16)
    for n in (3, 0, 9, 1, 4, 20, 2):
        rows = rng.normal(size=(n, F)).astype(np.float16)
        slabs.append(rows)
        plain = np.concatenate([plain, rows])
        np.testing.assert_array_equal(rows_in(slabs), plain)
        mine = rng.random(len(plain)) < 0.3
        assert sum(map(len, slabs.select(mine))) == mine.sum()
        np.testing.assert_array_equal(np.concatenate([plain[:0], *slabs.select(mine)]), plain[mine])
        kept = rng.random(len(plain)) < 0.7
        slabs.keep(kept)
        plain = plain[kept]
        np.testing.assert_array_equal(rows_in(slabs), plain)
        assert [len(block) for block in slabs.blocks()[:-1]] == [4] * (len(slabs.blocks()) - 1)
        assert len(slabs) == len(plain)


def test_slabs_take_the_memory_of_their_rows_alone() -> None:
    slabs = Slabs(F, np.float16)
    slabs.append(np.ones((40, F), np.float16))
    first = slabs.blocks()[0]
    slabs.keep(np.arange(40) < 5)
    assert len(slabs._slabs) == 2
    assert np.shares_memory(first, slabs.blocks()[0])  # nothing before the first row that goes is touched
    slabs.keep(np.zeros(5, bool))
    assert (len(slabs), slabs.blocks(), slabs._slabs) == (0, [], [])


def test_rows_of_a_wider_type_are_refused_not_rounded() -> None:
    slabs = Slabs(F, np.float16)
    with pytest.raises(UserError, match="float32 after others as float16"):
        slabs.append(np.ones((1, F), np.float32))
    Slabs(F, np.float32).append(np.ones((1, F), np.float16))


# -- the pool ----------------------------------------------------------------------------------------


def test_the_pool_holds_each_row_once() -> None:
    features = np.arange(12.0).reshape(4, F)
    pool = Pool.empty(2, F, np.float64)
    wanted = np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool)
    assert pool.add(7, wanted, features).tolist() == [2, 2]
    assert pool.keys.tolist() == [[7, 0], [7, 1], [7, 3]]
    assert pool.add(7, wanted, features).tolist() == [0, 0]
    assert pool.add(7, np.array([[0, 1], [0, 0], [1, 0], [0, 0]], bool), features).tolist() == [1, 1]
    assert pool.keys.tolist() == [[7, 0], [7, 1], [7, 3], [7, 2]]
    np.testing.assert_array_equal(np.concatenate(list(pool.rows_of(0))), features[[0, 1, 2]])
    np.testing.assert_array_equal(np.concatenate(list(pool.rows_of(1))), features[[0, 1, 3]])


def test_the_pool_forgets_a_row_when_the_last_class_lets_go() -> None:
    features = np.arange(12.0).reshape(4, F)
    pool = Pool.empty(2, F, np.float64)
    pool.add(0, np.array([[1, 1], [1, 0], [0, 1], [0, 0]], bool), features)
    pool.add(1, np.array([[1, 0], [0, 0], [0, 0], [0, 0]], bool), features + 100)
    pool.evict(0, np.array([True, True, True]))
    pool.compact()
    assert pool.keys.tolist() == [[0, 0], [0, 2]]
    assert list(pool.rows_of(0)) == []
    np.testing.assert_array_equal(np.concatenate(list(pool.rows_of(1))), features[[0, 2]])
    assert len(pool.rows) == 2


# -- positives ---------------------------------------------------------------------------------------


def test_positives_stand_class_by_class_in_the_order_of_the_images() -> None:
    rng = np.random.default_rng(0)
    records, plain = [], []
    for i in range(6):
        n = int(rng.integers(0, 6))
        labels, crowd, difficult = rng.integers(1, 4, n), rng.random(n) < 0.3, rng.random(n) < 0.3
        features = rng.normal(size=(n, F)).astype(np.float16)
        fields = {"truth_labels": labels, "truth_crowd": crowd, "truth_difficult": difficult}
        records.append(Record(f"{i}", {**fields, "truth_features.fc7": features}))
        plain += [(label, x) for label, x, out in zip(labels, features, crowd | difficult) if not out]
    found = Positives.read(RecordList(records, "abcd"), "fc7", difficult=False)
    assert found.counts.sum() == len(plain) == len(found.rows) > 5
    for c in range(4):
        mine = [x for label, x in plain if label == c + 1]
        np.testing.assert_array_equal(found.of(c), np.reshape(mine, (-1, F)))
        np.testing.assert_array_equal(found.rows[found.members()[:, c]], found.of(c))
        assert found.of(c).base is found.rows  # no copy
    assert found.counts[3] == 0
