"""A plan in words: as a table, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from .plan import Plan, Row
from .tables import Table, size

SIZES = ("stored", "float16", "float32")


def as_json(made: Plan) -> dict[str, Any]:
    """All of the plan; "seconds" and "bytes" are of what is known."""
    rows = [{**asdict(row), "reused": row.reused} for row in made.rows]
    whole = {"seconds": made.seconds, "bytes": asdict(made.sizes), "untimed": made.untimed, "unsized": made.unsized}
    return {"rows": rows, **whole, "free": made.free, "fits": made.fits, "cache": made.cache}


def plan_table(made: Plan, name: str) -> Table:
    """A row a step and use of it, and one for all."""
    head = ["step", "for", "to run", "reused", "written", *SIZES[1:], "time", "rate"]
    least = "at least " if made.untimed else ""
    total = [*(size(getattr(made.sizes, name)) for name in SIZES), least + duration(made.seconds)]
    rows = [*map(_cells, made.rows), ["in all", "", "", "", *total, ""]]
    tests = [row.use == "test" for row in made.rows]
    sections = [i for i, test in enumerate(tests) if i == len(tests) - 1 or tests[i + 1] != test]
    return Table(f"plan of {name}", head, rows, _caption(made), (1, 8), sections)


def duration(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, word in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {word}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def rate(row: Row) -> str:
    """Of an image, or a whole fit, and of how many images it is known."""
    if row.rate is None:
        return ""
    each = duration(row.rate.seconds) if row.use == "fit" else f"{row.rate.seconds:.3g} s"
    when = "now" if row.rate.now else "before, other parameters" if row.rate.other else "before"
    return f"{each} ({row.rate.images} {when})"


def _cells(row: Row) -> list[str]:
    run = f"all {row.run}" if row.waits and row.run else str(row.run)
    if row.use == "fit":
        return [row.step, row.use, str(row.run) if row.run else "learned", "", "", "", "", _time(row), rate(row)]
    sizes = [size(getattr(row.size, name)) if row.size else "?" for name in SIZES]
    sizes = ["not kept", "", ""] if not row.kept else sizes if row.run else ["", "", ""]
    return [row.step, row.use, run, str(row.reused) if row.kept else "", *sizes, _time(row), rate(row)]


def _time(row: Row) -> str:
    return "" if not row.run else "?" if row.seconds is None else duration(row.seconds)


def _caption(made: Plan) -> str:
    lines = [f"{size(made.free)} are free at {made.cache}"]
    if any(row.size and row.size.at_most for row in made.rows):
        lines.append("sizes at most, by arithmetic: as many boxes as the proposals may give, in every image")
    if waits := sorted({row.waits for row in made.rows if row.waits and row.run and row.use != "fit"}):
        lines.append(f"all: what follows the fit of {', '.join(waits)} has no key before it, so none is looked up")
    if any(row.run and not row.kept for row in made.rows):
        lines.append("not kept: made anew whenever it is read; its time is of once")
    if any(row.rate for row in made.rows):
        lines.append("rate: of an image, or a whole fit (of so many images, measured now or in runs before)")
    if made.untimed or made.unsized:
        lines.append("?: not known yet, and in no sum")
    return "\n".join(lines)
