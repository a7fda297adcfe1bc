"""`rcnn doctor`: what may be wrong with the machine and the installation."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from ..options import CacheDir, Json
from ..words import emit


def doctor(cache: CacheDir = None, as_json: Json = False) -> None:
    """Look at versions, devices, threads, OpenCV, memory and disk; exit status 1 if there is a problem."""
    from .. import doctor as doctors

    findings = doctors.examine(cache)
    if as_json:
        print(json.dumps([asdict(one) for one in findings]))
    else:
        emit(doctors.table(findings))
    if any(one.state == doctors.PROBLEM for one in findings):
        raise typer.Exit(1)
