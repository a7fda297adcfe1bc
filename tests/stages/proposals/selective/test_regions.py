"""The regions behind the boxes: every proposal's pixels, by label map and tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rcnn.stages.proposals.selective import regions
from rcnn.stages.proposals.selective_search import SelectiveSearch
from rcnn.stages.record import Record


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    stage = SelectiveSearch(width=None, min_side=0, top=80, ks=(20, 60), regions=True)
    stage.validate()
    record = Record("a", {"image": image})
    (fields,) = stage([record])
    record.add(fields)
    return fields


def test_a_box_is_that_of_its_pixels(found: dict[str, Any]) -> None:
    assert len(found["boxes"]) > 30
    for r, box in enumerate(found["boxes"]):
        ys, xs = np.nonzero(regions.mask(found, r))
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_maps_are_those_of_colours_and_ks(found: dict[str, Any]) -> None:
    assert found["regions.labels"].shape == (4, 60, 80)
    assert set(found["regions.merges"][:, 0]) <= set(range(8))
    assert found["regions.nodes"].shape == (len(found["boxes"]), 3)


@pytest.mark.parametrize("count", [1, 2, 5, 17, 10_000])
def test_a_tree_is_cut_into_nested_regions(found: dict[str, Any], count: int) -> None:
    merges = found["regions.merges"]
    segments = int((merges[:, 0] == 0).sum()) + 1
    nodes = regions.cut(found, 0, 0, count)
    assert len(np.unique(nodes)) == min(count, segments)
    finer = regions.cut(found, 0, 0, count + 1)
    assert all(len(np.unique(nodes[finer == node])) == 1 for node in np.unique(finer))


def test_a_cut_is_made_of_the_nodes_own_pixels(found: dict[str, Any]) -> None:
    mine = {int(node): r for r, (_, tree, node) in enumerate(found["regions.nodes"]) if tree == 0}
    assert mine
    for node, r in mine.items():
        heights = (regions.cut(found, 0, 0, count) for count in range(1, 200))
        nodes = next(height for height in heights if node in height)
        assert np.array_equal(regions.mask(found, r), nodes == node)


def test_what_cannot_be_cut_is_refused(found: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="0 regions"):
        regions.cut(found, 0, 0, 0)
    with pytest.raises(ValueError, match=r"tree 7 has \d+ segments, map 0 has \d+"):
        regions.cut(found, 0, 7, 3)
    assert len(np.unique(regions.cut(found, 3, 7, 3))) == 3


def test_no_such_proposal(found: dict[str, Any]) -> None:
    with pytest.raises(IndexError):
        regions.mask(found, len(found["boxes"]))


def test_opencv_has_none() -> None:
    with pytest.raises(ValueError, match="regions is true, but OpenCV gives boxes alone"):
        SelectiveSearch(engine="opencv", regions=True).validate()
