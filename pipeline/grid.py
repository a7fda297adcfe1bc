"""A recipe trained for every value of a parameter, or of several, and measured on the same images.

R-CNN chose the overlap below which a region is a negative "by a grid search over {0, 0.1, ..., 0.5} on a validation
set" (section 2.3). What is shared between values (features, when only the classifier's parameter varies) is computed
once: it comes from the cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import UserError
from ..stages.record import Records
from . import compare, compare_tables, saved
from .changes import parts
from .compare import Measured
from .pipeline import Pipeline
from .report import cost_words
from .run import Run
from .tables import LINE, Table
from .words import assignment

Values = Mapping[str, Any]  # parameter -> value, one point of the grid
NOT_A_TEST = "a value chosen on these images is no test result on them: measure it on others"


def axis(text: str) -> tuple[str, list[Any]]:
    """The parameter and the values of `PARAM=V1,V2,...`, each read as --set reads it.

    A JSON list is the list of values; a value that is itself a list stands in it: `PARAM=[["pool5"],["fc6"]]`.
    UserError if it is not of this form, or a value stands in it twice.
    """
    key, equals, words = text.partition("=")
    if not (key and equals and words):
        raise UserError(f"{text}: write step__parameter=value,value,...")
    values = _json_list(words) or _json_list(f"[{words}]")
    if values is None:
        values = [assignment(f"{key}={word.strip()}")[1] for word in words.split(",")]
    said = [as_set(key, value) for value in values]
    if twice := next((one for one in said if said.count(one) > 1), None):
        raise UserError(f"{text}: {twice} stands in it twice")
    return key, values


def _json_list(words: str) -> list[Any] | None:
    """The values of a JSON list that is not empty; None for anything else."""
    try:
        found = json.loads(words)
    except ValueError:
        return None
    return [tuple(v) if isinstance(v, list) else v for v in found] or None if isinstance(found, list) else None


def as_set(key: str, value: Any) -> str:
    """A parameter and its value as --set takes them."""
    return f"{key}={json.dumps(value)}"


def points(axes: Sequence[tuple[str, Sequence[Any]]]) -> list[Values]:
    """Every combination of the axes' values, the last axis the fastest. UserError if an axis stands twice."""
    keys = [key for key, _ in axes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UserError(f"{twice} is two axes of the grid: put all its values into one")
    return [dict(zip(keys, values)) for values in product(*(values for _, values in axes))]


def label(values: Values) -> str:
    """The values alone, for a table whose head names the parameters."""
    return ", ".join(_word(value) for value in values.values())


def folder(values: Values) -> str:
    """A folder's name: parameters and values, one name for each point."""
    return ",".join(f"{key}={quote(_word(value), safe=' ()[]')}" for key, value in values.items())


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, (list, tuple)) else str(value)


def default_point(make: Callable[[Values], Pipeline], grid: Sequence[Values]) -> int | None:
    """The position of the point that is the recipe as it is without the grid; None if none is.

    make: the pipeline of a point.
    """
    try:
        usual = parts(make({}))
    except UserError:  # each point may be sound where the recipe's own value, with what else is set, is not
        return None
    return next((i for i, values in enumerate(grid) if parts(make(values)) == usual), None)


def refuse(work: Callable[[Values], Run], grid: Sequence[Values]) -> None:
    """UserError if a point cannot be: a bad parameter, or a weights file that is not there. Trains nothing."""
    for values in grid:
        run = work(values)
        for step in run.pipeline:
            if not set(run.pipeline.taught(run.pipeline.stage(step.name).gives, [step.name])) - {step.name}:
                run.method_key(step.name)  # of what follows a fit, nothing can be known before it


def refuse_twice(sets: Sequence[str], grid: Sequence[Values]) -> None:
    """UserError if --set sets what is an axis of the grid."""
    for text in sets:
        if (key := text.partition("=")[0]) in grid[0]:
            raise UserError(f"{key} is an axis of the grid and set as well: leave --set {text} out")


def refuse_data(train: Records, test: Records) -> None:
    """UserError unless what is learned from one can be measured on the other."""
    if not test.classes:
        raise UserError("the data set of --test has no annotations to measure against")
    if tuple(train.classes) != tuple(test.classes):
        raise UserError(
            f"--data has the classes {', '.join(train.classes) or 'none'}; --test has {', '.join(test.classes)}"
        )
    compare.refuse_without_objects(test)


def prepare(out: Path, grid: Sequence[Values]) -> list[Path]:
    """A folder in `out` for the RUN of each point. UserError if one cannot be made, or is of something else."""
    places = [out / folder(values) for values in grid]
    for place in places:
        saved.prepare(place)
    return places


def train_all(
    work: Callable[[Values], Run],
    grid: Sequence[Values],
    places: Sequence[Path | None],
    train: Records,
    test: Records,
    tell: Callable[[str], None],
) -> list[Measured]:
    """All points trained and measured, one after another.

    work: the Run of a point. places: of each, where its RUN is kept, if anywhere. tell: is told how it goes.
    """
    measured = []
    for number, (values, place) in enumerate(zip(grid, places), 1):
        tell(f"{folder(values)} ({number} of {len(grid)})")
        measured.append(trained(work(values), label(values), train, test, place))
        tell(f"  {cost_words(measured[-1].clock)}")
    return measured


def trained(run: Run, name: str, train: Records, test: Records, keep: Path | None = None) -> Measured:
    """One point: trained on `train`, kept as a RUN in the folder `keep` if given, measured on `test`."""
    run.fit(train)
    if keep:
        saved.save(run.pipeline, keep)
    return compare.measured(name, run, test)


def found(
    recipe: str,
    grid: Sequence[Values],
    default: int | None,
    measured: Sequence[Measured],
    test: Records,
    **options: Any,
) -> dict[str, Any]:
    """How the points compare, ready for JSON: compare.compare's, each against the default, else against the first.

    options: as compare.compare takes them.
    """
    base = default or 0
    against = [None if i == base else base for i in range(len(grid))]
    rows = compare.compare(measured, test, against, **options)
    for i, (row, values) in enumerate(zip(rows["runs"], grid)):
        row |= {"values": dict(values), "default": i == default}
    return {"recipe": recipe, "parameters": list(grid[0]), **rows}


def tables(found: Mapping[str, Any]) -> list[Table]:
    """The tables of what `found` found, a row a point, the differences last."""
    head = ", ".join(found["parameters"])
    differences = [_of_points(found, table) for table in compare_tables.difference_tables(found, head)]
    return [
        compare_tables.accuracy_table(found, head),
        *compare_tables.mask_tables(found, head),
        *compare_tables.lost_tables(found, head),
        *compare_tables.class_tables(found),
        *differences,
    ]


def _of_points(found: Mapping[str, Any], table: Table) -> Table:
    """The table of differences without what changed, which its first column says, and with what to make of it."""
    default = any(row["default"] for row in found["runs"])
    base = "the recipe's own" if default else "the first: the recipe's own is not in the grid"
    rows = [row[:-1] for row in table.rows]
    return table._replace(
        title=f"{table.title} ({base})",
        head=table.head[:-1],
        rows=rows,
        caption=LINE.join([table.caption.partition(LINE)[0], NOT_A_TEST]),
        words=(5,),
    )
