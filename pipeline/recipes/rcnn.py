"""R-CNN: Girshick et al., Rich feature hierarchies for accurate object detection, CVPR 2014."""

from __future__ import annotations

from typing import Any

from ...stages.features.fc import FCLayers
from ...stages.features.warp import WarpedCNN
from ...stages.nets.backbones import check, layers_of, refuse_layers
from ...stages.nets.finetune import FineTuning
from ...stages.nets.jointly import Jointly
from ...stages.proposals.selective_search import SelectiveSearch
from ...stages.stage import Ref
from ..pipeline import Pipeline, Step
from .heads import head_on, head_outputs, refuse_classifier, ridge, suppression, svms, truth_fc, truth_features
from .mask_branch import own_mask_net
from .pretraining import pretraining


def rcnn(
    backbone: str = "alexnet",
    weights: str | Ref | None = "DEFAULT",
    layer: str | None = None,
    proposals: int = 2000,
    box_regression: bool = True,
    finetune: bool = False,
    classifier: str = "svm",
    masks: bool = False,
    pretrain: str | None = None,
) -> Pipeline:
    """Selective search, CNN features of warped proposals, linear SVMs, ridge box regressors, greedy NMS.

    backbone: a torchvision classification net, `timm:NAME`, or `shapenet`, which is trained on the spot.
    weights: a torchvision weights name, a file, the Ref of a step that learns them, or None (random).
    layer: that the SVMs see; default fc7 where the net has it (section 2.2), else pool5.
    proposals: the most boxes an image (section 2.1).
    box_regression: whether boxes are refined, from pool5 (appendix C).
    finetune: whether the net is first trained on the data's own warped proposals (section 2.3): 70,000 steps, unless
        finetune__steps says otherwise.
    classifier: "svm", or "softmax" for the heads of Fast R-CNN on the same features, which refine boxes too.
    masks: whether each detection gets a mask, by Mask R-CNN's branch on a map of its own, learned by itself.
    pretrain: spec of a labelled image set that the net learns from first, in the place of `weights` (section 2.3).
    """
    check(backbone)
    refuse_classifier(classifier)
    layer = layer or ("fc7" if "fc7" in layers_of(backbone) else "pool5")
    refuse_layers(backbone, [layer], layers_of(backbone))
    before, weights = pretraining(backbone, weights, pretrain)
    tuning = [("finetune", FineTuning(backbone, weights))] if finetune else []
    net: dict[str, Any] = {"backbone": backbone, "weights": Ref("finetune") if finetune else weights}
    from_map = layer in ("pool5", "gap")
    kept = [layer] if from_map else ["pool5"]  # fc6 and fc7 are made from pool5, as in the authors' code
    svm, trained = classifier == "svm", Ref("training")
    if svm and box_regression and "pool5" not in kept:
        kept.append("pool5")
    above = []
    if not from_map:
        # kept where a descent reads them again and again
        above = [Step("fc", FCLayers(**net, layers=(layer,)), keep=not svm), truth_fc(keep=not svm)]
    head = head_on(layer, trained, head_outputs(classifier, box_regression))
    return Pipeline(
        [
            *before,
            ("proposals", SelectiveSearch(top=proposals)),
            *tuning,
            ("features", WarpedCNN(**net, layers=tuple(kept))),
            truth_features(),
            *above,
            *([svms(layer)] if svm else [("training", Jointly(("head",), flip=False)), head]),
            *([ridge()] if svm and box_regression else []),
            suppression(classifier, box_regression, masks),
            *(own_mask_net(backbone, weights) if masks else []),
        ],
        name="rcnn",
    )
