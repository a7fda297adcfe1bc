"""Fine-tuning on warped proposals: which are drawn, as what, and what comes out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.features.warp import WarpedCNN
from rcnn.stages.nets.backbones import Classifier, freeze, load
from rcnn.stages.nets.crops import normalised, warp, windows
from rcnn.stages.nets.finetune import FineTuning, crop, label_boxes, sample_batch
from rcnn.stages.nets.precision import precision_of
from rcnn.stages.record import Record, RecordList
from rcnn.stages.stage import NoCheckpoint, Ref, State

QUICK: dict[str, Any] = {"backbone": "shapenet", "steps": 3, "positives": 4, "negatives": 4, "device": "cpu"}


def boxed(record: Record, rng: np.random.Generator) -> Record:
    """With proposals: near each annotated box, and anywhere."""
    truth = record["truth_boxes"]
    near = np.repeat(truth, 4, 0) + rng.normal(0, 3, (4 * len(truth), 4))
    corner = rng.uniform(0, 150, (12, 2))
    far = np.concatenate([corner, corner + rng.uniform(20, 60, (12, 2))], 1)
    return record.add({"boxes": np.concatenate([near, far]).astype(np.float32)})


@pytest.fixture(scope="module")
def records() -> RecordList:
    shapes, rng = Shapes(12, 3), np.random.default_rng(0)
    return RecordList([boxed(record, rng) for record in shapes], shapes.classes)


def truth(boxes: list[list[float]], labels: list[int], crowd: list[bool], difficult: list[bool]) -> Record:
    return Record("a", {
        "truth_boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "truth_labels": np.array(labels, np.int64),
        "truth_crowd": np.array(crowd, bool),
        "truth_difficult": np.array(difficult, bool),
    })  # fmt: skip


def test_labels_are_those_of_the_best_overlap() -> None:
    two = truth([[0, 0, 10, 10], [20, 0, 30, 10]], [2, 7], [False] * 2, [False] * 2)
    boxes = np.array([[0, 0, 10, 5], [0, 0, 10, 4.9], [21, 0, 30, 10], [50, 50, 60, 60]], np.float32)
    assert label_boxes(boxes, two, True, 0.5).tolist() == [2, 0, 7, 0]
    assert label_boxes(boxes, truth([], [], [], []), True, 0.5).tolist() == [0, 0, 0, 0]


def test_what_may_show_an_object_all_the_same_is_left_out() -> None:
    """A box inside a crowd may be one of the crowd, however little of it; a person annotated in it is a person."""
    three = truth([[0, 0, 100, 100], [60, 60, 80, 80], [200, 0, 210, 10]], [1, 1, 2], [True, False, False],
                  [False, False, True])  # fmt: skip
    boxes = np.array([[0, 0, 100, 100], [10, 10, 40, 40], [60, 60, 80, 82], [90, 90, 120, 120], [200, 0, 210, 9]],
                     np.float32)  # fmt: skip
    assert label_boxes(boxes, three, True, 0.5).tolist() == [-1, -1, 1, 0, 2]
    assert label_boxes(boxes, three, False, 0.5).tolist() == [-1, -1, 1, 0, -1]


def test_a_batch_has_so_many_of_each_kind() -> None:
    labels = np.array([0] * 90 + [1] * 6 + [2] * 3 + [3])
    kinds = np.flatnonzero(labels > 0), np.flatnonzero(labels == 0)
    drawn = [sample_batch(kinds, (32, 96), torch.Generator().manual_seed(seed)) for seed in range(60)]
    found = labels[np.stack(drawn)]
    assert (found[:, :32] > 0).all()
    assert (found[:, 32:] == 0).all()
    share = [(found == label).sum() / (60 * 32) for label in (1, 2, 3)]
    np.testing.assert_allclose(share, [0.6, 0.3, 0.1], atol=0.04)  # alike over windows, not over classes
    assert set(np.concatenate(drawn)) == set(range(100))


def test_a_kind_of_which_none_is_asked_may_be_empty() -> None:
    kinds = np.arange(3), np.zeros(0, np.int64)
    assert len(sample_batch(kinds, (2, 0), torch.Generator().manual_seed(0))) == 2


def test_a_crop_is_the_one_that_features_are_made_of() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    boxes = np.array([[5, 5, 40, 30], [-20, 10, 30, 60], [60, 40, 70, 50], [90, 90, 99, 99]], np.float32)
    net = load("shapenet")
    places = windows(boxes, (50, 70), 64, 16)
    whole = warp(normalised(image, net.mean, net.std), places, 64)
    for place, expected in zip(places, whole):
        torch.testing.assert_close(crop(image, place, 64, net, torch.device("cpu"))[0], expected)


def test_the_loss_falls_and_the_state_is_a_backbones_weights(records: RecordList) -> None:
    stage = FineTuning(**{**QUICK, "steps": 60, "positives": 16, "negatives": 16}, lr=0.01)
    stage.validate()
    stage.fit(records)
    assert stage.history_[0] == pytest.approx(np.log(len(records.classes) + 1), abs=0.6)
    assert stage.history_[-10:].mean() < 0.75 * stage.history_[:5].mean()
    warped = WarpedCNN("shapenet", Ref("finetune"), device="cpu", precision="float32")
    warped.bind("weights", stage.state, "key")
    net = stage.net_.backbone
    boxes = records[0]["boxes"][:3]
    (fields,) = warped([records[0].only(("image", "boxes"))])
    places = windows(boxes, records[0]["image"].shape[:2], 64)
    with torch.no_grad():
        expected = net(warp(normalised(records[0]["image"], net.mean, net.std), places, 64), ["pool5"])["pool5"]
    torch.testing.assert_close(fields["features.pool5"][:3], expected.half(), rtol=2e-2, atol=2e-2)


def test_features_come_to_the_norm(records: RecordList) -> None:
    stage = FineTuning(**{**QUICK, "steps": 1}, norm=5.0, lr=1e-9)
    stage.fit(records)
    warped = WarpedCNN("shapenet", None, device="cpu", precision="float32", storage="float32")
    norms = [torch.linalg.norm(warped([r])[0]["features.pool5"], dim=1) for r in records]
    assert float(stage.net_.scale) * torch.cat(norms).mean() == pytest.approx(5.0, rel=0.15)  # a sample's mean


def test_frozen_layers_stay_and_others_move(records: RecordList) -> None:
    before = load("shapenet").state_dict()
    stage = FineTuning(**QUICK, lr=0.01, frozen=("features.0",))
    stage.fit(records)
    after = stage.net_.backbone.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if not name.startswith("trunk.features.0.")}
    with pytest.raises(ValueError, match=r"frozen: shapenet has no part 'conv9'; one is features.0.weight"):
        FineTuning(**QUICK, frozen=("conv9",)).validate()


def test_a_part_is_not_those_whose_names_begin_as_its_does() -> None:
    trunk = load("vgg16", layers=("pool5",)).trunk
    freeze(trunk, ["features.2"])
    assert [n for n, p in trunk.named_parameters() if not p.requires_grad] == ["features.2.weight", "features.2.bias"]


class Once(NoCheckpoint):
    """Keeps the first save, and dies then."""

    state: State | None = None

    def load(self) -> State | None:
        return self.state

    def save(self, make: Any, *, now: bool = False) -> None:
        if self.state is None:
            self.state = {name: torch.as_tensor(value).clone().numpy() for name, value in make().items()}
            raise KeyboardInterrupt


TINY = {"backbone": "alexnet", "size": 67, "steps": 2, "positives": 2, "negatives": 2, "device": "cpu"}  # with dropout


@pytest.mark.parametrize("params", [QUICK, TINY], ids=["shapenet", "alexnet"])
def test_killed_and_resumed_is_the_same(records: RecordList, params: dict[str, Any]) -> None:
    whole, part, once = FineTuning(**params), FineTuning(**params), Once()
    whole.fit(records, NoCheckpoint())
    with pytest.raises(KeyboardInterrupt):
        part.fit(records, once)
    part = FineTuning(**params)
    part.fit(records, once)
    ours, theirs = part.state(), whole.state()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_dropout_is_drawn_from_the_seed_and_leaves_others_numbers_alone(records: RecordList) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    losses = {}
    for name, params in {"a": {}, "again": {}, "none": {"dropout": 0.0}, "other": {"random_state": 1}}.items():
        stage = FineTuning(**{**TINY, "steps": 1, **params})
        stage.fit(records)
        losses[name] = float(stage.history_[0])
    assert torch.equal(torch.rand(3), expected)
    assert losses["a"] == losses["again"]
    assert len(set(losses.values())) == 3


def test_masks_keep_the_mean() -> None:
    masks = Classifier(load("alexnet"), 3).masks(50, 0.5, torch.Generator().manual_seed(0))
    assert masks["fc6"].shape == masks["fc7"].shape == (50, 4096)
    assert set(masks["fc6"].unique().tolist()) == {0.0, 2.0}
    assert masks["fc7"].mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("params", [QUICK, TINY], ids=["shapenet", "alexnet"])
def test_a_batch_in_parts_is_the_same_loss(records: RecordList, params: dict[str, Any]) -> None:
    losses = []
    for at_once in (2, 8):
        stage = FineTuning(**{**params, "steps": 2}, at_once=at_once)
        stage.fit(records)
        losses.append(stage.history_)
    np.testing.assert_allclose(*losses, rtol=5e-3)


def test_nothing_but_the_net_outlives_the_fit(records: RecordList) -> None:
    stage = FineTuning(**{**QUICK, "steps": 1})
    stage.fit(records)
    assert all(parameter.grad is None for parameter in stage.net_.parameters())


def test_state_and_back(records: RecordList) -> None:
    stage = FineTuning(**{**QUICK, "steps": 1})
    stage.fit(records)
    again = FineTuning(**QUICK)
    again.load_state({name: np.asarray(value) for name, value in stage.state().items()})
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(again.net_(x), stage.net_(x))


def test_nothing_to_learn_from_is_told(records: RecordList) -> None:
    empty = {"truth_boxes": np.zeros((0, 4), np.float32), "truth_labels": np.zeros(0, np.int64)}
    flags = {"truth_crowd": np.zeros(0, bool), "truth_difficult": np.zeros(0, bool)}
    record = Record("a", {**empty, **flags, "boxes": np.array([[0, 0, 9, 9]], np.float32)})
    with pytest.raises(UserError, match="of 1 boxes in 1 images none is positive"):
        FineTuning(**QUICK).fit(RecordList([record], ("cat",)))
    with pytest.raises(UserError, match="no images"):
        FineTuning(**QUICK).fit(RecordList([], ("cat",)))


@pytest.mark.parametrize(
    "params",
    [{"backbone": "alexnt"}, {"steps": 0}, {"positives": 0}, {"negatives": -1}, {"positive_iou": 0.0}, {"lr": 0.0},
     {"drop_every": 0}, {"new_rate": 0.0}, {"dropout": 1.0}, {"norm": 0.0}, {"mode": "stretch"}, {"padding": -1},
     {"memory": 0.0}, {"at_once": 0}, {"pool": 0}, {"size": 32}, {"momentum": 1.0},
     {"decay": -1.0}, {"random_state": -1}],
)  # fmt: skip
def test_parameters_that_cannot_be_meant(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(params)))):
        FineTuning(**params).validate()


def test_parameters_that_can() -> None:
    FineTuning().validate()


def test_the_key_names_the_precision_and_not_the_speed() -> None:
    key = FineTuning(**QUICK).key_params()
    assert key["precision"] == precision_of("auto", "cpu")
    assert not {"memory", "at_once", "device"} & key.keys()
