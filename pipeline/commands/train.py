"""`rcnn train`: a RUN folder from a recipe and a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import CacheDir, Data, Device, Jobs, Recipe, Seed, Sets, Strict, Swaps
from ..words import make_run, open_data, recipe_of, say


def train(
    recipe: Recipe,
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the trained RUN.")],
    sets: Sets = [],
    swaps: Swaps = [],
    device: Device = "auto",
    jobs: Jobs = None,
    seed: Seed = None,
    cache: CacheDir = None,
    strict: Strict = False,
) -> None:
    """Train a recipe on a data set and keep what detection needs in a RUN folder.

    Several processes share the work, where torchrun starts them:

        torchrun --standalone --nproc-per-node 2 -m rcnn train fast --data SPEC --out RUN
    """
    from ...stages.nets import ranks
    from .. import saved
    from ..report import cost_table

    with ranks.joined(device):
        pipeline = recipe_of(recipe, sets, swaps, seed)
        records = open_data(data, strict, cache, jobs)
        run = make_run(pipeline, device, jobs, cache)
        if ranks.rank() == 0:
            saved.prepare(out)
        run.fit(records)
        if ranks.rank():
            return
        saved.save(pipeline, out)
        say(cost_table(run))
        say(f"trained {pipeline.name} on {len(records)} images; the RUN is in {out}")
