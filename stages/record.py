"""What flows through the pipeline: one Record per image, each field written once, by one step.

Shape letters, the same in every comment of the project:
R regions, T truths, D detections, K classes, F feature length, C h w a map, H W pixels.

Boxes are float32 (x0, y0, x1, y1) in pixels of the original image, half-open: width = x1 - x0.
Labels are 1..K; 0 is background. Zero regions is a normal input everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """What a field holds: dtype ("float" is any floating type), shape letters, unit and meaning."""

    dtype: str
    shape: str
    unit: str
    meaning: str


FIELDS: dict[str, Field] = {
    "image": Field("uint8", "H W 3", "RGB, 0..255", "the image"),
    "size": Field("int64", "2", "pixels", "height and width of the image"),
    "truth_boxes": Field("float32", "T 4", "pixels", "annotated boxes"),
    "truth_labels": Field("int64", "T", "1..K", "annotated classes"),
    "truth_difficult": Field("bool", "T", "", "VOC's difficult flag: neither a hit nor a miss"),
    "truth_crowd": Field("bool", "T", "", "COCO's iscrowd flag: one box around many objects"),
    "truth_areas": Field("float32", "T", "square pixels", "area of the annotated mask, else of the box"),
    "truth_masks": Field("object", "T", "COCO RLE", "annotated masks, decoded on demand"),
    "truth_features.*": Field("float", "T F", "", "features of the annotated boxes, one field per layer"),
    "boxes": Field("float32", "R 4", "pixels", "region proposals"),
    "objectness": Field("float32", "R", "higher is better", "rank or score of each proposal"),
    "regions.labels": Field(
        "int32", "S h w", "", "segment of each pixel at the width searched, for each colour space and k"
    ),
    "regions.merges": Field("int32", "M 3", "", "of trees over segments: which tree, and the two nodes that merge"),
    "regions.nodes": Field("int32", "R 3", "", "of each proposal: which map, which tree, which node"),
    "map": Field("float", "C h w", "", "convolutional map of the whole image"),
    "map.*": Field("float", "C h w", "", "that of one of several sizes of the image, or a level of a feature pyramid"),
    "map_scales": Field("float32", "S 2", "cells a pixel", "columns and rows of each map to a pixel of the image"),
    "map_offset": Field("float32", "2", "cells", "from the corner of the image to the centre of a map's first cell"),
    "image_scales": Field("float32", "S", "", "pixels that a net saw to a pixel of the image, for each map"),
    "features.*": Field("float", "R F", "", "features of the proposals, one field per layer"),
    "scores": Field("float32", "R K", "", "score of each proposal for classes 1..K"),
    "deltas": Field("float32", "R K 4", "", "(dx, dy, dw, dh) from each proposal to its box of each class"),
    "det_boxes": Field("float32", "D 4", "pixels", "detections"),
    "det_scores": Field("float32", "D", "", "their scores"),
    "det_labels": Field("int64", "D", "1..K", "their classes"),
    "det_features.*": Field("float", "D F", "", "features of the detections, one field per layer"),
    "det_masks": Field("float32", "D m m", "0..1", "on a grid over each detection's box, how likely a cell is of it"),
}


def field_of(name: str) -> Field:
    """The entry of FIELDS that describes a field. KeyError if none does.

    That of `features.fc7` is `features.*`; that of `boxes.all`, other ones beside `boxes`, is theirs.
    """
    first, dot, _ = name.partition(".")
    for known in (name, f"{first}.*", first) if dot else (name,):
        if known in FIELDS:
            return FIELDS[known]
    raise KeyError(f"no field is named {name!r}; stages/record.py lists them")


class MissingField(KeyError):
    """A field was read that the record, or the reader's declaration, does not hold."""

    def __str__(self) -> str:
        return str(self.args[0])


class Lazy:
    """A value made when it is first read.

    load: makes the value.
    identity: gives the bytes that the value follows from (an image file's content, a generator's
        parameters), so that a cache can tell whether it changed without making it.
    """

    __slots__ = ("_fingerprint", "_identity", "_load", "_made")

    def __init__(self, load: Callable[[], Any], identity: Callable[[], bytes]):
        self._load = load
        self._identity = identity
        self._made: list[Any] = []
        self._fingerprint: str | None = None

    def value(self) -> Any:
        if not self._made:
            self._made.append(self._load())
        return self._made[0]

    def identity(self) -> bytes:
        return self._identity()

    def fingerprint(self, digest: Callable[[bytes], str]) -> str:
        """The digest of the identity; that is kept, the identity (a whole file, say) is not."""
        if self._fingerprint is None:
            self._fingerprint = digest(self._identity())
        return self._fingerprint

    @property
    def made(self) -> bool:
        return bool(self._made)

    def __getstate__(self) -> tuple[Any, ...]:
        return self._load, self._identity  # made again where it is needed

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.__init__(*state)  # type: ignore[misc]


class Record(Mapping[str, Any]):
    """One image and what is known of it. Fields are added, never changed.

    id: unique in its data set; any text.
    fields: name -> array, list or Lazy.
    reader: who is handed this record, for error messages.
    """

    __slots__ = ("_fields", "id", "reader")

    def __init__(self, id: str, fields: Mapping[str, Any], reader: str = ""):
        self.id = id
        self.reader = reader
        self._fields = dict(fields)

    def __getitem__(self, name: str) -> Any:
        value = self.raw(name)
        return value.value() if isinstance(value, Lazy) else value

    def raw(self, name: str) -> Any:
        """The value as it is held: a Lazy stays one. MissingField if there is none."""
        try:
            return self._fields[name]
        except KeyError:
            who = (
                f"{self.reader} reads {name!r}, which it does not declare or which nothing gives"
                if (self.reader)
                else f"there is no field {name!r}"
            )
            raise MissingField(f"image {self.id!r}: {who} (it has: {', '.join(self._fields)})") from None

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"Record({self.id!r}: {', '.join(self._fields)})"

    def add(self, fields: Mapping[str, Any], author: str = "a step") -> Record:
        """A new record with these fields too. ValueError if one is there already or does not fit FIELDS."""
        twice = [name for name in fields if name in self._fields]
        if twice:
            raise ValueError(f"image {self.id!r}: {author} writes {twice[0]!r}, which is written already")
        known = self._letters()
        for name, value in fields.items():
            if not isinstance(value, Lazy):
                check_field(name, value, known, where=f"image {self.id!r}: {author}")
        return Record(self.id, {**self._fields, **fields}, self.reader)

    def only(self, names: Iterable[str], reader: str = "") -> Record:
        """The record as a reader sees it who declared these names. MissingField if one is not there."""
        for name in names:
            if name not in self._fields:
                raise MissingField(
                    f"image {self.id!r}: {reader or 'a step'} needs {name!r}, "
                    f"which nothing gives (there is: {', '.join(self._fields)})"
                )
        return Record(self.id, {name: self._fields[name] for name in names}, reader)  # a Lazy is shared: made once

    def _letters(self) -> dict[str, int]:
        known: dict[str, int] = {}
        for name, held in self._fields.items():
            value = held.value() if isinstance(held, Lazy) and held.made else held
            if hasattr(value, "shape"):
                for letter, n in zip(field_of(name).shape.split(), value.shape):
                    if letter in "RTDK":
                        known.setdefault(scope(name, letter), int(n))
        return known


def scope(name: str, letter: str) -> str:
    """What a shape letter counts: R of `boxes.all` and of `features.pool5.all` is not that of `boxes`."""
    first, *own = name.split(".")
    family = f"{first}.*" in FIELDS  # the second part of whose names is their own
    return f"{letter}.{own[-1]}" if len(own) > family and name not in FIELDS else letter


def check_field(name: str, value: Any, known: dict[str, int], where: str) -> None:
    """ValueError unless the value has the dtype and shape that FIELDS states; notes R, T, D, K in `known`."""
    field = field_of(name)
    if field.dtype == "object":
        return
    dtype = str(value.dtype).removeprefix("torch.")
    if not (dtype == field.dtype or (field.dtype == "float" and "float" in dtype)):
        raise ValueError(f"{where} gives {name!r} as {dtype}, not {field.dtype}")
    letters = field.shape.split()
    shape = tuple(value.shape)
    if len(shape) != len(letters):
        raise ValueError(f"{where} gives {name!r} with shape {shape}, not ({field.shape})")
    for letter, n in zip(letters, shape):
        if letter.isdigit():
            expected = int(letter)
        elif letter in "RTDK":
            expected = known.setdefault(scope(name, letter), int(n))
        else:
            continue
        if n != expected:
            raise ValueError(f"{where} gives {name!r} with shape {shape}, not ({field.shape}), {letter} = {expected}")


class Records(Sequence[Record]):
    """A lazy sequence of records that can be gone through again and again; it may be larger than memory.

    Every access makes a new, short-lived record; nothing is kept between accesses. In canonical order,
    which is that of the ids.

    classes: names of labels 1..K.
    """

    classes: tuple[str, ...]

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))


class RecordList(Records):
    """Records that are in memory already."""

    def __init__(self, records: Iterable[Record], classes: Sequence[str] = ()):
        self.records = sorted(records, key=lambda record: record.id)
        self.classes = tuple(classes)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: Any) -> Any:
        return self.records[index]
