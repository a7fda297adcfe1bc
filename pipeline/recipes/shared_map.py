"""What a region proposal network and a detector share: one map of the image, C4 of a ResNet, or a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...stages.features.conv_map import ConvMap
from ...stages.features.fpn import FPN
from ...stages.features.later_convs import LaterConvs
from ...stages.features.pooling import Pooler
from ...stages.nets.backbones import check, early_parts, grid_of, layers_of
from ...stages.nets.maps import level_names
from ...stages.nets.member import Member
from ...stages.proposals.anchors import PYRAMID_SIDES, SIDES
from ...stages.proposals.rpn import RPN
from ...stages.stage import Ref, Stage
from ..pipeline import Step
from .heads import fully_connected
from .mask_branch import Branch, mask_branch, mask_branch_c4, pooler

C4 = ("resnet", "resnext", "wide_resnet")  # nets whose conv5 goes over regions (ResNet, appendix A)
LEVELS = level_names(2, 6)
# Boxes beside those that detection uses: all that were proposed, and those of the first net of several
ALL = {"boxes": "boxes.all", "objectness": "objectness.all"}
FIRST = {"boxes": "boxes.first", "objectness": "objectness.first"}
# The parameters of Jointly that the authors' code has for each of the two nets alone
OF_PROPOSALS: dict[str, Any] = {"images": 1, "steps": 80_000, "drop_every": 60_000}
OF_DETECTION: dict[str, Any] = {"background_iou": (0.0, 0.5), "steps": 40_000, "drop_every": 30_000}


def first_map(stage: Stage) -> dict[str, str]:
    """The fields of a stage that are of the first net's map, as a step on it has them."""
    own = [name for name in (*stage.needs, *stage.gives) if name.startswith(("map", "image_scales"))]
    return {name: f"{name}.first" for name in own}


class SharedMap:
    """The stages on a backbone that Faster R-CNN's recipes are put together from.

    pretrained: whether it starts from weights. fpn: whether its maps are a pyramid. scale, longest: of the image; None
    for the paper's. fc: widths of new fully connected layers.
    """

    def __init__(
        self,
        backbone: str,
        pretrained: bool,
        fpn: bool = False,
        scale: int | None = None,
        longest: int | None = None,
        fc: Sequence[int] = (1024, 1024),
    ):
        check(backbone)
        self.backbone, self.fpn, self.fc = backbone, fpn, tuple(fc)
        self.scale = (800 if fpn else 600) if scale is None else scale
        self.longest = (1333 if fpn else 1000) if longest is None else longest
        self.c4 = backbone.startswith(C4) and not fpn
        stem = ("conv1", "bn1", "layer1") if backbone.startswith(C4) else early_parts(backbone)  # conv1 and conv2_x
        self.frozen = stem if pretrained else ()

    @property
    def batch(self) -> dict[str, Any]:
        """The parameters of Jointly, as the authors' code: an image of 128 RoIs a step (FPN: two of 512)."""
        if self.fpn:
            return {"images": 2, "rois": 1024, "background_iou": (0.0, 0.5), "steps": 70_000, "drop_every": 50_000}
        return {"images": 1, "background_iou": (0.0, 0.5), "steps": 70_000, "drop_every": 50_000}

    def map(self, weights: Ref) -> Member:
        if self.fpn:
            return FPN(self.backbone, weights, self.scale, self.longest, frozen=self.frozen)
        until = "layer3" if self.c4 else None
        return ConvMap(self.backbone, weights, (self.scale,), self.longest, self.frozen, until=until)

    def rpn(self, weights: Ref, top: int | None, sides: Sequence[float] | None, ratios: Sequence[float]) -> RPN:
        """The paper's on one map; on a pyramid as later code has it."""
        if not self.fpn:
            own = SIDES if sides is None else tuple(sides)
            return RPN(weights, sides=own, ratios=tuple(ratios), top=300 if top is None else top)
        levels = PYRAMID_SIDES if sides is None else tuple(sides)
        return RPN(weights, maps=LEVELS, sides=levels, ratios=tuple(ratios), side_per_map=True, width=256,
                   score="sigmoid", cross_border=True, balance=1.0, normalise="sampled", beta=1 / 9, pre_nms=1000,
                   top=1000 if top is None else top, train_pre_nms=2000, min_side=1e-3,
                   train_min_side=1e-3)  # fmt: skip

    def pooler(self, pooling: str | None = None) -> Pooler:
        """Of regions, for boxes; pooling: its name in mask_branch.POOLING, by default as its paper has it."""
        grid = 14 if self.c4 else grid_of(self.backbone)
        if self.fpn:
            return pooler(pooling or "roi_align", 7, LEVELS[:-1])
        return pooler(pooling or ("roi_align" if self.c4 else "roi_pool"), grid, ("map",))

    def masks(self, weights: Ref, pooling: str = "roi_align", scores: str = "sigmoid") -> Branch:
        """The mask branch on this map; pooling: as POOLING has it, for masks that are pooled by themselves."""
        if self.c4:
            return mask_branch_c4(weights, scores=scores)
        return mask_branch(weights, LEVELS[:-1] if self.fpn else ("map",), pooling, scores=scores)

    def above(self, weights: Ref, keep: bool, spatial: bool = False) -> tuple[list[Step], str]:
        """The steps between pooling and heads, and the layer that they end in; spatial: conv5's maps are given too."""
        if self.c4:
            return [Step("fc", LaterConvs(self.backbone, weights, spatial=spatial), keep=keep)], "conv5"
        own = "fc7" in layers_of(self.backbone) and not self.fpn
        return fully_connected(self.backbone, own, self.fc, weights, keep)
