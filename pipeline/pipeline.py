"""Named steps in a row, checked when they are put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..stages.nets.jointly import Jointly
from ..stages.record import Record, Records, field_of
from ..stages.stage import Stage
from .renamed import Renamed
from .together import check_wiring, join

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
                check_wiring(self, step.name, step.stage)
        self._check_outputs(given)

    def _members(self, steps: Iterable[Step]) -> list[str]:
        """The names of the steps that some of these train together."""
        return [name for step in steps if isinstance(step.stage, Jointly) for name in step.stage.members]

    def _join(self) -> None:
        """Tell each Jointly its members' stages."""
        join({step.name: step.stage for step in self.steps if isinstance(step.stage, Stage)})

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
