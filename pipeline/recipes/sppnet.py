"""SPPnet: He, Zhang, Ren, Sun, Spatial pyramid pooling in deep convolutional networks, ECCV 2014, TPAMI 2015."""

from __future__ import annotations

from collections.abc import Sequence

from ...stages.classifiers.svm import LinearSVMs
from ...stages.features.conv_map import ConvMap
from ...stages.features.spp import SpatialPyramidPool
from ...stages.nets.backbones import check
from ...stages.proposals.selective_search import SelectiveSearch
from ...stages.regressors.ridge import RidgeBoxRegressors
from ...stages.stage import Ref
from ...stages.suppression.nms import PerClassNMS
from ..pipeline import Again, Pipeline, Step
from .pretraining import pretraining


def sppnet(
    backbone: str = "alexnet",
    weights: str | Ref | None = "DEFAULT",
    proposals: int = 2000,
    scales: Sequence[int] = (480, 576, 688, 864, 1200),
    longest: int = 2000,
    levels: Sequence[int] = (6, 3, 2, 1),
    box_regression: bool = True,
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
    pretrain: spec of a labelled image set that the net learns from first, in the place of `weights`.
    """
    check(backbone)
    before, weights = pretraining(backbone, weights, pretrain)
    maps = ConvMap(backbone, weights, tuple(scales), longest)
    pool = SpatialPyramidPool(tuple(levels), maps.maps())
    regressor = [("regressor", RidgeBoxRegressors(layer="pool5"))] if box_regression else []
    return Pipeline(
        [
            *before,
            ("proposals", SelectiveSearch(top=proposals)),
            Step("map", maps, keep=False),
            ("features", pool),
            ("truth_features", Again("features", boxes="truth_boxes", features="truth_features")),
            ("classifier", LinearSVMs(layer="pool5")),
            *regressor,
            ("suppression", PerClassNMS(deltas=box_regression)),
        ],
        name="sppnet",
    )
