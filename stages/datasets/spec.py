"""A data set named in one word, as the command takes it; and a part of one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..record import Records
from .coco import COCO
from .folder import Folder
from .shapes import Shapes
from .voc import VOC

FORMS = "voc:DIR:SPLIT[:easy], coco:FILE.json[:IMAGES], folder:DIR or shapes:N[:SEED]"


def open_dataset(spec: str) -> Records:
    """The data set that a spec names.

    voc:DIR:SPLIT        VOC's layout; SPLIT is trainval, trainval+test or, below a VOCdevkit, 07+12_trainval
    voc:DIR:SPLIT:easy   without the objects marked difficult
    coco:FILE.json[:IMAGES]
    folder:DIR           images without truth
    shapes:N[:SEED]      N drawn images
    UserError if it has none of these forms, or names what is not there.
    """
    kind, _, rest = spec.partition(":")
    if kind == "voc" and (match := re.fullmatch(r"(.+?):([^:/\\]+?)(:easy)?", rest)):
        return VOC(_path(match[1]), match[2], difficult=match[3] is None)
    if kind == "coco" and (match := re.fullmatch(r"(.+?\.json)(?::(.+))?", rest)):
        return COCO(_path(match[1]), match[2] and _path(match[2]))
    if kind == "folder" and rest:
        return Folder(_path(rest))
    if kind == "shapes" and (match := re.fullmatch(r"(\d+)(?::(\d+))?", rest)):
        return _shapes(int(match[1]), int(match[2] or 0))
    raise UserError(f"{spec!r} does not name a data set; the forms are {FORMS}")


class Subset(Records):
    """Some of the records of a data set, in canonical order; all other attributes are the data set's own.

    indices: positions in `records`, each once. IndexError for one that is not there.
    """

    def __init__(self, records: Records, indices: Iterable[int]):
        self.records = records
        self.indices = sorted({range(len(records))[i] for i in indices})
        self.classes = records.classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: Any) -> Any:
        return self.records[self.indices[index]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "records":  # asked for before __init__, when unpickled
            raise AttributeError(name)
        return getattr(self.records, name)


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _shapes(n: int, seed: int) -> Shapes:
    try:
        return Shapes(n, seed)
    except ValueError as error:
        raise UserError(str(error)) from None
