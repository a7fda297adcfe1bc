"""RoI pooling and spatial pyramid pooling as stages: half-open boxes, several maps, storage, training as use."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.features.roi_align import RoIAlign, RoIWarp
from rcnn.stages.features.roi_pool import RoIPool
from rcnn.stages.features.spp import SpatialPyramidPool
from rcnn.stages.nets.maps import nearest_scale
from rcnn.stages.record import Record
from torchvision.ops import roi_pool

BOXES = np.array([[0, 0, 64, 48], [10.5, 3.2, 90, 70], [100, 60, 101, 61], [0, 0, 120, 90]], np.float32)
POOLERS = [RoIPool(3), SpatialPyramidPool((3, 1), storage="map")]


def record(boxes: Any = BOXES, **fields: Any) -> Record:
    rng = np.random.default_rng(0)
    values = torch.from_numpy(rng.random((4, 12, 15)).astype(np.float32))
    plain = {"map": values, "map_scales": np.full((1, 2), 1 / 8), "map_offset": np.zeros(2)}
    return Record("a", {"boxes": boxes, **plain, **fields})


def test_a_pyramid_reads_the_cells_whose_centres_lie_in_the_box() -> None:
    """Every cell holds its own number: the largest of a window tells its last cell, the smallest its first."""
    values = torch.arange(12.0 * 15).reshape(1, 12, 15)
    rng = np.random.default_rng(0)
    for offset in (0.0, 0.4, 15.5 / 16):
        centres = np.arange(15) + offset  # in cells, from the corner of the image
        for x0, wide in zip(rng.uniform(0, 90, 20), rng.uniform(9, 28, 20)):
            boxes = np.array([[x0, 40, x0 + wide, 60]], np.float32)
            inside = np.flatnonzero((centres > x0 / 8) & (centres < (x0 + wide) / 8))
            stage = SpatialPyramidPool((1,), storage="map")
            last, first = (
                stage([record(boxes, map=sign * values, map_offset=np.full(2, offset))])[0]["features.pool5"] * sign
                for sign in (1, -1)
            )
            assert [int(first) % 15, int(last) % 15] == [inside[0], inside[-1]]


def test_boxes_are_half_open() -> None:
    """Caffe's and torchvision's boxes end with their last pixel; ours with the one behind it."""
    stage, one = RoIPool(3), record()
    places = torch.from_numpy((BOXES - [0, 0, 1, 1]).astype(np.float32) / 8)
    plain = roi_pool(one["map"][None], [places], 3, 1.0).flatten(1)
    torch.testing.assert_close(stage([one])[0]["features.pool5"], plain, rtol=0, atol=0)


def test_a_pyramids_levels_stand_one_after_the_other() -> None:
    found = SpatialPyramidPool((2, 1), storage="map")([record()])[0]["features.pool5"]
    assert found.shape == (4, 4 * 5)
    torch.testing.assert_close(found[:, :16].reshape(4, 4, 4).amax(2), found[:, 16:])  # 2 x 2 bins cover the window


@pytest.mark.parametrize("stage", POOLERS, ids=lambda stage: type(stage).__name__)
def test_training_pools_as_use_does(stage: Any) -> None:
    one = record()
    fields = {**{name: one[name] for name in ("map", "map_scales", "map_offset")}, "sampled_boxes": BOXES}
    losses, given = stage.loss(stage.module(None, fields, 2), fields, torch.Generator())
    assert losses == {}
    torch.testing.assert_close(given["features.pool5"], stage([one])[0]["features.pool5"], rtol=0, atol=0)


def test_each_box_goes_to_the_map_on_which_it_is_nearest_to_224() -> None:
    scales = np.array([1, 2, 4])
    sides = np.array([224, 112, 56, 150, 30, 900])
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], 1)
    assert nearest_scale(boxes, scales).tolist() == [0, 1, 2, 0, 2, 0]


@pytest.mark.parametrize("kind", [RoIPool, SpatialPyramidPool])
def test_several_maps(kind: Any) -> None:
    rng = np.random.default_rng(1)
    maps = {f"map.{i}": torch.from_numpy(rng.random((4, 12 * i, 15 * i)).astype(np.float32)) for i in (1, 3)}
    scales = np.array([[1, 1], [3, 3]]) / 8
    one = record(**maps, map_scales=scales, image_scales=np.array([1, 3]))
    found = kind(maps=("map.1", "map.3"), storage="map")([one])[0]
    own = nearest_scale(BOXES, [1, 3])
    assert set(own) == {0, 1}
    for i, name in enumerate(maps):
        alone = kind(storage="map")([record(map=maps[name], map_scales=scales[i : i + 1])])[0]
        torch.testing.assert_close(found["features.pool5"][own == i], alone["features.pool5"][own == i], rtol=0, atol=0)


def test_a_map_that_is_left_out_is_said() -> None:
    maps = {f"map.{i}": torch.rand(4, 12, 15) for i in (1, 3)}
    one = record(**maps, map_scales=np.ones((2, 2)), image_scales=np.array([1, 3]))
    with pytest.raises(UserError, match="image 'a': there are 2 maps, and 1 are to be read"):
        RoIPool(maps=("map.1",))([one])


def test_no_boxes() -> None:
    found = RoIPool(3)([record(np.zeros((0, 4), np.float32))])[0]["features.pool5"]
    assert found.shape == (0, 36)


def test_what_the_storage_does_not_hold_is_said() -> None:
    with pytest.raises(UserError, match="image 'a': the pooled features are not finite in float16"):
        RoIPool(3, storage="float16")([record(map=torch.full((4, 12, 15), 1e6))])


@pytest.mark.parametrize(
    ("stage", "why"),
    [
        (RoIPool(0), "grid is 0"),
        (RoIPool(maps=()), "maps is"),
        (RoIPool(maps=("boxes",)), "maps is"),
        (RoIPool(maps=("map.600", "map.480")), "rising"),
        (RoIPool(maps=("map", "map.480")), "maps is"),
        (SpatialPyramidPool(()), "levels is"),
        (SpatialPyramidPool(storage="int8"), "storage is 'int8'"),
    ],
)
def test_wrong_parameters_are_named(stage: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        stage.validate()


def test_one_level_alone() -> None:
    one = record(**{"map.p3": record()["map"]}, image_scales=np.ones(1))
    found = RoIPool(3, ("map.p3",))([one])[0]["features.pool5"]
    torch.testing.assert_close(found, RoIPool(3)([record()])[0]["features.pool5"], rtol=0, atol=0)
    assert "image_scales" in RoIPool(3, ("map.p3",)).needs


def test_which_levels_are_read_counts_in_training() -> None:
    assert "maps" not in RoIPool.at_use


def test_roi_warp_is_roi_align_in_the_cells_of_roi_pooling() -> None:
    """Every cell holds its own number, so that a bin of one cell tells which it is."""
    values = torch.arange(12.0 * 15).reshape(1, 12, 15)
    for box in BOXES[:3]:
        one = record(box[None], map=values)
        (pooled,) = RoIPool(1)([one])[0]["features.pool5"]  # the last cell
        last = int(pooled)
        x1, y1 = last % 15 + 1, last // 15 + 1
        x0, y0 = np.floor(box[:2] / 8 + 0.5).astype(int)
        (warped,) = RoIWarp(1, sampling=8)([one])[0]["features.pool5"]
        inside = values[0, y0:y1, x0:x1]
        assert float(warped) == pytest.approx(float(inside.mean()), abs=0.6)  # samples at the border are clamped
        (aligned,) = RoIAlign(1, sampling=8)([record(np.array([[x0, y0, x1, y1]], np.float32) * 8, map=values)])[0][
            "features.pool5"
        ]
        assert float(warped) == float(aligned)


def test_the_largest_sample_of_each_bin() -> None:
    one = record(BOXES[:2])
    average, largest = (RoIAlign(3, sampling=2, reduce=name)([one])[0]["features.pool5"] for name in ("average", "max"))
    fine = RoIAlign(6, sampling=1)([one])[0]["features.pool5"].reshape(2, 4, 3, 2, 3, 2)
    torch.testing.assert_close(average, fine.mean((3, 5)).flatten(1))
    torch.testing.assert_close(largest, fine.amax((3, 5)).flatten(1))
    with pytest.raises(ValueError, match="reduce is 'least'"):
        RoIAlign(reduce="least").validate()
    with pytest.raises(ValueError, match="sampling is 0, as many points"):
        RoIAlign(sampling=0, reduce="max").validate()


@pytest.mark.parametrize("kind", [RoIPool, RoIAlign, RoIWarp])
def test_objects_alone_are_pooled_in_training(kind: Any) -> None:
    one = record()
    fields = {**one, "sampled_boxes": BOXES, "roi_labels": np.array([0, 3, 0, 1])}
    whole, objects = (kind(3, objects=flag).loss(None, fields, None)[1]["features.pool5"] for flag in (False, True))
    assert len(whole) == 4
    torch.testing.assert_close(objects, whole[[1, 3]], rtol=0, atol=0)
