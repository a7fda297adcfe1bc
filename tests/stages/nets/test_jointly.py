"""Joint training: which RoIs are drawn, as what; that it learns, resumes to the same bits, and keeps constant maps."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.boxes import encode, overlap
from rcnn.stages.classifiers.softmax_head import SoftmaxHead
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.features.conv_map import ConvMap
from rcnn.stages.features.fc import FCLayers
from rcnn.stages.features.hog import HOG
from rcnn.stages.features.new_fc import NewFCLayers
from rcnn.stages.features.roi_pool import RoIPool
from rcnn.stages.nets.draws import Draws, Sampling
from rcnn.stages.nets.jointly import Jointly
from rcnn.stages.nets.rois import RoISummary, label_rois, sample, target_statistics
from rcnn.stages.proposals.rpn import RPN
from rcnn.stages.record import Lazy, Record, RecordList
from rcnn.stages.stage import NoCheckpoint, Ref, Stage, State

OWN: dict[str, Any] = {"weights": Ref("training")}


def members(**maps: Any) -> dict[str, Stage]:
    return {
        "map": ConvMap("shapenet", scales=(120,), longest=200, **OWN, **maps),
        "features": RoIPool(3),
        "fc": NewFCLayers(widths=(16,), dropout=0.5, **OWN),
        "classifier": SoftmaxHead(layer="fc", norm=20.0, **OWN),
    }


def training(parts: dict[str, Stage] | None = None, **params: Any) -> Jointly:
    parts = parts or members()
    stage = Jointly(tuple(parts), **{"steps": 4, "rois": 32, "lr": 0.01, "device": "cpu", **params})
    stage.join(parts)
    stage.validate()
    return stage


@pytest.fixture(scope="module")
def records() -> RecordList:
    shapes, rng = Shapes(8, 3), np.random.default_rng(0)
    made = []
    for record in shapes:
        truth = record["truth_boxes"]
        near = np.repeat(truth, 6, 0) + rng.normal(0, 5, (6 * len(truth), 4))
        corner = rng.uniform(0, 150, (12, 2))
        far = np.concatenate([corner, corner + rng.uniform(20, 60, (12, 2))], 1)
        made.append(record.add({"boxes": np.concatenate([near, far]).astype(np.float32)}))
    return RecordList(made, shapes.classes)


def one(boxes: Any, truth: Any, labels: Any, crowd: Any = None, difficult: Any = None) -> Record:
    truth = np.array(truth, np.float32).reshape(-1, 4)
    return Record("a", {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4), "truth_boxes": truth,
        "truth_labels": np.array(labels, np.int64),
        "truth_crowd": np.zeros(len(truth), bool) if crowd is None else np.array(crowd),
        "truth_difficult": np.zeros(len(truth), bool) if difficult is None else np.array(difficult),
    })  # fmt: skip


def test_rois_by_their_overlap() -> None:
    boxes = [[0, 0, 10, 6], [0, 0, 10, 4], [0, 0, 10, 0.9], [50, 50, 60, 60]]
    found = label_rois(one(boxes, [[0, 0, 10, 10]], [2]), True, 0.5, (0.1, 0.5))
    assert found.label.tolist() == [2, 2, 0, 0, 0]  # the annotated box comes first
    assert found.foreground.tolist() == [0, 1]
    assert found.background.tolist() == [2]  # under 0.1 are easy ones
    assert found.truth[1].tolist() == [0, 0, 10, 10]


def test_without_hard_background_the_easy_one_counts() -> None:
    found = label_rois(one([[50, 50, 60, 60]], [[0, 0, 10, 10]], [2]), True, 0.5, (0.1, 0.5))
    assert found.background.tolist() == [1]


def test_boxes_on_crowds_and_what_does_not_count_are_neither() -> None:
    boxes = [[20, 20, 30, 30], [0, 60, 10, 70], [0, 65, 10, 100]]
    truth, crowd, difficult = [[0, 0, 50, 50], [0, 60, 10, 70]], [True, False], [False, True]
    for counts, positive in ((False, []), (True, [1, 3])):
        found = label_rois(one(boxes, truth, [1, 2], crowd, difficult), counts, 0.5, (0.1, 0.5))
        assert found.foreground.tolist() == positive
        assert set(found.background) == {4}


def test_no_truth_no_proposals() -> None:
    empty = label_rois(one([], [], []), True, 0.5, (0.1, 0.5))
    assert len(empty.box) == len(sample(empty, 8, 0.25, torch.Generator())) == 0


def test_a_sample_has_its_share_and_nothing_twice() -> None:
    rng = np.random.default_rng(0)
    near = rng.uniform(-2, 2, (100, 4)) + np.array([20, 20, 60, 60])
    far = rng.uniform(0, 5, (100, 4)) + np.array([35, 35, 75, 75])
    rois = label_rois(one(np.concatenate([near, far]), [[20, 20, 60, 60]], [1]), True, 0.5, (0.1, 0.5))
    drawn = sample(rois, 64, 0.25, torch.Generator().manual_seed(0))
    assert len(set(drawn)) == 64
    assert (rois.label[drawn] > 0).sum() == 16
    few = sample(rois._replace(background=rois.background[:5]), 64, 0.25, torch.Generator())
    assert len(few) == 16 + 5


def drawing(records: Any, **params: Any) -> Draws:
    plain: dict[str, Any] = {"image": True, "read": (), "proposed": False, "memory": 1.0, "device": torch.device("cpu")}
    return Draws(records, Sampling(16, 0.25, 0.5, (0.1, 0.5), True), **{**plain, **params})


def test_a_mirrored_image_has_mirrored_boxes_and_targets(records: RecordList) -> None:
    record, data = records[0], drawing(records)
    plain, mirrored = (data.of(0, bool(side), torch.Generator().manual_seed(1)) for side in (0, 1))
    np.testing.assert_array_equal(mirrored["image"], record["image"][:, ::-1])
    width = record["image"].shape[1]
    np.testing.assert_allclose(mirrored["sampled_boxes"][:, 0], width - plain["sampled_boxes"][:, 2])
    np.testing.assert_allclose(mirrored["roi_targets"] * [-1, 1, 1, 1], plain["roi_targets"], atol=1e-5)
    positive = plain["roi_labels"] > 0
    assert positive.any()
    truth = record["truth_boxes"]
    best = overlap(plain["sampled_boxes"][positive], truth).argmax(1)
    wanted = encode(plain["sampled_boxes"][positive], truth[best])
    np.testing.assert_allclose(plain["roi_targets"][positive], wanted, atol=1e-5)


def test_it_reads_what_no_member_gives() -> None:
    assert training().needs == ("image", "boxes")


def test_it_learns(records: RecordList) -> None:
    stage = training({**members(), "fc": NewFCLayers(widths=(64,), **OWN)}, steps=60, lr=0.02)
    stage.fit(RecordList(records.records[:2], records.classes))
    assert stage.losses == ("classifier.class", "classifier.box")
    assert stage.history_.shape == (60, 2)
    summed = stage.history_.sum(1)
    assert summed[-10:].mean() < 0.6 * summed[:5].mean()


class Once(NoCheckpoint):
    """Keeps what is saved at one step, and dies then."""

    def __init__(self, at: int):
        self.at, self.state = at, None

    def load(self) -> State | None:
        return self.state

    def save(self, make: Any, *, now: bool = False) -> None:
        self.at -= 1
        if self.at == 0:
            self.state = {name: np.array(np.asarray(value)) for name, value in make().items()}
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [1, 3])
def test_killed_and_resumed_it_ends_with_the_same_bits(records: RecordList, at: int) -> None:
    whole, killed = training(), training()
    whole.fit(records)
    checkpoint = Once(at)
    with pytest.raises(KeyboardInterrupt):
        killed.fit(records, checkpoint)
    resumed = training()
    resumed.fit(records, checkpoint)
    for name, value in whole.state().items():
        np.testing.assert_array_equal(value, resumed.state()[name])


def test_a_frozen_map_is_made_once_for_each_side(records: RecordList, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    plain = ConvMap.loss
    monkeypatch.setattr(ConvMap, "loss", lambda self, *given: calls.append(1) or plain(self, *given))
    frozen = training(members(frozen=("all",)), steps=40)
    frozen.fit(records)
    assert len(calls) == 1 + 2 * len(records)  # one more shows the others its shape
    assert not any(p.requires_grad for p in frozen.net_["map"].parameters())
    poor = training(members(frozen=("all",)), steps=40, memory=1e-6)
    poor.fit(records)
    for name, value in frozen.state().items():
        np.testing.assert_array_equal(value, poor.state()[name])  # kept or not, the same
    assert len(calls) > 80


def test_each_member_takes_its_part(records: RecordList) -> None:
    stage = training(steps=1)
    stage.fit(records)
    parts = {name: stage.state_for(name) for name in stage.members}
    layers = {f"{layer}.{kind}" for layer in ("scores", "deltas") for kind in ("weight", "bias")}
    assert set(parts["classifier"]) == layers | {"scale", "mean", "std"}
    assert not parts["features"]
    assert all(name.startswith("trunk.") for name in parts["map"])
    again = training(steps=1)
    again.load_state(stage.state())
    for name in stage.members:
        assert again.state_for(name).keys() == parts[name].keys()


def test_the_first_rois_say_what_deltas_are_normalised_by() -> None:
    rois = label_rois(one([[0, 0, 10, 8], [0, 0, 10, 6]], [[0, 0, 10, 10]], [1]), True, 0.5, (0.1, 0.5))
    deltas = encode(rois.box, rois.truth)
    found = target_statistics([RoISummary.of(rois).targets], False)
    assert target_statistics([RoISummary.of(rois).targets], True)["target_mean"][0] == 0
    np.testing.assert_allclose(found["target_mean"], deltas.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["target_std"], np.maximum(deltas.std(0), 0.01), atol=1e-6)


def test_images_without_objects_are_refused() -> None:
    image = np.zeros((50, 50, 3), np.uint8)
    empty = one([[0, 0, 20, 20]], [], []).add({"image": image})
    with pytest.raises(UserError, match="of 1 boxes none is on an object in 1 images"):
        training().fit(RecordList([empty], ("a",)))


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="member 'features' is a HOG, which cannot be trained"):
        training({"features": HOG()})
    with pytest.raises(ValueError, match="member 'features' needs 'map', which no member before it gives"):
        training({name: stage for name, stage in members().items() if name != "map"})
    with pytest.raises(ValueError, match="no member has a loss"):
        training({"map": members()["map"]})


def test_another_training_goes_on_from_all_parts(records: RecordList) -> None:
    first, second = training(steps=2), training(steps=1, lr=1e-12, weights=Ref("before"))
    first.fit(records)
    second.bind("weights", partial(first.state_for, "second"), "key")
    second.fit(records)
    for name, value in first.state().items():
        if name != "history_":
            np.testing.assert_allclose(value, second.state()[name], atol=1e-6)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"members": ()}, "members is empty"),
        ({"steps": 0}, "steps is 0"),
        ({"images": 3, "rois": 5}, "rois is 5: of 3 images no object would ever be drawn"),
        ({"foreground": 0.0}, "foreground is 0.0"),
        ({"background_iou": (0.5, 0.1)}, "background_iou is"),
        ({"background_iou": (0.1, 0.7)}, "background_iou is"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"warm_up": -1}, "warm_up is -1"),
        ({"clip": 0.0}, "clip is 0.0"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Jointly(**{"members": ("map",), **params}).validate()


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(UserError, match="images is 2: 3 processes have no image each in a step"):
        training().check_processes(3)


# -- parts, and features of earlier steps ------------------------------------------------------------------


def test_what_only_and_by_name_is_what_learns(records: RecordList) -> None:
    whole = training(steps=2)
    whole.fit(records)
    start = {name: value.clone() for name, value in whole.net_.state_dict().items()}
    boxes = training(weights=Ref("before"), steps=2, only=("classifier.deltas",), by=("classifier.box",))
    boxes.bind("weights", whole.state, "key")
    boxes.fit(records)
    moved = {name for name, value in boxes.net_.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == {"classifier.deltas.weight", "classifier.deltas.bias"}
    assert (boxes.history_ > 0).all()  # both are told, one is learned by
    classes = training(weights=Ref("before"), steps=2, by=("classifier.class",))
    classes.bind("weights", whole.state, "key")
    classes.fit(records)
    still = {name for name, value in classes.net_.state_dict().items() if torch.equal(value, start[name])}
    assert {"classifier.deltas.weight", "classifier.deltas.bias"} <= still
    assert "map.trunk.features.0.weight" not in still


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"by": ("classifier.mask",)}, "by names 'classifier.mask'; the losses are classifier.class, classifier.box"),
        ({"only": ("neck.conv",)}, "only names 'neck.conv'; the members are map, features, fc, classifier"),
    ],
)
def test_parts_that_are_none_are_named(params: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        training(**params)


def test_a_part_that_does_not_learn_is_named(records: RecordList) -> None:
    with pytest.raises(UserError, match=r"only names 'fc\.scale', and no parameter of that name learns; map\.trunk"):
        training(only=("fc.scale",)).fit(records)


def test_losses_and_parts_that_do_not_meet_are_said(records: RecordList) -> None:
    with pytest.raises(UserError, match="by names losses and only names parts of which none goes with another"):
        training(by=("classifier.class",), only=("classifier.deltas",)).fit(records)


def test_two_backbones_are_refused() -> None:
    parts = {**members(), "fc": FCLayers("alexnet", layers=("fc6",), **OWN)}
    with pytest.raises(ValueError, match="members have different backbones, alexnet and shapenet"):
        training({**parts, "classifier": SoftmaxHead(layer="fc6", **OWN)})


def on_features(**params: Any) -> Jointly:
    parts: dict[str, Stage] = {"fc": NewFCLayers(widths=(16,), **OWN), "head": SoftmaxHead(layer="fc", **OWN)}
    return training(parts, flip=False, **params)


def test_features_of_earlier_steps_are_learned_from(records: RecordList) -> None:
    """Every row tells its own box, so a row of another box would be seen."""
    stage = on_features(steps=40, lr=0.05)
    assert stage.needs == ("boxes", "features.pool5")
    assert stage.learns[-1] == "truth_features.pool5"
    made = [record.add({"features.pool5": record["boxes"], "truth_features.pool5": record["truth_boxes"]})
            for record in records]  # fmt: skip
    data = drawing(RecordList(made, records.classes), image=False, read=("features.pool5",))
    drawn = data.of(0, False, torch.Generator())
    np.testing.assert_array_equal(drawn["features.pool5"].numpy(), drawn["sampled_boxes"])
    assert len(data.rows["features.pool5"](0)) < len(data.rois(0).box)  # what can never be drawn is not kept
    assert "image" not in drawn
    stage.fit(RecordList(made, records.classes))
    summed = stage.history_.sum(1)
    assert summed[-10:].mean() < 0.8 * summed[:5].mean()


def test_features_have_no_mirror_image_and_names_no_backbone() -> None:
    with pytest.raises(ValueError, match=r"flip is True, and features\.pool5, which an earlier step gives"):
        on_features().set_params(flip=True).validate()
    with pytest.raises(ValueError, match="weights is 'DEFAULT', and no member starts from a backbone's weights"):
        on_features(weights="DEFAULT")


# -- RoIs of boxes that a member proposes ------------------------------------------------------------------


def proposing(**params: Any) -> Jointly:
    parts = {
        "map": ConvMap("shapenet", scales=(120,), longest=200, **OWN),
        "proposals": RPN(Ref("training"), sides=(16, 32, 64), width=16, train_pre_nms=500, train_top=50, min_side=4.0),
        "features": RoIPool(3),
        "head": SoftmaxHead(layer="pool5", norm=20.0, **OWN),
    }
    return training(parts, **{"images": 1, "background_iou": (0.0, 0.5), **params})


def test_a_member_may_propose(records: RecordList) -> None:
    stage = proposing(steps=40)
    assert stage.needs == ("image",)
    assert stage.losses == ("proposals.class", "proposals.box", "head.class", "head.box")
    stage.fit(records)
    summed = stage.history_.sum(1)
    assert summed[-10:].mean() < 0.8 * summed[:5].mean()
    np.testing.assert_allclose(stage.state()["net_.head.std"], [0.1, 0.1, 0.2, 0.2])


def test_rois_are_drawn_of_what_was_proposed_and_of_the_truth(records: RecordList) -> None:
    data = drawing(records, proposed=True)
    fields = data.of(0, True, torch.Generator())
    assert "sampled_boxes" not in fields
    width = records[0]["image"].shape[1]
    np.testing.assert_allclose(fields["truth_boxes"][:, 0], width - records[0]["truth_boxes"][:, 2])
    boxes = np.array([[0, 0, 9, 9], [1, 1, 10, 12]], np.float32)
    found = data.sampled({**fields, "boxes": Lazy(lambda: boxes, bytes)}, torch.Generator())
    assert {tuple(box) for box in found["sampled_boxes"]} <= {tuple(box) for box in (*fields["truth_boxes"], *boxes)}
    assert set(found["roi_labels"][found["roi_labels"] > 0]) <= set(fields["truth_labels"])


def test_boxes_that_nobody_reads_are_not_proposed(records: RecordList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RPN, "_train_boxes", lambda *_: pytest.fail("proposed for nobody"))
    parts = {"map": ConvMap("shapenet", scales=(120,), longest=200, **OWN),
             "proposals": RPN(Ref("training"), sides=(16, 32), width=16)}  # fmt: skip
    training(parts, images=1, steps=2).fit(records)


def test_an_image_without_objects_is_learned_from(records: RecordList) -> None:
    image = np.full((90, 150, 3), 120, np.uint8)
    empty = one([], [], []).add({"image": image, "size": np.array([90, 150])})
    stage = proposing(steps=6)
    stage.fit(RecordList([records[0], Record("zz", {name: empty[name] for name in empty})], records.classes))
    assert np.isfinite(stage.history_).all()
    assert (stage.history_[:, 1] == 0).any()  # no anchor is on an object


def test_a_member_that_another_training_has_not_starts_anew(records: RecordList) -> None:
    first = training(steps=1)
    first.fit(records)
    parts = {"map": members()["map"], "proposals": RPN(Ref("training"), sides=(16, 32), width=16)}
    stage = training(parts, images=1, steps=2, weights=Ref("before"), only=("proposals",))
    stage.bind("weights", first.state, "key")
    stage.fit(records)
    for name, value in first.state_for("map").items():
        np.testing.assert_array_equal(value, stage.state_for("map")[name])
    assert [stage.lets_learn(name) for name in parts] == [False, True]


def test_an_image_without_any_roi_is_learned_from(records: RecordList) -> None:
    """All of it is a crowd: no proposal is an object or background."""
    image = np.full((90, 150, 3), 120, np.uint8)
    crowd = one([], [[0, 0, 150, 90]], [1], crowd=[True]).add({"image": image, "size": np.array([90, 150])})
    stage = proposing(steps=4)
    stage.fit(RecordList([records[0], Record("zz", {name: crowd[name] for name in crowd})], records.classes))
    assert np.isfinite(stage.history_).all()
    assert (stage.history_[:, 2] == 0).any()


def test_a_proposer_may_give_plain_arrays(records: RecordList) -> None:
    boxes = np.array([[0, 0, 9, 9]], np.float32)
    data = drawing(records, proposed=True)
    fields = data.of(0, False, torch.Generator())
    lazy, plain = (
        data.sampled({**fields, "boxes": given}, torch.Generator()) for given in (Lazy(lambda: boxes, bytes), boxes)
    )
    np.testing.assert_array_equal(lazy["sampled_boxes"], plain["sampled_boxes"])


def test_features_of_earlier_steps_go_with_boxes_of_earlier_steps() -> None:
    parts = {
        "map": ConvMap("shapenet", scales=(120,), longest=200, **OWN),
        "proposals": RPN(Ref("training"), sides=(16, 32), width=16),
        "head": SoftmaxHead(layer="hog", **OWN),
    }
    with pytest.raises(ValueError, match=r"proposals proposes boxes, of which an earlier step cannot give"):
        training(parts, flip=False)
