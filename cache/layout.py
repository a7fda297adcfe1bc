"""Where things lie in a cache: no other file makes, or looks for, the name of a shelf, an entry, a pack or a lock.

<root>/<step>-<12 hex>/                       a shelf: what one step, by one method, gave
    about.json                                what it was made with
    state.safetensors                         what was learned, if anything is
    inputs.json                               from what: a hash of every field of every image
    checkpoint.safetensors                    while it is being learned
    used, rates.json                          when a run last opened the shelf; what an image or the fit cost
    ab/<hash of id>-<of inputs>.safetensors   one image's entry
    packs/<time>-<random>.safetensors         many small entries in one file
    **/.<name>.<random>.tmp                   a file that is being written
<root>/.removed-<random>/                     a shelf that is being removed
<root>/.runs/<start>-<random>.lock            held by a live run
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from .keys import digest

SHELF = re.compile(r"(?P<step>\w+)-(?P<key>[0-9a-f]{12})")
ENTRY = re.compile(r"[0-9a-f]{2}/[0-9a-f]{32}-[0-9a-f]{12}\.safetensors")
LEASE = re.compile(r"(?P<began>\d{20})-[0-9a-f]{8}\.lock")
RUNS, REMOVED, PACKS = ".runs", ".removed-", "packs"
ABOUT, INPUTS, USED, RATES = "about.json", "inputs.json", "used", "rates.json"
STATE, CHECKPOINT = "state", "checkpoint"


def shelf_name(step: str, key: str) -> str:
    """Of a key the first 12 digits are used."""
    return f"{step}-{key[:12]}"


def step_of(shelf: Path) -> str:
    """The step that a shelf is of; "" if the folder is none."""
    found = SHELF.fullmatch(shelf.name)
    return found["step"] if found else ""


def shelves(root: Path) -> list[Path]:
    """The folders of all shelves by name, with or without about.json."""
    return sorted(path for path in root.glob("*") if step_of(path) and path.is_dir())


def learned(shelf: Path, name: str = STATE) -> Path:
    """The file of what was learned (STATE), or of what is being learned (CHECKPOINT)."""
    return shelf / f"{name}.safetensors"


def entry_name(id: str, inputs: str) -> str:
    """Where an image's entry that was made from these inputs lies on its shelf."""
    name = digest(id)
    return f"{name[:2]}/{name}-{digest(inputs)[:12]}.safetensors"


def entries(shelf: Path) -> Iterator[Path]:
    """All loose entries of a shelf."""
    return shelf.glob("[0-9a-f][0-9a-f]/*.safetensors")


def entries_of(shelf: Path, id: str) -> Iterator[Path]:
    """The loose entries of one image, one for each of the inputs it was ever made from."""
    name = digest(id)
    return shelf.glob(f"{name[:2]}/{name}-*.safetensors")


def is_entry(shelf: Path, path: Path) -> bool:
    """Whether a file below a shelf is a loose entry."""
    return bool(ENTRY.fullmatch(path.relative_to(shelf).as_posix()))


def pack_name() -> str:
    """Where a new pack lies on its shelf; the newest sorts last."""
    return f"{PACKS}/{_now()}.safetensors"


def packs(shelf: Path) -> Iterator[Path]:
    """All packs of a shelf."""
    return shelf.glob(f"{PACKS}/*.safetensors")


def is_pack(path: Path) -> bool:
    """Whether a file of a shelf is a pack."""
    return path.parent.name == PACKS and path.suffix == ".safetensors" and not path.name.startswith(".")


def half_of(path: Path) -> Path:
    """A unique name beside a file, for as long as it is being written."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


def is_half(path: Path) -> bool:
    """Whether a file is being written, or was when its process was killed."""
    return path.name.startswith(".") and path.suffix == ".tmp"


def aside(shelf: Path) -> Path:
    """The name under which a shelf is removed; its own if it bears one already."""
    return shelf if is_removed(shelf) else shelf.with_name(f"{REMOVED}{uuid.uuid4().hex}")


def is_removed(path: Path) -> bool:
    """Whether a folder is a shelf that is being removed."""
    return path.name.startswith(REMOVED)


def lease_name() -> str:
    """The name of a new run's lock."""
    return f"{_now()}.lock"


def leases(root: Path) -> Iterator[tuple[Path, int]]:
    """The locks of runs, and when each run began, in nanoseconds since 1970."""
    for path in (root / RUNS).glob("*.lock"):
        if found := LEASE.fullmatch(path.name):
            yield path, int(found["began"])


def _now() -> str:
    return f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
