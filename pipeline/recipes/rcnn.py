"""R-CNN: Girshick et al., Rich feature hierarchies for accurate object detection, CVPR 2014."""

from __future__ import annotations

from typing import Any

from ...stages.classifiers.svm import LinearSVMs
from ...stages.features.fc import FCLayers
from ...stages.features.warp import WarpedCNN
from ...stages.nets.backbones import check, layers_of, refuse_layers
from ...stages.nets.finetune import FineTuning
from ...stages.proposals.selective_search import SelectiveSearch
from ...stages.regressors.ridge import RidgeBoxRegressors
from ...stages.stage import Ref
from ...stages.suppression.nms import PerClassNMS
from ..pipeline import Again, Pipeline, Step
from .pretraining import pretraining


def rcnn(
    backbone: str = "alexnet",
    weights: str | Ref | None = "DEFAULT",
    layer: str | None = None,
    proposals: int = 2000,
    box_regression: bool = True,
    finetune: bool = False,
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
    pretrain: spec of a labelled image set that the net learns from first, in the place of `weights` (section 2.3).
    """
    check(backbone)
    layer = layer or ("fc7" if "fc7" in layers_of(backbone) else "pool5")
    refuse_layers(backbone, [layer], layers_of(backbone))
    before, weights = pretraining(backbone, weights, pretrain)
    tuning = [("finetune", FineTuning(backbone, weights))] if finetune else []
    net: dict[str, Any] = {"backbone": backbone, "weights": Ref("finetune") if finetune else weights}
    from_map = layer in ("pool5", "gap")
    kept = [layer] if from_map else ["pool5"]  # fc6 and fc7 are made from pool5, as in the authors' code
    if box_regression and "pool5" not in kept:
        kept.append("pool5")
    above = (
        []
        if from_map
        else [
            Step("fc", FCLayers(**net, layers=(layer,)), keep=False),
            Step("truth_fc", Again("fc", features="truth_features"), keep=False),
        ]
    )
    regressor = [("regressor", RidgeBoxRegressors(layer="pool5"))] if box_regression else []
    return Pipeline(
        [
            *before,
            ("proposals", SelectiveSearch(top=proposals)),
            *tuning,
            ("features", WarpedCNN(**net, layers=tuple(kept))),
            ("truth_features", Again("features", boxes="truth_boxes", features="truth_features")),
            *above,
            ("classifier", LinearSVMs(layer=layer)),
            *regressor,
            ("suppression", PerClassNMS(deltas=box_regression)),
        ],
        name="rcnn",
    )
