"""`rcnn detect`: objects in images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..options import Allow, CacheDir, Device, Jobs, Json, Strict, Trained
from ..words import make_run, open_images, pipeline_of, say


def detect(
    run: Trained,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json and the pictures.")] = Path("detections"),
    min_score: Annotated[float | None, typer.Option(help="Draw all from this score on. [default: the best 5]")] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
    as_json: Json = False,
    allow: Allow = [],
    strict: Strict = False,
) -> None:
    """Detect objects in images: COCO results JSON, and pictures.

    An image that cannot be read is named and left out.
    """
    from ...cache import files
    from .. import pictures
    from ..results import coco_results

    pipeline = pipeline_of(str(run), allow=allow)
    work = make_run(pipeline, device, jobs, cache)
    records = open_images(images, strict, cache, jobs)
    files.make_folder(out)  # refused now, if it cannot be made, not after the work
    rows: list[dict[str, Any]] = []
    for number, record in enumerate(work.over(records, pipeline.outputs), 1):
        rows += coco_results(record, number, pipeline.classes, pipeline.category_ids)
        name = f"{number:06d}-{Path(record.id).stem}.png"
        pictures.detections(record, pipeline.classes, out / "pictures" / name, min_score)
    files.write_text(out / "results.json", json.dumps(rows))
    if as_json:
        print(json.dumps(rows))
    say(f"{len(rows)} detections in {len(records)} images: results.json and pictures are in {out}")
