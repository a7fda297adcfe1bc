"""Faster R-CNN: Ren, He, Girshick, Sun, NIPS 2015, TPAMI 2017; approximate joint training (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from ...stages.nets.backbones import check
from ...stages.nets.jointly import Jointly
from ...stages.proposals.anchors import RATIOS
from ...stages.stage import Ref
from ..pipeline import Pipeline, Step
from .heads import head_on, head_outputs, refuse_classifier, suppression, svms, truth_fc, truth_features
from .pretraining import pretraining
from .shared_map import SharedMap


def faster(
    backbone: str = "vgg16",
    weights: str | Ref | None = "DEFAULT",
    proposals: int | None = None,
    fpn: bool = False,
    scale: int | None = None,
    longest: int | None = None,
    sides: Sequence[float] | None = None,
    ratios: Sequence[float] = RATIOS,
    fc: Sequence[int] = (1024, 1024),
    box_regression: bool = True,
    classifier: str = "softmax",
    pretrain: str | None = None,
) -> Pipeline:
    """A region proposal network on the map of Fast R-CNN, trained together with its heads.

    The map of one of torchvision's ResNets is its C4, and its conv5 goes over each region; that of other nets is their
    last.

    backbone: a torchvision classification net, `timm:NAME`, or `shapenet`, which is trained on the spot.
    weights: a torchvision weights name, a file, the Ref of a step that learns them, or None (random).
    proposals: boxes an image at use; 300 (section 4.1), on FPN 1000. In training 2000.
    fpn: whether the maps are a feature pyramid (Lin et al. 2017) read by RoIAlign.
    scale, longest: shorter side of the image in pixels, and cap on the longer one; 600 and 1000 (section 3.3), on FPN
        800 and 1333.
    sides, ratios: of anchors, on the enlarged image; 128, 256 and 512 (section 3.1.1), on FPN 32 to 512, one a level.
    fc: widths of new fully connected layers, for a backbone without fc6 and fc7; none: the heads read the pooled map.
    box_regression: whether boxes are refined by the heads.
    classifier: "softmax", or "svm": linear SVMs on the features so trained.
    pretrain: spec of a labelled image set that the net learns from first, in the place of `weights`.
    """
    check(backbone)
    refuse_classifier(classifier)
    before, weights = pretraining(backbone, weights, pretrain)
    trained, svm = Ref("training"), classifier == "svm"
    shared = SharedMap(backbone, weights is not None, fpn, scale, longest, fc)
    above, layer = shared.above(trained, keep=svm)
    members = ("map", "proposals", "features", *(step.name for step in above), "head")
    return Pipeline(
        [
            *before,
            ("training", Jointly(members, weights, **shared.batch)),
            Step("map", shared.map(trained), keep=False),
            ("proposals", shared.rpn(trained, proposals, sides, ratios)),
            Step("features", shared.pooler(), keep=svm and not above),
            *above,
            head_on(layer, trained, head_outputs(classifier, box_regression)),
            *([truth_features(), *([truth_fc()] if above else []), svms(layer)] if svm else []),
            suppression(classifier, box_regression),
        ],
        name="faster",
    )
