"""Worker processes: one pool for all who need one, deaf to Ctrl-C."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.pipeline import usable
from rcnn.pipeline.processes import side_by_side
from rcnn.pipeline.wrap import Clock, Timed
from rcnn.stages.datasets.image_file import Verdict
from rcnn.stages.record import Record
from rcnn.stages.stage import Stage


def from_wrap() -> list[bool]:
    class Deaf(Stage):
        """Whether the process that calls it hears Ctrl-C."""

        needs = ("size",)
        gives = ("objectness",)
        parallel = True

        def __call__(self, records: Any) -> list[dict[str, Any]]:
            deaf = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
            return [{"objectness": np.array([deaf], np.float32)} for _record in records]

    records = [Record(f"{i}", {"size": np.array([2, 3])}) for i in range(4)]
    return [bool(fields["objectness"][0]) for fields in Timed("deaf", Deaf(), Clock(), 2)(records)]


def from_usable() -> list[bool]:
    def examine(_path: Path) -> Verdict:
        return Verdict("", hash=str(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(usable, "MANY", 1)
        patch.setattr(usable, "examine", examine)
        return [one.hash == "True" for one in usable.examined([Path(f"{i}") for i in range(4)], None, jobs=2)]


@pytest.mark.parametrize(("first", "second"), [(from_usable, from_wrap), (from_wrap, from_usable)])
def test_workers_do_not_hear_ctrl_c_whoever_began_them(first: Any, second: Any) -> None:
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)
    assert first() == [True] * 4
    assert second() == [True] * 4  # the same processes
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_one_process_does_one_part_after_the_other_as_they_are_asked_for() -> None:
    done: list[int] = []
    parts = side_by_side(lambda i: done.append(i) or i, [1, 2, 3], 1)  # type: ignore[func-returns-value]
    assert next(parts) == 1
    assert done == [1]
