"""Anchors as the authors' and torchvision's, labels and losses by hand and by torchvision, what is proposed and how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.boxes import decode, overlap
from rcnn.stages.nets.maps import seen
from rcnn.stages.nets.rois import draw
from rcnn.stages.proposals.anchors import anchors_on, base_anchors, inside, label_anchors
from rcnn.stages.proposals.rpn import RPN, Limits, anchors_of, first_unsuppressed, propose
from rcnn.stages.record import Record
from rcnn.stages.stage import Ref
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, concat_box_prediction_layers
from torchvision.ops import nms

TRAINED = Ref("training")


# -- anchors -----------------------------------------------------------------------------------------------


def test_the_papers_nine_anchors() -> None:
    """As generate_anchors.py of the authors prints them, but for its rounding: widths, heights and areas."""
    base = base_anchors((128, 256, 512), (0.5, 1, 2))
    wide, high = base[:, 2] - base[:, 0], base[:, 3] - base[:, 1]
    np.testing.assert_allclose(wide * high, [128**2, 256**2, 512**2] * 3, rtol=1e-5)
    np.testing.assert_allclose(high / wide, np.repeat([0.5, 1, 2], 3), rtol=1e-5)
    np.testing.assert_allclose(base[:, :2], -base[:, 2:])
    first = anchors_on(base, (1, 1), (16, 16))
    np.testing.assert_allclose(
        (first[:, :2] + first[:, 2:]) / 2, np.full((9, 2), 8.0), atol=1e-4
    )  # theirs: 7.5, inclusive


def test_anchors_go_row_by_row() -> None:
    found = anchors_on(base_anchors((10,), (1,)), (2, 3), (8, 4))
    centres = ((found[:, :2] + found[:, 2:]) / 2).tolist()
    assert centres == [[4, 2], [12, 2], [20, 2], [4, 6], [12, 6], [20, 6]]


def test_torchvisions_anchors() -> None:
    """Coarser levels of a padded image do not divide it: torchvision's then lie closer."""
    sides, ratios, cells = (32.0, 64.0, 128.0), (0.5, 1.0, 2.0), ((26, 30), (13, 15), (7, 8))
    ours = anchors_of(sides, ratios, True, "torchvision", cells, (4.0, 8.0, 16.0))
    theirs = AnchorGenerator(tuple((side,) for side in sides), (ratios,) * 3)
    image = ImageList(torch.zeros(1, 3, 104, 120), [(104, 120)])
    (found,) = theirs(image, [torch.zeros(1, 1, *one) for one in cells])
    np.testing.assert_array_equal(np.concatenate(ours), found.numpy())
    all_sides = anchors_of(sides, ratios, False, "torchvision", cells, (4.0, 8.0, 16.0))
    theirs = AnchorGenerator((sides,) * 3, (ratios,) * 3)
    (found,) = theirs(image, [torch.zeros(1, 1, *one) for one in cells])
    np.testing.assert_array_equal(np.concatenate(all_sides), found.numpy())


def test_labels_by_both_rules() -> None:
    truth = np.array([[0, 0, 10, 10], [100, 100, 120, 120]], np.float32)
    anchors = np.array([
        [0, 0, 10, 8],  # IoU 0.8: an object
        [0, 0, 10, 5],  # 0.5: neither
        [0, 0, 10, 2],  # 0.2: background
        [100, 100, 110, 110],  # 0.25, the best of the second truth
        [110, 110, 120, 120],  # 0.25, as good
        [50, 50, 60, 60],
    ], np.float32)  # fmt: skip
    labels, best = label_anchors(anchors, truth, 0.7, 0.3, True)
    assert labels.tolist() == [1, -1, 0, 1, 1, 0]
    assert best[[0, 1, 3, 4]].tolist() == [0, 0, 1, 1]
    assert label_anchors(anchors, truth, 0.7, 0.3, False)[0].tolist() == [1, -1, 0, 0, 0, 0]
    assert not label_anchors(anchors, truth[:0], 0.7, 0.3, True)[0].any()
    far = np.array([[500, 500, 510, 510]], np.float32)
    assert not label_anchors(anchors, far, 0.7, 0.3, True)[0].any()  # the best of a truth that none meets is none


def test_what_a_border_cuts() -> None:
    boxes = np.array([[0, 0, 20, 10], [-1, 0, 5, 5], [0, 0, 20.5, 5], [0, 5, 5, 11]], np.float32)
    assert inside(boxes, (10, 20)).tolist() == [True, False, False, False]


# -- proposals ---------------------------------------------------------------------------------------------


def some(n: int, seed: int = 0) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=generator) * 100
    boxes = torch.cat([corner, corner + 10 + 40 * torch.rand(n, 2, generator=generator)], 1)
    return boxes, torch.randn(n, generator=generator), torch.randn(n, 4, generator=generator) / 3


def test_proposals_are_torchvisions() -> None:
    parts = [some(n, n) for n in (400, 150, 40)]
    anchors, scores, deltas = zip(*parts)
    rpn = RegionProposalNetwork(None, None, 0.7, 0.3, 256, 0.5, {"training": 100, "testing": 100},
                                {"training": 60, "testing": 60}, 0.6)  # fmt: skip
    rpn.eval()
    rpn.min_size = 5.0
    decoded = rpn.box_coder.decode(torch.cat(deltas), [torch.cat(anchors)])
    ((boxes,), (probabilities,)) = rpn.filter_proposals(
        decoded.view(1, -1, 4), torch.cat(scores).view(1, -1), [(130, 120)], [400, 150, 40]
    )
    ours, odds = propose(anchors, scores, deltas, (130, 120), Limits(100, 60, 0.6, 5.0))
    torch.testing.assert_close(ours, boxes)
    torch.testing.assert_close(odds.sigmoid(), probabilities)


def test_the_first_unsuppressed_are_found_with_few_looked_at() -> None:
    boxes, scores, _ = some(900)
    scores, order = scores.sort(descending=True)
    for top in (5, 50, 300, 2000):
        kept = first_unsuppressed(boxes[order], scores, 0.3, top)
        torch.testing.assert_close(kept, nms(boxes[order], scores, 0.3)[:top])
    alike = boxes[:1].repeat(900, 1)
    assert first_unsuppressed(alike, scores, 0.3, 5).tolist() == [0]  # few stay: all are looked at


def record(height: int = 96, width: int = 160, **fields: Any) -> Record:
    """A map of 8 channels, a cell for 16 pixels of an image enlarged twice."""
    generator = torch.Generator().manual_seed(1)
    return Record("a", {
        "map": torch.rand(8, -(-height // 8), -(-width // 8), generator=generator),
        "map_scales": np.full((1, 2), 1 / 8, np.float32), "image_scales": np.full(1, 2, np.float32),
        "size": np.array([height, width]), **fields,
    })  # fmt: skip


def learned(stage: RPN, like: Any = None) -> RPN:
    net = stage.module(None, like or record(), 2)
    with torch.no_grad():
        net.scores.weight.mul_(50)
        net.deltas.weight.mul_(20)
    stage.bind("weights", lambda: dict(net.state_dict()), "key")
    return stage


def rpn(**params: Any) -> RPN:
    return RPN(TRAINED, **{"sides": (32, 64), "width": 16, "precision": "float32", "device": "cpu", **params})


def test_what_it_gives() -> None:
    (found,) = learned(rpn(top=40))([record()])
    boxes, scores = found["boxes"].numpy(), found["objectness"].numpy()
    assert 0 < len(boxes) == len(scores) <= 40
    assert (np.diff(scores) <= 0).all()
    assert ((scores > 0) & (scores < 1)).all()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= 160).all()
    assert (boxes[:, 3] <= 96).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) >= 16 - 1e-3).all()
    overlaps = overlap(boxes, boxes) - np.eye(len(boxes))
    assert overlaps.max() <= 0.7 + 1e-5


def test_maps_of_any_size_are_one_size_to_it() -> None:
    """shapenet's values are about 0.2, SqueezeNet's about 10."""
    large = record()
    small = Record("a", {name: value * 0.01 if name == "map" else value for name, value in large.items()})
    given = [learned(rpn(norm=2.0), one)([one])[0] for one in (large, small)]
    torch.testing.assert_close(given[0]["boxes"], given[1]["boxes"])
    torch.testing.assert_close(given[0]["objectness"], given[1]["objectness"])
    net = rpn(norm=2.0).module(None, small, 2)
    assert float((small["map"] * net.scale).square().mean().sqrt()) == pytest.approx(2.0, rel=1e-5)
    assert float(rpn().module(None, small, 2).scale) == 1
    again = rpn(norm=2.0).module(dict(net.state_dict()), large, 2)  # learning goes on where it was
    assert float(again.scale) == float(net.scale)
    before = {name: value for name, value in rpn().module(None, large, 2).state_dict().items() if name != "scale"}
    assert float(rpn().module(before, large, 2).scale) == 1  # as RUNs have it that are older


def test_more_are_the_same_and_more() -> None:
    few, many = (learned(rpn(top=top))([record()])[0] for top in (10, 60))
    torch.testing.assert_close(few["boxes"], many["boxes"][:10], rtol=0, atol=0)


@pytest.mark.parametrize(("height", "width"), [(12, 300), (300, 12), (9, 9)])
def test_any_aspect(height: int, width: int) -> None:
    (found,) = learned(rpn(min_side=0.0))([record(height, width)])
    assert len(found["boxes"])
    assert np.isfinite(found["boxes"].numpy()).all()


def test_what_is_too_small_is_not_proposed() -> None:
    (found,) = learned(rpn(min_side=5000.0))([record()])
    assert found["boxes"].shape == (0, 4)


def test_ablations() -> None:
    """Table 2: without class scores chance ranks, without regression anchors are given, without NMS all are."""
    plain = learned(rpn(top=10_000, pre_nms=10_000, min_side=0.0))([record()])[0]
    count = 12 * 20 * 6
    every = learned(rpn(top=10_000, pre_nms=10_000, min_side=0.0, nms=None))([record()])[0]
    assert len(plain["boxes"]) < len(every["boxes"]) == count
    still = learned(rpn(top=10_000, pre_nms=10_000, min_side=0.0, nms=None, regress=False))([record()])[0]["boxes"]
    anchors = anchors_of((32, 64), (0.5, 1.0, 2.0), False, "paper", ((12, 20),), (16.0,))[0] / 2
    anchors = np.clip(anchors, 0, [160, 96, 160, 96])
    ours, theirs = (np.stack(sorted(np.round(boxes, 2).tolist())) for boxes in (still.numpy(), anchors))
    np.testing.assert_allclose(ours, theirs, atol=0.02)
    chance = [learned(rpn(classify=False, random_state=seed, top=20))([record()])[0]["boxes"] for seed in (0, 0, 1)]
    torch.testing.assert_close(chance[0], chance[1], rtol=0, atol=0)
    assert not torch.equal(chance[0], chance[2])
    assert not torch.equal(chance[0], plain["boxes"][:20])
    other = Record("b", {name: record()[name] for name in record()})
    another = learned(rpn(classify=False, top=20))([other])[0]["boxes"]
    assert not torch.equal(another, chance[0])  # chance is an image's own


def test_what_counts_at_use_alone_changes_no_training() -> None:
    given = fields()
    plain = rpn(train_top=50)
    net = plain.module(None, given, 2)
    losses, made = plain.loss(net, given, torch.Generator().manual_seed(0))
    for change in (
        {"nms": None},
        {"min_side": 60.0},
        {"classify": False},
        {"regress": False},
        {"pre_nms": 3},
        {"top": 2},
    ):
        stage = rpn(train_top=50, **change)
        assert next(iter(change)) in stage.at_use
        again, boxes = stage.loss(net, given, torch.Generator().manual_seed(0))
        assert all(torch.equal(again[name], losses[name]) for name in losses)
        np.testing.assert_array_equal(boxes["boxes"].value(), made["boxes"].value())
    for keyed in ({"train_nms": None}, {"train_min_side": 60.0}, {"train_pre_nms": 3}, {"train_top": 2}):
        boxes = rpn(**{"train_top": 50, **keyed}).loss(net, given, torch.Generator())[1]["boxes"].value()
        assert not np.array_equal(boxes, made["boxes"].value())


def test_an_untrained_one_says_so() -> None:
    with pytest.raises(UserError, match="RPN has learned nothing"):
        RPN()([record()])


# -- losses ------------------------------------------------------------------------------------------------


TWO = ((10, 10, 50, 40), (90, 20, 120, 54))


def fields(boxes: Any = TWO, crowd: Any = None, difficult: Any = None) -> dict[str, Any]:
    truth = np.array(boxes, np.float32).reshape(-1, 4)
    none = np.zeros(len(truth), bool)
    more = {"truth_boxes": truth, "truth_labels": np.ones(len(truth), np.int64),
            "truth_crowd": none if crowd is None else np.array(crowd),
            "truth_difficult": none if difficult is None else np.array(difficult)}  # fmt: skip
    one = record()
    return {**{name: one[name] for name in one}, **more}


def losses(stage: RPN, given: dict[str, Any]) -> dict[str, Any]:
    net = stage.module(None, given, 2)
    return stage.loss(net, given, torch.Generator().manual_seed(0))[0]


def test_the_later_form_is_torchvisions() -> None:
    """With all anchors in the sample: the same labels, and the same sums."""
    stage = rpn(score="sigmoid", anchor_style="torchvision", cross_border=True, sample=10**6, share=1.0, balance=1.0,
                normalise="sampled", beta=1 / 9)  # fmt: skip
    given = fields()
    ours = losses(stage, given)
    net = stage.module(None, given, 2)
    theirs = RegionProposalNetwork(None, None, 0.7, 0.3, 10**6, 0.5, {}, {}, 0.7)
    anchors = torch.from_numpy(np.concatenate(stage._anchors(given, _view(given))))
    targets = [{"boxes": torch.from_numpy(given["truth_boxes"] * 2)}]
    labels, matched = theirs.assign_targets_to_anchors([anchors], targets)
    hidden = torch.relu(net.conv(given["map"][None]))
    logits, deltas = concat_box_prediction_layers([net.scores(hidden)], [net.deltas(hidden)])
    sums = theirs.compute_loss(logits, deltas, labels, theirs.box_coder.encode(matched, [anchors]))
    torch.testing.assert_close(ours["class"], sums[0])
    torch.testing.assert_close(ours["box"], sums[1])
    assert (labels[0] == 1).any()


def _view(given: Any) -> Any:
    return seen(given, given["size"])


def test_the_papers_form_is_over_the_places_of_the_map() -> None:
    """N_cls is the sample, N_reg the 12 x 20 places, lambda 10 (3.1.2)."""
    given = fields()
    paper, later = (losses(rpn(normalise=form, sample=64), given) for form in ("paper", "sampled"))
    torch.testing.assert_close(paper["class"], later["class"])
    torch.testing.assert_close(paper["box"] * (12 * 20), later["box"] * 64)
    half = losses(rpn(sample=64, balance=5.0), given)
    torch.testing.assert_close(half["box"] * 2, paper["box"])


def test_a_sample_is_half_objects_at_most() -> None:
    chosen = draw(np.arange(20), np.arange(20, 50), 10, 0.5, torch.Generator())
    assert ((chosen < 20).sum(), len(set(chosen.tolist()))) == (5, 10)
    few = draw(np.arange(2), np.arange(20, 50), 10, 0.5, torch.Generator())
    assert len(few) == len(set(few.tolist())) == 10  # background fills what is left


def labelled(stage: RPN, given: dict[str, Any]) -> tuple[Any, Any, Any]:
    """All anchors, in pixels of the enlarged image, their labels and targets."""
    anchors = np.concatenate(stage._anchors(given, _view(given)))
    return anchors, *stage._targets(anchors, given, _view(given))


def test_targets_are_of_the_enlarged_image() -> None:
    anchors, labels, targets = labelled(rpn(), fields())
    moved = decode(anchors, targets)[labels == 1]
    assert len(moved)
    assert (overlap(moved, fields()["truth_boxes"] * 2).max(1) > 0.999).all()


def test_anchors_across_the_border_count_if_they_are_to() -> None:
    anchors, labels, _ = labelled(rpn(), fields())
    cut = ~inside(anchors, (192, 320))
    assert (labels[cut] == -1).all()
    assert (labelled(rpn(cross_border=True), fields())[1][cut] >= 0).any()


def test_a_truth_at_the_border_has_its_best_anchor_inside() -> None:
    """As in the authors' code: a cut anchor, which is not learned from, is nobody's best."""
    given = fields([[0, 0, 6, 60]])
    anchors, labels, _ = labelled(rpn(), given)
    assert (labels == 1).any()
    assert inside(anchors[labels == 1], (192, 320)).all()


def test_crowds_and_what_does_not_count_are_neither() -> None:
    for hidden in ({"crowd": [False, True]}, {"difficult": [False, True]}):
        anchors, labels, targets = labelled(rpn(cross_border=True, difficult=False), fields(**hidden))  # type: ignore[arg-type]
        near = overlap(anchors, np.array([[180, 40, 240, 108]], np.float32))[:, 0] > 0.4
        assert near.any()
        assert (labels[near] == -1).all()
        assert not targets[near].any()


def test_only_crowds() -> None:
    found = losses(rpn(), fields(crowd=[True, True]))
    assert found["box"] == 0
    assert torch.isfinite(found["class"])


def test_without_objects_only_background_is_learned() -> None:
    found = losses(rpn(), fields(()))
    assert found["box"] == 0
    assert found["class"] > 0
    sum(found.values()).backward()


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"sides": ()}, r"sides is \[\]"),
        ({"ratios": (0.0,)}, r"ratios is \[0.0\]"),
        ({"maps": ("map.480", "map.600")}, "it is map alone, or levels"),
        ({"maps": ("map.p3", "map.p2")}, "rising"),
        (
            {"maps": ("map.p2", "map.p3"), "side_per_map": True, "sides": (32,)},
            "sides has 1 for 2 maps",
        ),
        ({"anchor_style": "caffe"}, "anchor_style is 'caffe'; it is one of paper, torchvision"),
        ({"score": "logistic"}, "score is 'logistic'"),
        ({"normalise": "all"}, "normalise is 'all'"),
        ({"negative_iou": 0.8}, "negative_iou is 0.8"),
        ({"top": 0}, "top is 0"),
        ({"share": 0.0}, "share is 0.0"),
        ({"sample": 1}, "sample is 1: no object would ever be drawn"),
        ({"beta": 0.0}, "beta is 0.0"),
        ({"balance": -1.0}, "balance is -1.0"),
        ({"nms": 1.5}, "nms is 1.5"),
        ({"precision": "half"}, "precision is 'half'"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RPN(TRAINED, **params).validate()
