"""Faster R-CNN by 4-step alternating training (Ren, He, Girshick, Sun, NIPS 2015, TPAMI 2017, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...stages.nets.backbones import check
from ...stages.nets.jointly import Jointly
from ...stages.proposals.best import Best
from ...stages.stage import Ref
from ..pipeline import Pipeline, Step
from .heads import head_on, head_outputs, suppression
from .pretraining import pretraining
from .shared_map import SharedMap

ALL = {"boxes": "boxes.all", "objectness": "objectness.all"}
FIRST = {"boxes": "boxes.first", "objectness": "objectness.first"}
OF_PROPOSALS: dict[str, Any] = {
    "images": 1,
    "steps": 80_000,
    "drop_every": 60_000,
}  # the authors' code
OF_DETECTION: dict[str, Any] = {"background_iou": (0.0, 0.5), "steps": 40_000, "drop_every": 30_000}


def faster_4step(
    backbone: str = "vgg16",
    weights: str | Ref | None = "DEFAULT",
    proposals: int = 300,
    shared: bool = True,
    scale: int = 600,
    longest: int = 1000,
    sides: Sequence[float] = (128.0, 256.0, 512.0),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    fc: Sequence[int] = (1024, 1024),
    box_regression: bool = True,
    pretrain: str | None = None,
) -> Pipeline:
    """A region proposal network, a detector on its proposals, and both again on the detector's map, now fixed.

    The steps are first_training (1), detector_training (2), rpn_training (3) and training (4); where the map learns
    nothing it is kept in memory, as far as `memory` goes.

    backbone, weights, scale, longest, sides, ratios, fc, box_regression, pretrain: as in `faster`.
    proposals: boxes an image at use; 300 (section 4.1). In training 2000.
    shared: False for the first two steps alone: a network and a detector with a map each (table 2, "unshared").
    """
    check(backbone)
    before, weights = pretraining(backbone, weights, pretrain)
    one = SharedMap(backbone, weights is not None, scale=scale, longest=longest, fc=fc)
    first, second = Ref("first_training"), Ref("detector_training" if shared else "training")
    above, layer = one.above(Ref("training"), keep=False)
    detector = ("map", "features", *(step.name for step in above), "head")
    own = {name: f"{name}.first" for name in one.map(first).gives}
    rpn = one.rpn(first, 2000, sides, ratios).set_params(before=12_000)
    if shared:
        proposing = [
            Step("first_map", one.map(first), keep=False, fields=own),
            Step("first_proposals", rpn, fields={**own, **FIRST}),
            Step("detector_training", Jointly(detector, weights, **OF_DETECTION), fields=FIRST),
            Step("map", one.map(second), keep=False),
            Step("rpn_training", Jointly(("map", "proposals"), second, only=("proposals",), **OF_PROPOSALS)),
            Step("proposals", rpn.clone().set_params(weights=Ref("rpn_training")), fields=ALL),
            Step("training", Jointly(detector, second, only=detector[2:], **OF_DETECTION), fields=ALL),
        ]
        trained = ("first_map", "first_proposals")
    else:
        proposing = [
            Step("first_map", one.map(first), keep=False, fields=own),
            Step("proposals", rpn, fields={**own, **ALL}),
            Step("training", Jointly(detector, weights, **OF_DETECTION), fields=ALL),
            Step("map", one.map(second), keep=False),
        ]
        trained = ("first_map", "proposals")
    return Pipeline(
        [
            *before,
            Step("first_training", Jointly(trained, weights, **OF_PROPOSALS)),
            *proposing,
            Step("best", Best(proposals)),
            Step("features", one.pooler(), keep=False),
            *above,
            head_on(layer, Ref("training"), head_outputs("softmax", box_regression)),
            suppression("softmax", box_regression),
        ],
        name="faster_4step",
    )
