"""Fast R-CNN: Girshick, ICCV 2015."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...stages.features.conv_map import ConvMap
from ...stages.features.roi_pool import RoIPool
from ...stages.nets.backbones import check, early_parts, grid_of, layers_of
from ...stages.nets.jointly import Jointly
from ...stages.proposals.best import Best
from ...stages.proposals.selective_search import SelectiveSearch
from ...stages.stage import Ref
from ..pipeline import Pipeline, Step
from .heads import (
    fully_connected,
    head_on,
    head_outputs,
    refuse_classifier,
    suppression,
    svms,
    truth_fc,
    truth_features,
)
from .mask_branch import Branch, mask_branch
from .pretraining import pretraining
from .shared_map import ALL


def fast(
    backbone: str = "vgg16",
    weights: str | Ref | None = "DEFAULT",
    proposals: int = 2000,
    best: int | None = None,
    scales: Sequence[int] = (600,),
    longest: int | None = None,
    fc: Sequence[int] = (1024, 1024),
    box_regression: bool = True,
    classifier: str = "softmax",
    stage_wise: bool = False,
    masks: bool = False,
    pretrain: str | None = None,
) -> Pipeline:
    """Selective search, one map of the image, RoI pooling, softmax and box heads, trained together.

    Of VGG's layers those before conv3_1 learn nothing, of AlexNet's conv1 (section 4.5), unless they start from random
    weights; `map__frozen` says otherwise.

    backbone: a torchvision classification net, `timm:NAME`, or `shapenet`, which is trained on the spot.
    weights: a torchvision weights name, a file, the Ref of a step that learns them, or None (random).
    proposals: the most boxes an image (section 3: about 2000).
    best: how many of these are used, the first of them; all if None. Training has them all (Faster R-CNN, table 2).
    scales: shorter sides of the image in pixels (section 4.1: 600; 480, 576, 688, 864 and 1200 in 5.2).
    longest: cap on the longer side in pixels; by default 1000, and 2000 with several scales (5.2).
    fc: widths of new fully connected layers, for a backbone without fc6 and fc7; none: the heads read the pooled map.
    box_regression: whether boxes are refined.
    classifier: "softmax", or "svm" for SVMs on the features that training with a softmax led to (section 5.4).
    stage_wise: whether training learns classes alone, and then, all else fixed, boxes (section 5.1).
    masks: whether each detection gets a mask, by Mask R-CNN's branch on the map, learned together with the rest.
    pretrain: spec of a labelled image set that the net learns from first, in the place of `weights`.
    """
    check(backbone)
    refuse_classifier(classifier)
    before, weights = pretraining(backbone, weights, pretrain)
    trained = Ref("box_training" if stage_wise else "training")
    svm = classifier == "svm"
    longest = longest or (1000 if len(scales) == 1 else 2000)
    frozen = early_parts(backbone) if weights is not None else ()
    maps = ConvMap(backbone, scales=tuple(scales), longest=longest, frozen=frozen, weights=trained)
    above, layer = fully_connected(backbone, "fc7" in layers_of(backbone), fc, trained, keep=svm)
    if masks and stage_wise:
        raise ValueError("masks is True, and masks are learned together with the rest: stage_wise is for boxes")
    branch = mask_branch(trained, maps.maps()) if masks else Branch()
    members = ("map", "features", *(step.name for step in above), "head", *branch.members)
    whole = Jointly(members, weights, by=("head.class",) if stage_wise else ())
    boxes = Jointly(members, Ref("training"), by=("head.box",), only=("head.deltas",))
    more = best is not None
    given = {"boxes": "boxes.all"} if more else {}
    on_truth = [replace(truth_features(), keep=not above), *([truth_fc()] if above else [])]
    return Pipeline(
        [
            *before,
            Step("proposals", SelectiveSearch(top=proposals), fields=ALL if more else {}),
            Step("training", whole, fields=given),
            *([Step("box_training", boxes, fields=given)] if stage_wise else []),
            *([("best", Best(best))] if best is not None else []),
            Step("map", maps, keep=False),
            Step("features", RoIPool(grid_of(backbone), maps.maps()), keep=svm and not above),
            *above,
            head_on(layer, trained, head_outputs(classifier, box_regression)),
            *([*on_truth, svms(layer)] if svm else []),
            suppression(classifier, box_regression, masks),
            *branch.steps,
        ],
        name="fast",
    )
