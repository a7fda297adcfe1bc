"""Dense windows: shapes, borders, steps, order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rcnn.stages.proposals.sliding_window import SlidingWindow, windows
from rcnn.stages.record import Record


def propose(height: int, width: int, **params: Any) -> dict[str, Any]:
    record = Record("a", {"size": np.array([height, width])})
    fields = SlidingWindow(**params)([record])[0]
    record.add(fields)  # fits FIELDS
    return fields


def test_worked_example() -> None:
    boxes = windows((2, 4), side=2, ratio=1, stride=0.5)
    assert boxes.tolist() == [[0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2]]


def test_ratio_is_height_by_width_and_scale_is_the_root_of_the_area() -> None:
    box = windows((100, 100), side=32, ratio=4, stride=1)[0]
    assert box.tolist() == [0, 0, 16, 64]


def test_steps_are_at_most_the_stride_and_touch_all_borders() -> None:
    boxes = propose(97, 131, scales=(40,), ratios=(1, 2), stride=0.3)["boxes"]
    assert boxes.min(0)[:2].tolist() == [0, 0]
    np.testing.assert_allclose(boxes.max(0)[2:], [131, 97], rtol=1e-6)
    square = boxes[np.isclose(boxes[:, 2] - boxes[:, 0], 40)]
    assert np.diff(np.unique(square[:, 0])).max() <= 0.3 * 40 + 1e-3


def test_every_box_is_inside_and_distinct() -> None:
    boxes = propose(200, 300)["boxes"]
    assert (boxes >= 0).all()
    assert (boxes <= np.array([300, 200, 300, 200]) + 1e-3).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes) > 1000


def test_largest_first_and_top() -> None:
    full, cut = propose(200, 300), propose(200, 300, top=50)
    sides = np.sqrt(np.prod(full["boxes"][:, 2:] - full["boxes"][:, :2], axis=1))
    assert (np.diff(sides) < 1e-2).all()
    np.testing.assert_array_equal(cut["boxes"], full["boxes"][:50])
    assert (np.diff(cut["objectness"]) < 0).all()


def test_nothing_fits_a_tiny_image() -> None:
    fields = propose(5, 5)
    assert fields["boxes"].shape == (0, 4)
    assert fields["objectness"].shape == (0,)


@pytest.mark.parametrize("params", [{"scales": ()}, {"ratios": (0,)}, {"stride": 0}, {"top": 0}])
def test_wrong_parameters_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        SlidingWindow(**params).validate()
    SlidingWindow().validate()
