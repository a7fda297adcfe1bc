"""PASCAL VOC's layout: Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages/* (Everingham 2010)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ...errors import UserError
from ..boxes import area
from ..record import Record, Records
from .image_file import image_fields

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SUFFIXES = (".jpg", ".jpeg", ".png")
YEARS = re.compile(r"(\d{2}(?:\d{2})?(?:\+\d{2}(?:\d{2})?)*)_(.+)")


@dataclass(frozen=True)
class Object:
    """One <object>: its class, its box as written (1-based, inclusive) and whether it is difficult."""

    name: str
    raw: tuple[float, ...]
    difficult: bool

    @property
    def empty(self) -> bool:
        """Whether the box as written has zero size or is inverted: a mark of an annotation gone wrong."""
        xmin, ymin, xmax, ymax = self.raw
        return xmax <= xmin or ymax <= ymin


def half_open(raw: Any) -> Any:
    """Half-open boxes (T 4, float32) of VOC's 1-based, inclusive ones."""
    return np.asarray(raw, np.float32).reshape(-1, 4) - np.array([1, 1, 0, 0], np.float32)  # T 4


def read_annotation(path: Path) -> list[Object]:
    """The objects of an annotation file, in its order. UserError if it is missing or not VOC's XML."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise UserError(f"there is no annotation {path}") from None
    except (OSError, ElementTree.ParseError) as error:
        raise UserError(f"the annotation {path} cannot be read: {error}") from None
    return [_object(node, f"{path}: object {i}") for i, node in enumerate(root.iter("object"))]


def _object(node: ElementTree.Element, where: str) -> Object:
    name = (node.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{where} has no name")
    try:
        raw = tuple(float(node.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax"))
    except ValueError:
        raw = (math.nan,)
    if not all(map(math.isfinite, raw)):
        raise UserError(f"{where} ({name}) has no box of four numbers")
    return Object(name, raw, (node.findtext("difficult") or "0").strip() not in ("0", ""))


class VOC(Records):
    """A data set in VOC's layout; annotations are read when it is made, images when they are asked for.

    root: a folder that holds Annotations/, ImageSets/ and JPEGImages/, or a VOCdevkit that holds such folders
        as VOC2007, VOC2012.
    split: names of lists in ImageSets/Main, joined by "+" ("trainval+test"); below a VOCdevkit years go
        before them ("07+12_trainval"), and ids of several years are written "2007/000001".
    difficult: keep the objects marked difficult; if not, they are left out as if never annotated.
    strict: refuse a zero-size or inverted box rather than leave its object out.
    classes: names of labels 1..K. By default the 20 of VOC if no other name occurs in any annotation of the
        folders, else all names that do, sorted, so that every split of a data set has the same labels.

    left_out: one sentence for each object of the split that was left out for its box, which is judged on
        the numbers as written.
    Gives image, size, truth_boxes, truth_labels, truth_difficult, truth_crowd and truth_areas (of the boxes).
    UserError for a missing split, annotation or image, and for a name that is not among the classes.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "trainval",
        difficult: bool = True,
        strict: bool = False,
        classes: Sequence[str] | None = None,
    ):
        self.root, self.split, self.difficult, self.strict = Path(root), split, difficult, strict
        folders, lists = find_folders(self.root, split)
        objects = {folder: _annotations(folder) for folder in folders.values()}
        self.classes = tuple(classes) if classes is not None else _classes(objects.values())
        self.left_out: list[str] = []
        self._entries: list[tuple[str, Path, list[Object]]] = []  # id, image, objects
        for prefix, folder in folders.items():
            images = _images(folder)
            for stem in _stems(folder, lists, objects[folder]):
                kept = self._kept(folder / "Annotations" / f"{stem}.xml", objects[folder])
                self._entries.append((prefix + stem, _image(folder, stem, images), kept))
        self._entries.sort(key=lambda entry: entry[0])
        if not self._entries:
            raise UserError(f"the split {split} of {root} lists no image")

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        id, path, objects = self._entries[index]
        boxes = half_open([o.raw for o in objects])  # T 4
        labels = np.array([self.classes.index(o.name) + 1 for o in objects], np.int64)  # T
        return Record(id, {
            **image_fields(path),
            "truth_boxes": boxes,
            "truth_labels": labels,
            "truth_difficult": np.array([o.difficult for o in objects], bool),
            "truth_crowd": np.zeros(len(objects), bool),
            "truth_areas": area(boxes),
        })  # fmt: skip

    def _kept(self, path: Path, annotations: Mapping[str, list[Object]]) -> list[Object]:
        kept = []
        for i, o in enumerate(annotations[path.stem]):
            if o.name not in self.classes:
                raise UserError(f"{path}: object {i} is a {o.name!r}, which is not among the classes")
            if not o.empty:
                kept.append(o)
                continue
            box = ", ".join(f"{value:g}" for value in o.raw)
            said = f"{path}: object {i} ({o.name}, counted from 0) has a box of no size, ({box})"
            if self.strict:
                raise UserError(said)
            self.left_out.append(said)
        return kept if self.difficult else [o for o in kept if not o.difficult]


def find_folders(root: Path, split: str) -> tuple[dict[str, Path], list[str]]:
    """{id prefix: folder} and the lists to read in each, from a root and a split. UserError if not there."""
    if (root / "ImageSets" / "Main").is_dir():
        return {"": root}, split.split("+")
    if (root / "VOCdevkit").is_dir():
        root = root / "VOCdevkit"
    there = sorted(path for path in root.glob("VOC[0-9][0-9][0-9][0-9]") if path.is_dir())
    if not there:
        raise UserError(f"{root} holds neither ImageSets/Main nor folders such as VOC2007")
    match = YEARS.fullmatch(split)
    if match is None and len(there) > 1:
        raise UserError(f"{root} holds {', '.join(p.name for p in there)}: say the years, as in 07+12_{split}")
    if match is None:
        return {"": there[0]}, split.split("+")
    years = [year if len(year) == 4 else f"20{year}" for year in dict.fromkeys(match[1].split("+"))]
    for year in years:
        if root / f"VOC{year}" not in there:
            raise UserError(f"there is no VOC{year} in {root}, only {', '.join(p.name for p in there)}")
    prefixes = {year: f"{year}/" if len(set(years)) > 1 else "" for year in years}
    return {prefixes[year]: root / f"VOC{year}" for year in years}, match[2].split("+")


def _annotations(folder: Path) -> dict[str, list[Object]]:
    """Stem -> objects, of every annotation in the folder: the classes follow from all of them."""
    return {path.stem: read_annotation(path) for path in sorted((folder / "Annotations").glob("*.xml"))}


def _classes(annotations: Iterable[Mapping[str, list[Object]]]) -> tuple[str, ...]:
    names = {o.name for of_folder in annotations for objects in of_folder.values() for o in objects}
    return CLASSES if names <= set(CLASSES) else tuple(sorted(names))


def _stems(folder: Path, lists: Sequence[str], annotations: Mapping[str, Any]) -> list[str]:
    stems: dict[str, None] = {}
    for name in lists:
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        if not path.is_file():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
            raise UserError(f"there is no split {path} (there are: {there})")
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip():  # a list of one class has a column of -1, 0, 1 after the stem
                stems[line.strip() if line.strip() in annotations else line.split()[0]] = None
    for stem in stems:
        if stem not in annotations:
            raise UserError(f"there is no annotation {folder / 'Annotations' / stem}.xml, which a split lists")
    return list(stems)


def _images(folder: Path) -> dict[str, Path]:
    """Stem -> image file; of two with one stem the JPEG."""
    paths = [path for path in (folder / "JPEGImages").glob("*") if path.suffix.lower() in SUFFIXES]
    paths.sort(key=lambda path: (-SUFFIXES.index(path.suffix.lower()), path.name))
    return {path.stem: path for path in paths}


def _image(folder: Path, stem: str, images: Mapping[str, Path]) -> Path:
    if stem not in images:
        raise UserError(f"there is no image {folder / 'JPEGImages' / stem} (.jpg, .jpeg or .png)")
    return images[stem]
