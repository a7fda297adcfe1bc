"""Fast R-CNN: Girshick, ICCV 2015."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...stages.classifiers.softmax_head import SoftmaxHead
from ...stages.features.conv_map import ConvMap
from ...stages.features.fc import FCLayers
from ...stages.features.new_fc import NewFCLayers
from ...stages.features.roi_pool import RoIPool
from ...stages.nets.backbones import check, grid_of, layers_of
from ...stages.nets.jointly import Jointly
from ...stages.proposals.selective_search import SelectiveSearch
from ...stages.stage import Ref
from ...stages.suppression.nms import PerClassNMS
from ..pipeline import Pipeline, Step
from .pretraining import pretraining


def fast(
    backbone: str = "vgg16",
    weights: str | Ref | None = "DEFAULT",
    proposals: int = 2000,
    scales: Sequence[int] = (600,),
    longest: int | None = None,
    fc: Sequence[int] = (1024, 1024),
    box_regression: bool = True,
    pretrain: str | None = None,
) -> Pipeline:
    """Selective search, one map of the image, RoI pooling, softmax and box heads, trained together.

    backbone: a torchvision classification net, `timm:NAME`, or `shapenet`, which is trained on the spot.
    weights: a torchvision weights name, a file, the Ref of a step that learns them, or None (random).
    proposals: the most boxes an image (section 4.1: about 2000).
    scales: shorter sides of the image in pixels (section 4.1: 600; 480, 576, 688, 864 and 1200 in 5.2).
    longest: cap on the longer side in pixels; by default 1000, and 2000 with several scales (4.1 and 5.2).
    fc: widths of new fully connected layers, for a backbone without fc6 and fc7; none: the heads read the pooled map.
    box_regression: whether boxes are refined.
    pretrain: spec of a labelled image set that the net learns from first, in the place of `weights`.
    """
    check(backbone)
    before, weights = pretraining(backbone, weights, pretrain)
    learned: dict[str, Any] = {"weights": Ref("training")}
    pretrained = "fc7" in layers_of(backbone)
    maps = ConvMap(backbone, scales=tuple(scales), longest=longest or (1000 if len(scales) == 1 else 2000), **learned)
    pool = RoIPool(grid_of(backbone), maps.maps())
    above = []
    if pretrained:
        above = [Step("fc", FCLayers(backbone, layers=("fc7",), **learned), keep=False)]
    elif fc:
        above = [Step("fc", NewFCLayers(widths=tuple(fc), **learned), keep=False)]
    layer = "fc7" if pretrained else "fc" if fc else "pool5"
    head = SoftmaxHead(layer=layer, norm=None if layer == "fc7" else 20.0, **learned)
    members = ("map", "features", *(step.name for step in above), "classifier")
    return Pipeline(
        [
            *before,
            ("proposals", SelectiveSearch(top=proposals)),
            ("training", Jointly(members, weights)),
            Step("map", maps, keep=False),
            Step("features", pool, keep=False),
            *above,
            ("classifier", head),
            ("suppression", PerClassNMS(min_score=0.05, deltas=box_regression)),  # 0.05: the authors' code
        ],
        name="fast",
    )
