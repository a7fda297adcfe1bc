"""The recipe fast: its steps, what it refuses, and that a trained RUN detects as the pipeline that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.pipeline import saved
from rcnn.pipeline.pipeline import Pipeline
from rcnn.pipeline.recipes import fast
from rcnn.pipeline.run import Run
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.features.fc import FCLayers
from rcnn.stages.proposals.sliding_window import SlidingWindow
from rcnn.stages.stage import Ref


def small(**params: Any) -> Pipeline:
    pipeline = fast("shapenet", None, scales=(120,), fc=(16,))
    pipeline.swap("proposals", SlidingWindow(scales=(24, 48), stride=0.5))
    return pipeline.set_params(**{"training__steps": 3, "training__lr": 0.005, "map__longest": 200, **params})


def detections(run: Run, data: Any) -> dict[str, Any]:
    names = run.pipeline.outputs
    return {r.id: {name: np.asarray(r[name]) for name in names} for r in run.over(data, names)}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(np.array_equal(one[i][name], other[i][name]) for i in one for name in one[i])


def test_trained_saved_and_used_again(tmp_path: Path) -> None:
    data = Shapes(4, 1)
    with Run(small(), cache=tmp_path / "cache", device="cpu", progress=False) as run:
        run.fit(data)
        first = detections(run, data)
        saved.save(run.pipeline, tmp_path / "run")
    assert any(len(fields["det_boxes"]) for fields in first.values())
    with Run(small(), cache=tmp_path / "cache", device="cpu", progress=False) as again:
        again.fit(data)
        assert same(first, detections(again, data))
        assert again.clock.calls() == 0
    with Run(saved.load(tmp_path / "run"), cache=None, device="cpu", progress=False) as there:
        assert same(first, detections(there, data))


def test_its_key_knows_its_members(tmp_path: Path) -> None:
    other = ({"map__scales": (96,)}, {"features__grid": 5}, {"head__balance": 0.5}, {"fc__dropout": 0.1})
    alike: tuple[dict[str, Any], ...] = ({}, {"fc__svd": (4,)}, {"training__memory": 1.0})  # at use, and speed
    keys = [Run(small(**p), cache=tmp_path, progress=False).method_key("training") for p in (*alike, *other)]
    assert len(set(keys[:3])) == 1
    assert len(set(keys)) == 5


def test_nets_with_fc_layers_bring_them() -> None:
    pipeline = fast("vgg16", None)
    assert isinstance(pipeline["fc"], FCLayers)
    assert pipeline["features"].get_params()["grid"] == 7
    assert fast("alexnet", None)["features"].get_params()["grid"] == 6
    assert [step.name for step in fast("squeezenet1_1", None, fc=())] == [
        "proposals", "training", "map", "features", "head", "suppression",
    ]  # fmt: skip


def test_a_pyramid_is_read_by_the_pooler() -> None:
    pipeline = fast("squeezenet1_1", None, scales=(480, 600))
    assert pipeline["features"].needs == ("boxes", "map_scales", "image_scales", "map.480", "map.600")
    assert fast("vgg16", None, scales=(480, 576, 688, 864, 1200))["map"].get_params()["longest"] == 2000


def test_a_slice_holds_what_is_trained_together() -> None:
    pipeline = small()
    assert [step.name for step in pipeline[:"proposals"]] == ["proposals"]
    part = pipeline[:"map"]
    assert part.outputs == ("map", "map_scales", "map_offset", "image_scales")
    assert "head" in [step.name for step in part]


def test_members_take_their_weights_from_their_training() -> None:
    with pytest.raises(ValueError, match=r"step 'map' is trained by 'training' .* not 'a.pth'"):
        small().set_params(map__weights="a.pth")
    with pytest.raises(ValueError, match=r"step 'training' \(Jointly\) trains 'nothing', which is no step"):
        small().set_params(training__members=("map", "nothing"))
    with pytest.raises(ValueError, match="member 'suppression' is a PerClassNMS"):
        small().set_params(training__members=("map", "features", "fc", "head", "suppression"))
    with pytest.raises(ValueError, match="step 'map' takes weights of 'training', which does not train it"):
        small().set_params(training__members=("features", "head"))
    pipeline = small()
    with pytest.raises(ValueError, match="scales is"):
        pipeline.set_params(map__scales=(8,))
    assert pipeline["training"]._joined()["map"].get_params()["scales"] == (120,)  # as if it had never been asked
    assert small()["map"].refs() == {"weights": Ref("training")}


def test_svms_on_features_that_a_softmax_led_to() -> None:
    svm = fast("shapenet", None, classifier="svm", fc=(16,))
    assert [step.name for step in svm][-6:] == [
        "fc", "head", "truth_features", "truth_fc", "classifier", "suppression"]  # fmt: skip
    assert svm["head"].gives == ("deltas",)
    assert svm.step("fc").keep
    keys = [
        Run(one, cache=None, progress=False).method_key("training") for one in (svm, fast("shapenet", None, fc=(16,)))
    ]
    assert keys[0] == keys[1]  # the same training serves both
    with pytest.raises(ValueError, match="classifier is 'tree'; it is svm or softmax"):
        fast("shapenet", None, classifier="tree")


def test_stage_wise_training_learns_boxes_alone_at_last(tmp_path: Path) -> None:
    pipeline = fast("shapenet", None, scales=(120,), fc=(16,), stage_wise=True)
    pipeline.swap("proposals", SlidingWindow(scales=(24, 48), stride=0.5))
    pipeline.set_params(training__steps=2, box_training__steps=2, map__longest=200)
    with Run(pipeline, cache=tmp_path / "cache", device="cpu", progress=False) as run:
        run.fit(Shapes(4, 1))
        one, other = (pipeline[name].state() for name in ("training", "box_training"))
        first = detections(run, Shapes(4, 1))
        saved.save(pipeline, tmp_path / "run")
    moved = {name for name in one if name.startswith("net_") and not np.array_equal(one[name], other[name])}
    assert moved == {"net_.head.deltas.weight", "net_.head.deltas.bias"}
    with Run(saved.load(tmp_path / "run"), cache=None, device="cpu", progress=False) as there:
        assert same(first, detections(there, Shapes(4, 1)))


def test_what_goes_on_from_another_training_has_its_members() -> None:
    pipeline = fast("shapenet", None, scales=(120,), fc=(16,), stage_wise=True)
    with pytest.raises(ValueError, match="step 'box_training' goes on from 'training', which does not train 'fc'"):
        pipeline.set_params(training__members=("map", "features", "head"), head__layer="pool5")


@pytest.mark.parametrize("params", [{"training__members": 3}, {"head__outputs": None}, {"map__scales": 600}])
def test_parameters_of_another_type_are_named(params: dict[str, Any]) -> None:
    pipeline = small()
    with pytest.raises(ValueError, match=rf"{next(iter(params)).partition('__')[2]} is .*, not "):
        pipeline.set_params(**params)
    assert pipeline.get_params() == small().get_params()


def test_early_layers_stay_as_they_are_unless_they_start_at_random() -> None:
    assert fast("vgg16")["map"].get_params()["frozen"] == ("features.0", "features.2", "features.5", "features.7")
    assert fast("alexnet")["map"].get_params()["frozen"] == ("features.0",)
    assert fast("vgg11_bn")["map"].get_params()["frozen"] == ("features.0", "features.1", "features.4", "features.5")
    assert (
        fast("squeezenet1_1")["map"].get_params()["frozen"] == fast("vgg16", None)["map"].get_params()["frozen"] == ()
    )


def test_trained_on_many_boxes_and_used_on_few(tmp_path: Path) -> None:
    data, fits = Shapes(3, 1), []
    for best in (5, 9):
        pipeline = fast("shapenet", None, best=best, scales=(120,), fc=(16,)).set_params(training__steps=2)
        pipeline.swap("proposals", SlidingWindow(scales=(24, 48), stride=0.5))
        with Run(pipeline, cache=tmp_path, device="cpu", progress=False) as run:
            run.fit(data)
            fits.append(run.clock.calls())
            (record, *_) = run.over(data, ("boxes", "boxes.all", "det_boxes"))
            assert len(record["boxes"]) == best < len(record["boxes.all"])
            assert np.array_equal(record["boxes"], record["boxes.all"][:best])
    assert fits[0] > 0 == fits[1]
