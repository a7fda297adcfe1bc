"""The main job on the embedded default: five systems of the family on drawn shapes, side by side, and a report."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cache import files
from ..cache.store import Store
from ..stages.datasets.shapes import Shapes
from . import compare, compare_tables, families, pictures, report, saved
from .pipeline import Pipeline
from .recipes import fast, faster, mask, rcnn, sppnet
from .run import DEFAULT, Run
from .tables import Table
from .times import environment
from .words import emit, say

TRAIN, TEST, BOXES, TIMED = 160, 60, 400, 4
PICTURES = 4
STEPS, PROPOSING_STEPS = 500, 1200  # of joint training, two images each; with an RPN, one image each
SCALE, SIDES = 240, (16, 32, 64, 128)  # shorter side of the image, and sides of anchors, in pixels
WIDTHS = (256, 256)  # of new fully connected layers


def systems() -> dict[str, Pipeline]:
    """The five systems, by name, as the demo trains them."""
    on_map: dict[str, Any] = {"scale": SCALE, "sides": SIDES, "fc": WIDTHS}
    small = {"proposals__width": 128, "proposals__norm": 2.0, "proposals__min_side": 6.0,
             "proposals__train_pre_nms": 1500, "proposals__train_top": 400,
             "training__images": 1, "training__rois": 64}  # fmt: skip
    proposing = {**small, **schedule(PROPOSING_STEPS, 0.01)}
    return {
        "rcnn": rcnn("shapenet", proposals=BOXES),
        "sppnet": sppnet("shapenet", proposals=BOXES, scales=(SCALE,)),
        "fast": fast("shapenet", proposals=BOXES, scales=(SCALE,), fc=WIDTHS).set_params(**schedule(STEPS, 0.005)),
        "faster": faster("shapenet", **on_map).set_params(**proposing),
        "mask": mask("shapenet", **on_map).set_params(**proposing, masks__width=64, masks__convs=2),
    }


def schedule(steps: int, lr: float) -> dict[str, Any]:
    """Parameters of a Jointly for a net that is small and learns in minutes."""
    return {"training__steps": steps, "training__drop_every": max(steps * 3 // 4, 1), "training__lr": lr,
            "training__clip": 10.0}  # fmt: skip


def demo(out: Path, device: str = "auto", jobs: int | None = None, cache: Path | None = None) -> Path:
    """Train, measure and time the systems on shapes, write RUNs and a report into `out`; returns the report's path."""
    pipelines, train, test = systems(), Shapes(TRAIN, seed=0), Shapes(TEST, seed=1)
    places = [out / "runs" / name for name in pipelines]
    for place in places:
        saved.prepare(place)
    runs = {name: Run(one, cache=cache or DEFAULT, device=device, jobs=jobs) for name, one in pipelines.items()}
    sides, costs = families.measure(list(runs), places, runs.__getitem__, train, test, TIMED, device, say)
    for side in sides:
        say(f"{side.name}: {report.cost_words(side.clock)}")
    found = compare.compare(sides, test, compare.bases("first", len(sides)))
    tables = [*compare_tables.tables(found, "system"), *families.tables(costs, environment(device))]
    store = Store(cache)
    tables.append(report.cache_table(report.cache_rows(store), store.root))
    for table in tables:
        emit(table)
    path = out / "report.html"
    drawn = _drawn(runs, test, out)
    files.write_text(path, report.page("The R-CNN family on shapes", _parts(tables, drawn)))
    return path


def _drawn(runs: Mapping[str, Run], test: Any, out: Path) -> list[list[str]]:
    """A row of pictures for each of the first images, one of each system: their places from `out`."""
    rows = []
    for i in range(min(PICTURES, len(test))):
        row = []
        for name, run in runs.items():
            place = f"pictures/{i:02d}-{name}.png"
            (record,) = run.over(test, run.pipeline.outputs, indices=[i])
            pictures.detections(record, test.classes, out / place, truth=True)
            row.append(place)
        rows.append(row)
    return rows


def _parts(tables: Sequence[Table], drawn: Sequence[Sequence[str]]) -> list[str]:
    rows = "".join("<tr>" + "".join(f'<td><img src="{place}" alt=""></td>' for place in row) + "</tr>" for row in drawn)
    head = "".join(f"<th>{Path(place).stem.partition('-')[2]}</th>" for place in (drawn[0] if drawn else ()))
    return [
        f"<p>Trained on {TRAIN} drawn images, measured on {TEST} others; rcnn, sppnet and fast have at most {BOXES} "
        f"proposals of selective search an image, features by <code>shapenet</code>, trained first on drawn crops; "
        f"{STEPS} steps of two images for fast, {PROPOSING_STEPS} of one for faster and mask. {os.cpu_count()} "
        "cores.</p>",
        *map(report.html_table, tables),
        f"<h2>Detections</h2><p>The best {pictures.BEST} of each image; annotated boxes are dashed white. "
        f"Scores of rcnn and sppnet are SVM margins: only their order means something.</p>"
        f'<table class="pictures"><tr>{head}</tr>{rows}</table>',
    ]
