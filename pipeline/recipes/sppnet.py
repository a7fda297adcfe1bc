"""SPPnet: He, Zhang, Ren, Sun, Spatial pyramid pooling in deep convolutional networks, ECCV 2014, TPAMI 2015."""

from __future__ import annotations

from collections.abc import Sequence

from ...stages.features.conv_map import ConvMap
from ...stages.features.spp import SpatialPyramidPool
from ...stages.nets.backbones import check, grid_of, layers_of
from ...stages.nets.jointly import Jointly
from ...stages.proposals.selective_search import SelectiveSearch
from ...stages.stage import Ref
from ..pipeline import Pipeline, Step
from .heads import (
    fully_connected,
    head_on,
    head_outputs,
    refuse_classifier,
    ridge,
    suppression,
    svms,
    truth_fc,
    truth_features,
)
from .mask_branch import own_mask_net
from .pretraining import pretraining


def sppnet(
    backbone: str = "alexnet",
    weights: str | Ref | None = "DEFAULT",
    proposals: int = 2000,
    scales: Sequence[int] = (480, 576, 688, 864, 1200),
    longest: int = 2000,
    levels: Sequence[int] = (6, 3, 2, 1),
    box_regression: bool = True,
    classifier: str = "svm",
    finetune: bool = False,
    fc: Sequence[int] = (1024, 1024),
    masks: bool = False,
    pretrain: str | None = None,
) -> Pipeline:
    """R-CNN with one map of the image, from which every proposal is pooled, in place of a crop for each.

    backbone: a torchvision classification net, `timm:NAME`, or `shapenet`, which is trained on the spot.
    weights: a torchvision weights name, a file, the Ref of a step that learns them, or None (random).
    proposals: the most boxes an image (section 4.1: 2000).
    scales: shorter sides of the image in pixels, a map for each (section 4.1); one is several times as fast.
    longest: cap on the longer side in pixels.
    levels: bins a side of the grids of the pyramid (section 4.1).
    box_regression: whether boxes are refined, from the pooled features (section 4.1, as R-CNN).
    classifier: "svm", or "softmax" for the heads of Fast R-CNN, which refine boxes too.
    finetune: whether fully connected layers are trained on the pooled features, and classifiers read them (section
        4.1). They are the backbone's fc6 and fc7 where it has them and the pyramid is the one grid that fc6 takes
        (6 for AlexNet, 7 for VGG), else new ones. The map stays as it is: the paper could train no deeper.
    fc: widths of such new layers.
    masks: whether each detection gets a mask, by Mask R-CNN's branch on a map of its own, learned by itself.
    pretrain: spec of a labelled image set that the net learns from first, in the place of `weights`.
    """
    check(backbone)
    refuse_classifier(classifier)
    before, weights = pretraining(backbone, weights, pretrain)
    maps = ConvMap(backbone, weights, tuple(scales), longest)
    own = "fc7" in layers_of(backbone) and tuple(levels) == (grid_of(backbone),)
    if finetune and not (own or fc):
        raise ValueError("fc is empty: there is nothing to fine-tune")
    trained, svm = Ref("training"), classifier == "svm"
    above, layer = fully_connected(backbone, own, fc, trained, keep=svm) if finetune else ([], "pool5")
    members = (*(step.name for step in above), "head")
    training = Step("training", Jointly(members, weights if above and own else None, flip=False))
    head = head_on(layer, trained, () if svm else head_outputs(classifier, box_regression))
    trained_here = [training, *above, head] if finetune or not svm else []
    return Pipeline(
        [
            *before,
            ("proposals", SelectiveSearch(top=proposals)),
            Step("map", maps, keep=False),
            ("features", SpatialPyramidPool(tuple(levels), maps.maps())),
            truth_features(),
            *trained_here,
            *([*([truth_fc()] if above else []), svms(layer)] if svm else []),
            *([ridge()] if svm and box_regression else []),
            suppression(classifier, box_regression, masks),
            *(own_mask_net(backbone, weights) if masks else []),
        ],
        name="sppnet",
    )
