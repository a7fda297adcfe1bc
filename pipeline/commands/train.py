"""`rcnn train`: a RUN folder from a recipe and a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import CacheDir, Data, Device, Jobs, Recipe, Seed, Sets, Strict, Swaps
from ..words import make_run, open_data, pipeline_of, say


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
    """Train a recipe on a data set and keep what detection needs in a RUN folder."""
    from .. import saved
    from ..report import cost_table

    pipeline = pipeline_of(recipe, sets, swaps, seed)
    records = open_data(data, strict, cache, jobs)
    run = make_run(pipeline, device, jobs, cache)
    saved.prepare(out)
    run.fit(records)
    saved.save(pipeline, out)
    say(cost_table(run))
    say(f"trained {pipeline.name} on {len(records)} images; the RUN is in {out}")
