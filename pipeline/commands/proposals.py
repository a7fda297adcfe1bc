"""`rcnn proposals`: proposal stages side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..options import Allow, CacheDir, Device, Jobs, Json, Shard, Strict
from ..words import emit, open_data, say, shard_of

With = Annotated[
    list[str],
    typer.Option(
        "--with",
        metavar="WHAT",
        help="A stage with its parameters (selective_search.SelectiveSearch:mode=quality,top=3000), a RUN folder or "
        "a recipe. Give it once for each.",
    ),
]


def proposals(
    spec: Annotated[str, typer.Argument(metavar="SPEC", help="An annotated data set, as --data names it elsewhere.")],
    stages: With = [],
    out: Annotated[Path, typer.Option(help="Folder for the plots and proposals.json.")] = Path("proposals"),
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Of the one --with: also its boxes and scores, as precomputed.Precomputed reads them. A file that is "
            "there is added to.",
        ),
    ] = None,
    by_class: Annotated[bool, typer.Option("--by-class", help="Also a table by class.")] = False,
    shard: Shard = "0/1",
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
    as_json: Json = False,
    allow: Allow = [],
    strict: Strict = False,
) -> None:
    """Compare proposal stages: recall at IoU 0.5 to 0.9, AR, ABO and MABO against the number of boxes.

    Boxes are taken from the first on. Selective search and stages that score boxes put the best first; sliding
    windows have no such order (they come largest first) and are marked.
    """
    from ...cache import files
    from .. import proposal_plots, proposal_report, saved_boxes
    from ..run import DEFAULT

    one_by_one = proposal_report.contenders(stages, allow)
    kept = saved_boxes.opened(save, one_by_one) if save else {}
    records = open_data(spec, strict, cache, jobs)
    indices = shard_of(shard, len(records))
    files.make_folder(out)  # refused now, if it cannot be made, not after the work
    options = {"device": device, "jobs": jobs}
    done = [proposal_report.measure_one(one, records, indices, cache or DEFAULT, **options) for one in one_by_one]
    found = proposal_report.as_json(done, records, by_class)
    files.write_json(out / "proposals.json", found)
    proposal_plots.against_boxes(found, out / "recall-by-boxes.png")
    proposal_plots.against_iou(found, out / "recall-by-iou.png")
    if as_json:
        print(json.dumps(found))
    else:
        for table in proposal_report.tables(found):
            emit(table)
    if save:
        saved_boxes.write(save, kept, one_by_one[0], records, indices, cache or DEFAULT, **options)
        say(f"the boxes are in {save}")
    say(f"plots and proposals.json are in {out}")
