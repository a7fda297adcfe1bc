"""`rcnn plan`: what a run would compute, keep and cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..options import (
    Allow,
    CacheDir,
    Data,
    Device,
    Jobs,
    Json,
    RunOrRecipe,
    Seed,
    Sets,
    Swaps,
    emit,
    make_run,
    open_data,
    pipeline_of,
    say,
)


def plan(
    recipe: RunOrRecipe,
    data: Data,
    test: Annotated[str | None, typer.Option(help="Data that the RUN would be evaluated on.")] = None,
    sample: Annotated[int, typer.Option(min=0, help="Images run to measure rates; 0: what the cache remembers.")] = 3,
    sets: Sets = [],
    swaps: Swaps = [],
    device: Device = "auto",
    jobs: Jobs = None,
    seed: Seed = None,
    cache: CacheDir = None,
    as_json: Json = False,
    allow: Allow = [],
) -> None:
    """Say what training on --data (and evaluating on --test) would run, reuse, write and take, before it starts.

    With a RUN: what using it on --data would. A few images are run for the rates; nothing of them is kept.
    """
    from .. import plan as plans

    pipeline = pipeline_of(recipe, sets, swaps, seed, allow)
    records = open_data(data, cache=cache, jobs=jobs)
    work = make_run(pipeline, device, jobs, cache)
    made = plans.plan(work, records, open_data(test, cache=cache, jobs=jobs) if test else None, sample)
    if as_json:
        print(json.dumps(plans.as_json(made)))
    else:
        emit(plans.table(made, recipe))
    if not made.fits:
        say(f"warning: {made.sizes.stored / 1e9:,.0f} GB will not fit in {made.free / 1e9:,.0f} GB at {made.cache}")
