"""`rcnn demo`: the main job with nothing to download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..options import CacheDir, Device, Jobs
from ..words import say


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the trained RUN and the report.")] = Path("demo"),
    device: Device = "auto",
    jobs: Jobs = None,
    cache: CacheDir = None,
) -> None:
    """Train five systems of the family on drawn shapes and show them side by side, with nothing to download."""
    from ..demo import demo as main_job

    say(f"the report is in {main_job(out, device, jobs, cache)}")
