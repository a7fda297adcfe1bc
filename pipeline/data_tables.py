"""The report of `rcnn data` for the terminal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from .data_report import LEVELS
from .tables import Table
from .usable import counted

FIRST, CLASSES = 3, 20  # files of a kind, and classes, that are shown unless all are asked for
BAR, LINE = 20, 100  # characters of the longest bar, and of a line that bars of several sets share
BLOCKS = " ▏▎▍▌▋▊▉█"
HISTOGRAMS = {
    "areas": "objects by area (under 32², 96² pixels)",
    "shares": "objects by relative side: √(box area / image area)",
    "objects_an_image": "images by number of objects",
}

Found = Mapping[str, Any]


def everything(found: Found, all: bool = False) -> Iterator[Table]:
    """The tables of a report, to be printed one after another.

    all: every file and every class, not the first few.
    """
    yield sets_table(found)
    yield problems_table(found)
    yield from problem_lists(found, all)
    if any(one["objects"] for one in found["sets"]):
        yield class_table(found, all)
        for key, title in HISTOGRAMS.items():
            yield histogram(found, key, title)
        yield quantile_table(found)
        yield anchor_table(found)
    yield size_table(found)


def sets_table(found: Found) -> Table:
    """A row a data set: what of it is used, and what is left out."""
    flags = [flag for flag in ("difficult", "crowd", "masks") if any(one[flag] for one in found["sets"])]
    head = ["set", "data", "images", "left out", "objects", "left out", *flags, "classes"]
    rows = [
        [
            one["set"],
            one["spec"],
            _n(one["images"]),
            _n(one["left_out"]["images"]),
            _n(one["objects"]),
            _n(one["left_out"]["objects"]),
            *(_n(one[flag]) for flag in flags),
            _n(len(one["classes"])),
        ]
        for one in found["sets"]
    ]
    caption = "images and objects: those that are used; masks: objects that have one"
    return Table("data sets", head, rows, caption, words=(1,))


def problems_table(found: Found) -> Table:
    """A row a kind of problem, a column a set; and what is left out for it."""
    names = [one["set"] for one in found["sets"]]
    rows = []
    for kind, group in _kinds(found):
        counts = Counter(row["set"] for row in group)
        lost = Counter(row["left_out"] for row in group if row["left_out"])
        rows.append([kind, *(_n(counts[name]) for name in names), counted(lost) if lost else "nothing"])
    top = _top([row["file"] for row in found["problems"]])
    caption = "" if rows else "no problem was found"
    caption = f"files below {top}" if top else caption
    return Table("problems", ["kind", *names, "left out for it"], rows, caption, words=(len(names) + 1,))


def problem_lists(found: Found, all: bool = False) -> Iterator[Table]:
    """Each kind with its files, the first few or all; names are relative to the folder that holds them all."""
    top = _top([row["file"] for row in found["problems"]])
    for kind, group in _kinds(found):
        shown = group if all else group[:FIRST]
        rows = [[row["set"], _below(row["file"], top), row["what"]] for row in shown]
        more = f"and {len(group) - len(shown)} more: --all" if len(shown) < len(group) else ""
        yield Table(kind, ["set", "file", "what"], rows, more, words=(1, 2))


def class_table(found: Found, all: bool = False) -> Table:
    """A row a class: objects and images of each set. The classes without objects are named below."""
    sets = found["sets"]
    of = {name: [one["classes"].get(name, {"objects": 0, "images": 0}) for one in sets] for name in found["classes"]}
    present = [name for name, cells in of.items() if any(cell["objects"] for cell in cells)]
    present.sort(key=lambda name: -max(cell["objects"] for cell in of[name]))
    shown = present if all else present[:CLASSES]
    longest = [max(of[name][i]["objects"] for name in present) for i in range(len(sets))]
    rows, width = [], bar_width(len(sets), 22)
    for name in shown:
        cells = [[_n(c["objects"]), _n(c["images"]), bar(c["objects"], m, width)] for c, m in zip(of[name], longest)]
        rows.append([name, *(text for cell in cells for text in cell)])
    head = ["class", *(text for one in sets for text in (one["set"], "images", ""))]
    absent = [name for name in of if name not in present]
    notes = [f"{len(present) - len(shown)} more classes: --all"] if len(shown) < len(present) else []
    notes += [f"without objects: {', '.join(absent)}"] if absent else []
    return Table(
        "objects by class, and images that show one", head, rows, "; ".join(notes), words=range(3, len(head), 3)
    )


def histogram(found: Found, key: str, title: str) -> Table:
    """A row a bin: how many in each set, and what share of it."""
    sets = [one for one in found["sets"] if one[key]]
    rows, width = [], bar_width(len(sets), 20)
    for name in sets[0][key]:
        row = [name]
        for counts in (one[key] for one in sets):
            n, total = counts[name], max(sum(counts.values()), 1)
            row += [_n(n), f"{100 * n / total:.1f} %", bar(n, max(counts.values()), width)]
        rows.append(row)
    head = ["", *(text for one in sets for text in (one["set"], "share", ""))]
    return Table(title, head, rows, words=range(3, len(head), 3))


def quantile_table(found: Found) -> Table:
    """A row a quantity and set: its quantiles."""
    rows = []
    for quantity in next(one["quantiles"] for one in found["sets"] if one["quantiles"]):
        for one in (one for one in found["sets"] if quantity in one["quantiles"]):
            values = one["quantiles"][quantity]
            rows.append([quantity, one["set"], *(_short(values[level]) for level in LEVELS)])
    return Table("quantiles (pixels, where nothing else is said)", ["", "set", *LEVELS], rows, words=(1,))


def anchor_table(found: Found) -> Table:
    """Of each set, how many objects the paper's anchors cover, and those that serve best."""
    sets = [one for one in found["sets"] if one["anchors"]]
    rows = []
    for one in sets:
        for whose in ("paper", "best"):
            sides = one["anchors"][whose]["sides"]
            said = ", ".join(_short(side) for side in sides)
            rows.append([one["set"], whose, said, f"{100 * one['anchors'][whose]['covered']:.1f} %"])
    first = sets[0]["anchors"]
    best = ",".join(_short(side) for side in first["best"]["sides"])
    note = (f"in an image of {first['scale']} pixels (longest {first['longest']}), a cell for {first['stride']}, of "
            f"1:2, 1:1 and 2:1; taken by --set sides=[{best}]")  # fmt: skip
    head = ["set", "whose", "sides", "objects with IoU 0.5 or more"]
    return Table("anchors of Faster R-CNN", head, rows, note, words=(1, 2))


def size_table(found: Found) -> Table:
    """The commonest image sizes of each set."""
    rows = [[one["set"], size, _n(n)] for one in found["sets"] for size, n in one["image_sizes"].items()]
    return Table("image sizes", ["set", "width x height", "images"], rows, words=(1,))


def bar_width(sets: int, before: int) -> int:
    """Characters for a bar, where each of the sets has `before` characters of numbers beside its own."""
    return max(min(BAR, (LINE - 16) // sets - before), 4)


def bar(n: float, most: float, width: int = BAR) -> str:
    """A bar of `n` where `most` is `width` characters long; what is there at all is seen."""
    eighths = max(round(8 * width * n / most), 1) if n else 0
    return BLOCKS[8] * (eighths // 8) + BLOCKS[eighths % 8].strip()


def _kinds(found: Found) -> Iterator[tuple[str, Sequence[Found]]]:
    return ((kind, list(group)) for kind, group in groupby(found["problems"], key=lambda row: row["kind"]))


def _top(files: Sequence[str]) -> str:
    """The folder that holds all the files; "" if it is no help."""
    try:
        top = os.path.commonpath([os.path.dirname(file) for file in files])
    except ValueError:  # no file, or some named from the root and some not
        return ""
    return "" if top == os.path.sep else top


def _below(file: str, top: str) -> str:
    return os.path.relpath(file, top) if top else file


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _n(n: int) -> str:
    return f"{n:,}" if n else "-"
