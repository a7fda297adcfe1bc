"""Where a recipe's backbone gets its weights, when they are to be learned first."""

from __future__ import annotations

from typing import Any

from ...stages.datasets.shapes import ShapeCrops
from ...stages.datasets.spec import open_dataset
from ...stages.nets.pretrain import Pretraining
from ...stages.stage import Ref
from ..pipeline import Step

CROPS = 6000
SHAPENET: dict[str, Any] = {"epochs": 14, "batch": 64, "lr": 0.05, "drop_epochs": 11, "shift": 4}  # a minute's


def pretraining(
    backbone: str, weights: str | Ref | None, data: str | None = None
) -> tuple[list[Step], str | Ref | None]:
    """The steps that come before a recipe's own, and what its `weights` then are.

    data: spec of a set of labelled images to learn from (`labelled:DIR`), in the place of `weights`. shapenet's
        weights are published nowhere: "DEFAULT" is a minute's training on drawn images.
    """
    if data is None and (backbone != "shapenet" or weights != "DEFAULT"):
        return [], weights
    if data is not None and weights not in ("DEFAULT", None):
        raise ValueError(f"weights {weights} are not used where the net is pre-trained on {data}: give one of them")
    if data is not None and not data.startswith("labelled:"):
        raise ValueError(f"pretrain is {data!r}; a net learns whole images by their class: labelled:DIR")
    images = ShapeCrops(CROPS) if data is None else open_dataset(data)
    schedule = SHAPENET if backbone == "shapenet" else {}
    return [Step("pretrain", Pretraining(backbone=backbone, **schedule), data=images)], Ref("pretrain")
