"""What a fit learned from: inputs.json beside its state, a hash of every field of every image.

With it `rcnn cache why` can name the images whose change led to another fit, and `rcnn cache verify` can work
out the key anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import layout
from .files import Unreadable, told, write_text
from .keys import digest, inputs_key


@dataclass(frozen=True)
class Inputs:
    """What a fit was handed.

    images: id -> field -> hash of what the field holds, in the order in which fit sees them.
    made_by: field -> key of the step that gave it; a field that is not here is the data set's own.
    """

    images: Mapping[str, Mapping[str, str]]
    made_by: Mapping[str, str]


def state_key(method_key: str, classes: Sequence[str], inputs: Inputs) -> str:
    """The key of what is learned from these inputs by the method with this key."""
    told = ((id, inputs_key(fields)) for id, fields in inputs.images.items())
    return digest(method_key, *classes, *(part for pair in told for part in pair))


def write(shelf: Path, inputs: Inputs) -> None:
    """Write inputs.json into a shelf's folder. UserError if it cannot be written."""
    fields = sorted({name for one in inputs.images.values() for name in one})
    rows = {id: [one.get(name) for name in fields] for id, one in inputs.images.items()}
    text = json.dumps({"fields": fields, "made_by": inputs.made_by, "images": rows}, separators=(",", ":"))
    write_text(shelf / layout.INPUTS, text + "\n")


def read(shelf: Path) -> Inputs | None:
    """What a shelf's state was learned from, or None if the shelf does not say.

    Unreadable if it is damaged; UserError if the system does not let it be read.
    """
    path = shelf / layout.INPUTS
    try:
        with told(path):
            raw = json.loads(path.read_bytes())
        images = {
            id: {name: one for name, one in zip(raw["fields"], row, strict=True) if one is not None}
            for id, row in raw["images"].items()
        }
        return Inputs(images, dict(raw["made_by"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{path} is damaged: {error}") from error
