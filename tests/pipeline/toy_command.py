"""The toy detector as one more verb of the `rcnn` command: a program to interrupt, to kill and to starve of disk.

    PACE=SECONDS python toy_command.py toy DIR [--images N] [--jobs N]

Trains with the cache $RCNN_CACHE, saves a RUN in DIR and prints all detections as JSON. An image takes `PACE` seconds
in each step. `python toy_command.py in SECONDS WORDS...` is `rcnn WORDS...`, interrupted by itself after so long.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACE = float(os.environ.get("PACE", "0"))


def interrupted_command() -> None:
    """The command, with a Ctrl-C on its way."""
    from rcnn.__main__ import main

    seconds = float(sys.argv[2])
    sys.argv[1:] = sys.argv[3:]
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    main()


def toy_command() -> None:
    """The command with the verb `toy`."""
    sys.path.insert(0, str(Path(__file__).parent))  # worker processes take it over
    import conftest as toys
    from rcnn.__main__ import main
    from rcnn.pipeline import cli, saved
    from rcnn.pipeline.run import Run

    class Paced:
        def __call__(self, records: Sequence[Any]) -> Any:
            time.sleep(PACE * len(records))
            return super().__call__(records)  # type: ignore[misc]

    class Unheard:
        """Is sent a signal where Python drops exceptions."""

        def __del__(self) -> None:
            signal.raise_signal(int(os.environ["UNHEARD"]))

    class Corners(Paced, toys.Corners):
        parallel = True

        def __call__(self, records: Sequence[Any]) -> Any:
            if "UNHEARD" in os.environ:
                Unheard()
            return super().__call__(records)

    class Means(Paced, toys.Means):
        pass

    class Nearest(Paced, toys.Nearest):
        def fit(self, records: Any, checkpoint: Any) -> None:
            save = checkpoint.save
            checkpoint.save = lambda make, **more: (save(make, **more), time.sleep(PACE))
            super().fit(records, checkpoint)

    @cli.app.command()
    def toy(out: Path, images: int = 6, jobs: int = 1) -> None:
        """Train and detect."""
        pipeline = toys.toy_pipeline(proposals=Corners(), features=Means(), classifier=Nearest())
        run = Run(pipeline, jobs=jobs, progress=False)
        run.fit(toys.toy_data(images))
        saved.save(pipeline, out)
        found = run.over(toys.toy_data(images + 2), pipeline.outputs)
        print(json.dumps({r.id: {name: r[name].tolist() for name in pipeline.outputs} for r in found}))

    main()


if __name__ == "__main__":
    (interrupted_command if sys.argv[1] == "in" else toy_command)()
