"""A region proposal network and Fast R-CNN with a net each (Ren et al., Faster R-CNN, table 2 and section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence

from ...stages.nets.backbones import check
from ...stages.nets.jointly import Jointly
from ...stages.proposals.anchors import RATIOS, SIDES
from ...stages.proposals.best import Best
from ...stages.proposals.selective_search import SelectiveSearch
from ...stages.stage import Ref
from ..pipeline import Pipeline, Step
from .heads import head_on, head_outputs, suppression
from .mask_branch import Branch
from .pretraining import pretraining
from .shared_map import ALL, OF_DETECTION, OF_PROPOSALS, SharedMap, first_map


def faster_unshared(
    backbone: str = "vgg16",
    weights: str | Ref | None = "DEFAULT",
    proposals: int = 300,
    search: bool = False,
    scale: int = 600,
    longest: int = 1000,
    sides: Sequence[float] = SIDES,
    ratios: Sequence[float] = RATIOS,
    fc: Sequence[int] = (1024, 1024),
    box_regression: bool = True,
    masks: bool = False,
    pretrain: str | None = None,
) -> Pipeline:
    """The first two of the four steps: the detector learns from the network's proposals and has a map of its own.

    backbone, weights, scale, longest, sides, ratios, fc, box_regression, pretrain: as in `faster`.
    proposals: boxes an image at use; 300 (section 4.1). In training 2000.
    search: whether the detector learns from 2000 boxes of selective search. What is then changed of the proposals at
        use needs no new training: the ablations of table 2.
    masks: whether each detection gets a mask, by Mask R-CNN's branch on the detector's map.
    """
    check(backbone)
    before, weights = pretraining(backbone, weights, pretrain)
    first, last = Ref("first_training"), Ref("training")
    one = SharedMap(backbone, weights is not None, scale=scale, longest=longest, fc=fc)
    above, layer = one.above(last, keep=False, spatial=masks)
    branch = one.masks(last) if masks else Branch()
    members = ("map", "features", *(step.name for step in above), "head", *branch.members)
    rpn = one.rpn(first, proposals, sides, ratios)
    if search:
        proposing = [
            Step("search", SelectiveSearch(top=2000), fields=ALL),
            Step("proposals", rpn, fields=first_map(rpn)),
        ]
    else:
        more = rpn.set_params(top=2000, pre_nms=12_000)
        proposing = [Step("proposals", more, fields={**first_map(rpn), **ALL}), Step("best", Best(proposals))]
    return Pipeline(
        [
            *before,
            Step("first_training", Jointly(("first_map", "proposals"), weights, **OF_PROPOSALS)),
            Step("first_map", one.map(first), keep=False, fields=first_map(one.map(first))),
            *proposing,
            Step("training", Jointly(members, weights, **OF_DETECTION), fields={"boxes": "boxes.all"}),
            Step("map", one.map(last), keep=False),
            Step("features", one.pooler(), keep=False),
            *above,
            head_on(layer, last, head_outputs("softmax", box_regression)),
            suppression("softmax", box_regression, masks),
            *branch.steps,
        ],
        name="faster_unshared",
    )
