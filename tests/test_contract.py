"""Every stage of the project, put through the contract of stages/stage.py; one without a case here fails."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import pkgutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rcnn.stages
import torch
from rcnn.pipeline.wrap import host
from rcnn.stages.classifiers.softmax_head import SoftmaxHead
from rcnn.stages.classifiers.svm import LinearSVMs
from rcnn.stages.features.conv_map import ConvMap
from rcnn.stages.features.fc import FCLayers
from rcnn.stages.features.fpn import FPN
from rcnn.stages.features.hog import HOG
from rcnn.stages.features.later_convs import LaterConvs
from rcnn.stages.features.new_fc import NewFCLayers
from rcnn.stages.features.roi_align import RoIAlign
from rcnn.stages.features.roi_pool import RoIPool
from rcnn.stages.features.spp import SpatialPyramidPool
from rcnn.stages.features.warp import WarpedCNN
from rcnn.stages.mask_heads.fcn import MaskHead
from rcnn.stages.nets.finetune import FineTuning
from rcnn.stages.nets.jointly import Jointly
from rcnn.stages.nets.pretrain import Pretraining
from rcnn.stages.proposals.best import Best
from rcnn.stages.proposals.edge_boxes import EdgeBoxes
from rcnn.stages.proposals.precomputed import Precomputed
from rcnn.stages.proposals.rpn import RPN
from rcnn.stages.proposals.selective_search import SelectiveSearch
from rcnn.stages.proposals.sliding_window import SlidingWindow
from rcnn.stages.record import Record, RecordList, check_field, field_of
from rcnn.stages.regressors.ridge import RidgeBoxRegressors
from rcnn.stages.stage import NoCheckpoint, Ref, Stage
from rcnn.stages.suppression.nms import PerClassNMS

ALEXNET_POOL5 = 256 * 6 * 6
K = 3


def make_record(id: str, seed: int, regions: int, length: int) -> Record:
    """A record that holds every field that any stage reads."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (regions, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(10, 30, (regions, 2))], 1).astype(np.float32)
    truth = boxes[:2] + 1 if regions else np.array([[5, 5, 30, 40], [20, 10, 60, 50]], np.float32)
    return Record(
        id,
        {
            "image": rng.integers(0, 255, (100, 120, 3)).astype(np.uint8),
            "size": np.array([100, 120]),
            "boxes": boxes,
            "objectness": np.linspace(1, 0, regions).astype(np.float32),
            "boxes.all": boxes,
            "objectness.all": np.linspace(1, 0, regions).astype(np.float32),
            "features.pool5": rng.random((regions, length)).astype(np.float16),
            "map": rng.random((5, 12, 15)).astype(np.float32),
            "map_scales": np.full((1, 2), 1 / 8, np.float32),
            "map_offset": np.full(2, 0.5, np.float32),
            "image_scales": np.ones(1, np.float32),
            "scores": rng.normal(size=(regions, K)).astype(np.float32),
            "det_labels": 1 + np.arange(regions) % K,
            "deltas": rng.normal(size=(regions, K, 4), scale=0.1).astype(np.float32),
            "truth_boxes": truth,
            "truth_labels": np.array([1 + seed % K, 1 + (seed + 1) % K]),
            "truth_difficult": np.zeros(2, bool),
            "truth_crowd": np.zeros(2, bool),
            "truth_areas": np.full(2, 100, np.float32),
            "truth_features.pool5": rng.random((2, length)).astype(np.float16),
        },
    )


@pytest.fixture(scope="module")
def precomputed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("boxes") / "boxes.npz"
    np.savez(path, **{f"image{i}": np.array([[0, 0, 20, 30]], np.float32) for i in range(4)})
    return path


@pytest.fixture(scope="module")
def stages(precomputed: Path, forest: Path) -> dict[type[Stage], Stage]:
    """A small instance of each stage."""
    small = {"device": "cpu", "precision": "float32"}
    made: list[Stage] = [
        SelectiveSearch(width=100, min_side=5, top=50),
        SlidingWindow(scales=(16, 48), stride=0.5),
        Precomputed(str(precomputed)),
        EdgeBoxes(str(forest), max_boxes=50),
        WarpedCNN("shapenet", layers=("pool5", "gap"), pool=2, **small),
        FCLayers("alexnet", layers=("fc6",), **small),
        HOG(window=(32, 32), context=1),
        LinearSVMs(layer="pool5"),
        RidgeBoxRegressors(layer="pool5", min_iou=0.3),
        PerClassNMS(),
        Pretraining("shapenet", epochs=1, batch=4, device="cpu"),
        FineTuning("shapenet", steps=1, positives=2, negatives=2, positive_iou=0.1, device="cpu"),
        ConvMap("shapenet", scales=(64,), longest=100, **small),
        RoIPool(grid=2),
        RoIAlign(grid=2),
        FPN("shapenet", size=64, longest=100, channels=4, **small),
        taught(LaterConvs("shapenet", Ref("training"), "features.7", **small)),
        taught(RPN(Ref("training"), sides=(16, 32), width=4, **small)),
        Best(2),
        SpatialPyramidPool(levels=(2, 1)),
        taught(NewFCLayers(Ref("training"), widths=(6,), **small)),
        taught(SoftmaxHead(Ref("training"), layer="pool5", **small)),
        taught(MaskHead(Ref("training"), grid=2, convs=1, width=4, **small)),
        joined(Jointly(("map", "features", "classifier"), steps=1, rois=8, foreground_iou=0.3,
                       background_iou=(0.0, 0.3), device="cpu")),
    ]  # fmt: skip
    return {type(stage): stage for stage in made}


def taught(stage: Any) -> Stage:
    """A member as a Jointly has trained it: with new weights."""
    like = {
        "features.pool5": torch.rand(6, 12),
        "map": torch.rand(5, 12, 15),
        "target_mean": np.zeros(4),
        "target_std": np.ones(4),
    }
    stage.bind("weights", lambda: dict(stage.module(None, like, K).state_dict()), "some training")
    return stage


def joined(stage: Jointly) -> Stage:
    parts = {"map": ConvMap("shapenet", Ref("training"), scales=(64,), longest=100), "features": RoIPool(grid=2)}
    stage.join({**parts, "classifier": SoftmaxHead(Ref("training"), layer="pool5")})
    return stage


def copied(stage: Stage) -> Stage:
    """A clone with the same states."""
    again = stage.clone()
    if stage.learned:
        again.load_state(stage.state())
    for name in stage.refs():
        again.bind(name, partial(stage.given, name), "some training")
    return again


def all_stages() -> Iterator[type[Stage]]:
    for found in pkgutil.walk_packages(rcnn.stages.__path__, "rcnn.stages."):
        module = importlib.import_module(found.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Stage) and kind.__module__ == module.__name__ and "__init__" in vars(kind):
                yield kind


KINDS = sorted(all_stages(), key=lambda kind: kind.__name__)
STATE_ONLY = (Pretraining, FineTuning, Jointly)
CALLED = [kind for kind in KINDS if kind not in STATE_ONLY]
each = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
each_called = pytest.mark.parametrize("kind", CALLED, ids=lambda kind: kind.__name__)


def records(kind: type[Stage], regions: tuple[int, ...] = (6, 4, 8, 5)) -> RecordList:
    length = {FCLayers: ALEXNET_POOL5, LaterConvs: 96 * 2 * 2}.get(kind, 12)
    made = [make_record(f"image{i}", i, n, length) for i, n in enumerate(regions)]
    return RecordList(made, [f"class{k}" for k in range(K)])


def ready(stage: Stage) -> Stage:
    """The stage, having learned what it learns."""
    if stage.learned and not any(name.endswith("_") for name in vars(stage)):
        seen = [record.only([*stage.needs, *stage.learns]) for record in records(type(stage))]
        stage.fit(RecordList(seen, records(type(stage)).classes), NoCheckpoint())
    return stage


def call(stage: Stage, record: Record) -> dict[str, Any]:
    (fields,) = stage([record.only(stage.needs, type(stage).__name__)])
    return {name: host(value) for name, value in fields.items()}


@each
def test_every_stage_has_a_case(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    assert kind in stages, f"add a small {kind.__name__} to the fixture `stages`"


@each
def test_the_constructor_only_stores(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    marks = {name: object() for name in kind.param_names()}
    assert kind(**marks).get_params() == marks
    assert vars(kind(**marks)).keys() == marks.keys()


@each
def test_parameters_are_plain_and_clone(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage = stages[kind]
    for params in (stage.get_params(), stage.key_params()):
        json.dumps({name: value for name, value in params.items() if not isinstance(value, Ref)})
    assert stage.clone().get_params() == stage.get_params()
    assert set(kind.speed) <= set(kind.param_names())
    assert set(kind.files) <= set(kind.param_names())
    with pytest.raises(ValueError, match="has no parameter 'nothing'"):
        stage.clone().set_params(nothing=1)


@each
def test_fields_are_known(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage = stages[kind]
    stage.validate()
    for name in [*stage.needs, *stage.learns, *stage.gives]:
        field_of(name)
    assert not any(name.startswith("truth") for name in stage.needs)


@each
def test_the_docstring_says_what_it_is(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    text = inspect.getdoc(kind) or ""
    assert text.splitlines()[0].endswith((".", ")", "`."))
    missing = [name for name in kind.param_names() if name not in text]
    assert not missing, f"{kind.__name__} does not explain {missing}"


@each_called
def test_a_call_gives_what_is_declared_and_changes_nothing(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage = ready(stages[kind])
    record = records(kind)[1]
    before = {name: np.array(record[name]) for name in stage.needs}
    fields = call(stage, record)
    assert set(fields) == set(stage.gives)
    known: dict[str, int] = {}
    for name in ("boxes", "scores") if "boxes" in stage.needs else ():
        check_field(name, record[name], known, "the test")
    for name, value in fields.items():
        check_field(name, value, known, kind.__name__)
    for name, value in before.items():
        assert np.array_equal(record[name], value), f"{kind.__name__} changed {name}"


@each_called
def test_preparing_changes_nothing(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage = stages[kind]
    before = vars(stage).copy()
    stage.prepare()
    stage.prepare()
    assert vars(stage) == before


@each_called
def test_one_by_one_is_as_all_at_once(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage = ready(stages[kind])
    views = [record.only(stage.needs) for record in records(kind)]
    together = stage(views)
    for view, fields in zip(views, together):
        for name, value in call(stage, view).items():
            np.testing.assert_array_equal(value, host(fields[name]))


@each_called
def test_no_regions_is_a_normal_input(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage = ready(stages[kind])
    fields = call(stage, records(kind, (0, 0))[0])
    if "boxes" in stage.needs or "features.pool5" in stage.needs:
        assert all(len(value) == 0 for value in fields.values())
    for name, value in fields.items():
        check_field(name, value, {}, kind.__name__)


@each_called
def test_the_same_input_gives_the_same_bits(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage = ready(stages[kind])
    record = records(kind)[2]
    again = copied(stage)
    for name, value in call(stage, record).items():
        np.testing.assert_array_equal(value, call(again, record)[name])


@each
def test_it_travels_to_a_worker(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage = ready(stages[kind])
    there = pickle.loads(pickle.dumps(stage))
    assert there.get_params() == stage.get_params()
    if kind not in STATE_ONLY:
        for name, value in call(stage, records(kind)[0]).items():
            np.testing.assert_array_equal(value, call(there, records(kind)[0])[name])


@pytest.mark.parametrize("kind", [LinearSVMs, RidgeBoxRegressors, *STATE_ONLY])
def test_what_is_learned_is_a_state(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage = ready(stages[kind])
    state = {name: np.asarray(host(value)) for name, value in stage.state().items()}
    assert state
    assert all(array.dtype != object for array in state.values())
    fresh = stage.clone()
    assert not fresh.state()
    fresh.load_state(state)
    for name, value in fresh.state().items():
        np.testing.assert_array_equal(host(value), state[name])


@pytest.mark.parametrize("kind", [LinearSVMs, RidgeBoxRegressors, *STATE_ONLY])
def test_learning_twice_is_learning_once(kind: type[Stage], stages: dict[type[Stage], Stage]) -> None:
    stage, again = ready(stages[kind]), ready(stages[kind].clone())
    for name, value in stage.state().items():
        np.testing.assert_array_equal(host(value), host(again.state()[name]))
