"""`rcnn recipes` and `rcnn show`: what there is to train, and of which steps it is made."""

from __future__ import annotations

from ..options import Allow, RunOrRecipe, Sets, Swaps
from ..words import params_of, pipeline_of


def recipes() -> None:
    """List the recipes."""
    from .. import recipes as found

    for name in found.__all__:
        print(f"{name:12} {(getattr(found, name).__doc__ or '').splitlines()[0]}")


def show(recipe: RunOrRecipe, sets: Sets = [], swaps: Swaps = [], allow: Allow = []) -> None:
    """Print the steps of a recipe or RUN, what each reads and gives, and its parameters."""
    pipeline = pipeline_of(recipe, sets, swaps, allow=allow)
    for step in pipeline:
        stage = pipeline.stage(step.name)
        print(f"{step.name}: {type(step.stage).__name__}{'' if step.keep else '  (not kept in the cache)'}")
        print(f"  reads {', '.join(stage.needs)}  gives {', '.join(stage.gives) or 'a state'}")
        if stage.learns:
            print(f"  learns from {', '.join(stage.learns)}")
        for name, value in params_of(step.stage).items():
            print(f"  {step.name}__{name} = {value!r}")
