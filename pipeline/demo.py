"""The main job on the embedded default: R-CNN on drawn shapes, trained and evaluated, and a report of it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..cache import files
from ..stages.datasets.shapes import Shapes
from ..stages.record import Record
from . import measure, pictures, report, saved
from .recipes import rcnn
from .run import DEFAULT, Run
from .tables import Table
from .words import emit

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
    found = _drawn(run.over(test, pipeline.outputs), train.classes, out / "pictures")
    scores = measure.scored(found, test).scores
    tables = _tables(run, {**scores, "left_out": measure.left_out(test)})
    for table in tables:
        emit(table)
    path = out / "report.html"
    files.write_text(path, report.page("R-CNN on shapes", _parts(tables, out)))
    return path


def _drawn(records: Iterable[Record], classes: Sequence[str], place: Path) -> Iterator[Record]:
    """The records as they come, the first of them drawn."""
    for number, record in enumerate(records):
        if number < PICTURES:
            pictures.detections(record, classes, place / f"{number:02d}.png", truth=True)
        yield record


def _tables(run: Run, scores: dict[str, Any]) -> list[Table]:
    assert run.store is not None
    costs, cache = report.cost_table(run), report.cache_table(report.cache_rows(run.store), run.store.root)
    return [report.ap_table(scores), report.lost_table(scores["lost"]), costs, cache]


def _parts(tables: Sequence[Table], out: Path) -> list[str]:
    images = "".join(f'<img src="pictures/{p.name}" alt="">' for p in sorted((out / "pictures").glob("*.png")))
    precision, *others = tables
    return [
        f"<p>Trained on {TRAIN} drawn images, measured on {TEST} others, {BOXES} proposals an image at most, "
        f"features by <code>shapenet</code>, trained first on drawn crops. {os.cpu_count()} cores.</p>",
        report.html_table(precision, total=True),
        *map(report.html_table, others),
        f"<h2>Detections</h2><p>The best {pictures.BEST} of each image; annotated boxes are dashed white. "
        f"Scores are SVM margins: only their order means something.</p>{images}",
    ]
