"""`rcnn evaluate`: how good a RUN is."""

from __future__ import annotations

import json

from ..options import Allow, CacheDir, Data, Device, Jobs, Json, Strict, Trained
from ..words import emit, make_run, open_data, pipeline_of, same_classes, say


def evaluate(
    run: Trained,
    data: Data,
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
    as_json: Json = False,
    allow: Allow = [],
    strict: Strict = False,
) -> None:
    """Measure a RUN on an annotated data set: VOC AP (11-point and area), COCO AP, of masks too; what was lost."""
    from .. import measure
    from ..report import ap_table, cost_table, lost_table, mask_tables

    pipeline = pipeline_of(str(run), allow=allow)
    records = open_data(data, strict, cache, jobs)
    same_classes(pipeline, records, run)
    work = make_run(pipeline, device, jobs, cache)
    scores = measure.scored(work.over(records, pipeline.outputs), records).scores
    found = {**scores, "left_out": measure.left_out(records)}
    if as_json:
        print(json.dumps(found))
        return
    say(cost_table(work))
    for table in (ap_table(found), *mask_tables(found)):
        emit(table)
    if found["lost"]:
        emit(lost_table(found["lost"]))
