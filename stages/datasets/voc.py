"""PASCAL VOC's layout: Annotations/*.xml, ImageSets/Main/SPLIT.txt, JPEGImages/* (Everingham 2010).

Of some images there are masks too: ImageSets/Segmentation/SPLIT.txt, SegmentationObject/*.png.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np

from ...errors import UserError
from ..boxes import area
from ..masks import RLE, area_of, encode
from ..record import Lazy, Record, Records
from .class_names import near_pairs, nearest
from .image_file import image_fields, image_size, read_indices
from .problem import Kind, Problem, Source, left_out

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SUFFIXES = (".jpg", ".jpeg", ".png")
SLIPS = 0.01  # of all objects: up to so many may have a name near one of the 20, and the classes are VOC's still
STRANGE = 0.001  # of all objects: up to so many may have another name, where all of the 20 occur
YEARS = re.compile(r"(\d{2}(?:\d{2})?(?:\+\d{2}(?:\d{2})?)*)_(.+)")
COLUMN = re.compile(r"\s+-?[01]$")  # a list of one class says behind each stem whether it is there


@dataclass(frozen=True)
class Object:
    """One <object>: its place in the file, its class, its box as written (1-based, inclusive), whether difficult.

    What is not written as it should be is an empty name, and nan in the box.
    """

    number: int
    name: str
    raw: tuple[float, ...]
    difficult: bool

    def __str__(self) -> str:
        return f"object {self.number} ({self.name or 'no name'}, counted from 0)"

    @property
    def empty(self) -> bool:
        """Whether the box as written has zero size or is inverted: a mark of an annotation gone wrong."""
        xmin, ymin, xmax, ymax = self.raw
        return xmax <= xmin or ymax <= ymin


class Annotation(NamedTuple):
    """One file of objects; size: the (height, width) that it states, None if it does not."""

    objects: list[Object]
    size: tuple[int, int] | None


class Entry(NamedTuple):
    """One image of the split: its record's id, its files, what its annotation states, the objects that are kept."""

    id: str
    image: Path
    annotation: Path
    size: tuple[int, int] | None
    objects: list[Object]


def half_open(raw: Any) -> Any:
    """Half-open boxes (T 4, float32) of VOC's 1-based, inclusive ones."""
    return np.asarray(raw, np.float32).reshape(-1, 4) - np.array([1, 1, 0, 0], np.float32)  # T 4


def read_annotation(path: Path) -> Annotation:
    """What an annotation file says. UserError if it is missing or not XML."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise UserError(f"there is no annotation {path}") from None
    except (OSError, ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: of its encoding
        raise UserError(f"the annotation {path} cannot be read: {error}") from None
    size = _number(root, "size/height"), _number(root, "size/width")
    stated = (int(size[0]), int(size[1])) if size[0] > 0 and size[1] > 0 else None  # tools write 0 for unknown
    return Annotation([_object(node, i) for i, node in enumerate(root.iter("object"))], stated)


def _object(node: ElementTree.Element, number: int) -> Object:
    raw = tuple(_number(node, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (node.findtext("difficult") or "0").strip() not in ("0", "")
    return Object(number, (node.findtext("name") or "").strip(), raw, difficult)


def _number(node: ElementTree.Element, path: str) -> float:
    """The finite number there, else nan."""
    try:
        value = float(node.findtext(path, ""))
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


class VOC(Records):
    """A data set in VOC's layout; annotations are read when it is made, images when they are asked for.

    root: a folder that holds Annotations/, ImageSets/ and JPEGImages/, or a VOCdevkit that holds such folders
        as VOC2007, VOC2012.
    split: names of lists in ImageSets/Main, joined by "+" ("trainval+test"); below a VOCdevkit years go
        before them ("07+12_trainval"), and ids of several years are written "2007/000001".
    difficult: keep the objects marked difficult; if not, they are left out as if never annotated.
    masks: the lists are those of ImageSets/Segmentation, and objects have masks: the pixels of SegmentationObject that
        hold an object's place among all of the annotation, from 1 on. Pixels that VOC marks as void are of none.
    strict: refuse what cannot be used rather than leave it out.
    classes: names of labels 1..K. By default the 20 of VOC if no other name occurs in any annotation of the
        folders, or so rarely that it is a slip: names near one of the 20 (dgo; class_names.nearest) for together one
        object or SLIPS of all; any other name, where all of the 20 occur, for one object or STRANGE of all. Objects of
        such a name are left out as of an unknown class. Else the classes are all names that occur, sorted, so that
        every split of a data set has the same labels; one likely miswritten for another (class_names.near_pairs) is
        told.

    problems: what is wrong with the split as its annotations show it. Objects without a name among the classes or
        without a box that has a size, judged on the numbers as written, are left out; so are images without a file or
        an annotation that can be read.
    left_out: one sentence for each of them.
    Gives image, size, truth_boxes, truth_labels, truth_difficult, truth_crowd, truth_areas (of the boxes, or of the
    masks) and, if asked, truth_masks.
    UserError for a missing split, where no image can be used and, when masks are read, for an object without a pixel.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "trainval",
        difficult: bool = True,
        strict: bool = False,
        classes: Sequence[str] | None = None,
        masks: bool = False,
    ):
        self.root, self.split, self.difficult, self.strict = Path(root), split, difficult, strict
        self.masks = masks
        folders, lists = find_folders(self.root, split)
        annotations = {folder: _annotations(folder) for folder in folders.values()}
        counts = _counts(annotations.values())
        self.classes = tuple(classes) if classes is not None else _classes(counts)
        self.problems: list[Problem] = list(_doubtful(annotations, counts, self.classes))
        found = [self._entries_of(folder, prefix, lists, annotations[folder]) for prefix, folder in folders.items()]
        self._entries = sorted((entry for entries in found for entry in entries), key=lambda entry: entry.id)
        self.left_out = left_out(self.problems)
        if self.left_out and (strict or not self._entries):
            raise UserError(self.left_out[0])
        if not self._entries:
            raise UserError(f"the split {split} of {root} lists no image")

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        entry = self._entries[index]
        boxes = half_open([o.raw for o in entry.objects])  # T 4
        labels = np.array([self.classes.index(o.name) + 1 for o in entry.objects], np.int64)  # T
        return Record(entry.id, {
            **image_fields(entry.image),
            "truth_boxes": boxes,
            "truth_labels": labels,
            "truth_difficult": np.array([o.difficult for o in entry.objects], bool),
            "truth_crowd": np.zeros(len(entry.objects), bool),
            "truth_areas": area(boxes),
            **(_masks_of(entry) if self.masks else {}),
        })  # fmt: skip

    def source(self, index: int) -> Source:
        """Where a record comes from."""
        entry = self._entries[index]
        return Source(entry.image, entry.annotation, entry.size, tuple(map(str, entry.objects)))

    def _entries_of(
        self, folder: Path, prefix: str, lists: Sequence[str], annotations: Mapping[str, Annotation | str]
    ) -> Iterator[Entry]:
        images = _images(folder)
        for stem in self._stems(folder, lists, annotations.keys() | images.keys()):
            file, annotation = folder / "Annotations" / f"{stem}.xml", annotations.get(stem)
            if annotation is None:
                self._lost("missing annotation", file, "there is no such file, and a split lists the image")
            elif isinstance(annotation, str):
                self._lost("unreadable annotation", file, annotation)
            elif stem not in images:
                path = folder / "JPEGImages" / stem
                self._lost("missing image", path, "there is no such image (.jpg, .jpeg or .png), and a split lists it")
            elif self.masks and not (png := folder / "SegmentationObject" / f"{stem}.png").is_file():
                self._lost("missing annotation", png, "there is no such file, and a split of masks lists the image")
            else:
                image = self._one(images[stem])
                yield Entry(prefix + stem, image, file, annotation.size, self._kept(file, annotation.objects))

    def _one(self, images: Sequence[Path]) -> Path:
        """The image to read, of all that have one stem."""
        *others, image = images
        for other in others:
            what = f"{other.name} has the same name but for the suffix, and is not read"
            self.problems.append(Problem("two images of one name", str(image), what))
        return image

    def _lost(self, kind: Kind, file: Path, what: str) -> None:
        self.problems.append(Problem(kind, str(file), what, "image"))

    def _kept(self, file: Path, objects: Sequence[Object]) -> list[Object]:
        if not objects:
            self.problems.append(Problem("empty annotation", str(file), "it holds no object"))
        asked = [o for o in objects if self.difficult or not o.difficult]
        faults = [self._fault(o) for o in asked]
        for o, fault in zip(asked, faults):
            if fault is not None:
                self.problems.append(Problem(fault[0], str(file), f"{o} {fault[1]}", "object", o.name))
        return [o for o, fault in zip(asked, faults) if fault is None]

    def _fault(self, o: Object) -> tuple[Kind, str] | None:
        if o.name not in self.classes:
            return "unknown class", self._unknown(o.name) if o.name else "has no class"
        if any(map(math.isnan, o.raw)):
            return "no box", "has no box of four numbers"
        if o.empty:
            return "box without size", f"has a box of no size, ({', '.join(f'{value:g}' for value in o.raw)})"
        return None

    def _unknown(self, name: str) -> str:
        near = nearest(name, self.classes)
        return f"is a {name!r}, which is not among the classes" + (f"; {near!r} is" if near else "")

    def _stems(self, folder: Path, lists: Sequence[str], known: Set[str]) -> list[str]:
        """What the lists name, each once; a name twice in one list is worth knowing."""
        stems: dict[str, None] = {}
        kind = "Segmentation" if self.masks else "Main"
        for path in (folder / "ImageSets" / kind / f"{name}.txt" for name in lists):
            listed = _listed(path, known)
            for stem, times in Counter(listed).items():
                if times > 1:
                    self.problems.append(Problem("duplicate id", str(path), f"it lists {stem} {times} times"))
            stems.update(dict.fromkeys(listed))
        return list(stems)


def find_folders(root: Path, split: str) -> tuple[dict[str, Path], list[str]]:
    """{id prefix: folder} and the lists to read in each, from a root and a split. UserError if not there."""
    if any((root / "ImageSets" / kind).is_dir() for kind in ("Main", "Segmentation")):
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


def _annotations(folder: Path) -> dict[str, Annotation | str]:
    """Stem -> what its file says, or why it cannot be read; of all in the folder, for the classes follow from all."""
    return {path.stem: _annotation_or_fault(path) for path in sorted((folder / "Annotations").glob("*.xml"))}


def _annotation_or_fault(path: Path) -> Annotation | str:
    try:
        return read_annotation(path)
    except UserError as error:
        return str(error).removeprefix(f"the annotation {path} ")


def _counts(annotations: Iterable[Mapping[str, Annotation | str]]) -> Counter[str]:
    """Name -> how many objects have it."""
    read = [found for of_folder in annotations for found in of_folder.values() if isinstance(found, Annotation)]
    return Counter(o.name for annotation in read for o in annotation.objects if o.name)


def _classes(counts: Counter[str]) -> tuple[str, ...]:
    """VOC's 20 if only slips are not of them, else all names."""
    strays = {name: n for name, n in counts.items() if name not in CLASSES}
    near = sum(n for name, n in strays.items() if nearest(name, CLASSES))
    far, total = sum(strays.values()) - near, counts.total()
    whole = counts.keys() >= set(CLASSES)
    few = near <= max(1, SLIPS * total) and (not far or (whole and far <= max(1, STRANGE * total)))
    slips = few and near + far < total
    return CLASSES if slips or not strays else tuple(sorted(counts))


def _doubtful(
    annotations: Mapping[Path, Mapping[str, Annotation | str]], counts: Counter[str], classes: Sequence[str]
) -> Iterator[Problem]:
    """Classes that are likely others, miswritten, each with the first file that has it."""
    for name, other in near_pairs({name: n for name, n in counts.items() if name in classes}):
        files = (
            folder / "Annotations" / f"{stem}.xml"
            for folder, of_folder in annotations.items()
            for stem, found in of_folder.items()
            if isinstance(found, Annotation) and any(o.name == name for o in found.objects)
        )
        what = f"the class {name!r} ({counts[name]} objects) is near {other!r} ({counts[other]} objects)"
        yield Problem("class name near another", str(next(files)), what)


def _masks_of(entry: Entry) -> dict[str, Lazy]:
    """The masks of an image's objects, and their areas, read when they are asked for."""
    png = entry.annotation.parent.parent / "SegmentationObject" / f"{entry.annotation.stem}.png"
    numbers = [o.number + 1 for o in entry.objects]
    identity = partial(_identity, png, numbers)
    masks = Lazy(partial(read_masks, png, entry.image, numbers), identity)
    return {"truth_masks": masks, "truth_areas": Lazy(partial(_areas, masks), identity)}


def _areas(masks: Lazy) -> Any:
    return np.array([area_of(mask) for mask in masks.value()], np.float32)  # T


def _identity(png: Path, numbers: Sequence[int]) -> bytes:
    return repr(list(numbers)).encode() + png.read_bytes()


def read_masks(path: Path, image: Path, numbers: Sequence[int]) -> list[RLE]:
    """The masks of objects by their numbers in a file of SegmentationObject.

    UserError if one has no pixel there, or the file is not as large as the image.
    """
    places = read_indices(path)
    if places.shape != tuple(image_size(image)):
        raise UserError(f"{path} is {places.shape[0]} x {places.shape[1]} pixels, which {image} is not")
    for number in numbers:
        if not (places == number).any():
            raise UserError(f"{path}: no pixel is of object {number - 1} (counted from 0)")
    return [encode(places == number) for number in numbers]


def _listed(path: Path, known: Set[str]) -> list[str]:
    """The stems that a list names, in its order. UserError if there is no such list."""
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.txt"))) or "none"
        raise UserError(f"there is no split {path} (there are: {there})")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the split {path} cannot be read: {error}") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line if line in known else COLUMN.sub("", line) for line in lines]


def _images(folder: Path) -> dict[str, list[Path]]:
    """Stem -> image files, JPEGs last: the last is the one to read."""
    paths = [path for path in (folder / "JPEGImages").glob("*") if path.suffix.lower() in SUFFIXES]
    paths.sort(key=lambda path: (-SUFFIXES.index(path.suffix.lower()), path.name))
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(path.stem, []).append(path)
    return found
