"""Named steps in a row, checked when they are put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..stages.nets.jointly import Jointly
from ..stages.nets.member import Member
from ..stages.record import Record, Records, field_of
from ..stages.stage import Checkpoint, Ref, Stage, State

SOURCES = (
    "image",
    "size",
    "truth_boxes",
    "truth_labels",
    "truth_difficult",
    "truth_crowd",
    "truth_areas",
    "truth_masks",
)  # what a data set may give
DETECTIONS = ("det_boxes", "det_scores", "det_labels")
MASKS = "det_masks"


class Again:
    """The stage of an earlier step once more, on other fields.

    `Again("features", boxes="truth_boxes", features="truth_features")` computes the features of the annotated
    boxes exactly as those of the proposals, and into fields that nothing used in detection can read.

    step: name of the earlier step.
    fields: field, or first part of a dotted one, of that stage -> the field it stands for here.
    """

    def __init__(self, step: str, **fields: str):
        self.step = step
        self.fields = fields

    def __repr__(self) -> str:
        return f"Again({self.step!r}, {', '.join(f'{k}={v!r}' for k, v in self.fields.items())})"


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: a name, a stage (or Again), and how the pipeline treats it.

    keep: whether the cache holds what it gives; a cheap step is made again from its inputs instead.
    data: what its fit learns from, where that is not the pipeline's own data (pre-training).
    fields: field of the stage -> the field it stands for here, where that is another: `boxes` -> `boxes.all`.
    apart: whether it learns from data of its own; true without data in a pipeline that was loaded trained.
    """

    name: str
    stage: Stage | Again
    keep: bool = True
    data: Records | None = None
    apart: bool = False
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.data is not None:
            object.__setattr__(self, "apart", True)
        if self.fields and isinstance(self.stage, Again):
            raise ValueError(f"step {self.name!r} is {self.stage.step!r} again: Again takes its fields itself")


class Renamed(Stage):
    """A stage on other fields: that of a step with `fields` of its own, or of an earlier step, which Again repeats.

    fields: field of the stage, or first part of a dotted one -> the field here. again: it learns nothing of its own.
    """

    def __init__(self, stage: Stage, fields: Mapping[str, str], again: bool = True):
        self.stage = stage
        self.fields = fields
        self.again = again

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.outer(name) for name in self.stage.needs)

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.outer(name) for name in self.stage.gives)

    @property
    def learns(self) -> tuple[str, ...]:  # type: ignore[override]
        return () if self.again else tuple(self.outer(name) for name in self.stage.learns)

    @property
    def learned(self) -> bool:
        return self.stage.learned and not self.again

    @property
    def chunk(self) -> int:  # type: ignore[override]
        return self.stage.chunk

    @property
    def parallel(self) -> bool:  # type: ignore[override]
        return self.stage.parallel

    @property
    def arrays(self) -> str:  # type: ignore[override]
        return self.stage.arrays

    @property
    def distributed(self) -> bool:  # type: ignore[override]
        return self.stage.distributed

    @property
    def ranked(self) -> bool:  # type: ignore[override]
        return self.stage.ranked

    def prepare(self) -> None:
        self.stage.prepare()

    def check_processes(self, count: int) -> None:
        self.stage.check_processes(count)

    def fit(self, records: Records, checkpoint: Checkpoint) -> None:
        self.stage.fit(RenamedRecords(records, self), checkpoint)

    def state(self) -> State:
        return self.stage.state()

    def state_for(self, step: str) -> State:
        return self.stage.state_for(step)

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.stage.load_state(state)

    def outer(self, name: str) -> str:
        """The field here for a field of the stage."""
        first, dot, rest = name.partition(".")
        return self.fields.get(name, self.fields.get(first, first) + dot + rest)

    def inner(self, record: Record, names: Iterable[str]) -> Record:
        """A record as the stage sees it, with these fields of its own."""
        return Record(record.id, {name: record.raw(self.outer(name)) for name in names}, record.reader)

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        inner = [self.inner(record, self.stage.needs) for record in records]
        return [{self.outer(n): value for n, value in fields.items()} for fields in self.stage(inner)]


class RenamedRecords(Records):
    """What a renamed stage learns from, as it sees it."""

    def __init__(self, records: Records, stage: Renamed):
        self.records, self.stage, self.classes = records, stage, records.classes

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        own = self.stage.stage
        return self.stage.inner(self.records[index], (*own.needs, *own.learns))


class Pipeline:
    """A detector as a row of named steps.

    steps: (name, stage) pairs or Step objects, in order. The pipeline takes copies of the stages, so that what one
        pipeline learns is in no other.
    name: of the recipe.
    outputs: the fields that a call gives; what only training needs is not run for them. None: detections, with their
        masks if a step gives these.
    Raises ValueError, naming the step and the field, if the steps cannot work together.
    """

    def __init__(
        self,
        steps: Iterable[Step | tuple[str, Stage | Again]],
        *,
        name: str = "pipeline",
        outputs: Sequence[str] | None = None,
    ):
        given = [step if isinstance(step, Step) else Step(*step) for step in steps]
        own = [s if isinstance(s.stage, Again) else dataclasses.replace(s, stage=s.stage.clone()) for s in given]
        self.steps: list[Step] = own
        self.name = name
        self.outputs = (*DETECTIONS, *self._masks()) if outputs is None else tuple(outputs)
        self.classes: tuple[str, ...] = ()
        self.category_ids: tuple[int, ...] = ()  # COCO's numbers of the classes, where the data had them
        self.keys: dict[str, str] = {}  # of fitted steps: step -> state key
        self.revision = 0  # raised when parameters or states change
        self.check()

    # -- looking into it -----------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __getitem__(self, item: str | slice) -> Any:
        """A step's stage by name; or the pipeline up to and with a step: `pipeline[:"features"]`."""
        if isinstance(item, str):
            return self.stage(item)
        if item.start is not None or item.step is not None or not isinstance(item.stop, str):
            raise ValueError('a pipeline is sliced as pipeline[:"step"], from its beginning')
        last = self.index(item.stop)
        while (whole := max(map(self.index, [item.stop, *self._members(self.steps[: last + 1])]))) > last:
            last = whole
        part = Pipeline(self.steps[: last + 1], name=self.name, outputs=self.stage(item.stop).gives)
        part.classes, part.category_ids = self.classes, self.category_ids
        for name in (step.name for step in part if step.name in self.keys):
            part.stage(name).load_state(self.stage(name).state())
            part.keys[name] = self.keys[name]
        return part

    def index(self, name: str) -> int:
        """Position of a step. ValueError if there is none of that name."""
        for i, step in enumerate(self.steps):
            if step.name == name:
                return i
        raise ValueError(f"{self.name} has no step {name!r}; it has {', '.join(s.name for s in self.steps)}")

    def step(self, name: str) -> Step:
        """A step by its name."""
        return self.steps[self.index(name)]

    def stage(self, name: str) -> Stage:
        """The stage of a step; if it is Again, or has fields of its own, the Renamed stage that it stands for."""
        step = self.step(name)
        if isinstance(step.stage, Again):
            return Renamed(self.stage(step.stage.step), step.stage.fields)
        return Renamed(step.stage, step.fields, again=False) if step.fields else step.stage

    def method(self, name: str) -> Stage:
        """The stage that does the work of a step, under its own names: that of the step repeated, if it is Again."""
        stage = self.step(self.origin(name)).stage
        assert isinstance(stage, Stage)  # an origin is no Again
        return stage

    def origin(self, name: str) -> str:
        """The step whose stage does the work of a step: the one that it repeats, if it is Again, else itself."""
        stage = self.step(name).stage
        return self.origin(stage.step) if isinstance(stage, Again) else name

    def authors(self) -> dict[str, str]:
        """Field -> the step that writes it."""
        return {field: step.name for step in self.steps for field in self.stage(step.name).gives}

    def needed(self, fields: Iterable[str]) -> list[str]:
        """The steps that a call must run to give these fields, in order."""
        authors = self.authors()
        wanted: set[str] = set()
        todo = [authors[field] for field in fields if field in authors]
        while todo:
            step = todo.pop()
            if step not in wanted:
                wanted.add(step)
                todo += [authors[field] for field in self.stage(step).needs if field in authors]
        return [step.name for step in self.steps if step.name in wanted]

    def taught(self, fields: Iterable[str], steps: Iterable[str] = ()) -> list[str]:
        """The steps that must have learned before these fields can be given, or these steps are ready, in order."""
        wanted: set[str] = set()
        todo = [*self.needed(fields), *steps]
        while todo:
            name = todo.pop()
            stage = self.stage(name)
            base = self.step(name).stage
            more = [base.step] if isinstance(base, Again) else []
            more += [ref.step for ref in self.method(name).refs().values()]
            if stage.learned and name not in wanted:
                wanted.add(name)
                more += self.needed([*stage.needs, *stage.learns])
            todo += [step for step in more if step not in wanted]
        return [step.name for step in self.steps if step.name in wanted]

    # -- parameters ----------------------------------------------------------------------------------

    def get_params(self) -> dict[str, Any]:
        """All parameters as `step__parameter`."""
        return {
            f"{step.name}__{name}": value
            for step in self.steps
            if isinstance(step.stage, Stage)
            for name, value in step.stage.get_params().items()
        }

    def set_params(self, **params: Any) -> Pipeline:
        """Change parameters by `step__parameter`; what was learned with the old ones is forgotten."""
        stages = {step.name: step.stage for step in self.steps}
        for key, value in params.items():
            step, two, name = key.partition("__")
            if not two or not isinstance(stages.get(step), Stage):
                names = ", ".join(s.name for s in self.steps if isinstance(s.stage, Stage))
                raise ValueError(f"{key!r} names no parameter: write step__parameter, with a step of {names}")
            stages[step] = stages[step].clone().set_params(**{name: value})  # type: ignore[union-attr]
        if params:
            self._become([dataclasses.replace(step, stage=stages[step.name]) for step in self.steps])
        return self

    def swap(self, name: str, stage: Stage) -> Pipeline:
        """Put another stage in the place of a step's; ValueError if the steps then cannot work together."""
        self.index(name)  # refused if there is no such step
        self._become([dataclasses.replace(s, stage=stage.clone()) if s.name == name else s for s in self.steps])
        return self

    def _become(self, steps: list[Step]) -> None:
        """Take these steps if they can work together, and forget what was learned; else stay as it was."""
        before, self.steps = self.steps, steps
        try:
            self.check()
        except ValueError:
            self.steps = before
            self._join()  # they were told the stages of the steps that are not taken
            raise
        self.keys = {}
        self.revision += 1

    # -- checks --------------------------------------------------------------------------------------

    def check(self) -> None:
        """ValueError, in one sentence that names step and field, if the steps cannot work together."""
        for step in self.steps:
            if isinstance(step.stage, Stage):
                try:
                    step.stage.check_types()
                except ValueError as error:
                    raise ValueError(f"step {step.name!r} ({type(step.stage).__name__}): {error}") from error
        self._join()
        seen: list[str] = []
        given: dict[str, str] = {}
        for step in self.steps:
            if step.name in seen or not step.name.isidentifier() or "__" in step.name:
                raise ValueError(f"step name {step.name!r} is taken or is no plain name")
            if isinstance(step.stage, Again) and step.stage.step not in seen:
                raise ValueError(f"step {step.name!r} is {step.stage.step!r} again, which is no earlier step")
            stage = self.stage(step.name)
            self._check_stage(step.name, stage, seen, given)
            given.update(dict.fromkeys(stage.gives, step.name))
            seen.append(step.name)
        for step in self.steps:
            if isinstance(step.stage, Jointly):
                self._check_wiring(step.name, step.stage)
        self._check_outputs(given)

    def _members(self, steps: Iterable[Step]) -> list[str]:
        """The names of the steps that some of these train together."""
        return [name for step in steps if isinstance(step.stage, Jointly) for name in step.stage.members]

    def _join(self) -> None:
        """Tell each Jointly its members' stages. ValueError if one is no step, or takes other weights than its."""
        stages = {step.name: step.stage for step in self.steps if isinstance(step.stage, Stage)}
        joint = {name: stage for name, stage in stages.items() if isinstance(stage, Jointly)}
        for member in {member: None for stage in joint.values() for member in stage.members}:
            self._check_member(member, stages, joint)
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

    @staticmethod
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

    def _check_wiring(self, name: str, jointly: Jointly) -> None:
        """ValueError unless each member reads, at use, what the member before it gave in training."""
        authors = self.authors()
        given: dict[str, str] = {}  # field of the stages -> member
        for member in jointly.members:
            step = self.step(member)
            for inner in self.method(member).needs:
                outer = step.fields.get(inner, inner)
                author = self.origin(authors[outer]) if outer in authors else None
                if inner in given and inner != "boxes" and author != given[inner]:
                    raise ValueError(
                        f"step {name!r} (Jointly) trains {member!r} on the {inner!r} of {given[inner]!r}; at use it "
                        f"reads {outer!r} of {authors.get(outer)!r}"
                    )
            given |= dict.fromkeys(self.method(member).gives, member)

    def _check_stage(self, name: str, stage: Stage, seen: list[str], given: Mapping[str, str]) -> None:
        kind, own = type(self.method(name)).__name__, self.method(name)
        if strange := [field for field in self.step(name).fields if field not in {*own.needs, *own.gives, *own.learns}]:
            raise ValueError(f"step {name!r} ({kind}) renames {strange[0]!r}, which it neither reads nor gives")
        try:
            own.validate()
        except ValueError as error:
            raise ValueError(f"step {name!r} ({kind}): {error}") from error
        for field in [] if self.step(name).apart else [*stage.needs, *stage.learns]:
            if field not in given and field not in SOURCES:
                raise ValueError(
                    f"step {name!r} ({kind}) needs {field!r}, which no earlier step gives "
                    f"(they give {', '.join(given) or 'nothing'})"
                )
        for field in stage.gives:
            field_of(field)
            if field in given or field in SOURCES:
                author = given.get(field, "the data set")
                raise ValueError(f"step {name!r} ({kind}) writes {field!r}, which {author} writes already")
        for param, ref in self.method(name).refs().items():
            if ref.step not in seen or not self.stage(ref.step).learned:
                raise ValueError(
                    f"step {name!r} ({kind}): {param} takes the state of {ref.step!r}, "
                    "which is no earlier step that learns"
                )

    def _check_outputs(self, given: Mapping[str, str]) -> None:
        for field in self.outputs:
            if field not in given:
                raise ValueError(f"{self.name} is to give {field!r}, which no step gives")
        if any(field.startswith("truth") for field in self.outputs):
            return
        for name in self.needed(self.outputs):
            for field in self.stage(name).needs:
                if field.startswith("truth"):
                    raise ValueError(f"step {name!r} reads {field!r} in detection, where there is no truth")

    def _masks(self) -> tuple[str, ...]:
        """The field of the masks of detections, if a step gives it."""
        return (MASKS,) if any(MASKS in self.stage(step.name).gives for step in self.steps) else ()

    # -- use -----------------------------------------------------------------------------------------

    def fit(self, data: Records, **options: Any) -> Pipeline:
        """Learn every step that detection needs from a data set, through the cache; see `run.Run`."""
        from .run import Run

        Run(self, **options).fit(data)
        return self

    def __call__(self, image: Any, **options: Any) -> Record:
        """Detections in one image: a path, an H W 3 uint8 RGB array, or a Record. Uses no cache."""
        from .run import Run

        return Run(self, cache=None, **options).one(image)

    def __repr__(self) -> str:
        rows = "".join(f"\n  ({step.name!r}, {step.stage!r})," for step in self.steps)
        return f"Pipeline([{rows}\n], name={self.name!r})"


def _new(stage: Stage) -> bool:
    """Whether a stage is nothing before it was trained, so that training may begin with new weights of it."""
    return isinstance(stage, Member) and stage.new
