"""Mask R-CNN: He, Gkioxari, Dollar, Girshick, ICCV 2017."""

from __future__ import annotations

from collections.abc import Sequence

from ...stages.nets.backbones import check
from ...stages.nets.jointly import Jointly
from ...stages.proposals.anchors import RATIOS
from ...stages.stage import Ref
from ..pipeline import Pipeline, Step
from .heads import head_on, head_outputs, suppression
from .pretraining import pretraining
from .shared_map import SharedMap


def mask(
    backbone: str = "resnet50",
    weights: str | Ref | None = "DEFAULT",
    proposals: int | None = None,
    fpn: bool = False,
    scale: int | None = None,
    longest: int | None = None,
    sides: Sequence[float] | None = None,
    ratios: Sequence[float] = RATIOS,
    fc: Sequence[int] = (1024, 1024),
    pooling: str = "roi_align",
    mask_pooling: str | None = None,
    scores: str = "sigmoid",
    apart: bool = False,
    pretrain: str | None = None,
) -> Pipeline:
    """Faster R-CNN with RoIAlign, and a branch that gives each detection a mask; all trained together.

    On C4 of torchvision's ResNets boxes and masks share conv5; on other maps the branch is that of figure 4, right.

    backbone: a torchvision classification net, `timm:NAME`, or `shapenet`, which is trained on the spot.
    weights: a torchvision weights name, a file, the Ref of a step that learns them, or None (random).
    proposals: boxes an image at use; 300, on FPN 1000 (section 3.1). In training 2000.
    fpn: whether the maps are a feature pyramid (Lin et al. 2017).
    scale, longest: shorter side of the image in pixels, and cap on the longer one; 600 and 1000, on FPN 800 and 1333.
    sides, ratios: of anchors, on the enlarged image; 128, 256 and 512, on FPN 32 to 512, one a level.
    fc: widths of new fully connected layers, for a backbone without fc6 and fc7; none: the heads read the pooled map.
    pooling, mask_pooling: "roi_align", "roi_align_max", "roi_warp" or "roi_pool" (table 2c), of boxes, and of masks
        where these are pooled by themselves; by default as boxes.
    scores: "sigmoid", or "softmax" over the classes (table 2b).
    apart: whether the branch learns when all else has, on the maps as they then are.
    pretrain: spec of a labelled image set that the net learns from first, in the place of `weights`.
    """
    check(backbone)
    before, weights = pretraining(backbone, weights, pretrain)
    trained, branch_trained = Ref("training"), Ref("mask_training" if apart else "training")
    shared = SharedMap(backbone, weights is not None, fpn, scale, longest, fc)
    if shared.c4 and mask_pooling is not None:
        raise ValueError(f"mask_pooling is {mask_pooling!r}, and on C4 masks are pooled as boxes: that is `pooling`")
    above, layer = shared.above(trained, keep=False, spatial=True)
    box_members = ("map", "proposals", "features", *(step.name for step in above), "head")
    pooled = shared.pooler(pooling)
    branch = shared.masks(branch_trained, mask_pooling or pooling, scores)
    behind = ("map", "features", "fc") if shared.c4 else ("map",)
    batch = {**shared.batch, **({} if fpn else {"images": 2, "rois": 128})}  # 64 RoIs an image, on FPN 512
    together = Jointly(box_members if apart else (*box_members, *branch.members), weights, **batch)
    alone = Jointly((*behind, *branch.members), trained, only=branch.learning, **batch)
    return Pipeline(
        [
            *before,
            ("training", together),
            Step("map", shared.map(trained), keep=False),
            ("proposals", shared.rpn(trained, proposals, sides, ratios)),
            *([("mask_training", alone)] if apart else []),
            Step("features", pooled, keep=False),
            *above,
            head_on(layer, trained, head_outputs("softmax", True)),
            suppression("softmax", True, masks=True),
            *branch.steps,
        ],
        name="mask",
    )
