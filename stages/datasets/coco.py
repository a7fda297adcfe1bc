"""COCO's instance annotations: one JSON file beside folders of images (Lin et al., 2014)."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError
from ..masks import RLE, from_coco
from ..record import Lazy, Record, Records
from .image_file import image_fields, image_size


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
    left_out: one sentence for each object that was left out because its box has no width or no height.
    Gives image, size, truth_boxes, truth_labels, truth_difficult (none is), truth_crowd and truth_areas; and
    truth_masks for an image whose objects all have a segmentation, in a file where any has.
    UserError for a file that is not COCO's, for images that are not found, and, when a mask is read, for a
    segmentation that does not fit its image.
    """

    def __init__(self, file: str | Path, images: str | Path | None = None):
        self.file = Path(file)
        document = _document(self.file)
        try:
            self._read(document)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{self.file} is not a COCO annotation file: {_reason(error)}") from None
        self.images = _images(self.file, images, [entry["file_name"] for entry in self._entries])

    def _read(self, document: Mapping[str, Any]) -> None:
        names = {int(category["id"]): str(category["name"]) for category in document["categories"]}
        self.category_ids = tuple(sorted(names))
        self.classes = tuple(names[id] for id in self.category_ids)
        keys = ("id", "file_name", "height", "width")
        self._entries = sorted(({k: image[k] for k in keys} for image in document["images"]), key=_file_name)
        self.image_ids = {entry["file_name"]: entry["id"] for entry in self._entries}
        self._objects: dict[Any, list[Object]] = {entry["id"]: [] for entry in self._entries}
        if not len(self._entries) == len(self.image_ids) == len(self._objects):
            raise ValueError("two images have one id or one file_name")
        if not self._entries:
            raise ValueError("it lists no image")
        labels = {id: label for label, id in enumerate(self.category_ids, 1)}
        self.left_out: list[str] = []
        for annotation in document["annotations"]:
            self._take(annotation, labels)
        self._masks = any(o.segmentation for objects in self._objects.values() for o in objects)

    def _take(self, annotation: Mapping[str, Any], labels: Mapping[int, int]) -> None:
        id, image, category = annotation.get("id"), annotation["image_id"], annotation["category_id"]
        if image not in self._objects or category not in labels:
            what = f"image {image}" if image not in self._objects else f"category {category}"
            raise ValueError(f"annotation {id} is of {what}, which is not in the file")
        xywh = tuple(float(value) for value in annotation["bbox"])
        if len(xywh) != 4 or not np.isfinite(xywh).all():
            raise ValueError(f"annotation {id} has no box of four numbers")
        if xywh[2] <= 0 or xywh[3] <= 0:
            self.left_out.append(f"{self.file}: annotation {id} of image {image} has a box of no size, {xywh}")
            return
        segmentation = _compact(annotation.get("segmentation"))
        area = float(annotation.get("area", xywh[2] * xywh[3]))
        crowd = bool(annotation.get("iscrowd", 0))
        self._objects[image].append(Object(id, labels[category], xywh, crowd, area, segmentation))

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


def _file_name(entry: Mapping[str, Any]) -> str:
    return str(entry["file_name"])


def _compact(segmentation: Any) -> Any:
    """The same numbers in a quarter of the memory: train2017 has 860,000 of these."""
    if isinstance(segmentation, list) and all(isinstance(part, list) for part in segmentation):
        return [array("d", part) for part in segmentation]
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), list):
        return {**segmentation, "counts": array("q", segmentation["counts"])}
    return segmentation


def _images(file: Path, images: str | Path | None, names: Sequence[str]) -> Path:
    """The folder that holds every image named. UserError saying where they were looked for."""
    part = file.stem.removeprefix("instances_")
    beside, above = file.parent, file.parent.parent
    places = [Path(images)] if images is not None else [
        beside, beside / "images", beside / part, above / "images", above / part, above / "images" / part,
        above / part.rsplit("_", 1)[-1], above,
    ]  # fmt: skip
    missing = {place: _missing(place, names) for place in dict.fromkeys(places)}
    best = min(missing, key=lambda place: len(missing[place]))
    if not missing[best]:
        return best
    if len(missing[best]) == len(names):
        raise UserError(f"the images of {file}, such as {names[0]}, are not in {', '.join(map(str, missing))}")
    raise UserError(f"{len(missing[best])} of the {len(names)} images of {file} are not in {best}, "
                    f"{missing[best][0]} for one")  # fmt: skip


def _missing(place: Path, names: Sequence[str]) -> list[str]:
    folders = {os.path.dirname(name) for name in names}
    there = {f for f in folders if (place / f).is_dir()}
    files = {os.path.join(folder, name) for folder in there for name in os.listdir(place / folder)}
    return [name for name in names if name not in files]
