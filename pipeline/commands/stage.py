"""`rcnn stage`: one step on images, to be looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ...errors import UserError
from ..options import Allow, CacheDir, Device, RunOrRecipe, Seed, Sets, Swaps
from ..words import make_run, pipeline_of, say, told


def stage(
    recipe: RunOrRecipe,
    step: Annotated[str, typer.Argument(help="The step to look at.")],
    images: Annotated[list[Path], typer.Argument(help="Images.")],
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("stage"),
    sets: Sets = [],
    swaps: Swaps = [],
    device: Device = "auto",
    seed: Seed = None,
    cache: CacheDir = None,
    allow: Allow = [],
) -> None:
    """Run one step, with what it needs, on images; print what it gave, and draw it."""
    from ...stages.datasets.folder import Files
    from .. import pictures
    from ..results import describe

    pipeline = pipeline_of(recipe, sets, swaps, seed, allow)
    fields = told(lambda: pipeline.stage(step).gives)
    if not fields:
        more = f"; `rcnn run --until {step}` learns it" if pipeline.stage(step).learned else ""
        raise UserError(f"step {step!r} serves training and gives no field to look at{more}")
    work = make_run(pipeline, device, 1, cache)
    if not pipeline.keys:
        work.fit_apart(fields)
    for number, record in enumerate(Files(images), 1):  # each alone, to be looked at
        done = work.one(record, fields)
        print(f"{record.id}: " + "; ".join(describe(name, done[name]) for name in fields))
        place = out / f"{number:06d}-{Path(record.id).stem}-{step}.png"
        pictures.step(done, fields, pipeline.classes, place)
        say(f"drawn: {place}")
