"""COCO's instance annotations: one JSON file beside folders of images (Lin et al., 2014)."""

from __future__ import annotations

import json
import math
import os
import reprlib
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np

from ...errors import UserError
from ..masks import RLE, from_coco
from ..record import Lazy, Record, Records
from .image_file import image_fields, image_size
from .problem import Kind, Problem, Source, left_out

LARGEST = 1e38  # of the numbers of a box: float32 holds the sum of two


class Categories(NamedTuple):
    """Ids, ascending, and the names of those ids; the place of each, from 1 on, is its label."""

    ids: tuple[int, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Object:
    """One annotation: its id or else its place in the file, its label 1..K, its box as written, and the rest."""

    id: Any
    label: int
    xywh: tuple[float, ...]
    crowd: bool
    area: float
    segmentation: Any


class COCO(Records):
    """A data set in COCO's format; the JSON is read when it is made, images when they are asked for.

    file: the annotations.
    images: the folder that `file_name` is relative to; by default it is looked for beside the JSON.

    classes: names of the categories by ascending id, which are labels 1..K.
    category_ids: category_ids[label - 1] is COCO's category id.
    image_ids: record id -> COCO's image id. A record's id is the image's file_name.
    problems: what is wrong with the set as the JSON shows it. Annotations of an image or a category that is not in the
        file, those without a box that has a size, and those of which the area, iscrowd or segmentation is not what it
        should be, are left out; so are images without a file, without an id, a file_name or a size, and those of which
        the id or the file_name is another image's too, for whose their annotations are is not known.
    left_out: one sentence for each of them, naming its id or, where it has none, its place in the file.
    Gives image, size, truth_boxes, truth_labels, truth_difficult (none is), truth_crowd and truth_areas; and
    truth_masks for an image whose objects all have a segmentation, in a file where any has.
    UserError for a file that is not COCO's, for two categories of one id or one name, where no image can be used or
        none of its annotations, and, when a mask is read, for a segmentation that does not fit its image.
    """

    def __init__(self, file: str | Path, images: str | Path | None = None):
        self.file = Path(file)
        self.problems: list[Problem] = []
        self._entries: list[dict[str, Any]] = []
        document = _document(self.file)
        try:
            self._read(document)
        except ValueError as error:
            raise UserError(f"{self.file} is not a COCO annotation file: {error}") from None
        self.images, missing = _images(self.file, images, [entry["file_name"] for entry in self._entries])
        for name in missing:
            path = str(self.images / name)
            self.problems.append(Problem("missing image", path, f"there is no such file, and {file} lists it", "image"))
        there = set(missing)
        self._entries = [entry for entry in self._entries if entry["file_name"] not in there]
        self.image_ids = {entry["file_name"]: entry["id"] for entry in self._entries}
        self.left_out = left_out(self.problems)

    def _read(self, document: Mapping[str, Any]) -> None:
        images, annotations, listed = (_list(document, name) for name in ("images", "annotations", "categories"))
        self.category_ids, self.classes = _categories(listed)
        self._entries, doubtful = self._images_of(images)
        self._objects: dict[Any, list[Object]] = {entry["id"]: [] for entry in self._entries}
        if annotations and not any("bbox" in one for one in annotations if isinstance(one, dict)):
            raise ValueError("its annotations have no 'bbox'")
        labels = {id: label for label, id in enumerate(self.category_ids, 1)}
        for number, annotation in enumerate(annotations):
            if _key(annotation, "image_id") not in doubtful:
                self._take(number, annotation, labels)
        if not any(self._objects.values()) and (lost := [p for p in self.problems if p.loses == "object"]):
            raise UserError(f"no annotation can be used; the first: {lost[0]}")
        self._count(annotations)
        self._masks = any(o.segmentation for objects in self._objects.values() for o in objects)

    def _sound(self, images: Sequence[Any]) -> tuple[list[dict[str, Any]], set[Any]]:
        """The entries that say what they must; and the ids of the others, as far as these have one."""
        entries, doubtful = [], set()
        for number, image in enumerate(images):
            try:
                entries.append(_entry(image))
            except ValueError as error:
                self._tell("malformed entry", f"{_called('image', number, image)} {error}", "image")
                doubtful.add(_key(image, "id"))
        return entries, doubtful - {None}

    def _images_of(self, images: Sequence[Any]) -> tuple[list[dict[str, Any]], set[Any]]:
        """The entries whose id and file_name are theirs alone, sorted; and the ids of the others."""
        if not images:
            raise ValueError("it lists no image")
        sound, broken = self._sound(images)
        times = Counter((image["id"], image["file_name"]) for image in sound)
        for (id, name), n in times.items():
            if n > 1:
                self._tell("duplicate id", f"image {id} ({name}) is listed {n} times")
        entries = {image["id"]: image for image in sound}
        shared = {id for id, n in Counter(id for id, _name in times).items() if n > 1 or id in broken}
        of_names = Counter(name for _id, name in times)
        doubtful = {id for id, name in times if id in shared or of_names[name] > 1}
        for id, name in times:
            if id in doubtful:
                what = "id" if id in shared else "file_name"
                self._tell("duplicate id", f"the {what} of image {id} ({name}) is another image's too", "image")
        kept = [entry for id, entry in entries.items() if id not in doubtful]
        if not kept:
            raise UserError(str(next(problem for problem in self.problems if problem.loses)))
        return sorted(kept, key=lambda entry: str(entry["file_name"])), doubtful | broken

    def _take(self, number: int, annotation: Any, labels: Mapping[int, int]) -> None:
        said = _called("annotation", number, annotation)
        if not isinstance(annotation, dict):
            self._tell("malformed entry", f"{said} is no JSON object", "object")
            return
        label = labels.get(_key(annotation, "category_id"), 0)
        name = self.classes[label - 1] if label else ""
        fault = self._fault(said, annotation, labels)
        if fault is not None:
            self._tell(*fault, "object", name)
            return
        image = annotation["image_id"]
        try:
            self._objects[image].append(_object(annotation, number, label))
        except ValueError as error:
            self._tell("malformed entry", f"{said} of image {image} has {error}", "object", name)

    def _fault(self, said: str, annotation: Mapping[str, Any], labels: Mapping[int, int]) -> tuple[Kind, str] | None:
        image, category = _key(annotation, "image_id"), _key(annotation, "category_id")
        xywh = annotation.get("bbox")
        if image not in self._objects:
            what = "has no image_id" if image is None else f"is of image {image}, which is not in the file"
            return "unknown image", f"{said} {what}"
        if category not in labels:
            what = "has no category_id" if category is None else f"is of category {category}, which is not in the file"
            return "unknown class", f"{said} {what}"
        if not _is_box(xywh):
            return "no box", f"{said} of image {image} has no box of four numbers"
        if _is_flat(xywh):
            return "box without size", f"{said} of image {image} has a box of no size, {tuple(xywh)}"
        return None

    def _count(self, annotations: Sequence[Any]) -> None:
        """Tell of ids that are not one annotation's alone, and of images without any."""
        for id, n in Counter(_key(annotation, "id") for annotation in annotations).items():
            if n > 1 and id is not None:
                self._tell("duplicate id", f"{n} annotations have the id {id}")
        annotated = {_key(annotation, "image_id") for annotation in annotations}
        for entry in self._entries:
            if entry["id"] not in annotated:
                self._tell("empty annotation", f"image {entry['id']} ({entry['file_name']}) has no annotation")

    def _tell(self, kind: Kind, what: str, loses: Literal["", "object", "image"] = "", label: str = "") -> None:
        self.problems.append(Problem(kind, str(self.file), what, loses, label))

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: Any) -> Any:
        entry = self._entries[index]
        objects, path = self._objects[entry["id"]], self.images / entry["file_name"]
        fields = {
            **image_fields(path),
            "truth_boxes": half_open([o.xywh for o in objects]),  # T 4
            "truth_labels": np.array([o.label for o in objects], np.int64),
            "truth_difficult": np.zeros(len(objects), bool),
            "truth_crowd": np.array([o.crowd for o in objects], bool),
            "truth_areas": np.array([o.area for o in objects], np.float32),
        }
        if self._masks and all(o.segmentation for o in objects):
            size = entry["height"], entry["width"]
            fields["truth_masks"] = Lazy(
                partial(read_masks, self.file, path, size, objects), partial(_identity, size, objects)
            )
        return Record(entry["file_name"], fields)

    def source(self, index: int) -> Source:
        """Where a record comes from."""
        entry = self._entries[index]
        names = tuple(f"annotation {o.id} ({self.classes[o.label - 1]})" for o in self._objects[entry["id"]])
        size = (entry["height"], entry["width"]) if entry["height"] and entry["width"] else None
        return Source(self.images / entry["file_name"], self.file, size, names)


def read_masks(file: Path, image: Path, size: tuple[int, int], objects: Sequence[Object]) -> list[RLE]:
    """The masks of an image of (height, width) pixels. UserError naming the annotation that does not fit."""
    if tuple(image_size(image)) != size:
        raise UserError(f"{file} says that {image} is {size[0]} x {size[1]} pixels, which it is not")
    return [_mask(file, o, size) for o in objects]


def _mask(file: Path, o: Object, size: tuple[int, int]) -> RLE:
    try:
        return from_coco(o.segmentation, *size)
    except UserError as error:
        raise UserError(f"{file}: annotation {o.id}: {error}") from None


def _identity(size: tuple[int, int], objects: Sequence[Object]) -> bytes:
    return repr((size, [o.segmentation for o in objects])).encode()


def half_open(xywh: Any) -> Any:
    """Half-open boxes (T 4, float32) of COCO's (x, y, w, h), added up in float64."""
    boxes = np.asarray(xywh, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1).astype(np.float32)  # T 4


def _document(file: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"the annotations {file} cannot be read: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(document, dict):
        what = "a list, as a file of results does" if isinstance(document, list) else "no JSON object"
        raise UserError(f"{file} is not a COCO annotation file: it holds {what}")
    return document


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    if not isinstance(document.get(name), list):
        raise ValueError(f"there is no list {name!r}")
    found: list[Any] = document[name]
    return found


def _categories(categories: Sequence[Any]) -> Categories:
    """The classes. ValueError for one without id or name, and for two of one id or of one name."""
    for category in categories:
        if not isinstance(category, dict) or not isinstance(category.get("id"), int) or "name" not in category:
            raise ValueError(f"the category {reprlib.repr(category)} lacks a name or an id that is a number")
    names = {category["id"]: str(category["name"]) for category in categories}
    if len(names) < len(categories):
        raise ValueError("two categories have one id")
    for name, n in Counter(names.values()).items():
        if n > 1:
            raise ValueError(f"two categories have one name, {name!r}; numbers are told by name")
    ids = tuple(sorted(names))
    return Categories(ids, tuple(names[id] for id in ids))


def _key(entry: Any, name: str) -> Any:
    """What an entry refers by, a number or text; None if it has none of these."""
    value = entry.get(name) if isinstance(entry, dict) else None
    return value if isinstance(value, int | float | str) else None


def _called(what: str, number: int, entry: Any) -> str:
    id = _key(entry, "id")
    return f"{what} {_place(number) if id is None else id}"


def _place(number: int) -> str:
    return f"number {number} (counted from 0)"


def _entry(image: Any) -> dict[str, Any]:
    """What is kept of an image. ValueError, the rest of a sentence, for one that does not say what it must."""
    if not isinstance(image, dict):
        raise ValueError("is no JSON object")
    if _key(image, "id") is None:
        raise ValueError("has no 'id'")
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        raise ValueError("has no 'file_name'")
    return {"id": image["id"], "file_name": image["file_name"], **{k: _side(image, k) for k in ("height", "width")}}


def _side(image: Mapping[str, Any], name: str) -> int:
    """The height or width of an image; some tools write 0 where they do not know it."""
    try:
        side = int(image[name])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"has no {name!r}") from None
    if side < 0:
        raise ValueError(f"has a {name} of {side}")
    return side


def _object(annotation: Mapping[str, Any], number: int, label: int) -> Object:
    """The object of an annotation whose box is sound. ValueError, the rest of a sentence, for what is not."""
    xywh = tuple(float(value) for value in annotation["bbox"])
    area = annotation.get("area", xywh[2] * xywh[3])
    if not _is_number(area):
        raise ValueError(f"an area that is no number, {reprlib.repr(area)}")
    crowd = annotation.get("iscrowd", 0)
    try:
        crowd = bool(int(crowd))
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"an iscrowd that is no whole number, {reprlib.repr(crowd)}") from None
    id = _key(annotation, "id")
    segmentation = _compact(annotation.get("segmentation"))
    return Object(_place(number) if id is None else id, label, xywh, crowd, float(area), segmentation)


def _is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number, also in float32; JSON's may be too large for either."""
    try:
        return math.isfinite(value) and abs(value) < LARGEST
    except (TypeError, OverflowError):
        return False


def _is_box(xywh: Any) -> TypeGuard[Sequence[float]]:
    """Whether these are four finite numbers."""
    return isinstance(xywh, list) and len(xywh) == 4 and all(map(_is_number, xywh))


def _is_flat(xywh: Sequence[float]) -> bool:
    """Whether the box has no size as written, or in float32, in which a side far below a pixel is lost."""
    if min(xywh[2:]) >= 1:
        return False
    x0, y0, x1, y1 = half_open([xywh])[0]
    return bool(min(xywh[2:]) <= 0 or x1 <= x0 or y1 <= y0)


def _compact(segmentation: Any) -> Any:
    """The same numbers in a quarter of the memory: train2017 has 860,000 of these. None if there is none.

    ValueError, the rest of a sentence, for what is neither polygons nor an RLE. Whether it fits is seen when it is
    read.
    """
    if not segmentation:
        return None
    try:
        return _polygons(segmentation) if isinstance(segmentation, list) else _runs(segmentation)
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError(f"a segmentation that is neither polygons nor an RLE, {reprlib.repr(segmentation)}") from None


def _polygons(parts: Sequence[Any]) -> list[array[float]]:
    packed = [array("d", part) for part in parts]
    if any(len(part) % 2 or not math.isfinite(sum(part)) for part in packed) or max(map(len, packed)) < 6:
        raise ValueError("no polygon of three or more points")
    return packed


def _runs(rle: Mapping[str, Any]) -> dict[str, Any]:
    counts = rle["counts"] if isinstance(rle["counts"], str) else array("q", rle["counts"])
    if [type(side) for side in rle["size"]] != [int, int]:
        raise ValueError("no height and width")
    return {**rle, "counts": counts}


def _images(file: Path, images: str | Path | None, names: Sequence[str]) -> tuple[Path, list[str]]:
    """The folder that holds most of the images named, and those that it lacks. UserError if none is found."""
    part = file.stem.removeprefix("instances_")
    beside, above = file.parent, file.parent.parent
    places = [Path(images)] if images is not None else [
        beside, beside / "images", beside / part, above / "images", above / part, above / "images" / part,
        above / part.rsplit("_", 1)[-1], above,
    ]  # fmt: skip
    missing = {place: _missing(place, names) for place in dict.fromkeys(places)}
    best = min(missing, key=lambda place: len(missing[place]))
    if len(missing[best]) == len(names):
        raise UserError(f"the images of {file}, such as {names[0]}, are not in {', '.join(map(str, missing))}")
    return best, missing[best]


def _missing(place: Path, names: Sequence[str]) -> list[str]:
    folders = {os.path.dirname(name) for name in names}
    there = {f for f in folders if (place / f).is_dir()}
    files = {os.path.join(folder, name) for folder in there for name in os.listdir(place / folder)}
    return [name for name in names if name not in files]
