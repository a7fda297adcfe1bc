"""Images in folders by class: DIR/<class>/*.jpg, what classification is learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..record import Lazy, Record, Records
from .folder import files_below
from .image_file import SUFFIXES, image_fields
from .problem import Problem, Source, left_out


class Labelled(Records):
    """A data set for image classification, each image one object that fills it.

    path: the folder of the folders; their names, sorted, are the classes. Hidden ones are none, and each may hold
        folders. A class without images keeps its label, so that two parts of one data set agree.
    problems: images that lie beside the folders, which have no class; and, worth knowing, classes without images,
        and the hidden images and other files, by folder, that are not read.
    left_out: one sentence for each of those images.
    Ids are paths relative to the folder. Gives image and size, upright as EXIF says, and one truth: truth_boxes,
    truth_labels, truth_difficult, truth_crowd and truth_areas. UserError if it is no folder, or holds no class or no
    image.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.is_dir():
            raise UserError(f"there is no folder {path}")
        every = sorted(self.path.iterdir())
        inside = [one for one in every if not one.name.startswith(".")]
        self.classes = tuple(one.name for one in inside if one.is_dir())
        if not self.classes:
            raise UserError(f"{path} holds no folders, whose names would be the classes")
        below = {self.path / name: files_below(self.path / name) for name in self.classes}
        found = [(label, file) for label, files in enumerate(below.values(), 1) for file in files.images]
        if not found:
            raise UserError(f"there is no image in the folders of {path}")
        self._entries = sorted((file.relative_to(self.path).as_posix(), file, label) for label, file in found)
        self.problems = [
            Problem("missing annotation", str(one), "it lies in no class's folder", "image")
            for one in inside
            if _is_image(one)
        ]
        empty = sorted(set(range(1, len(self.classes) + 1)) - {label for label, _file in found})
        for name in (self.classes[label - 1] for label in empty):
            self.problems.append(Problem("class without images", str(self.path / name), "the folder holds no image"))
        beside = [one for one in inside if not one.is_dir() and not _is_image(one)]
        self.problems += _not_read(self.path, [one for one in every if one not in inside and _holds(one)], beside)
        self.problems += (p for folder, files in below.items() for p in _not_read(folder, files.hidden, files.others))
        self.left_out = left_out(self.problems)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        id, path, label = self._entries[index]
        fields = image_fields(path, upright=True)
        size = fields["size"]
        return Record(id, {
            **fields,
            "truth_boxes": Lazy(partial(_whole, size), size.identity),
            "truth_labels": np.array([label], np.int64),
            "truth_difficult": np.zeros(1, bool),
            "truth_crowd": np.zeros(1, bool),
            "truth_areas": Lazy(partial(_area, size), size.identity),
        })  # fmt: skip

    def source(self, index: int) -> Source:
        """Where a record comes from."""
        path = self._entries[index][1]
        return Source(path, path, upright=True)


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SUFFIXES


def _holds(path: Path) -> bool:
    """Whether it is an image, or a folder that holds one."""
    return bool(files_below(path).images) if path.is_dir() else _is_image(path)


def _not_read(folder: Path, hidden: Sequence[Path], others: Sequence[Path]) -> Iterator[Problem]:
    """What of a folder is passed over, a sentence for what is hidden and one for what is no image."""
    for files, why in ((hidden, "hidden"), (others, "no image")):
        names = sorted(file.relative_to(folder).as_posix() for file in files)
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        if names:
            yield Problem("not read", str(folder), f"what is {why} is not read: {shown}")


def _whole(size: Lazy) -> Any:
    height, width = size.value()
    return np.array([[0, 0, width, height]], np.float32)  # 1 4


def _area(size: Lazy) -> Any:
    return np.array([np.prod(size.value())], np.float32)
