"""`rcnn data`: what is in data sets, and what is wrong with them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ...errors import UserError
from ..options import CacheDir, Jobs, Json, Strict
from ..words import emit

Specs = Annotated[
    list[str], typer.Argument(metavar="SPEC...", help="Data sets, as --data names them elsewhere: a train set and a "
                              "test set together show what leaks.")
]  # fmt: skip
All = Annotated[bool, typer.Option("--all", help="Every file and every class, not the first few.")]


def data(
    specs: Specs, all: All = False, as_json: Json = False, strict: Strict = False, jobs: Jobs = None,
    cache: CacheDir = None,
) -> None:  # fmt: skip
    """Say what is wrong with data sets, by file, and what is in them: classes, sizes, near-identical images.

    Every image is read once; what it showed is kept in the cache.
    """
    from ...cache.store import Store
    from .. import data_report, data_tables
    from ..processes import cores
    from ..usable import counted

    found = data_report.report(specs, Store(cache), jobs or cores())
    if as_json:
        print(json.dumps(found))
    else:
        for table in data_tables.everything(found, all):
            emit(table)
    lost = data_report.left_out(found)
    if strict and any(lost.values()):
        raise UserError(f"{counted(lost)} cannot be used")
