"""A data set named in one word, as the command takes it."""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import UserError
from ..record import Records
from .coco import COCO
from .folder import Folder
from .labelled import Labelled
from .shapes import Shapes
from .subset import Chosen
from .voc import VOC

FORMS = (
    "voc:DIR:SPLIT[:easy][:masks], coco:FILE.json[:IMAGES], labelled:DIR, folder:DIR or shapes:N[:SEED], "
    "all but folder also with #CLASS,CLASS behind it"
)
COCO_FORM = re.compile(r"(.+?\.json)(?::(.+))?")


def open_dataset(spec: str) -> Records:
    """The data set that a spec names.

    voc:DIR:SPLIT        VOC's layout; SPLIT is trainval, trainval+test or, below a VOCdevkit, 07+12_trainval
    voc:DIR:SPLIT:easy   without the objects marked difficult
    voc:DIR:SPLIT:masks  the lists of ImageSets/Segmentation, whose images have masks
    coco:FILE.json[:IMAGES]
    labelled:DIR         images in folders by class
    folder:DIR           images without truth
    shapes:N[:SEED]      N drawn images
    ...#CLASS,CLASS      behind any but folder: labels 1..K are these classes, in this order; objects of other
                         classes are as if never annotated, images stay. A file or folder that is there under the
                         whole name, # and all, is meant before classes are
    UserError if it has none of these forms, or names what is not there.
    """
    whole = re.fullmatch(r"(?!folder:)(.*)#([^#:/\\]+)", spec, re.DOTALL)  # a # further on in a path is a path's
    if whole is None or _is_there(spec):
        return _whole(spec)
    return Chosen(_whole(whole[1]), [name.strip() for name in whole[2].split(",")])


def _is_there(spec: str) -> bool:
    """Whether the path at the end of a spec is there."""
    kind, _, rest = spec.partition(":")
    if kind == "coco" and (match := COCO_FORM.fullmatch(rest)):
        return _path(match[2] or match[1]).exists()
    return kind == "labelled" and _path(rest).is_dir()


def _whole(spec: str) -> Records:
    kind, _, rest = spec.partition(":")
    if kind == "voc" and (match := re.fullmatch(r"(.+?):([^:/\\]+?)((?::easy|:masks)*)", rest)):
        return VOC(_path(match[1]), match[2], difficult=":easy" not in match[3], masks=":masks" in match[3])
    if kind == "coco" and (match := COCO_FORM.fullmatch(rest)):
        return COCO(_path(match[1]), match[2] and _path(match[2]))
    if kind == "labelled" and rest:
        return Labelled(_path(rest))
    if kind == "folder" and rest:
        return Folder(_path(rest))
    if kind == "shapes" and (match := re.fullmatch(r"(\d+)(?::(\d+))?", rest)):
        return _shapes(int(match[1]), int(match[2] or 0))
    raise UserError(f"{spec!r} does not name a data set; the forms are {FORMS}")


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _shapes(n: int, seed: int) -> Shapes:
    try:
        return Shapes(n, seed)
    except ValueError as error:
        raise UserError(str(error)) from None
