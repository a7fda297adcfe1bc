"""`rcnn recipes` and `rcnn show`: what there is to train, and of which steps it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import Allow, RunOrRecipe, Sets, Swaps
from ..words import params_of, pipeline_of, say


def recipes() -> None:
    """List the recipes."""
    from .. import recipes as found

    for name in found.__all__:
        print(f"{name:12} {(getattr(found, name).__doc__ or '').splitlines()[0]}")


def show(
    recipe: RunOrRecipe,
    sets: Sets = [],
    swaps: Swaps = [],
    losses: Annotated[Path | None, typer.Option(help="Of a RUN: a picture of the losses of its training.")] = None,
    allow: Allow = [],
) -> None:
    """Print the steps of a recipe or RUN, what each reads and gives, and its parameters."""
    from .. import loss_plots

    pipeline = pipeline_of(recipe, sets, swaps, allow=allow)
    if losses:
        loss_plots.draw(loss_plots.curves(pipeline, recipe), losses)
        say(f"the losses are drawn in {losses}")
    for step in pipeline:
        stage = pipeline.stage(step.name)
        print(f"{step.name}: {type(step.stage).__name__}{'' if step.keep else '  (not kept in the cache)'}")
        print(f"  reads {', '.join(stage.needs)}  gives {', '.join(stage.gives) or 'a state'}")
        if stage.learns:
            print(f"  learns from {', '.join(stage.learns)}")
        for name, value in params_of(step.stage).items():
            print(f"  {step.name}__{name} = {value!r}")
