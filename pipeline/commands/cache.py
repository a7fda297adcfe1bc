"""`rcnn cache`: look into the cache."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ...errors import UserError
from ..options import CacheDir, Json, emit, store_of


def ls(cache: CacheDir = None, as_json: Json = False) -> None:
    """List what the cache holds: step, key, images, size."""
    from ..report import cache_rows, cache_table

    store = store_of(cache)
    rows = cache_rows(store)
    if as_json:
        print(json.dumps(rows))
    else:
        emit(cache_table(rows, store.root))


def show(
    name: Annotated[str, typer.Argument(help="A shelf, as `rcnn cache ls` names it, or its beginning.")],
    image: Annotated[str | None, typer.Argument(help="An image id: show its entry.")] = None,
    cache: CacheDir = None,
) -> None:
    """Show how a shelf was made, or one image's entry in it."""
    store = store_of(cache)
    found = [shelf for shelf in store.shelves() if shelf.path.name.startswith(name)]
    if len(found) != 1:
        names = ", ".join(shelf.path.name for shelf in found) or "none"
        raise UserError(f"{len(found)} shelves of {store.root} begin with {name!r}: {names}")
    if image is None:
        print(json.dumps(found[0].about(), indent=1))
        return
    entry = found[0].find(image)
    if entry is None:
        raise UserError(f"{found[0].path.name} has no entry of image {image!r}")
    print(f"{entry.id}: {entry.path}")
    for field, slot in entry.slots.items():
        shape = " x ".join(map(str, slot.shape))
        print(f"  {field}: {slot.dtype} {shape} ({slot.nbytes:,} bytes)")
