"""Where a recipe's backbone gets its weights, when they are to be learned first."""

from __future__ import annotations

from ...stages.datasets.shapes import ShapeCrops
from ...stages.nets.pretrain import Pretraining
from ...stages.stage import Ref
from ..pipeline import Step

CROPS = 6000


def pretraining(backbone: str, weights: str | Ref | None) -> tuple[list[Step], str | Ref | None]:
    """The steps that come before a recipe's own, and what its `weights` then are.

    shapenet's weights are published nowhere: "DEFAULT" is a minute's training on drawn images.
    """
    if backbone != "shapenet" or weights != "DEFAULT":
        return [], weights
    crops = ShapeCrops(CROPS)
    return [Step("pretrain", Pretraining(backbone=backbone), data=crops)], Ref("pretrain")
