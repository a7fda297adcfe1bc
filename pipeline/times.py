"""What trained pipelines take for an image: stage by stage, and end to end, side by side on the same images.

Two modes that are never mixed. *Profile*: one image through one step after another, synchronised after each, with what
is left over told. *Throughput*: an image from its record to its detections, with no synchronisation in between. Both
are fresh (no cache), warmed up, and interleaved: each image goes through all pipelines before the next one does.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from ..stages.record import Record
from .pipeline import Pipeline
from .run import Run
from .wrap import host, synchronise


def times(pipelines: Mapping[str, Pipeline], records: Sequence[Record], device: str = "auto") -> dict[str, Any]:
    """For each pipeline, by name: seconds an image, medians over images.

    "steps": of each step; "total": of an image in the profile; "rest": what of it no step accounts for; "throughput":
    of an image end to end. ValueError without images.
    """
    if not records:
        raise ValueError("no images to time")
    runs = {name: Run(one, cache=None, device=device, jobs=1, progress=False) for name, one in pipelines.items()}
    found: dict[str, list[tuple[dict[str, float], float, float]]] = {name: [] for name in runs}
    for run in runs.values():
        _profiled(run, records[0])  # warm
        _whole(run, records[0])
    for record in records:
        for name, run in runs.items():
            steps, total = _profiled(run, record)
            found[name].append((steps, total, _whole(run, record)))
    return {name: _medians(rows) for name, rows in found.items()}


def environment(device: str) -> dict[str, Any]:
    """Where times were taken: host, device and threads."""
    from .about import environment as of_keys

    known = of_keys(device)
    return {"host": platform.processor() or platform.machine(), "device": known["device"], "threads": known["threads"]}


def _profiled(run: Run, record: Record) -> tuple[dict[str, float], float]:
    """Seconds of each step on an image, and of all."""
    fresh = _fresh(record)
    run.clock.tallies.clear()
    start = time.perf_counter()
    run.one(fresh)
    total = time.perf_counter() - start
    return {name: tally.seconds for name, tally in run.clock.tallies.items()}, total


def _whole(run: Run, record: Record) -> float:
    """Seconds of an image through the stages, one handing to the next."""
    pipeline, fresh = run.pipeline, _fresh(record)
    stages = [(name, pipeline.stage(name)) for name in pipeline.needed(pipeline.outputs)]
    start = time.perf_counter()
    for _name, stage in stages:
        view = fresh.only(stage.needs)
        (fields,) = stage([_numpy(view) if stage.arrays == "numpy" else view])
        fresh = fresh.add(fields)
    synchronise(fresh[name] for name in pipeline.outputs)
    return time.perf_counter() - start


def _fresh(record: Record) -> Record:
    """The image and its size alone, decoded: reading it is no detector's time."""
    return Record(record.id, {"image": record["image"], "size": record["size"]})


def _numpy(view: Record) -> Record:
    return Record(view.id, {name: host(view[name]) for name in view}, view.reader)


def _medians(rows: Sequence[tuple[dict[str, float], float, float]]) -> dict[str, Any]:
    steps = {name: median(row[0].get(name, 0.0) for row in rows) for name in rows[0][0]}
    total = median(row[1] for row in rows)
    rest = mean(row[1] - sum(row[0].values()) for row in rows)
    whole = median(row[2] for row in rows)
    return {"steps": steps, "total": total, "rest": rest, "throughput": whole, "images": len(rows)}
