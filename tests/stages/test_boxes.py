"""The box maths: overlap against torchvision, decode against encode, numpy against torch, zero boxes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from rcnn.stages.boxes import area, clip, coverage, decode, encode, overlap
from torchvision.ops import box_area, box_iou, clip_boxes_to_image


def random_boxes(rng: np.random.Generator, n: int, span: float = 100) -> Any:
    corner, side = rng.uniform(-10, span, (n, 2)), rng.uniform(1, span, (n, 2))
    return np.concatenate([corner, corner + side], 1).astype(np.float32)


@pytest.fixture
def pair() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return random_boxes(rng, 30), random_boxes(rng, 20)


def test_overlap_is_torchvisions(pair: tuple[Any, Any]) -> None:
    a, b = pair
    expected = box_iou(torch.from_numpy(a), torch.from_numpy(b))
    np.testing.assert_array_equal(overlap(a, b), expected.numpy())
    assert torch.equal(overlap(torch.from_numpy(a), torch.from_numpy(b)), expected)


def test_overlap_worked_example() -> None:
    a = np.array([[0, 0, 10, 10]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]], np.float32)  # half-open: the last only touches
    np.testing.assert_allclose(overlap(a, b), [[1, 50 / 150, 0]])


def test_coverage_is_cocos_overlap_with_a_crowd(pair: tuple[Any, Any]) -> None:
    boxes, others = pair
    small = others[:, [0, 1, 0, 1]] + np.array([3, 3, 4, 5], np.float32)  # inside or nearly so, 1 x 2
    boxes = np.concatenate([boxes, others[:1], small])
    xywh = (np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], 1).astype(np.float64) for b in (boxes, others))
    expected = coco_mask.iou(*xywh, [1] * len(others))
    np.testing.assert_allclose(coverage(boxes, others), expected, atol=1e-5)
    np.testing.assert_array_equal(coverage(boxes, others) == 0, expected == 0)
    assert coverage(boxes, others).max() == 1
    found = coverage(torch.from_numpy(boxes), torch.from_numpy(others))
    np.testing.assert_allclose(found.numpy(), coverage(boxes, others), atol=1e-6)


def test_a_box_without_area_is_covered_by_none() -> None:
    boxes = np.array([[5, 5, 5, 9], [2, 2, 4, 4]], np.float32)
    assert coverage(boxes, np.array([[0, 0, 10, 10]], np.float32)).tolist() == [[0], [1]]


def test_area_is_torchvisions(pair: tuple[Any, Any]) -> None:
    np.testing.assert_allclose(area(pair[0]), box_area(torch.from_numpy(pair[0])).numpy())


def test_clip_is_torchvisions_and_takes_height_first(pair: tuple[Any, Any]) -> None:
    expected = clip_boxes_to_image(torch.from_numpy(pair[0]), (40, 70))
    np.testing.assert_array_equal(clip(pair[0], (40, 70)), expected.numpy())
    assert clip(np.array([[-5.0, -5, 500, 500]]), (40, 70)).tolist() == [[0, 0, 70, 40]]


side = st.floats(1, 1000, width=32)
corner = st.floats(-1000, 1000, width=32)
box = st.tuples(corner, corner, side, side).map(lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]])


@given(st.lists(st.tuples(box, box), min_size=1, max_size=5))
def test_decode_undoes_encode(pairs: list[Any]) -> None:
    boxes, targets = (np.array(side, np.float64) for side in zip(*pairs))
    np.testing.assert_allclose(decode(boxes, encode(boxes, targets)), targets, rtol=0, atol=1e-6)


def test_encode_worked_example() -> None:
    deltas = encode(np.array([[0.0, 0, 10, 20]]), np.array([[5.0, 0, 25, 20]]))  # 10 to the right, twice as wide
    np.testing.assert_allclose(deltas, [[1, 0, np.log(2), 0]])


def test_numpy_and_torch_agree(pair: tuple[Any, Any]) -> None:
    boxes, targets = pair[0][:20], pair[1]
    t_boxes, t_targets = torch.from_numpy(boxes), torch.from_numpy(targets)
    deltas = encode(boxes, targets)
    np.testing.assert_allclose(encode(t_boxes, t_targets).numpy(), deltas, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        decode(t_boxes, torch.from_numpy(deltas)).numpy(), decode(boxes, deltas), rtol=1e-5, atol=1e-4
    )
    np.testing.assert_array_equal(clip(t_boxes, (50, 60)).numpy(), clip(boxes, (50, 60)))


def test_one_box_against_deltas_of_many_classes() -> None:
    boxes = np.array([[[0.0, 0, 10, 10]]])  # 1 1 4
    deltas = np.zeros((1, 3, 4))
    deltas[0, :, 0] = [0, 1, 2]
    assert decode(boxes, deltas)[0, :, 0].tolist() == [0, 10, 20]


@pytest.mark.parametrize("make", [np.zeros, torch.zeros])
def test_zero_boxes(make: Any) -> None:
    none, three = make((0, 4)), make((3, 4))
    assert tuple(overlap(none, three).shape) == (0, 3)
    assert tuple(overlap(three, none).shape) == (3, 0)
    assert tuple(coverage(none, three).shape) == (0, 3)
    assert tuple(coverage(three, none).shape) == (3, 0)
    assert tuple(encode(none, none).shape) == tuple(decode(none, none).shape) == (0, 4)
    assert tuple(clip(none, (5, 5)).shape) == (0, 4)
    assert tuple(area(none).shape) == (0,)
