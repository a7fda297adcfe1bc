"""Faster R-CNN by 4-step alternating training (Ren, He, Girshick, Sun, NIPS 2015, TPAMI 2017, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from ...stages.nets.backbones import check
from ...stages.nets.jointly import Jointly
from ...stages.proposals.anchors import RATIOS, SIDES
from ...stages.proposals.best import Best
from ...stages.stage import Ref
from ..pipeline import Pipeline, Step
from .heads import head_on, head_outputs, suppression
from .mask_branch import Branch
from .pretraining import pretraining
from .shared_map import ALL, FIRST, OF_DETECTION, OF_PROPOSALS, SharedMap, first_map


def faster_4step(
    backbone: str = "vgg16",
    weights: str | Ref | None = "DEFAULT",
    proposals: int = 300,
    scale: int = 600,
    longest: int = 1000,
    sides: Sequence[float] = SIDES,
    ratios: Sequence[float] = RATIOS,
    fc: Sequence[int] = (1024, 1024),
    box_regression: bool = True,
    masks: bool = False,
    pretrain: str | None = None,
) -> Pipeline:
    """A region proposal network, a detector on its proposals, and both again on the detector's map, now fixed.

    The trainings are first_training (1), detector_training (2), rpn_training (3) and training (4). In the last two the
    map learns nothing, and is kept in memory as far as their `memory` goes.

    backbone, weights, scale, longest, sides, ratios, fc, box_regression, pretrain: as in `faster`.
    proposals: boxes an image at use; 300 (section 4.1). In training 2000.
    masks: whether each detection gets a mask, by Mask R-CNN's branch, which learns in steps 2 and 4.
    """
    check(backbone)
    before, weights = pretraining(backbone, weights, pretrain)
    first, second, last = Ref("first_training"), Ref("detector_training"), Ref("training")
    one = SharedMap(backbone, weights is not None, scale=scale, longest=longest, fc=fc)
    rpn = one.rpn(first, 2000, sides, ratios).set_params(pre_nms=12_000)
    above, layer = one.above(last, keep=False, spatial=masks)
    branch = one.masks(last) if masks else Branch()
    heads = (*(step.name for step in above), "head")
    behind = (*heads, *branch.members)
    return Pipeline(
        [
            *before,
            Step("first_training", Jointly(("first_map", "first_proposals"), weights, **OF_PROPOSALS)),
            Step("first_map", one.map(first), keep=False, fields=first_map(one.map(first))),
            Step("first_proposals", rpn, fields={**first_map(rpn), **FIRST}),
            Step(
                "detector_training",
                Jointly(("map", "features", *behind), weights, **OF_DETECTION),
                fields={"boxes": "boxes.first"},
            ),
            Step("map", one.map(second), keep=False),
            Step("rpn_training", Jointly(("map", "proposals"), second, only=("proposals",), **OF_PROPOSALS)),
            Step("proposals", rpn.clone().set_params(weights=Ref("rpn_training")), fields=ALL),
            Step(
                "training",
                Jointly(("map", "features", *behind), second, only=(*heads, *branch.learning), **OF_DETECTION),
                fields={"boxes": "boxes.all"},
            ),
            Step("best", Best(proposals)),
            Step("features", one.pooler(), keep=False),
            *above,
            head_on(layer, last, head_outputs("softmax", box_regression)),
            suppression("softmax", box_regression, masks),
            *branch.steps,
        ],
        name="faster_4step",
    )
