"""Images without truth: a folder of them, or a list of files."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import UserError
from ..record import Record, Records
from .image_file import SUFFIXES, image_fields
from .problem import Source


class Files(Records):
    """Image files, turned upright as their EXIF orientation says: there are no boxes that this could move.

    paths: image files, and folders of which all images are taken. One named twice is there once.
    Ids are the paths relative to the folder that holds them all. Gives image and size. UserError for a file
    that is not there.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, paths: Iterable[str | Path]):
        files = sorted({file for path in paths for file in _files(Path(os.path.abspath(path)))})
        for file in files:
            if not file.is_file():
                raise UserError(f"there is no image {file}")
        if not files:
            raise UserError("no image is named")
        top = Path(os.path.commonpath([file.parent for file in files]))
        self._entries = sorted((file.relative_to(top).as_posix(), file) for file in files)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        id, path = self._entries[index]
        return Record(id, image_fields(path, upright=True))

    def source(self, index: int) -> Source:
        """Where a record comes from."""
        path = self._entries[index][1]
        return Source(path, path, upright=True)


class Folder(Files):
    """All images below a folder, hidden ones excepted; otherwise as Files.

    path: the folder; ids are relative to it. UserError if it is no folder or holds no image.
    """

    def __init__(self, path: str | Path):
        top = Path(path)
        if not top.is_dir():
            raise UserError(f"there is no folder {path}")
        self._entries = sorted((file.relative_to(top).as_posix(), file) for file in _files(top))


class Below(NamedTuple):
    """What is below a folder: images, images that are hidden or in hidden folders, and other files, not hidden."""

    images: list[Path]
    hidden: list[Path]
    others: list[Path]


def files_below(path: Path) -> Below:
    """The files below a folder."""
    found = Below([], [], [])
    for file in path.rglob("*"):
        hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
        if file.suffix.lower() in SUFFIXES and file.is_file():
            (found.hidden if hidden else found.images).append(file)
        elif not hidden and not file.is_dir():
            found.others.append(file)
    return found


def _files(path: Path) -> list[Path]:
    """The images below a folder; a file is itself. UserError if there is none."""
    if not path.is_dir():
        return [path]
    seen = files_below(path).images
    if not seen:
        raise UserError(f"there is no image below {path}")
    return seen
