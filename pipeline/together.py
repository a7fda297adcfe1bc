"""What the steps of a pipeline must agree on that a Jointly trains: their weights, and what they read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..stages.nets.jointly import Jointly
from ..stages.nets.member import Member
from ..stages.stage import Ref, Stage

if TYPE_CHECKING:
    from .pipeline import Pipeline


def join(stages: Mapping[str, Stage]) -> None:
    """Tell each Jointly its members' stages. ValueError if one is no step, or takes other weights than its.

    stages: of all steps, by name.
    """
    joint = {name: stage for name, stage in stages.items() if isinstance(stage, Jointly)}
    for member in {member: None for stage in joint.values() for member in stage.members}:
        _check_member(member, stages, joint)
    for name, stage in stages.items():
        for ref in [] if name in joint else stage.refs().values():
            if ref.step in joint and name not in joint[ref.step].members:
                raise ValueError(f"step {name!r} takes weights of {ref.step!r}, which does not train it")
        if isinstance(stage, Member) and stage.new and not stage.refs():
            kind = type(stage).__name__
            raise ValueError(f"step {name!r} ({kind}) is nothing before it was trained: weights is a Jointly's Ref")
    for name, stage in joint.items():
        start = stage.weights
        if isinstance(start, Ref) and start.step in joint:
            own = [one for one in stage.members if "weights" in stages[one].param_names()]
            own = [one for one in own if not (_new(stages[one]) and stage.lets_learn(one))]  # they may begin here
            if lacking := [one for one in own if one not in joint[start.step].members]:
                raise ValueError(f"step {name!r} goes on from {start.step!r}, which does not train {lacking[0]!r}")
        try:
            stage.join({member: stages[member] for member in stage.members})
        except ValueError as error:
            raise ValueError(f"step {name!r} (Jointly): {error}") from error


def _check_member(member: str, stages: Mapping[str, Stage], joint: Mapping[str, Jointly]) -> None:
    """ValueError unless a member is a step, and takes its weights from the last that trains it, or one after it.

    Those after it, which leave it as it is, must hold what it became.
    """
    own = [name for name, stage in joint.items() if member in stage.members]
    if member not in stages:
        raise ValueError(f"step {own[-1]!r} (Jointly) trains {member!r}, which is no step")
    if not isinstance(stages[member], Member) or "weights" not in stages[member].param_names():
        return
    last = next((i for i in reversed(range(len(own))) if joint[own[i]].lets_learn(member)), len(own) - 1)
    for i, name in enumerate(own[last + 1 :], last + 1):
        if joint[name].weights not in [Ref(one) for one in own[last:i]]:
            raise ValueError(
                f"step {name!r} (Jointly) leaves {member!r} as it is, and starts from {joint[name].weights!r}, "
                f"not from {own[last]!r}, which trained it"
            )
    weights = stages[member].get_params()["weights"]
    if weights not in [Ref(name) for name in own[last:]]:
        raise ValueError(
            f"step {member!r} is trained by {own[last]!r} and takes its weights from it, not {weights!r}: "
            f"what training starts from is {own[last]}__weights"
        )


def check_wiring(pipeline: Pipeline, name: str, jointly: Jointly) -> None:
    """ValueError unless each member reads, at use, what the member before it gave in training."""
    authors = pipeline.authors()
    given: dict[str, str] = {}  # field of the stages -> member
    for member in jointly.members:
        step = pipeline.step(member)
        for inner in pipeline.method(member).needs:
            outer = step.fields.get(inner, inner)
            author = pipeline.origin(authors[outer]) if outer in authors else None
            if inner in given and inner != "boxes" and author != given[inner]:
                raise ValueError(
                    f"step {name!r} (Jointly) trains {member!r} on the {inner!r} of {given[inner]!r}; at use it "
                    f"reads {outer!r} of {authors.get(outer)!r}"
                )
        given |= dict.fromkeys(pipeline.method(member).gives, member)


def _new(stage: Stage) -> bool:
    """Whether a stage is nothing before it was trained, so that training may begin with new weights of it."""
    return isinstance(stage, Member) and stage.new
