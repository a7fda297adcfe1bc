"""`rcnn run`: any step over a data set."""

from __future__ import annotations

from typing import Annotated

import typer

from ...errors import UserError
from ..options import Allow, CacheDir, Data, Device, Jobs, RunOrRecipe, Seed, Sets, Shard, Strict, Swaps
from ..words import make_run, open_data, pipeline_of, say, shard_of, told


def run(
    recipe: RunOrRecipe,
    data: Data,
    only: Annotated[str | None, typer.Option(help="Run this step alone, on what the cache holds.")] = None,
    until: Annotated[str | None, typer.Option(help="Run all steps up to and with this one.")] = None,
    shard: Shard = "0/1",
    sets: Sets = [],
    swaps: Swaps = [],
    device: Device = "auto",
    jobs: Jobs = None,
    seed: Seed = None,
    cache: CacheDir = None,
    allow: Allow = [],
    strict: Strict = False,
) -> None:
    """Run any step, or all, over a data set and leave what they give in the cache.

    A step that learns does so on the whole data set, whatever the shard.
    """
    from ..report import cost_table

    if only and until:
        raise UserError("--only and --until name a last step each: give one of them")
    pipeline = pipeline_of(recipe, sets, swaps, seed, allow)
    records = open_data(data, strict, cache, jobs)
    indices = shard_of(shard, len(records))
    last = only or until or pipeline.steps[-1].name
    work = make_run(pipeline, device, jobs, cache)
    fields = told(lambda: pipeline.stage(last).gives)
    if not pipeline.keys:
        work.fit(records, fields, steps=[last], only=only)
    for _record in work.over(records, fields, only=only, indices=indices) if fields else ():
        pass
    say(cost_table(work))
