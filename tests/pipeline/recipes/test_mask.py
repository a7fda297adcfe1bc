"""The recipe mask and masks on other detectors: steps, what each training changes, and a RUN that detects alike."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.pipeline import measure, pictures, saved
from rcnn.pipeline.pipeline import Pipeline
from rcnn.pipeline.recipes import fast, faster_4step, faster_unshared, mask, rcnn, sppnet
from rcnn.pipeline.results import coco_results
from rcnn.pipeline.run import Run
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.features.later_convs import LaterConvs
from rcnn.stages.features.roi_align import RoIAlign, RoIWarp
from rcnn.stages.features.roi_pool import RoIPool
from rcnn.stages.masks import decode
from rcnn.stages.proposals.sliding_window import SlidingWindow
from rcnn.stages.record import Record, RecordList
from rcnn.stages.stage import NoCheckpoint

SMALL: dict[str, Any] = {"scale": 96, "longest": 160}
SIDES = (16, 32, 64)


def quick(pipeline: Pipeline, **params: Any) -> Pipeline:
    """With trainings of two steps, narrow branches, few boxes, and every score a detection."""
    steps = {name: 2 for name in pipeline.get_params() if name.endswith("training__steps")}
    least = {"proposals__min_side": 4.0} if "proposals__min_side" in pipeline.get_params() else {}
    return pipeline.set_params(**steps, **least, masks__width=8, suppression__min_score=None,
                               suppression__top_per_image=12, **params)  # fmt: skip


def one_map(**params: Any) -> Pipeline:
    return quick(mask("shapenet", None, 20, sides=SIDES, fc=(16,), **SMALL)).set_params(**params)


def pyramid(**params: Any) -> Pipeline:
    more = {"map__channels": 8, "proposals__width": 8, "training__rois": 64}
    return quick(mask("shapenet", None, 20, fpn=True, fc=(16,), **SMALL), **{**more, **params})


def c4(**params: Any) -> Pipeline:
    return quick(mask("resnet18", None, 20, sides=SIDES, **SMALL), **params)


def apart(pooling: str | None = None, scores: str = "sigmoid") -> Pipeline:
    more: dict[str, Any] = {"mask_pooling": pooling, "scores": scores, "apart": True}
    return quick(mask("shapenet", None, 20, sides=SIDES, fc=(16,), **SMALL, **more))


def c4_apart() -> Pipeline:
    return quick(mask("resnet18", None, 20, sides=SIDES, apart=True, **SMALL))


def searched(pipeline: Pipeline) -> Pipeline:
    return quick(pipeline.swap("proposals", SlidingWindow(scales=(24, 48), stride=0.5)))


def on_fast() -> Pipeline:
    return searched(fast("shapenet", None, scales=(96,), fc=(16,), masks=True))


def on_unshared() -> Pipeline:
    return quick(faster_unshared("shapenet", None, 20, sides=SIDES, fc=(16,), masks=True, **SMALL))


def on_four_steps() -> Pipeline:
    pipeline = faster_4step("shapenet", None, 20, sides=SIDES, fc=(16,), masks=True, **SMALL)
    return quick(pipeline, first_proposals__min_side=4.0)


def on_four_steps_of_c4() -> Pipeline:
    pipeline = faster_4step("resnet18", None, 20, sides=SIDES, masks=True, **SMALL)  # its conv5 goes over regions
    return quick(pipeline, first_proposals__min_side=4.0)


def on_rcnn() -> Pipeline:
    return searched(rcnn("shapenet", None, masks=True)).set_params(features__pool=2, mask_map__scales=(96,))


def on_sppnet() -> Pipeline:
    pipeline = sppnet("shapenet", None, scales=(96,), levels=(2, 1), masks=True)
    return searched(pipeline).set_params(mask_map__scales=(96,))


ALL = [
    one_map,
    pyramid,
    c4,
    apart,
    c4_apart,
    on_fast,
    on_unshared,
    on_four_steps,
    on_four_steps_of_c4,
    on_rcnn,
    on_sppnet,
]


def detections(run: Run, data: Any) -> dict[str, Any]:
    names = run.pipeline.outputs
    return {r.id: {name: np.asarray(r[name]) for name in names} for r in run.over(data, names)}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[i][name], other[i][name]) for i in one for name in one[i])


@pytest.mark.parametrize("make", ALL)
def test_trained_saved_and_used_again(make: Any, tmp_path: Path) -> None:
    data = Shapes(3, 1)
    with Run(make(), cache=tmp_path / "cache", device="cpu", progress=False) as run:
        run.fit(data)
        first = detections(run, data)
        saved.save(run.pipeline, tmp_path / "run")
    size = 14 if make in (c4, c4_apart, on_four_steps_of_c4) else 28
    for fields in first.values():
        count = len(fields["det_boxes"])
        assert fields["det_masks"].shape == (count, size, size)
        assert ((fields["det_masks"] >= 0) & (fields["det_masks"] <= 1)).all()
    assert any(len(fields["det_boxes"]) for fields in first.values())
    with Run(make(), cache=tmp_path / "cache", device="cpu", progress=False) as again:
        again.fit(data)
        assert same(first, detections(again, data))
        assert again.clock.calls() == 0
    with Run(saved.load(tmp_path / "run"), cache=None, device="cpu", progress=False) as there:
        assert same(first, detections(there, data))


def test_its_steps() -> None:
    one, levels, behind = one_map(), pyramid(), c4()
    assert one.outputs == ("det_boxes", "det_scores", "det_labels", "det_masks")
    assert isinstance(one["features"], RoIAlign)
    assert one["masks"].stage.convs == 4
    assert one["mask_features"].stage.grid == 14
    assert levels["mask_features"].stage.maps == ("map.p2", "map.p3", "map.p4", "map.p5")
    assert levels.get_params()["suppression__top_per_image"] == 12
    assert mask("shapenet", None, fpn=True)["training"].rois == 1024
    assert mask("shapenet", None)["training"].rois == 128
    assert mask("shapenet", None)["suppression"].top_per_image == 100
    assert isinstance(behind.stage("fc"), LaterConvs)
    assert behind.needed(("det_masks",))[-3:] == ["det_features", "det_fc", "masks"]
    for name, kind in (("roi_pool", RoIPool), ("roi_warp", RoIWarp), ("roi_align", RoIAlign)):
        made = mask("shapenet", None, pooling=name)
        assert type(made["features"]) is type(made["mask_features"].stage) is kind


def test_the_branch_alone_learns_on_a_detector_as_it_is(tmp_path: Path) -> None:
    """Other pooling or another loss of masks leaves boxes, scores and what they learned from the cache."""
    data, found, clocks = Shapes(3, 1), [], []
    for params in ({}, {"pooling": "roi_pool"}, {"pooling": "roi_align_max"}, {"scores": "softmax"}):
        with Run(apart(**params), cache=tmp_path, device="cpu", progress=False) as run:
            run.fit(data)
            found.append(detections(run, data))
            clocks.append({name for name, tally in run.clock.tallies.items() if tally.fit_seconds})
    assert clocks == [{"training", "mask_training"}, *[{"mask_training"}] * 3]
    for other in found[1:]:
        for i, fields in other.items():
            assert np.array_equal(fields["det_boxes"], found[0][i]["det_boxes"])
            assert np.array_equal(fields["det_scores"], found[0][i]["det_scores"])
    masks = [np.concatenate([fields["det_masks"].ravel() for fields in one.values()]) for one in found]
    assert all(not np.array_equal(masks[0], other) for other in masks[1:])


def test_masks_that_are_learned_are_of_their_objects(tmp_path: Path) -> None:
    """One image, learned by heart: what is in the box is told from what is not."""
    data = Shapes(1, 3, objects=(2, 2), smallest=40.0, size=(120, 160))
    pipeline = fast("shapenet", None, scales=(120,), fc=(32,), masks=True)
    pipeline.swap("proposals", SlidingWindow(scales=(48, 64, 96), stride=0.3))
    pipeline.set_params(training__steps=60, training__rois=32, training__lr=0.01, training__images=1,
                        masks__width=32, masks__convs=1, training__clip=5.0,
                        training__precision="float32")  # fmt: skip
    with Run(pipeline, cache=tmp_path, device="cpu", progress=False) as run:
        run.fit(data)
        losses = run.pipeline.stage("training").history_[:, -1]
        results = measure.scored(run.over(data, run.pipeline.outputs), data)
    assert losses[-10:].mean() < 0.5 * losses[:3].mean()
    metrics = results.scores["metrics"]
    assert metrics["mask_coco_ap50"] > max(0.5, metrics["coco_ap50"] - 0.01)  # what is found has a mask that fits


def test_what_is_found_is_told_with_its_mask(tmp_path: Path) -> None:
    data = Shapes(2, 1)
    with Run(one_map(), cache=None, device="cpu", progress=False) as run:
        run.fit(data)
        record = next(iter(run.over(data, run.pipeline.outputs)))
    rows = json.loads(json.dumps(coco_results(record, 1, data.classes)))
    assert rows
    for row, box in zip(rows, record["det_boxes"]):
        rle = row["segmentation"]
        bitmap = decode({**rle, "counts": rle["counts"].encode()})
        assert bitmap.shape == record["image"].shape[:2]
        y, x = np.nonzero(bitmap)
        if len(y):
            assert box[0] - 1 < x.min() <= x.max() < box[2] + 1
            assert box[1] - 1 < y.min() <= y.max() < box[3] + 1
    pictures.detections(record, data.classes, tmp_path / "with.png", truth=True)
    plain = Record(record.id, {name: record[name] for name in record if name != "det_masks"})
    pictures.detections(plain, data.classes, tmp_path / "without.png", truth=True)
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


def test_without_annotated_masks_nothing_is_learned() -> None:
    names = [name for name in Shapes(1)[0] if name != "truth_masks"]
    bare = RecordList([Record(r.id, {name: r[name] for name in names}) for r in Shapes(2, 1)], Shapes(1).classes)
    said = r"step 'training' learns from annotated masks, and 2 of 2 images have none; the first is 'shapes-1-000000'"
    with Run(one_map(), cache=None, device="cpu", progress=False) as run, pytest.raises(UserError, match=said):
        run.fit(bare)


class Killed(NoCheckpoint):
    """Keeps what is saved at one step, and dies then."""

    state: Any = None

    def load(self) -> Any:
        return self.state

    def save(self, make: Any, *, now: bool = False) -> None:
        if self.state is None:
            self.state = {name: np.array(np.asarray(value)) for name, value in make().items()}
            raise KeyboardInterrupt


def test_killed_and_resumed_it_learns_the_same() -> None:
    """With boxes that a member proposes, and masks."""
    whole, killed, resumed = (one_map(training__steps=4).stage("training") for _ in range(3))
    whole.fit(Shapes(3, 1), NoCheckpoint())
    checkpoint = Killed()
    with pytest.raises(KeyboardInterrupt):
        killed.fit(Shapes(3, 1), checkpoint)
    resumed.fit(Shapes(3, 1), checkpoint)
    for name, value in whole.state().items():
        np.testing.assert_array_equal(value, resumed.state()[name])


def test_what_cannot_stand_together_is_said() -> None:
    for make, why in (
        (lambda: mask("shapenet", None, pooling="roi"), "pooling is 'roi'; it is one of roi_pool, roi_warp"),
        (lambda: mask("resnet18", None, mask_pooling="roi_pool"), "mask_pooling is 'roi_pool', and on C4 masks"),
        (
            lambda: fast("shapenet", None, stage_wise=True, masks=True),
            "masks is True, and masks are learned together with the rest",
        ),
        (
            lambda: c4().set_params(map__until="layer2"),
            "behind layer3, and the map before it is that of layer2",
        ),
        (lambda: c4().set_params(fc__spatial=False), r"features\.conv5_map, which an earlier step gives"),
    ):
        with pytest.raises(ValueError, match=why):
            make()
