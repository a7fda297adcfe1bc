"""COCO's instance annotations: one JSON file beside folders of images (Lin et al., 2014)."""

from __future__ import annotations

import json
import math
import os
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np

from ...errors import UserError
from ..masks import RLE, from_coco
from ..record import Lazy, Record, Records
from .image_file import image_fields, image_size
from .problem import Kind, Problem, Source, left_out


@dataclass(frozen=True)
class Object:
    """One annotation: its id, its label 1..K, its box as written, and the rest."""

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
        file, and those without a box that has a size, are left out; so are images without a file, and those of which
        the id or the file_name is another image's too, for whose their annotations are is not known.
    left_out: one sentence for each of them.
    Gives image, size, truth_boxes, truth_labels, truth_difficult (none is), truth_crowd and truth_areas; and
    truth_masks for an image whose objects all have a segmentation, in a file where any has.
    UserError for a file that is not COCO's, where no image can be used, and, when a mask is read, for a
    segmentation that does not fit its image.
    """

    def __init__(self, file: str | Path, images: str | Path | None = None):
        self.file = Path(file)
        self.problems: list[Problem] = []
        self._entries: list[dict[str, Any]] = []
        document = _document(self.file)
        try:
            self._read(document)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.file} is not a COCO annotation file: {_reason(error)}") from None
        self.images, missing = _images(self.file, images, [entry["file_name"] for entry in self._entries])
        for name in missing:
            path = str(self.images / name)
            self.problems.append(Problem("missing image", path, f"there is no such file, and {file} lists it", "image"))
        there = set(missing)
        self._entries = [entry for entry in self._entries if entry["file_name"] not in there]
        self.image_ids = {entry["file_name"]: entry["id"] for entry in self._entries}
        self.left_out = left_out(self.problems)

    def _read(self, document: Mapping[str, Any]) -> None:
        names = {int(category["id"]): str(category["name"]) for category in document["categories"]}
        if len(names) < len(document["categories"]):
            raise ValueError("two categories have one id")
        self.category_ids = tuple(sorted(names))
        self.classes = tuple(names[id] for id in self.category_ids)
        self._entries, doubtful = self._images_of(document["images"])
        self._objects: dict[Any, list[Object]] = {entry["id"]: [] for entry in self._entries}
        if document["annotations"] and not any("bbox" in annotation for annotation in document["annotations"]):
            raise ValueError("its annotations have no 'bbox'")
        labels = {id: label for label, id in enumerate(self.category_ids, 1)}
        for annotation in document["annotations"]:
            if annotation["image_id"] not in doubtful:
                self._take(annotation, labels)
        self._count(document["annotations"])
        self._masks = any(o.segmentation for objects in self._objects.values() for o in objects)

    def _images_of(self, images: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], set[Any]]:
        """The entries whose id and file_name are theirs alone, sorted; and the ids of the others."""
        if not images:
            raise ValueError("it lists no image")
        keys = ("id", "file_name", "height", "width")
        times = Counter((image["id"], image["file_name"]) for image in images)
        for (id, name), n in times.items():
            if n > 1:
                self._tell("duplicate id", f"image {id} ({name}) is listed {n} times")
        entries = {image["id"]: {k: image[k] for k in keys} for image in images}
        shared = {id for id, n in Counter(id for id, _name in times).items() if n > 1}
        of_names = Counter(name for _id, name in times)
        doubtful = {id for id, name in times if id in shared or of_names[name] > 1}
        for id, name in times:
            if id in doubtful:
                what = "id" if id in shared else "file_name"
                self._tell("duplicate id", f"the {what} of image {id} ({name}) is another image's too", "image")
        if len(doubtful) == len(entries):
            raise UserError(str(self.problems[-1]))
        kept = [entry for id, entry in entries.items() if id not in doubtful]
        return sorted(kept, key=lambda entry: str(entry["file_name"])), doubtful

    def _take(self, annotation: Mapping[str, Any], labels: Mapping[int, int]) -> None:
        fault = self._fault(annotation, labels)
        label = labels.get(annotation["category_id"], 0)
        if fault is not None:
            self._tell(*fault, "object", self.classes[label - 1] if label else "")
            return
        xywh = tuple(float(value) for value in annotation["bbox"])
        segmentation = _compact(annotation.get("segmentation"))
        area = float(annotation.get("area", xywh[2] * xywh[3]))
        crowd = bool(annotation.get("iscrowd", 0))
        o = Object(annotation.get("id"), label, xywh, crowd, area, segmentation)
        self._objects[annotation["image_id"]].append(o)

    def _fault(self, annotation: Mapping[str, Any], labels: Mapping[int, int]) -> tuple[Kind, str] | None:
        image, category, xywh = annotation["image_id"], annotation["category_id"], annotation.get("bbox")
        said = f"annotation {annotation.get('id')}"
        if image not in self._objects:
            return "unknown image", f"{said} is of image {image}, which is not in the file"
        if category not in labels:
            return "unknown class", f"{said} is of category {category}, which is not in the file"
        if not _is_box(xywh):
            return "no box", f"{said} of image {image} has no box of four numbers"
        if xywh[2] <= 0 or xywh[3] <= 0:
            return "box without size", f"{said} of image {image} has a box of no size, {tuple(xywh)}"
        return None

    def _count(self, annotations: Sequence[Mapping[str, Any]]) -> None:
        """Tell of ids that are not one annotation's alone, and of images without any."""
        for id, n in Counter(a["id"] for a in annotations if "id" in a).items():
            if n > 1:
                self._tell("duplicate id", f"{n} annotations have the id {id}")
        annotated = {annotation["image_id"] for annotation in annotations}
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
            size = int(entry["height"]), int(entry["width"])
            fields["truth_masks"] = Lazy(
                partial(read_masks, self.file, path, size, objects), partial(_identity, size, objects)
            )
        return Record(entry["file_name"], fields)

    def source(self, index: int) -> Source:
        """Where a record comes from."""
        entry = self._entries[index]
        names = tuple(f"annotation {o.id} ({self.classes[o.label - 1]})" for o in self._objects[entry["id"]])
        size = (int(entry["height"]), int(entry["width"])) if entry["height"] and entry["width"] else None
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
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise UserError(f"{file} is not a COCO annotation file: it holds a list, as a file of results does")
    return document


def _reason(error: Exception) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)


def _is_box(xywh: Any) -> TypeGuard[Sequence[float]]:
    """Whether these are four finite numbers."""
    try:
        return len(xywh) == 4 and all(math.isfinite(value) for value in xywh)
    except TypeError:
        return False


def _compact(segmentation: Any) -> Any:
    """The same numbers in a quarter of the memory: train2017 has 860,000 of these."""
    if isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        return [array("d", part) for part in segmentation]
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
        return {**segmentation, "counts": array("q", segmentation["counts"])}
    return segmentation


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
