"""The usable part of a data set: every image file examined once, what cannot be used left out and told."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..cache import files, use
from ..cache.keys import digest, digest_value
from ..cache.store import Shelf, Store
from ..errors import UserError
from ..stages.datasets.image_file import Verdict, examine
from ..stages.datasets.problem import Kind, Problem, Source, left_out
from ..stages.datasets.subset import Subset, keep_truths
from ..stages.record import Record, Records
from .processes import side_by_side
from .progress import Bars

log = logging.getLogger("rcnn.usable")
VERSION = 1  # of Verdict: raise it when `examine` begins to say other things
MANY = 64  # images from which on worker processes are worth their start
NOT_KEPT = "%s; images are examined anew each time"  # a cache that only reads serves all the same
SLACK = 0.5  # pixels that a box may reach over the border without a word: tools round


class Usable(Subset):
    """The records of a data set that can be used, without the objects that cannot.

    problems: what is wrong, both as the annotations show it and as the images do.
    left_out: one sentence for each object and image that is left out; `lost` counts them.
    UserError if nothing remains.
    """

    def __init__(self, records: Records, verdicts: Sequence[Verdict]):
        judged = [_judged(records, i, verdict) for i, verdict in enumerate(verdicts)]
        super().__init__(records, (i for i, one in enumerate(judged) if one.usable))
        self._kept = {i: one.keep for i, one in enumerate(judged) if one.keep is not None}
        own: Sequence[Problem] = getattr(records, "problems", ())
        self.problems = [*own, *(problem for one in judged for problem in one.problems)]
        self.left_out = left_out(self.problems)
        if not len(self):
            raise UserError(f"no image can be used; the first: {self.left_out[0]}")

    @property
    def lost(self) -> dict[str, int]:
        """How many objects and images are left out."""
        return {what: sum(p.loses == what for p in self.problems) for what in ("object", "image")}

    def __getitem__(self, index: Any) -> Any:
        i = self.indices[index]
        record: Record = self.records[i]
        return keep_truths(record, self._kept[i]) if i in self._kept else record

    def source(self, index: int) -> Source:
        """Where a record comes from."""
        i = self.indices[index]
        found: Source = self.records.source(i)  # type: ignore[attr-defined]
        kept = self._kept.get(i, np.ones(len(found.objects), bool))
        return found._replace(objects=tuple(name for name, keep in zip(found.objects, kept, strict=True) if keep))


def usable(records: Records, store: Store | None, jobs: int = 1) -> Records:
    """The usable part of a data set; the data set itself where nothing of it is in files.

    store: where verdicts on image files are kept; None: nowhere.
    """
    paths = image_files(records)
    return Usable(records, examined(paths, store, jobs)) if paths else records


def image_files(records: Records) -> list[Path]:
    """The image files of a data set; none if they are drawn or in memory."""
    return [records.source(i).image for i in range(len(records))] if hasattr(records, "source") else []


def counted(lost: Mapping[str, int]) -> str:
    """{"object": 2, "image": 1} in words."""
    parts = [f"{n} {what}{'s' if n > 1 else ''}" for what, n in lost.items() if n]
    return " and ".join(parts) or "nothing"


# -- what an image file shows ----------------------------------------------------------------------------


class Judged(NamedTuple):
    """What is wrong with an image, whether it can be used, and which of its truths (T, bool; None: all)."""

    problems: list[Problem]
    usable: bool
    keep: Any


def _judged(records: Records, index: int, verdict: Verdict) -> Judged:
    source: Source = records.source(index)  # type: ignore[attr-defined]
    problems = list(image_problems(source, verdict))
    if any(problem.loses == "image" for problem in problems):
        return Judged(problems, False, None)
    if not source.objects:
        return Judged(problems, True, None)
    record = records[index]
    names = [records.classes[label - 1] for label in record["truth_labels"]]
    outside = list(box_problems(source, names, record["truth_boxes"], verdict.size))
    lost = np.array([problem is not None and problem.loses == "object" for problem in outside])
    return Judged([*problems, *(p for p in outside if p is not None)], True, ~lost if lost.any() else None)


def image_problems(source: Source, verdict: Verdict) -> Iterator[Problem]:
    """What is wrong with an image file, or is worth knowing of it."""
    file, mode = str(source.image), verdict.mode
    if verdict.fault:
        yield Problem("unreadable image", file, f"the image cannot be read: {verdict.fault}", "image")
        return
    if source.size not in (None, verdict.size):
        yield Problem("wrong size", file, _sizes(source, verdict), "image")
    if verdict.orientation != 1:
        how = "it is turned upright" if source.upright else "it is read as stored, and so are its boxes"
        yield Problem("EXIF-rotated", file, f"its EXIF orientation is {verdict.orientation}; {how}")
    facts: dict[Kind, tuple[bool, str]] = {
        "CMYK": (mode == "CMYK", "it is of CMYK, read as RGB"),
        "16-bit": (verdict.bits == 16, "it has 16 bits a channel, of which the upper 8 are read"),
        "grey": (
            mode in ("1", "L", "LA", "La") or mode.startswith("I"),
            "its one channel is read as three",
        ),
    }
    yield from (Problem(kind, file, what) for kind, (true, what) in facts.items() if true)


def _sizes(source: Source, verdict: Verdict) -> str:
    stated, stored = (f"{size[1]} x {size[0]}" for size in (source.size or (0, 0), verdict.size))
    turned = f", and EXIF turns it ({verdict.orientation})" if verdict.orientation != 1 else ""
    return f"the image is {stored}{turned}; its boxes are of one of {stated}, says {source.annotation.name}"


def box_problems(source: Source, names: Sequence[str], boxes: Any, size: tuple[int, int]) -> Iterator[Problem | None]:
    """For each box (T 4) of an image of (height, width): what is wrong with where it lies; None if nothing is.

    names: the classes, T. One wholly outside cannot be used. One partly outside is kept as it was written: average
    precision is measured against boxes as published, and every stage takes boxes that reach over the border.
    """
    high = np.array([size[1], size[0]])  # width, height
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= high)).any(1)
    over = ((boxes[:, :2] < -SLACK) | (boxes[:, 2:] > high + SLACK)).any(1)
    for object, name, box, out, part in zip(source.objects, names, boxes, outside, over, strict=True):
        where = f"({', '.join(f'{value:g}' for value in box)}) of an image of {size[1]} x {size[0]}"
        if out:
            what = f"{object}: the box lies outside, {where}"
            yield Problem("box outside", str(source.annotation), what, "object", name)
        elif part:
            what = f"{object}: the box lies partly outside, {where}"
            yield Problem("box partly outside", str(source.annotation), what, "", name)
        else:
            yield None


# -- verdicts, kept ----------------------------------------------------------------------------------------


def examined(paths: Sequence[Path], store: Store | None, jobs: int = 1) -> list[Verdict]:
    """The verdict on each image file: one that is kept if the file's size and time are what they were, else made.

    Kept is what the bytes say; that the system would not give them may be otherwise the next time.
    jobs: worker processes, where many are to be made.
    """
    shelf = image_shelf(store) if store else None
    stamps = {path: _stamp(path) for path in paths}
    found = {path: verdict for path, stamp in stamps.items() if (verdict := _kept(shelf, path, stamp)) is not None}
    new = [path for path in stamps if path not in found]
    for path, made in zip(new, _examine_all(new, jobs), strict=True):
        found[path] = made
        shelf = _keep(shelf, path, stamps[path], made) if made.hash and stamps[path] else shelf
    if shelf is not None and shelf.untidy:
        shelf.pack()
    return [found[path] for path in paths]


def image_shelf(store: Store) -> Shelf | None:
    """Where verdicts are kept: a shelf as any step's, for `rcnn cache` to show. None where it cannot be made."""
    told = {"class": f"{__package__}.usable", "version": VERSION, "parameters": {"pillow": version("pillow")}}
    method = {**told, "again": [], "reads": {}}  # as a step's, for `rcnn cache verify`
    key = digest_value(method)
    shelf = store.shelf("images", key)
    if not shelf.described():
        made = {"recipe": "", "classes": [], "made": time.strftime("%Y-%m-%d %H:%M:%S")}
        environment = {"software": {"pillow": version("pillow")}, "device": "cpu", "threads": 1}
        try:
            shelf.describe({"step": "images", "key": key, "method_key": key, **method, **made}, environment)
        except UserError as error:
            log.warning(NOT_KEPT, error)
            return None
    use.stamp(shelf.path)
    return shelf


def _keep(shelf: Shelf | None, path: Path, stamp: str, verdict: Verdict) -> Shelf | None:
    """Write a verdict, and give the shelf for the next; None where it cannot be written: nothing else needs it."""
    if shelf is None:
        return None
    try:
        shelf.write(os.path.abspath(path), stamp, _arrays(verdict))
    except UserError as error:
        log.warning(NOT_KEPT, error)
        return None
    return shelf


def _examine_all(paths: Sequence[Path], jobs: int) -> Iterator[Verdict]:
    if not paths:
        return
    verdicts = side_by_side(examine, paths, jobs if len(paths) > MANY else 1)
    with Bars(sys.stderr.isatty() and len(paths) > MANY) as bars:
        bars.start("images", len(paths))
        for verdict in verdicts:
            bars.advance("images")
            yield verdict


def _stamp(path: Path) -> str:
    """What changes when the file does; "" if there is none."""
    try:
        stat = os.stat(path)
    except OSError:
        return ""
    return digest(f"{stat.st_size} {stat.st_mtime_ns}")


def _kept(shelf: Shelf | None, path: Path, stamp: str) -> Verdict | None:
    entry = shelf.find(os.path.abspath(path), stamp) if shelf is not None and stamp else None
    if shelf is None or entry is None:
        return None
    try:
        return _verdict(shelf.read(entry, ("verdict", "thumbnail")))
    except files.Replaced:
        return None
    except files.Unreadable as error:
        log.warning("%s; it is made again", error)
        shelf.remove(entry)
        return None


def _arrays(verdict: Verdict) -> dict[str, np.ndarray]:
    said = json.dumps(verdict._replace(thumbnail=None)._asdict()).encode()
    return {"verdict": np.frombuffer(said, np.uint8), "thumbnail": verdict.thumbnail}


def _verdict(arrays: Mapping[str, np.ndarray]) -> Verdict:
    said = json.loads(arrays["verdict"].tobytes())
    return Verdict(**{**said, "size": tuple(said["size"]), "thumbnail": arrays["thumbnail"]})
