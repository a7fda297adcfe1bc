"""Tables of what `rcnn compare` and `rcnn grid` found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .compare import CLAIMS
from .measure import ERRORS
from .report import LOST_CAPTION, MASK_METRICS, METRICS, left_out_words
from .tables import LINE, Table, number

DIFFERENCE_HEAD = ["difference", "low", "high", "order"]
WHAT_CHANGED = "what changed: steps and parameters, and training data where the cache knows those of both"


def tables(found: Mapping[str, Any], head: str = "RUN") -> list[Table]:
    """All tables of what `compare` found. head: of the column that names the RUNs."""
    return [
        accuracy_table(found, head),
        *mask_tables(found, head),
        *difference_tables(found, head),
        *lost_tables(found, head),
        *class_tables(found),
    ]


def difference_tables(found: Mapping[str, Any], head: str = "RUN") -> list[Table]:
    """Of boxes, and of masks where two have them. Empty where nothing is held against another."""
    boxes = [difference_table(found, head)] if any(row["difference"] for row in found["runs"]) else []
    masks = [mask_difference_table(found, head)] if any(row["mask_difference"] for row in found["runs"]) else []
    return [*boxes, *masks]


def mask_tables(found: Mapping[str, Any], head: str = "RUN") -> list[Table]:
    """COCO's numbers of masks, a row a RUN. Empty where none has any."""
    rows = [[row["run"], *(number(row["metrics"].get(name)) for name in MASK_METRICS)] for row in found["runs"]
            if "mask_coco_ap" in row["metrics"]]  # fmt: skip
    return [Table("COCO's AP of masks, mean over classes", [head, *MASK_METRICS.values()], rows)] if rows else []


def lost_tables(found: Mapping[str, Any], head: str = "RUN") -> list[Table]:
    """Empty where no RUN has the fields to count by."""
    return [lost_table(found, head)] if any(row["lost"] for row in found["runs"]) else []


def class_tables(found: Mapping[str, Any]) -> list[Table]:
    """A table for each RUN whose classes were held against another's."""
    return [class_table(found, row) for row in found["runs"] if "by_class" in row]


def accuracy_table(found: Mapping[str, Any], head: str = "RUN") -> Table:
    """A row a RUN, a column a metric."""
    rows = [[row["run"], *(number(row["metrics"].get(name)) for name in METRICS)] for row in found["runs"]]
    title = f"accuracy on the same {found['images']} images, {found['objects']} objects, mean over classes"
    without = [f"{row['run']}: {row['masks_left_out']}" for row in found["runs"] if "masks_left_out" in row]
    caption = LINE.join(filter(None, [*without, left_out_words(found["left_out"])]))
    return Table(title, [head, *METRICS.values()], rows, caption)


def difference_table(found: Mapping[str, Any], head: str = "RUN") -> Table:
    """A row a RUN: its AP, how it differs from the one that it is held against, and what was changed."""
    name = CLAIMS[found["metric"]]
    title = f"difference in {name}, {against_words(found)}"
    return _differences(found, head, title, found["metric"], name, "difference")


def mask_difference_table(found: Mapping[str, Any], head: str = "RUN") -> Table:
    """The same of masks, over COCO's IoUs."""
    title = f"difference of masks in {CLAIMS[found['metric']]}, mean over IoU 0.5 to 0.95, {against_words(found)}"
    return _differences(found, head, title, "mask_coco_ap", "COCO's mask AP", "mask_difference")


def _differences(found: Mapping[str, Any], head: str, title: str, metric: str, name: str, difference: str) -> Table:
    rows = [
        [r["run"], number(r["metrics"].get(metric)), *_difference(r[difference]), LINE.join(r["changed"])]
        for r in found["runs"]
    ]
    caption = f"{interval_words(found, sum(row[difference] is not None for row in found['runs']))}\n{WHAT_CHANGED}"
    return Table(title, [head, name, *DIFFERENCE_HEAD, "what changed"], rows, caption, (5, 6))


def lost_table(found: Mapping[str, Any], head: str = "RUN") -> Table:
    """A row a RUN: how many objects were found, and how many each step lost."""
    rows = [[row["run"], *(_share(row["lost"], fate) for fate in ERRORS)] for row in found["runs"]]
    return Table("where objects were lost", [head, *ERRORS], rows, LOST_CAPTION)


def class_table(found: Mapping[str, Any], row: Mapping[str, Any]) -> Table:
    """A row a class: objects, AP of both RUNs, the difference."""
    metric, base = found["metric"], next(one for one in found["runs"] if one["run"] == row["against"])
    rows = [
        [
            name,
            str(mine["truths"]),
            number(base["per_class"][name][metric]),
            number(mine[metric]),
            *_difference(row["by_class"][name]),
        ]
        for name, mine in row["per_class"].items()
    ]
    head = ["class", "objects", base["run"], row["run"], *DIFFERENCE_HEAD]
    caption = interval_words(found, sum(one is not None for one in row["by_class"].values()))
    return Table(f"{CLAIMS[metric]} by class: {row['run']} against {base['run']}", head, rows, caption, (7,))


def against_words(found: Mapping[str, Any]) -> str:
    """Against which RUN the differences are, in words."""
    others = {row["against"] for row in found["runs"]} - {None}
    return f"against {next(iter(others))}" if len(others) == 1 else "each against the one above"


def interval_words(found: Mapping[str, Any], n: int) -> str:
    """What low and high are, for the caption of a table with n intervals."""
    said = f"low to high: 95 % of {found['resamples']} paired resamples of the images; resolved: it excludes 0"
    return f"{said}; of {n} such intervals some miss the truth by chance" if n > 1 else said


def _difference(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["", "", "", ""]
    said = "resolved" if found["resolved"] else "not resolved"
    return [*(signed(found[name], found["resolved"]) for name in ("difference", "low", "high")), said]


def signed(value: float, resolved: bool) -> str:
    """A difference, or a bound of its interval, with its sign; one that excludes 0 shows a digit that is not 0."""
    text = f"{value:+.3f}"
    if float(text):
        return text
    return f"{value:+.{math.ceil(-math.log10(abs(value)))}f}" if resolved and value else "0.000"


def _share(counts: Mapping[str, int], fate: str) -> str:
    return f"{counts[fate]} ({100 * counts[fate] / sum(counts.values()):.0f} %)" if counts else "-"
