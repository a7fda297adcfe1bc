"""The stage of warped crops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.features import warp as module
from rcnn.stages.features.warp import WarpedCNN
from rcnn.stages.nets.backbones import load
from rcnn.stages.nets.crops import normalised, warp, windows
from rcnn.stages.record import Record
from rcnn.stages.stage import Ref


def drawn(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def some_boxes(height: int, width: int, count: int, seed: int) -> np.ndarray:
    """Inside, over every border, fractional and whole, thin, empty and far outside."""
    rng = np.random.default_rng(seed)
    a = rng.uniform(-0.3, 1.1, (count, 2)) * (width, height)
    b = a + rng.uniform(0.5, 60, (count, 2))
    boxes = np.concatenate([a, b], 1)
    boxes[::2] = np.round(boxes[::2])
    special = [[5, 5, 5, 9], [0, 0, width, height], [-90, 3, -50, 20], [width + 40, 0, width + 90, 9],
               [7, 7, 8, 8], [2.5, 3.5, 10.5, 12.5], [-500, -500, 4, 4]]  # fmt: skip
    return np.concatenate([boxes, special]).astype(np.float32)


def record(boxes: np.ndarray, seed: int = 0) -> Record:
    return Record(f"drawn {seed}", {"image": drawn(60, 80, seed), "boxes": boxes})


def stage(**params: object) -> WarpedCNN:
    return WarpedCNN(**{"backbone": "shapenet", "precision": "float32", "device": "cpu", **params})


BOXES = some_boxes(60, 80, 12, seed=1)


def test_features_are_those_of_the_net_on_the_crops() -> None:
    made = stage(layers=("gap", "pool5"), storage="float32", padding=4, random_state=3)
    (fields,) = made([record(BOXES)])
    net = load("shapenet", random_state=3)
    crops = warp(normalised(drawn(60, 80), net.mean, net.std), windows(BOXES, (60, 80), 64, 4), 64)
    expected = net(crops, ["pool5", "gap"])
    assert set(fields) == {"features.gap", "features.pool5"} == set(made.gives)
    for layer in ("gap", "pool5"):
        torch.testing.assert_close(fields[f"features.{layer}"], expected[layer].detach(), rtol=1e-4, atol=1e-4)


def test_batches_and_chunks_change_nothing() -> None:
    records = [record(BOXES, 0), record(BOXES[:5], 1)]
    together = stage(storage="float32")(records)
    for batch in (1, 5, 100):
        apart = [stage(storage="float32", batch=batch)([r])[0] for r in records]
        for a, b in zip(together, apart):
            torch.testing.assert_close(a["features.pool5"], b["features.pool5"], rtol=1e-4, atol=1e-4)


def test_a_batch_never_spans_images(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(module, "warp", lambda image, places, *a: sizes.append(len(places)) or warp(image, places, *a))
    stage(batch=8)([record(BOXES[:10], 0), record(BOXES[:9], 1)])
    assert sizes == [8, 2, 8, 1]


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_no_boxes(storage: str) -> None:
    (fields,) = stage(storage=storage, layers=("pool5", "gap"))([record(np.zeros((0, 4), np.float32))])
    assert fields["features.pool5"].shape == (0, 128 * 36)
    assert fields["features.gap"].shape == (0, 128)
    assert fields["features.gap"].dtype == getattr(torch, storage)


def test_the_fields_fit_a_record() -> None:
    one = record(BOXES)
    assert one.add(stage()([one])[0])["features.pool5"].dtype == torch.float16


def test_bfloat16_is_near_float32() -> None:
    low, full = (
        stage(precision=p, storage="float32")([record(BOXES)])[0]["features.pool5"] for p in ("bfloat16", "float32")
    )
    assert 0 < (low - full).norm() < 0.02 * full.norm()


def test_weights_from_another_step() -> None:
    referring, state = stage(weights=Ref("pretrain")), load("shapenet", random_state=9).state_dict()
    referring.bind("weights", lambda: state, "one")
    expected = stage(random_state=9)([record(BOXES)])[0]["features.pool5"]
    assert torch.equal(referring([record(BOXES)])[0]["features.pool5"], expected)
    other = load("shapenet", random_state=10).state_dict()
    referring.bind("weights", lambda: other, "another")
    assert not torch.equal(referring([record(BOXES)])[0]["features.pool5"], expected)


def test_the_net_is_built_once_and_again_when_a_parameter_changes() -> None:
    made = stage()
    first = made.net()
    assert made.net() is first
    assert made.set_params(pool=3).net() is not first
    assert not any(hasattr(value, "parameters") for value in made.__getstate__().values())
    assert made.state() == {}


def test_the_key_names_the_precision_and_not_the_speed() -> None:
    key = stage(precision="auto", batch=3).key_params()
    assert key["precision"] in ("bfloat16", "float32")
    assert not {"batch", "device"} & set(key)


def test_what_overflows_is_told() -> None:
    made = stage(weights=Ref("pretrain"))
    loud = {key: value * 1e3 for key, value in load("shapenet").state_dict().items()}
    made.bind("weights", lambda: loud, "loud")
    with pytest.raises(UserError, match=r"drawn 0.*pool5 of shapenet is not finite in float16"):
        made([record(BOXES)])


@pytest.mark.parametrize(("params", "message"), [
    ({"backbone": "alexnett"}, "near it are alexnet"),
    ({"layers": ("fc6",)}, "'fc6'"),
    ({"layers": ()}, "no layer"),
    ({"mode": "crop"}, "mode is 'crop'"),
    ({"storage": "int8"}, "storage is 'int8'"),
    ({"precision": "half"}, "precision is 'half'"),
    ({"padding": -1}, "padding is -1"),
    ({"size": 32}, "size 32 leaves nothing"),
    ({"batch": 0}, "batch is 0"),
    ({"pool": 0}, "pool is 0"),
])  # fmt: skip
def test_parameters_that_cannot_be_meant(params: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage(**params).validate()


def test_parameters_that_can() -> None:
    for params in ({}, {"backbone": "alexnet", "layers": ("pool5", "fc7")}, {"size": 128, "mode": "square"}):
        stage(**params).validate()


def test_what_does_not_fit_into_memory_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that refuses more than 5 crops: 8 become 4, once for all images, and the numbers stay."""
    sizes, plain = [], stage(batch=4)([record(BOXES[:10], 0), record(BOXES[:9], 1)])

    def scarce(image: object, places: np.ndarray, *more: object) -> object:
        sizes.append(len(places))
        if len(places) > 5:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory")
        return warp(image, places, *more)

    monkeypatch.setattr(module, "warp", scarce)
    with pytest.warns(UserWarning, match="out of memory with 8 crops at once; going on with 4"):
        found = stage(batch=8)([record(BOXES[:10], 0), record(BOXES[:9], 1)])
    assert sizes == [8, 4, 4, 2, 4, 4, 1]
    for one, other in zip(found, plain):
        assert torch.equal(one["features.pool5"], other["features.pool5"])


def test_what_fitted_in_small_batches_does_not_bound_larger_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(module, "warp", lambda image, places, *a: sizes.append(len(places)) or warp(image, places, *a))
    made = stage(batch=2)
    made([record(BOXES[:4])])
    made.set_params(batch=5)([record(BOXES[:7])])
    assert sizes == [2, 2, 5, 2]
