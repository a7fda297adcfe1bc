"""A mask for each detection: the branch of Mask R-CNN on a detector's map, or on a map of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...stages.features.conv_map import ConvMap
from ...stages.features.pooling import Pooler
from ...stages.features.roi_align import RoIAlign, RoIWarp
from ...stages.features.roi_pool import RoIPool
from ...stages.mask_heads.fcn import MaskHead
from ...stages.nets.backbones import early_parts
from ...stages.nets.jointly import Jointly
from ...stages.stage import Ref
from ..pipeline import Again, Step

GRID = 14  # bins a side of what the head reads (figure 4)
# How regions are pooled (table 2c): the stage, and its parameters
POOLING: dict[str, tuple[Callable[..., Pooler], dict[str, Any]]] = {
    "roi_pool": (RoIPool, {}),
    "roi_warp": (RoIWarp, {}),
    "roi_align": (RoIAlign, {}),
    "roi_align_max": (RoIAlign, {"reduce": "max"}),
}


class Branch(NamedTuple):
    """steps: those of use, behind suppression. members: those of the steps that a Jointly trains. By default no masks.

    learning: those of the members that learn.
    """

    steps: Sequence[Step] = ()
    members: tuple[str, ...] = ()
    learning: tuple[str, ...] = ()


def pooler(pooling: str, grid: int, maps: Sequence[str], objects: bool = False) -> Pooler:
    """A pooler by its name in POOLING. ValueError if there is none of it."""
    if pooling not in POOLING:
        raise ValueError(f"pooling is {pooling!r}; it is one of {', '.join(POOLING)}")
    stage, more = POOLING[pooling]
    return stage(grid, tuple(maps), objects=objects, **more)


def mask_branch(trained: Ref, maps: Sequence[str], pooling: str = "roi_align", **head: Any) -> Branch:
    """Pooling of the detections from the maps, and the head (figure 4, right); head: parameters of MaskHead."""
    pooled = {"boxes": "det_boxes", "features.pool5": "det_features.pool5"}
    steps = [
        Step("mask_features", pooler(pooling, GRID, maps, objects=True), keep=False, fields=pooled),
        Step("masks", MaskHead(trained, **head), fields={"features.pool5": "det_features.pool5"}),
    ]
    return Branch(steps, tuple(step.name for step in steps), ("masks",))


def mask_branch_c4(trained: Ref, **head: Any) -> Branch:
    """The head behind conv5, which boxes and masks share (figure 4, left): the same steps once more on detections."""
    steps = [
        Step("det_features", Again("features", boxes="det_boxes", features="det_features"), keep=False),
        Step("det_fc", Again("fc", features="det_features"), keep=False),
        Step("masks", MaskHead(trained, "conv5_map", GRID // 2, 0, **head),
             fields={"features.conv5_map": "det_features.conv5_map"}),
    ]  # fmt: skip
    return Branch(steps, ("masks",), ("masks",))


def own_mask_net(backbone: str, weights: str | Ref | None, scale: int = 600, longest: int = 1000) -> list[Step]:
    """The branch on a map of its own, for a detector that has none; it learns by itself, from the detector's boxes.

    backbone, weights: what the map starts from. scale, longest: of the image in pixels.
    """
    trained = Ref("mask_training")
    frozen = early_parts(backbone) if weights is not None else ()
    maps = ConvMap(backbone, trained, (scale,), longest, frozen)
    own = {name: f"{name}.masks" for name in maps.gives}
    branch = mask_branch(trained, ("map",))
    return [
        Step("mask_training", Jointly(("mask_map", *branch.members), weights)),
        Step("mask_map", maps, keep=False, fields=own),
        *([_on(step, own) for step in branch.steps]),
    ]


def _on(step: Step, fields: dict[str, str]) -> Step:
    """A step that reads some of these fields under their names here."""
    stage = step.stage
    read = {name: fields[name] for name in getattr(stage, "needs", ()) if name in fields}
    return Step(step.name, stage, step.keep, fields={**step.fields, **read})
