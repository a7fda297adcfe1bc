"""`rcnn plan`: what a run would compute, keep and cost."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ..options import Allow, CacheDir, Data, Device, Jobs, Json, RunOrRecipe, Seed, Sets, Strict, Swaps
from ..words import emit, make_run, open_data, pipeline_of, say


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
    strict: Strict = False,
) -> None:
    """Say what training on --data (and evaluating on --test) would run, reuse, write and take, before it starts.

    With a RUN: what using it on --data would. A few images are run for the rates; nothing of them is kept.
    """
    from .. import plan_table
    from ..plan import plan as made_plan
    from ..tables import size

    pipeline = pipeline_of(recipe, sets, swaps, seed, allow)
    records = open_data(data, strict, cache, jobs)
    others = open_data(test, strict, cache, jobs) if test else None
    made = made_plan(make_run(pipeline, device, jobs, cache), records, others, sample)
    if as_json:
        print(json.dumps(plan_table.as_json(made)))
    else:
        emit(plan_table.plan_table(made, recipe))
    if not made.fits:
        say(f"warning: {size(made.sizes.stored)} will not fit in {size(made.free)} at {made.cache}")
