"""The order of boxes: large ones tend to come first, duplicates go, near duplicates come last."""

from __future__ import annotations

import numpy as np
from rcnn.stages.proposals.selective.ranks import ranked, values_by_area, values_by_place


def test_places_count_from_the_root_of_each_tree() -> None:
    """With v = RND * i, the root (i = 1) comes before the node of place 2 with probability 3/4."""
    rng = np.random.default_rng(0)
    found = np.stack([values_by_place([2, 1], rng) for _ in range(4000)])  # the last of each tree is its root
    assert abs((found[:, 1] < found[:, 0]).mean() - 0.75) < 0.03
    assert abs((found[:, 2] < found[:, 1]).mean() - 0.5) < 0.03
    assert len(values_by_place([], rng)) == 0


def test_by_area_the_larger_of_two_is_first_with_probability_three_quarters() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 20, 20]])
    rng = np.random.default_rng(0)
    larger_first = np.mean([np.argmin(values_by_area(boxes, rng)) == 1 for _ in range(4000)])
    assert abs(larger_first - 0.75) < 0.03
    assert len(values_by_area(np.zeros((0, 4), int), rng)) == 0


def test_duplicates_keep_their_best_place() -> None:
    boxes = np.array([[0, 0, 9, 9], [50, 0, 90, 30], [0, 0, 9, 9], [0, 60, 5, 99]])
    assert ranked(boxes, np.array([4.0, 3.0, 2.0, 1.0])).tolist() == [3, 2, 1]


def test_near_duplicates_come_behind_in_their_order() -> None:
    boxes = np.array(
        [[100, 100, 200, 200], [101, 100, 201, 200], [100, 100, 200, 201], [0, 0, 30, 30], [100, 100, 300, 200]]
    )
    assert ranked(boxes, np.arange(5.0)).tolist() == [0, 3, 4, 1, 2]


def test_far_apart_boxes_of_a_pixel_are_no_duplicates() -> None:
    boxes = np.array([[x, y, x + 1, y + 1] for x in (0, 13107, 60000) for y in (0, 13107, 60000)])
    assert ranked(boxes, np.arange(9.0)).tolist() == list(range(9))


def test_boxes_wider_than_65535_are_told_apart() -> None:
    boxes = np.array([[0, 0, 65540, 7], [0, 1, 65540, 7], [70000, 0, 70900, 9], [4464, 0, 5364, 9], [0, 0, 65540, 7]])
    assert sorted(ranked(boxes, np.arange(5.0)).tolist()) == [0, 1, 2, 3]


def test_nothing_to_rank() -> None:
    assert ranked(np.zeros((0, 4), np.int32), np.zeros(0)).tolist() == []
