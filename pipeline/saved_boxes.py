"""The proposals of a stage or RUN as a file that `Precomputed` reads, so that they serve any other detector."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import files
from ..errors import UserError
from ..stages.proposals.precomputed import read
from ..stages.record import Records
from .proposal_report import Contender, ordered
from .run import Run
from .wrap import host


def opened(path: Path, stages: Sequence[Contender]) -> dict[str, Any]:
    """What the file holds already: image id -> rows. UserError if it is no .npz, or there are several stages."""
    if path.suffix != ".npz":
        raise UserError(f"--save {path}: boxes are saved as .npz")
    if len(stages) > 1:
        raise UserError(f"--save {path}: name one stage or RUN with --with, not {len(stages)}")
    return dict(read(str(path)).items()) if path.is_file() else {}


def write(path: Path, kept: Mapping[str, Any], stage: Contender, records: Records, indices: Sequence[int],
          cache: str | Path | None, **options: Any) -> None:  # fmt: skip
    """Add the images' boxes (R 4), or R 5 with objectness where a stage gives it, best first; whole or not at all.

    kept: what the file had. options: as Run takes them.
    """
    run = Run(stage.pipeline, cache=cache, **options)
    fields = [name for name in stage.pipeline.outputs if name in ("boxes", "objectness")]
    rows = dict(kept)
    for record in run.over(records, fields, indices=indices):
        boxes = ordered(record, stage.ranked)
        scores = (
            np.sort(host(record["objectness"]))[::-1, None] if stage.ranked else np.zeros((len(boxes), 0), np.float32)
        )
        rows[record.id] = np.concatenate([boxes, scores], 1).astype(np.float32)
    with files.renamed(path) as part, zipfile.ZipFile(part, "w") as archive:
        for name, one in rows.items():  # np.savez has words of its own that an image's name may be
            with archive.open(f"{name}.npy", "w") as entry:
                np.lib.format.write_array(entry, one, allow_pickle=False)
