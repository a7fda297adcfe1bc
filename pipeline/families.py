"""Recipes trained on one data set and measured on another: accuracy, time, memory and disk, side by side.

The form of Fast R-CNN's table 4 (Girshick, ICCV 2015), for one's own data, with that table's rows beside it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..cache import files
from ..errors import UserError
from ..stages.record import Records
from ..stages.stage import Ref, Stage
from . import saved
from .changes import parts
from .compare import Measured, measured
from .pipeline import Pipeline
from .run import Run
from .tables import LINE, Table, number, size
from .times import PARTS, PROPOSALS, environment, times

TRAINING = "training.json"  # in a RUN folder: what its training took
# Girshick 2015, table 4, column L (VGG16), on an Nvidia K40; seconds an image are without proposals; VOC07 mAP
PUBLISHED: tuple[dict[str, Any], ...] = (
    {"recipe": "rcnn", "train_hours": 84.0, "seconds": 47.0, "map": 66.0},
    {"recipe": "sppnet", "train_hours": 25.0, "seconds": 2.3, "map": 63.1},
    {"recipe": "fast", "train_hours": 9.5, "seconds": 0.32, "map": 66.9},
)
# Ren et al. 2017, table 5: conv, proposal, region-wise, total, in ms; images a second
PUBLISHED_PARTS: tuple[tuple[Any, ...], ...] = (
    ("VGG16, selective search + Fast R-CNN", 146, 1510, 174, 1830, "0.5"),
    ("VGG16, RPN + Fast R-CNN", 141, 10, 47, 198, "5"),
    ("ZF, RPN + Fast R-CNN", 31, 3, 25, 59, "17"),
)


def settings(recipe: str, sets: Sequence[str], recipes: Sequence[str]) -> list[str]:
    """The `KEY=VALUE` that are for a recipe: those for all, and those written `RECIPE:KEY=VALUE` for it."""
    own = []
    for text in sets:
        name, colon, rest = text.partition(":")
        if not (colon and name in recipes):
            own.append(text)
        elif name == recipe:
            own.append(rest)
    return own


def refuse_names(recipes: Sequence[str]) -> None:
    """UserError for less than two recipes, or one named twice."""
    if len(recipes) < 2:
        raise UserError("name two recipes at least: the first is what the others are held against")
    if twice := next((name for name in recipes if recipes.count(name) > 1), None):
        raise UserError(f"{twice} is named twice: a recipe is compared with others")


def unlike(pipelines: Sequence[Pipeline]) -> list[str]:
    """What makes recipes differ in more than their methods: other backbones, weights or proposals."""
    found = []
    for what in ("backbone", "weights"):
        named = {p.name: _first(p, what) for p in pipelines}
        if len(set(map(str, named.values()))) > 1:
            found.append(f"{what}: " + ", ".join(f"{name} has {value}" for name, value in named.items()))
    proposals = [parts(p)[PROPOSALS] for p in pipelines if PROPOSALS in {step.name for step in p}]
    if any(one != proposals[0] for one in proposals):
        found.append("proposals: the recipes' stages or their parameters differ")
    return found


def _first(pipeline: Pipeline, what: str) -> Any:
    """The first value of a parameter of this name that is no Ref; None if there is none."""
    values = (value for name, value in pipeline.get_params().items() if name.endswith(f"__{what}"))
    return next((value for value in values if value is not None and not isinstance(value, Ref)), None)


def train(run: Run, data: Records, place: Path) -> None:
    """Train through the cache and save the RUN; what it took is noted in its folder if it was all done now."""
    run.fit(data)
    saved.save(run.pipeline, place)
    seconds = fresh_seconds(run)
    if seconds is not None:
        noted = {"seconds": seconds, "images": len(data), "keys": run.pipeline.keys}
        files.write_json(place / TRAINING, {**noted, **environment(run.device or "auto")})


def fresh_seconds(run: Run) -> float | None:
    """Seconds of the steps that a Run has called and of its fits, without pre-training and without boxes of a method
    that learns nothing, as in the paper.

    None if anything of it came from the cache, or a fit went on from a checkpoint: the rest is not known.
    """
    apart = {step.name for step in run.pipeline if step.apart}
    proposing = {step.name for step in run.pipeline if proposes(run.pipeline.method(step.name))}
    tallies = {name: tally for name, tally in run.clock.tallies.items() if name not in {*proposing, *apart}}
    loaded = [name for name in run.pipeline.keys if name not in apart and not run.clock[name].fit_seconds]
    if loaded or any(tally.reused or tally.resumed for tally in tallies.values()):
        return None
    return sum(tally.seconds + tally.fit_seconds for tally in tallies.values())


def proposes(stage: Stage) -> bool:
    """Whether a stage gives boxes by a method that learns nothing."""
    return "boxes" in stage.gives and not stage.refs()


def training_seconds(place: Path, keys: Mapping[str, str]) -> float | None:
    """What training took, where a RUN folder tells it of what has these keys."""
    try:
        noted = json.loads((place / TRAINING).read_text())
    except FileNotFoundError:
        return None
    return float(noted["seconds"]) if noted.get("keys") == dict(keys) else None


def disk(run: Run) -> int | None:
    """Bytes of the shelves that a pipeline keeps its steps on."""
    if run.store is None:
        return None
    return sum(run.shelf(step.name).size() for step in run.pipeline if step.keep)


def peak_memory(place: Path, image: Any, device: str) -> int:
    """Bytes of host memory that a process of its own holds at most while it detects in one image with a trained RUN.

    It tells its own peak (VmHWM on Linux): what a parent is told of a child holds the parent's memory too.
    """
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        Image.fromarray(image).save(f"{folder}/image.png")
        words = ["detect", str(place), f"{folder}/image.png", "--out", f"{folder}/out", "--cache", f"{folder}/cache"]
        words += ["--device", device, "--jobs", "1"]
        command = [sys.executable, "-c", _DETECT, __package__.partition(".")[0], *words]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"detecting with {place} failed: {done.stderr.strip()}")
    return int(done.stdout.split()[-1])


_DETECT = """
import importlib, pathlib, resource, sys
main = importlib.import_module(sys.argv.pop(1) + ".__main__").main
try:
    main()
finally:
    status = pathlib.Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    peak = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)
    print(peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def measure(
    recipes: Sequence[str],
    places: Sequence[Path],
    work: Callable[[str], Run],
    data: Records,
    test: Records,
    timed: int,
    device: str,
    tell: Callable[[str], None],
) -> tuple[list[Measured], list[dict[str, Any]]]:
    """Train and measure each recipe; then time all, side by side.

    work: the Run of a recipe. Gives what compare.compare takes, and a row of costs for each.
    """
    runs, sides, costs = [], [], []
    for recipe, place in zip(recipes, places):
        runs.append(work(recipe))
        train(runs[-1], data, place)
        sides.append(measured(recipe, runs[-1], test))
        tell(f"{recipe}: trained and measured; the RUN is in {place}")
    pipelines = {recipe: run.pipeline for recipe, run in zip(recipes, runs)}
    images = [test[i] for i in range(min(timed, len(test)))]
    tell(f"timing {len(images)} images")
    taken = times(pipelines, images, device)
    largest = max(images, key=lambda record: record["image"].size)["image"]
    for recipe, place, run in zip(recipes, places, runs):
        kept = {"memory": peak_memory(place, largest, device), "cache": disk(run)}
        seconds = training_seconds(place, run.pipeline.keys)
        costs.append({"recipe": recipe, "training_seconds": seconds, **kept, **taken[recipe]})
    return sides, costs


# -- tables ----------------------------------------------------------------------------------------------


def tables(costs: Sequence[Mapping[str, Any]], where: Mapping[str, Any]) -> list[Table]:
    """What each recipe costs, where its time goes, and what was published."""
    return [
        _cost_table(costs, where),
        _part_table(costs, where),
        _step_table(costs, where),
        _work_table(costs),
        _published_table(),
        _published_parts(),
    ]


def _cost_table(costs: Sequence[Mapping[str, Any]], where: Mapping[str, Any]) -> Table:
    rows = [
        [
            row["recipe"],
            "" if row["training_seconds"] is None else f"{row['training_seconds']:.0f} s",
            f"{row['total']:.3f} s",
            f"{row['without_proposals']:.3f} s",
            f"{row['speedup']:.1f}x",
            f"{row['throughput']:.3f} s",
            size(row["memory"]),
            "" if row["cache"] is None else size(row["cache"]),
        ]
        for row in costs
    ]
    head = ["recipe", "training", "an image", "without proposals", "speed-up", "throughput", "peak memory", "cache"]
    caption = LINE.join(
        (
            f"medians of {costs[0]['images']} images, interleaved, no cache, each warmed up; {_where(where)}",
            "training: without proposals and pre-training, told where nothing of it came from the cache",
            "peak memory: of the host, of a process that detects in one image; cache: all that these steps keep",
        )
    )
    return Table("cost", head, rows, caption)


def _part_table(costs: Sequence[Mapping[str, Any]], where: Mapping[str, Any]) -> Table:
    """The form of Faster R-CNN's table 5."""
    rows = [
        [row["recipe"], *(_ms(row["parts"][part]) for part in PARTS), _ms(row["total"]), f"{1 / row['total']:.2f}"]
        for row in costs
    ]
    caption = f"region-wise: all that is done for each region; total: with what no step accounts for; {_where(where)}"
    return Table("milliseconds an image by part", ["recipe", *PARTS, "total", "images/s"], rows, caption)


def _published_parts() -> Table:
    rows = [[system, *map(str, parts), rate] for system, *parts, rate in PUBLISHED_PARTS]
    caption = "Ren et al. 2017, table 5: ms on one Nvidia K40, selective search on a CPU"
    return Table("as published, by part", ["system", *PARTS, "total", "images/s"], rows, caption)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if seconds >= 0.01 else f"{1000 * seconds:.1f}"


def _step_table(costs: Sequence[Mapping[str, Any]], where: Mapping[str, Any]) -> Table:
    names = list(dict.fromkeys(name for row in costs for name in row["steps"]))
    rows = [
        [row["recipe"], *(f"{row['steps'][n]:.3f}" if n in row["steps"] else "" for n in names), f"{row['rest']:.3f}"]
        for row in costs
    ]
    return Table("seconds an image by step", ["recipe", *names, "rest"], rows, f"synchronised; {_where(where)}")


def _work_table(costs: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            row["recipe"],
            ", ".join(f"{name} {count / 1e9:.1f}" for name, count in row["multiply_adds"].items()),
            f"{row['promised']:.1f}x",
            f"{row['nets']:.3f} s",
            f"{row['faster']:.1f}x",
            f"{row['kept']:.2f}",
        ]
        for row in costs
    ]
    head = ["recipe", "G multiply-adds", "fewer", "seconds", "faster", "faster / fewer"]
    caption = "convolutions and matrix products of torch, an image; seconds of the steps that have any, whole"
    return Table("work of the nets", head, rows, caption)


def _published_table() -> Table:
    rows = []
    for row in PUBLISHED:
        speed = PUBLISHED[0]["seconds"] / row["seconds"]
        times = [f"{row['train_hours']:g} h", f"{row['seconds']:g} s", f"{speed:.0f}x"]
        rows.append([row["recipe"], *times, number(row["map"] / 100)])
    head = ["recipe", "training", "without proposals", "speed-up", "VOC07 mAP"]
    return Table("as published", head, rows, "Girshick 2015, table 4: VGG16, PASCAL VOC 2007, one Nvidia K40")


def _where(where: Mapping[str, Any]) -> str:
    return f"{where['device']}, {where['host']}, {where['threads']} threads"
