"""`rcnn import` and `rcnn export`: detectors of torchvision as RUN folders, and the other way."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import UserError
from ..options import Allow, Trained
from ..words import pipeline_of, say

PREFIX = "torchvision:"


def import_(
    detector: Annotated[str, typer.Argument(metavar="torchvision:NAME", help="A detector of torchvision's.")],
    weights: Annotated[str, typer.Option(help="A file of its state, or a name of torchvision's (downloaded).")],
    out: Annotated[Path, typer.Option(help="Folder for the RUN.")],
    classes: Annotated[str, typer.Option(help="NAME,NAME.. of labels 1..K. [default: COCO's, of 90]")] = "",
) -> None:
    """Make a RUN folder of a detector of torchvision: it detects what that detects.

    rcnn import torchvision:fasterrcnn_resnet50_fpn --weights DEFAULT --out RUN (or torchvision:maskrcnn_resnet50_fpn)
    """
    from .. import saved
    from ..torchvision_detectors import BACKBONES, detector_of, imported

    name = detector.removeprefix(PREFIX)
    if name == detector:
        raise UserError(
            f"{detector!r} names no detector: write torchvision:NAME, such as {PREFIX}{next(iter(BACKBONES))}"
        )
    saved.prepare(out)
    names = [part.strip() for part in classes.split(",")] if classes else []
    pipeline = imported(detector_of(name, weights), BACKBONES[name], names)
    saved.save(pipeline, out)
    say(f"{name} with {len(pipeline.classes)} classes; the RUN is in {out}")


def export(
    run: Trained,
    out: Annotated[Path, typer.Option(help="File for the state: .pth, .pt or .safetensors.")],
    allow: Allow = [],
) -> None:
    """Write a RUN of `faster` or `mask` as a state of torchvision's own on ResNet-50 and FPN, and say how to load it.

    It was trained with backbone=resnet50, fpn=true, proposals__anchor_style=torchvision, features__aligned=false,
    suppression__top_per_class=null (and for masks mask_features__aligned=false); what else torchvision has not is
    named.
    """
    from ..torchvision_detectors import exported, write

    name, state, arguments = exported(pipeline_of(str(run), allow=allow))
    write(state, out)
    said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    say(f"the state is in {out}; torchvision reads it so:")
    print(f"model = torchvision.models.detection.{name}(weights=None, weights_backbone=None, {said})")
    path = repr(str(out))
    safe = out.suffix == ".safetensors"
    read = f"safetensors.torch.load_file({path})" if safe else f"torch.load({path}, weights_only=True)"
    print(f"model.load_state_dict({read})")
