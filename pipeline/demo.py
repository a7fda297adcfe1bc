"""The main job on the embedded default: R-CNN on drawn shapes, trained and evaluated, and a report of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..cache import files
from ..stages.datasets.shapes import Shapes
from ..stages.record import Record
from . import measure, pictures, report, saved
from .recipes import rcnn
from .run import DEFAULT, Run

TRAIN, TEST, BOXES = 160, 60, 400
PICTURES = 9


def demo(out: Path, device: str = "auto", jobs: int | None = None, cache: Path | None = None) -> Path:
    """Train and evaluate R-CNN on shapes, write a RUN and a report into `out`; returns the report's path."""
    saved.prepare(out / "run")
    train, test = Shapes(TRAIN, seed=0), Shapes(TEST, seed=1)
    pipeline = rcnn(backbone="shapenet", proposals=BOXES)
    run = Run(pipeline, cache=cache or DEFAULT, device=device, jobs=jobs)
    run.fit(train)
    saved.save(pipeline, out / "run")
    results, objects = measure.read_all(_drawn(run.over(test, pipeline.outputs), train.classes, out / "pictures"))
    scores = {**measure.evaluate(results, test), "objects": objects}
    _print(run, scores)
    assert run.store is not None
    path = out / "report.html"
    files.write_text(path, report.page("R-CNN on shapes", _parts(run, scores, out)))
    return path


def _drawn(records: Iterable[Record], classes: Sequence[str], place: Path) -> Iterator[Record]:
    """The records as they come, the first of them drawn."""
    for number, record in enumerate(records):
        if number < PICTURES:
            pictures.detections(record, classes, place / f"{number:02d}.png", truth=True)
        yield record


def _print(run: Run, scores: dict[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(report.ap_table(scores))
    console.print(report.lost_table(scores["objects"]))
    console.print(report.cost_table(run))
    rows = report.cache_rows(_store(run))
    console.print(report.cache_table(rows, _store(run).root))


def _parts(run: Run, scores: dict[str, Any], out: Path) -> list[str]:
    calls = run.clock.calls()
    said = "This run called no stage: all is from the cache." if calls == 0 else "A cache hit is counted, never timed."
    images = "".join(f'<img src="pictures/{p.name}" alt="">' for p in sorted((out / "pictures").glob("*.png")))
    rows = report.cache_rows(_store(run))
    megabytes = sum(row["bytes"] for row in rows) / 1e6
    return [
        f"<p>Trained on {TRAIN} drawn images, measured on {TEST} others, {BOXES} proposals an image at most, "
        f"features by <code>shapenet</code>, trained first on drawn crops. {os.cpu_count()} cores.</p>",
        "<h2>Average precision</h2>",
        report.html_table(report.AP_HEAD, report.ap_rows(scores), plain=False),
        "<h2>Where objects were lost</h2>",
        report.html_table(report.LOST_HEAD, report.lost_rows(scores["objects"])),
        "<h2>What each step cost</h2>",
        report.html_table(report.COST_HEAD, report.cost_rows(run)),
        f"<p>{said}</p>",
        "<h2>The cache</h2>",
        report.html_table(report.CACHE_HEAD, report.cache_cells(rows)),
        f"<p>{megabytes:,.1f} MB in <code>{escape(str(_store(run).root))}</code></p>",
        f"<h2>Detections</h2><p>The best {pictures.BEST} of each image; annotated boxes are dashed white. "
        f"Scores are SVM margins: only their order means something.</p>{images}",
    ]


def _store(run: Run) -> Any:
    assert run.store is not None
    return run.store
