"""The recipes faster and faster_4step: their steps, what each training changes, and a RUN that detects alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.cache.store import Store
from rcnn.pipeline import grid, plan, plan_cost, saved
from rcnn.pipeline.pipeline import Again, Pipeline, Step
from rcnn.pipeline.recipes import faster, faster_4step, faster_unshared
from rcnn.pipeline.recipes.shared_map import FIRST
from rcnn.pipeline.run import Run
from rcnn.pipeline.why import side, why
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.features.conv_map import ConvMap
from rcnn.stages.features.fc import FCLayers
from rcnn.stages.features.fpn import FPN
from rcnn.stages.features.later_convs import LaterConvs
from rcnn.stages.features.roi_align import RoIAlign
from rcnn.stages.stage import Ref

SMALL: dict[str, Any] = {"scale": 96, "longest": 160, "fc": (16,)}
QUICK = {"steps": 3, "lr": 0.005}


def quick(pipeline: Pipeline, **params: Any) -> Pipeline:
    """With trainings of three steps, anchors as large as the shapes, and every score a detection."""
    trainings = [step.name for step in pipeline if step.name.endswith("training")]
    short = {f"{name}__{key}": value for name in trainings for key, value in QUICK.items()}
    least = {f"{step.name}__min_side": 4.0 for step in pipeline if step.name.endswith("proposals")}
    return pipeline.set_params(**short, **least, suppression__min_score=None, **params)


def shared(**params: Any) -> Pipeline:
    return quick(faster("shapenet", None, proposals=40, sides=(16, 32, 64), **SMALL), proposals__width=16, **params)


def pyramid(**params: Any) -> Pipeline:
    pipeline = faster("shapenet", None, proposals=40, fpn=True, **SMALL)
    return quick(pipeline, map__channels=8, proposals__width=8, training__rois=64, **params)


def four_steps(**params: Any) -> Pipeline:
    pipeline = faster_4step("shapenet", None, proposals=40, sides=(16, 32, 64), **SMALL)
    return quick(pipeline, first_proposals__width=16, proposals__width=16, **params)


def unshared(**params: Any) -> Pipeline:
    pipeline = faster_unshared("shapenet", None, proposals=40, sides=(16, 32, 64), **SMALL)
    return quick(pipeline, proposals__width=16, **params)


def searched(**params: Any) -> Pipeline:
    pipeline = faster_unshared("shapenet", None, proposals=40, search=True, sides=(16, 32, 64), **SMALL)
    return quick(pipeline, proposals__width=16, **params)


def detections(run: Run, data: Any) -> dict[str, Any]:
    names = run.pipeline.outputs
    return {r.id: {name: np.asarray(r[name]) for name in names} for r in run.over(data, names)}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[i][name], other[i][name]) for i in one for name in one[i])


@pytest.mark.parametrize("make", [shared, pyramid, four_steps, unshared, searched])
def test_trained_saved_and_used_again(make: Any, tmp_path: Path) -> None:
    data = Shapes(4, 1)
    with Run(make(), cache=tmp_path / "cache", device="cpu", progress=False) as run:
        run.fit(data)
        first = detections(run, data)
        saved.save(run.pipeline, tmp_path / "run")
    assert any(len(fields["det_boxes"]) for fields in first.values())
    with Run(make(), cache=tmp_path / "cache", device="cpu", progress=False) as again:
        again.fit(data)
        assert same(first, detections(again, data))
        assert again.clock.calls() == 0
    with Run(saved.load(tmp_path / "run"), cache=None, device="cpu", progress=False) as there:
        assert same(first, detections(there, data))


@pytest.mark.parametrize(
    ("make", "change", "least", "most"),
    [
        (shared, {"proposals__top": 5}, 5, 5),
        (shared, {"proposals__nms": None}, 40, 40),
        (pyramid, {"proposals__regress": False}, 6, 40),
        (four_steps, {"best__top": 5}, 5, 5),
        (unshared, {"best__top": 5}, 5, 5),
        (searched, {"proposals__classify": False, "proposals__top": 6}, 6, 6),
    ],
)
def test_what_counts_at_use_alone_needs_no_training(
    make: Any, change: dict[str, Any], least: int, most: int, tmp_path: Path
) -> None:
    """Table 2's number of proposals, and its rows without a part, from one training."""
    data = Shapes(3, 1)
    for pipeline in (make(), make(**change)):
        with Run(pipeline, cache=tmp_path, device="cpu", progress=False) as run:
            run.fit(data)
            fitted = sum(tally.fit_seconds > 0 for tally in run.clock.tallies.values())
            counts = [len(record["boxes"]) for record in run.over(data, ["boxes"])]
    assert fitted == 0
    assert least <= min(counts) <= max(counts) <= most


def test_four_steps_end_on_one_map(tmp_path: Path) -> None:
    """The second training's map is the last one; the third changes the proposals alone, the fourth the rest."""
    with Run(four_steps(), cache=tmp_path, device="cpu", progress=False) as run:
        run.fit(Shapes(4, 1))
        stages = {name: run.pipeline.stage(name) for name in ("detector_training", "rpn_training", "training")}
    for later in ("rpn_training", "training"):
        for name, value in stages["detector_training"].state_for("map").items():
            np.testing.assert_array_equal(value, stages[later].state_for("map")[name])
    before, after = (stages[name].state_for("head")["scores.weight"] for name in ("detector_training", "training"))
    assert not np.array_equal(before, after)


def test_four_steps_and_two() -> None:
    names = [step.name for step in four_steps()]
    assert names == ["first_training", "first_map", "first_proposals", "detector_training", "map", "rpn_training",
                     "proposals", "training", "best", "features", "fc", "head", "suppression"]  # fmt: skip
    pipeline = four_steps()
    assert pipeline.needed(pipeline.outputs)[0] == "map"  # the first net serves training alone
    assert pipeline.stage("detector_training").needs == ("image", "boxes.first")
    assert pipeline.stage("training").needs == ("image", "boxes.all")
    alone = unshared()
    assert {"first_map", "map"} <= set(alone.needed(alone.outputs))  # two maps of each image
    assert alone.stage("proposals").needs[0] == "map.first"
    other = searched()
    assert "search" not in other.needed(other.outputs)
    assert other.taught(other.outputs) == ["first_training", "training"]


def test_backbones_have_their_own_ways() -> None:
    vgg, resnet, squeeze = (faster(name, None) for name in ("vgg16", "resnet50", "squeezenet1_1"))
    assert isinstance(vgg["fc"], FCLayers)
    assert isinstance(resnet["fc"], LaterConvs)
    assert (resnet["map"].until, resnet["features"].grid) == ("layer3", 14)
    assert isinstance(resnet["features"], RoIAlign)
    assert isinstance(squeeze["map"], ConvMap)
    for name in ("resnet50", "resnet101", "resnext101_32x8d", "mobilenet_v2"):
        pipeline = faster(name, None, fpn=True)
        assert isinstance(pipeline["map"], FPN)
        assert pipeline["features"].needs[-4:] == ("map.p2", "map.p3", "map.p4", "map.p5")
        assert pipeline["proposals"].anchors_a_cell == 3
        assert pipeline["head"].layer == "fc"
    assert faster("resnet50", "w.pth")["map"].frozen == ("conv1", "bn1", "layer1")
    assert faster("resnet50", None)["map"].frozen == ()


@pytest.mark.parametrize(
    ("backbone", "params"),
    [
        ("alexnet", {"sides": (16, 32)}),  # fc6 and fc7 of its own
        ("mobilenet_v2", {"sides": (16, 32)}),
        ("resnet101", {"sides": (16, 32)}),  # C4
        ("mobilenet_v2", {"fpn": True}),
        ("resnext50_32x4d", {"fpn": True}),
    ],
)
def test_nets_of_every_kind_learn_and_detect(backbone: str, params: dict[str, Any]) -> None:
    data = Shapes(2, 1)
    pipeline = quick(faster(backbone, None, proposals=10, **SMALL, **params), training__rois=16)
    pipeline.set_params(training__steps=1, training__lr=1e-30, proposals__norm=1.0)  # random nets give any size
    with Run(pipeline, cache=None, device="cpu", progress=False) as run:
        run.fit(data)
        assert np.isfinite(pipeline["training"].history_).all()
        found = detections(run, data)
    assert all(np.isfinite(fields["det_boxes"]).all() for fields in found.values())
    assert any(len(fields["det_boxes"]) for fields in found.values())


def test_svms_on_its_features(tmp_path: Path) -> None:
    pipeline = faster("shapenet", None, proposals=40, sides=(16, 32, 64), classifier="svm", **SMALL)
    pipeline = quick(pipeline, proposals__width=16)
    with Run(pipeline, cache=tmp_path, device="cpu", progress=False) as run:
        run.fit(Shapes(4, 1))
        assert any(len(fields["det_boxes"]) for fields in detections(run, Shapes(2, 2)).values())


def test_weights_are_those_of_the_last_training_that_changes_them() -> None:
    pipeline = four_steps()
    for change, said in (
        ({"map__weights": Ref("first_training")}, "step 'map' is trained by 'detector_training' and takes its weights"),
        ({"head__weights": Ref("detector_training")}, "step 'head' is trained by 'training'"),
        ({"rpn_training__only": ()}, "starts from .*, not from 'rpn_training', which trained it"),
        (
            {"training__weights": None},
            r"step 'training' \(Jointly\) leaves 'map' as it is, and starts from None",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            pipeline.set_params(**change)


def changed(pipeline: Pipeline, name: str, fields: dict[str, str]) -> list[Step]:
    return [replace(step, fields=fields) if step.name == name else step for step in pipeline]


def test_use_is_wired_as_training_was() -> None:
    """The first proposals learned on the first net's map; at use they must not read the detector's."""
    steps = {step.name: step for step in four_steps()}
    first = replace(steps.pop("first_proposals"), fields=FIRST)
    steps["detector_training"] = replace(steps["detector_training"], fields={"boxes": "truth_boxes"})
    at = list(steps).index("rpn_training")
    wrong = [*list(steps.values())[:at], first, *list(steps.values())[at:]]
    with pytest.raises(
        ValueError, match=r"trains 'first_proposals' on the 'map' of 'first_map'; at use it reads 'map' of"
    ):
        Pipeline(wrong)


def test_fields_that_a_step_has_not() -> None:
    with pytest.raises(ValueError, match=r"step 'best' \(Best\) renames 'mpa', which it neither reads nor gives"):
        Pipeline(changed(four_steps(), "best", {"mpa": "map.x"}))
    with pytest.raises(ValueError, match="Again takes its fields itself"):
        Step("twice", Again("features", boxes="truth_boxes"), fields={"boxes": "boxes.all"})


def test_why_two_of_its_shelves_differ(tmp_path: Path) -> None:
    found = []
    for sides in ((16, 32, 64), (16, 32)):
        pipeline = quick(faster_4step("shapenet", None, sides=sides, **SMALL), proposals__width=8)
        with Run(pipeline, cache=tmp_path, device="cpu", progress=False) as run:
            run.fit(Shapes(3, 1))
            found.append(side(Store(tmp_path), run.shelf("first_proposals")))
    assert "sides [16, 32, 64] -> [16, 32]" in why(*found)


@pytest.mark.parametrize("make", [shared, four_steps, unshared, searched])
def test_commands_before_it_is_trained(make: Any, tmp_path: Path) -> None:
    """rcnn plan, and rcnn grid's refusals, of nets that wait for others."""
    grid.refuse(lambda values: Run(make(**values), cache=tmp_path, device="cpu", progress=False), [{}])
    with Run(make(), cache=tmp_path, device="cpu", progress=False) as run:
        made = plan.plan(run, Shapes(3, 1), Shapes(2, 2), sample=1)
    rows = {(row.step, row.use): row for row in made.rows}
    assert ("training", "fit") in rows
    assert rows["proposals", "test"].run == 2


def test_sizes_in_a_plan_are_of_each_steps_own_boxes() -> None:
    pipeline = faster_4step("shapenet", None, proposals=300, **SMALL)
    known = plan_cost.letters(pipeline, Shapes(2))
    assert known["R"] == 300
    sizes = {name: plan_cost.by_arithmetic(pipeline.stage(name), pipeline.method(name), known)
             for name in ("proposals", "best")}  # fmt: skip
    assert [one.stored for one in sizes.values() if one] == [2000 * 20, 300 * 20]
