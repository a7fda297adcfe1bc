"""Proposals that somebody computed before, read from a file in one of three formats."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ...errors import UserError
from ..boxes import area, clip
from ..record import Record
from ..stage import Stage

# image name -> R 4 boxes, or R 5 with a score in the last column
Table = Mapping[str, Any]


def read_npz(path: Path) -> Table:
    """numpy's archive: image id -> boxes R 4, half-open, or R 5 with scores. Entries are read when asked."""
    return np.load(path, allow_pickle=False)


def read_json(path: Path) -> Table:
    """COCO's results: a list of {image_id and/or file_name, bbox [x, y, w, h], score (optional)}."""
    rows: dict[str, list[list[float]]] = {}
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, list):
        raise ValueError("it is not a list of results")
    for entry in entries:
        x, y, w, h = entry["bbox"]
        row = [x, y, x + w, y + h] + ([entry["score"]] if "score" in entry else [])
        name = entry["file_name"] if "file_name" in entry else entry["image_id"]
        rows.setdefault(str(name), []).append(row)
    return {name: np.array(boxes, np.float64) for name, boxes in rows.items()}


def read_mat(path: Path) -> Table:
    """The .mat files released with R-CNN: cells `boxes` and `images`, one entry per image.

    Their boxes are (y1, x1, y2, x2), 1-based and inclusive: half-open, only the first corner moves.
    """
    from scipy.io import loadmat

    cells = loadmat(path, variable_names=("boxes", "images"))
    names = (str(np.ravel(cell)[0]) for cell in cells["images"].ravel())
    boxes = (np.asarray(cell, np.float64).reshape(-1, 4) for cell in cells["boxes"].ravel())
    return {name: box[:, [1, 0, 3, 2]] - [1, 1, 0, 0] for name, box in zip(names, boxes, strict=True)}


READERS: dict[str, Callable[[Path], Table]] = {".npz": read_npz, ".json": read_json, ".mat": read_mat}


def read(file: str) -> Table:
    """The proposals in a file, by its suffix. UserError if there is none such or it is not what it says."""
    path = Path(file)
    if path.suffix not in READERS:
        raise UserError(f"{file}: proposals are read from {', '.join(READERS)}, not {path.suffix!r}")
    try:
        return READERS[path.suffix](path)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file of proposals") from None
    except Exception as error:  # what np.load, json and loadmat raise for a broken file has no common type
        raise UserError(f"{file}: cannot be read as {path.suffix} proposals: {error}") from error


def names_of(image_id: str) -> Iterator[str]:
    """The names under which an image may stand in a file, the most exact first."""
    path = PurePosixPath(image_id)
    yield from (image_id, str(path.with_suffix("")) if path.name else image_id, path.name, path.stem)
    if path.stem.isdecimal():
        yield str(int(path.stem))  # COCO's number of 000000000139.jpg


def of_image(table: Table, stems: Mapping[str, Sequence[str]], image_id: str) -> Any | None:
    """The image's entry: by the first of its names that is there, else by the one name with its stem."""
    for name in names_of(image_id):
        if name in table:
            return table[name]
    found = stems.get(PurePosixPath(image_id).stem, ())
    return table[found[0]] if len(found) == 1 else None


def ranked(rows: Any, size: Any, top: int | None) -> tuple[Any, Any]:
    """Boxes R 4 and objectness R from rows R 4 or R 5: clipped, empty ones dropped, best `top` kept.

    By falling score where there is one, else in the order of the file with objectness 1 - rank / R.
    """
    boxes, scores = rows[:, :4], rows[:, 4:].reshape(-1)
    boxes = clip(np.asarray(boxes, np.float32), size)
    order = np.argsort(-scores, kind="stable") if rows.shape[1] == 5 else np.arange(len(rows))
    order = order[area(boxes)[order] > 0][:top]
    if rows.shape[1] == 5:
        return boxes[order], scores[order].astype(np.float32)
    return boxes[order], (1 - np.arange(len(order)) / max(len(order), 1)).astype(np.float32)


class Precomputed(Stage):
    """Proposals from a file, so that any published set can stand in for a method.

    file: .npz (image id -> boxes R 4 (x0, y0, x1, y1), half-open, or R 5 with scores), .json (COCO results;
        file_name or image_id may be the record's id, its stem or its number) or .mat (R-CNN's releases).
    top: how many of the best are kept; None = all.

    Reads `size`, to clip, and the record's id; writes `boxes` and `objectness` (the file's score, else
    falling with the rank). UserError if the file, or an image in it, is missing or malformed.
    """

    needs = ("size",)
    gives = ("boxes", "objectness")
    files = ("file",)

    def __init__(self, file: str, top: int | None = None):
        self.file = file
        self.top = top

    def validate(self) -> None:
        if self.top is not None and self.top < 1:
            raise ValueError(f"top is {self.top}, not 1 or more, or None")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        return [dict(zip(self.gives, ranked(self._rows(r.id), r["size"], self.top))) for r in records]

    def _rows(self, image_id: str) -> Any:
        table, stems = self._read()
        try:
            rows = of_image(table, stems, image_id)
        except Exception as error:  # an entry of an .npz is only read here; see `read`
            raise UserError(f"image {image_id!r}: its entry in {self.file} cannot be read: {error}") from error
        if rows is None:
            raise UserError(f"image {image_id!r}: {self.file} holds no proposals of it")
        if rows.ndim != 2 or rows.shape[1] not in {4, 5} or not np.isfinite(rows).all():
            raise UserError(f"image {image_id!r}: its entry in {self.file} is not R 4 or R 5 finite numbers")
        return rows

    def _read(self) -> tuple[Table, Mapping[str, Sequence[str]]]:
        """The file's content, kept while the parameter names the same file; an open .npz is one process's."""
        stat = os.stat(self.file) if os.path.isfile(self.file) else None  # else `read` says what is wrong
        key = (self.file, os.getpid(), stat and (stat.st_mtime_ns, stat.st_size))
        if self.__dict__.get("_held", (None,))[0] != key:
            table = read(self.file)
            stems: dict[str, list[str]] = {}
            for name in table:
                stems.setdefault(PurePosixPath(name).stem, []).append(name)
            self._held = (key, table, stems)
        return self._held[1:]
