"""What trained pipelines take for an image: stage by stage, and end to end, side by side on the same images.

Two modes that are never mixed. *Profile*: one image through one step after another, synchronised after each, with what
is left over told. *Throughput*: an image from its record to its detections, with no synchronisation in between. Both
are fresh (no cache), warmed up on the same image, and interleaved: each image goes through all pipelines, in turning
order, before the next one does.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from statistics import median
from typing import Any, NamedTuple

from ..stages.record import Record
from .pipeline import Pipeline
from .run import Run
from .wrap import host, synchronise

PARTS = ("conv", "proposal", "region-wise")
PROPOSALS = "proposals"  # the step that the papers' tables leave out


def times(pipelines: Mapping[str, Pipeline], records: Sequence[Record], device: str = "auto") -> dict[str, Any]:
    """For each pipeline, by name: seconds an image, medians over images.

    "steps": of each step; "total": of an image in the profile; "rest": what of it no step accounts for;
    "without_proposals": the total but for the part of that name; "speedup": of that over the first pipeline's, image by
    image; "throughput": of an image end to end. "multiply_adds": of convolutions and matrix products by torch, by step;
    "nets": seconds of the steps that have any; "promised", "faster" and "kept": how many times fewer multiply-adds than
    the first pipeline's, how many times as fast, and the share of these, image by image. "parts": of the steps of each
    kind (`kinds_of`). ValueError without images.
    """
    if not records:
        raise ValueError("no images to time")
    runs = {name: Run(one, cache=None, device=device, jobs=1, progress=False) for name, one in pipelines.items()}
    found: dict[str, list[Taken]] = {name: [] for name in runs}
    kinds = {name: kinds_of(one) for name, one in pipelines.items()}
    proposing = {name: [step for step, kind in one.items() if kind == "proposal"] for name, one in kinds.items()}
    for i, record in enumerate(records):
        order = list(runs)[i % len(runs) :] + list(runs)[: i % len(runs)]  # none is always the first
        for name in order:
            counted: dict[str, int] = {}  # what is built for an image of this size is on nobody's clock
            if not i:
                runs[name].one(_fresh(record))  # states are handed over and nets are built: that is not counted
            _whole(runs[name], record, counted)
            if i % 2:
                whole, profile = _whole(runs[name], record), _profiled(runs[name], record)
            else:
                profile, whole = _profiled(runs[name], record), _whole(runs[name], record)
            found[name].append(Taken(*profile, whole, counted, proposing[name]))
    base = next(iter(found.values()))
    return {name: {**_medians(rows, base), "parts": _parts(rows, kinds[name])} for name, rows in found.items()}


def kinds_of(pipeline: Pipeline) -> dict[str, str]:
    """Of each step of detection its part: conv, proposal or region-wise (Faster R-CNN, table 5).

    A map that serves the proposals alone is theirs; one that both share is conv.
    """
    proposing, every = pipeline.needed(("boxes",)), pipeline.needed(pipeline.outputs)
    read = {field for name in every if name not in proposing for field in pipeline.stage(name).needs}
    found = {}
    for name in every:
        gives = pipeline.stage(name).gives
        maps = any(field.partition(".")[0] == "map" for field in gives)
        if maps and (name not in proposing or read & set(gives)):
            found[name] = "conv"
        else:
            found[name] = "proposal" if name in proposing else "region-wise"
    return found


def _parts(rows: Sequence[Taken], kinds: Mapping[str, str]) -> dict[str, float]:
    return {
        part: median(sum(row.steps.get(name, 0.0) for name, kind in kinds.items() if kind == part) for row in rows)
        for part in PARTS
    }


class Taken(NamedTuple):
    """Seconds of one image."""

    steps: dict[str, float]
    total: float
    whole: float
    counted: dict[str, int]  # multiply-adds by step, where there are any
    proposing: Collection[str] = (PROPOSALS,)  # the steps that are left out where proposals are

    @property
    def nets(self) -> float:
        """Of the steps that convolve and multiply matrices."""
        return sum(self.steps.get(name, 0.0) for name in self.counted)

    @property
    def regions(self) -> float:
        """Without the steps that propose."""
        return self.total - sum(self.steps.get(name, 0.0) for name in self.proposing)


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


def _whole(run: Run, record: Record, counted: dict[str, int] | None = None) -> float:
    """Seconds of an image through the stages, one handing to the next; counted: takes each one's multiply-adds."""
    pipeline, fresh = run.pipeline, _fresh(record)
    stages = {name: pipeline.stage(name) for name in pipeline.needed(pipeline.outputs)}
    start = time.perf_counter()
    for name, stage in stages.items():
        view = fresh.only(stage.needs)
        with nullcontext() if counted is None else _counting(name, counted):
            (fields,) = stage([_numpy(view) if stage.arrays == "numpy" else view])
        fresh = fresh.add(fields)
    synchronise(fresh[name] for name in pipeline.outputs)
    return time.perf_counter() - start


@contextmanager
def _counting(name: str, counted: dict[str, int]) -> Iterator[None]:
    """Note the multiply-adds of what is done inside, where there are any."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        yield
    if counter.get_total_flops():
        counted[name] = counter.get_total_flops() // 2


def _fresh(record: Record) -> Record:
    """The image and its size alone, decoded: reading it is no detector's time."""
    return Record(record.id, {"image": record["image"], "size": record["size"]})


def _numpy(view: Record) -> Record:
    return Record(view.id, {name: host(view[name]) for name in view}, view.reader)


def _medians(rows: Sequence[Taken], base: Sequence[Taken]) -> dict[str, Any]:
    shares = [
        (_fewer(one.counted, row.counted), one.nets / row.nets if row.nets else 0.0) for one, row in zip(base, rows)
    ]
    return {
        "steps": {name: median(row.steps.get(name, 0.0) for row in rows) for name in rows[0].steps},
        "total": median(row.total for row in rows),
        "rest": median(row.total - sum(row.steps.values()) for row in rows),
        "without_proposals": median(row.regions for row in rows),
        "speedup": median(one.regions / row.regions for one, row in zip(base, rows)),
        "throughput": median(row.whole for row in rows),
        "multiply_adds": {
            name: median(row.counted.get(name, 0) for row in rows)
            for name in dict.fromkeys(name for row in rows for name in row.counted)
        },
        "nets": median(row.nets for row in rows),
        "faster": median(real for _, real in shares),
        "promised": median(promised for promised, _ in shares),
        "kept": median(real / promised if promised else 0.0 for promised, real in shares),
        "images": len(rows),
    }


def _fewer(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """How many times the multiply-adds of another one's are; 0 where one has none."""
    return sum(one.values()) / sum(other.values()) if other else 0.0
