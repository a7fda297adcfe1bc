"""What is in data sets and what is wrong with them, by file: the report behind `rcnn data`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..cache.store import Store
from ..errors import UserError
from ..stages.boxes import overlap
from ..stages.datasets.problem import KINDS, Problem
from ..stages.datasets.spec import open_dataset
from ..stages.masks import area_of
from ..stages.record import Record, Records
from . import anchor_hint
from .twins import Picture, letter, twins
from .usable import Usable, examined, image_files

TWICE = 0.8  # IoU above which two boxes of a class are one object annotated twice
AREAS = {"small": 32.0**2, "medium": 96.0**2, "large": np.inf}  # COCO's: area under so many pixels
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)  # of the image's side: upper ends of the bars
LEVELS = {"min": 0.0, "5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95, "max": 1.0}
COUNTS = (0, 1, 2, 5, 10, 20, 50)  # objects an image: lower ends of the bars
SIZES = 5  # image sizes that are listed by name


class Opened(NamedTuple):
    """A data set of the report: its spec, what of it is usable, what is wrong, and its pictures."""

    spec: str
    records: Records
    problems: list[Problem]
    pictures: list[Picture]


def report(specs: Sequence[str], store: Store | None, jobs: int = 1) -> dict[str, Any]:
    """All of the report, as JSON holds it: sets, problems and histograms, sets named A, B .. in the order given."""
    opened = [_opened(i, spec, store, jobs) for i, spec in enumerate(specs)]
    problems = [(i, problem) for i, one in enumerate(opened) for problem in one.problems]
    problems += twins([picture for one in opened for picture in one.pictures])
    problems.sort(key=lambda pair: KINDS.index(pair[1].kind))  # stable: by set and file within a kind
    names = dict.fromkeys(name for one in opened for name in one.records.classes)
    return {
        "sets": [{"set": letter(i), **_census(one)} for i, one in enumerate(opened)],
        "classes": list(names),
        "problems": [_row(i, problem) for i, problem in problems],
    }


def left_out(found: Mapping[str, Any]) -> dict[str, int]:
    """How many objects and images of a report's sets cannot be used."""
    rows = Counter(row["left_out"] for row in found["problems"])
    return {what: rows[what] for what in ("object", "image")}


def _opened(number: int, spec: str, store: Store | None, jobs: int) -> Opened:
    records = open_dataset(spec)
    paths = image_files(records)
    verdicts = examined(paths, store, jobs)
    usable = Usable(records, verdicts) if paths else records
    seen = (p for i, record in enumerate(usable) for look in (_doubles, _masks) for p in look(usable, i, record))
    problems = [*getattr(usable, "problems", ()), *seen]
    return Opened(spec, usable, problems, [Picture(number, *pair) for pair in zip(paths, verdicts)])


def _row(number: int, problem: Problem) -> dict[str, str]:
    return {
        "set": letter(number), "kind": problem.kind, "file": problem.file, "what": problem.what,
        "left_out": problem.loses, "class": problem.label,
    }  # fmt: skip


def _doubles(records: Any, index: int, record: Record) -> Iterator[Problem]:
    """Objects of one class whose boxes are nearly one."""
    if "truth_boxes" not in record or len(record["truth_labels"]) < 2 or not hasattr(records, "source"):
        return
    boxes, labels = record["truth_boxes"], record["truth_labels"]
    single = ~record["truth_crowd"]
    same = (labels[:, None] == labels) & single[:, None] & single  # T T
    source = records.source(index)
    for i, j in np.argwhere(np.triu(same & (overlap(boxes, boxes) > TWICE), 1)):
        box = f"({', '.join(f'{value:g}' for value in boxes[j])})"
        what = f"{source.objects[i]} and {source.objects[j]} have nearly one box, {box}"
        yield Problem("double box", str(source.annotation), what, "", records.classes[labels[j] - 1])


def _masks(records: Any, index: int, record: Record) -> Iterator[Problem]:
    """Masks that cannot be read, or show nothing."""
    if "truth_masks" not in record or not hasattr(records, "source"):
        return
    source = records.source(index)
    try:
        masks = record["truth_masks"]
    except UserError as error:
        what = str(error).removeprefix(f"{source.annotation}: ")
        yield Problem("malformed entry", str(source.annotation), f"masks of {record.id} cannot be read: {what}")
        return
    for i in (i for i, mask in enumerate(masks) if not area_of(mask)):
        yield Problem("malformed entry", str(source.annotation), f"the mask of {source.objects[i]} has no pixel")


# -- what is in it -----------------------------------------------------------------------------------------


class Truths(NamedTuple):
    """The objects of all images: box (N 4), label, area, width, height, share of the image's side, image; each N."""

    box: Any
    label: Any
    area: Any
    width: Any
    height: Any
    share: Any
    image: Any


def _census(one: Opened) -> dict[str, Any]:
    records = one.records
    lost = Counter(problem.loses for problem in one.problems)
    gathered = [_of_image(i, record) for i, record in enumerate(records)]
    truths = Truths(*(np.concatenate(column) for column in zip(*(truth for truth, _size, _flags in gathered))))
    sizes = np.array([size for _truth, size, _flags in gathered])  # N 2
    flags = np.sum([flags for _truth, _size, flags in gathered], axis=0)
    an_image = np.bincount(truths.image, minlength=len(records))
    return {
        "spec": one.spec,
        "images": len(records),
        "objects": len(truths.label),
        "left_out": {"objects": lost["object"], "images": lost["image"]},
        "difficult": int(flags[0]),
        "crowd": int(flags[1]),
        "masks": int(flags[2]),
        "classes": _by_class(truths, records.classes),
        "areas": _bars(truths.area, [0, *AREAS.values()], list(AREAS)),
        "shares": _bars(np.minimum(truths.share, 1 - 1e-6), [0, *SHARES], _steps([0, *SHARES])),
        "objects_an_image": _bars(an_image, [*COUNTS, np.inf], _ranges(COUNTS)) if records.classes else {},
        "anchors": anchor_hint.hint(truths.box, sizes[truths.image]) if len(truths.label) else {},
        "quantiles": _quantiles(truths, sizes, an_image),
        "image_sizes": _sizes(sizes),
    }


def _of_image(index: int, record: Record) -> tuple[Truths, tuple[int, int], tuple[int, int, int]]:
    """The objects of an image, its (height, width), and how many are difficult, crowds, and have masks."""
    height, width = (int(side) for side in record["size"])
    if "truth_boxes" not in record:
        none = np.zeros(0)
        none_at = none.astype(np.int64)
        return Truths(np.zeros((0, 4)), none, none, none, none, none, none_at), (height, width), (0, 0, 0)
    boxes, labels = record["truth_boxes"], record["truth_labels"]
    w, h = (boxes[:, 2:] - boxes[:, :2]).T  # T
    areas = record["truth_areas"] if "truth_areas" in record else w * h
    share = np.sqrt(w * h / (height * width))
    flags = [int(record[name].sum()) if name in record else 0 for name in ("truth_difficult", "truth_crowd")]
    flags.append(len(labels) if "truth_masks" in record else 0)
    truths = Truths(boxes, labels, areas, w, h, share, np.full(len(labels), index))
    return truths, (height, width), (flags[0], flags[1], flags[2])


def _by_class(truths: Truths, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    found = {}
    for label, name in enumerate(classes, 1):
        mine = truths.label == label
        found[name] = {"objects": int(mine.sum()), "images": len(np.unique(truths.image[mine]))}
    return found


def _bars(values: Any, edges: Sequence[float], names: Sequence[str]) -> dict[str, int]:
    counts, _edges = np.histogram(values, np.array(edges, np.float64))
    return dict(zip(names, map(int, counts)))


def _steps(edges: Sequence[float]) -> list[str]:
    return [f"{100 * low:.0f}-{100 * high:.0f} %" for low, high in pairwise(edges)]


def _ranges(starts: Sequence[int]) -> list[str]:
    ends = [f"-{high - 1}" if high - 1 > low else "" for low, high in pairwise(starts)]
    return [f"{low}{end}" for low, end in zip(starts, [*ends, " or more"])]


def _quantiles(truths: Truths, sizes: Any, an_image: Any) -> dict[str, dict[str, float]]:
    columns = {
        "box width": truths.width,
        "box height": truths.height,
        "box aspect (w/h)": truths.width / np.maximum(truths.height, 1e-6),
        "share of the side": truths.share,
        "objects an image": an_image,
        "image width": sizes[:, 1],
        "image height": sizes[:, 0],
    }
    return {name: _levels(column) for name, column in columns.items() if len(column) and len(truths.label)}


def _levels(values: Any) -> dict[str, float]:
    return dict(zip(LEVELS, map(float, np.quantile(np.asarray(values, np.float64), list(LEVELS.values())))))


def _sizes(sizes: Any) -> dict[str, int]:
    """The commonest sizes "width x height" and how many images have them; the rest together."""
    counts = Counter(f"{width} x {height}" for height, width in sizes)
    common = counts.most_common(SIZES)
    rest = len(counts) - len(common)
    return {**dict(common), **({f"{rest} others": len(sizes) - sum(n for _s, n in common)} if rest else {})}
