"""Faster R-CNN: Ren, He, Girshick, Sun, NIPS 2015, TPAMI 2017; approximate joint training (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

from ...stages.features.conv_map import ConvMap
from ...stages.features.roi_pool import RoIPool
from ...stages.nets.backbones import check, early_parts, grid_of, layers_of
from ...stages.nets.jointly import Jointly
from ...stages.proposals.rpn import RPN
from ...stages.stage import Ref
from ..pipeline import Pipeline, Step
from .heads import fully_connected, head_outputs, heads, suppression
from .pretraining import pretraining


def faster(
    backbone: str = "vgg16",
    weights: str | Ref | None = "DEFAULT",
    proposals: int = 300,
    scale: int = 600,
    longest: int = 1000,
    sides: Sequence[float] = (128.0, 256.0, 512.0),
    ratios: Sequence[float] = (0.5, 1.0, 2.0),
    fc: Sequence[int] = (1024, 1024),
    box_regression: bool = True,
    pretrain: str | None = None,
) -> Pipeline:
    """A region proposal network on the map of Fast R-CNN, trained together with its heads.

    backbone: a torchvision classification net, `timm:NAME`, or `shapenet`, which is trained on the spot.
    weights: a torchvision weights name, a file, the Ref of a step that learns them, or None (random).
    proposals: boxes an image at use (section 4.1: 300); 2000 in training.
    scale, longest: shorter side of the image in pixels, and cap on the longer one (section 3.3: 600).
    sides, ratios: of anchors, on the enlarged image (section 3.1.1).
    fc: widths of new fully connected layers, for a backbone without fc6 and fc7; none: the heads read the pooled map.
    box_regression: whether boxes are refined by the heads.
    pretrain: spec of a labelled image set that the net learns from first, in the place of `weights`.
    """
    check(backbone)
    before, weights = pretraining(backbone, weights, pretrain)
    trained = Ref("training")
    frozen = early_parts(backbone) if weights is not None else ()
    maps = ConvMap(backbone, scales=(scale,), longest=longest, frozen=frozen, weights=trained)
    above, layer = fully_connected(backbone, "fc7" in layers_of(backbone), fc, trained, keep=False)
    members = ("map", "proposals", "features", *(step.name for step in above), "head")
    return Pipeline(
        [
            *before,
            ("training", Jointly(members, weights)),
            Step("map", maps, keep=False),
            ("proposals", RPN(trained, sides=tuple(sides), ratios=tuple(ratios), top=proposals)),
            Step("features", RoIPool(grid_of(backbone)), keep=False),
            *above,
            heads(layer, trained, head_outputs("softmax", box_regression)),
            suppression("softmax", box_regression),
        ],
        name="faster",
    )
