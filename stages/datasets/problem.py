"""What may be wrong with a data set, and where a record of one comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

Kind = Literal[
    "missing image", "unreadable image", "wrong size", "missing annotation", "unreadable annotation",
    "malformed entry", "duplicate id", "unknown class", "unknown image", "no box", "box without size", "box outside",
    "box partly outside", "double box", "empty annotation", "class name near another", "class without images",
    "two images of one name", "not read", "EXIF-rotated", "CMYK", "16-bit", "grey",
    "identical, in two sets", "near-identical, in two sets", "identical", "near-identical",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)  # in the order of a report: the gravest first


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data set.

    kind: one of KINDS. file: the image or annotation that shows it. what: the rest of the sentence.
    loses: what cannot be used for it, an "object" or an "image"; "" if it is only worth knowing.
    label: the class of the object that it is about; "" if it is not about one object.
    """

    kind: Kind
    file: str
    what: str
    loses: Literal["", "object", "image"] = ""
    label: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


class Source(NamedTuple):
    """Where a record comes from.

    image, annotation: its files. size: (height, width) that the annotation states; None if it does not.
    objects: what the annotation calls each of its T truths, for messages. upright: whether the image is turned
    as its EXIF orientation says.
    """

    image: Path
    annotation: Path
    size: tuple[int, int] | None = None
    objects: tuple[str, ...] = ()
    upright: bool = False


def left_out(problems: Iterable[Problem]) -> list[str]:
    """One sentence for each object or image that cannot be used."""
    return [str(problem) for problem in problems if problem.loses]
