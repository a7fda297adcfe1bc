"""Where a recipe's backbone gets its weights, when they are to be learned first."""

from __future__ import annotations

from ...stages.datasets.shapes import ShapeCrops
from ...stages.datasets.spec import open_dataset
from ...stages.nets.pretrain import Pretraining
from ...stages.stage import Ref
from ..pipeline import Step

CROPS = 6000


def pretraining(
    backbone: str, weights: str | Ref | None, data: str | None = None
) -> tuple[list[Step], str | Ref | None]:
    """The steps that come before a recipe's own, and what its `weights` then are.

    data: spec of a set of labelled images to learn from (`labelled:DIR`), in the place of `weights`. shapenet's
        weights are published nowhere: "DEFAULT" is a minute's training on drawn images.
    """
    if data is None and (backbone != "shapenet" or weights != "DEFAULT"):
        return [], weights
    images = ShapeCrops(CROPS) if data is None else open_dataset(data)
    return [Step("pretrain", Pretraining(backbone=backbone), data=images)], Ref("pretrain")
