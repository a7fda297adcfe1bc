"""The `rcnn` command, also as `python -m rcnn`: a signal ends it without a traceback, from its first moment on."""

import signal
import sys
from _thread import interrupt_main
from threading import Timer
from typing import Any, NoReturn

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


def main() -> None:
    """Run the command, by pipeline/cli.py; what Ctrl-C and SIGTERM do to it is said there.

    While it is imported, before there is anything to lose, they end the process, as once it is over.
    """
    sys.unraisablehook = _again
    try:
        from .pipeline.cli import main as command

        signal.signal(signal.SIGTERM, _end)  # an exception, so that worker processes end and no half file stays
        command()
    except KeyboardInterrupt:
        print("rcnn: stopped", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end(*_: object) -> NoReturn:
    sys.exit(TERMINATED)


def _again(lost: Any) -> None:
    """A signal heard where Python drops exceptions (in a weak reference's callback, in `__del__`) comes once more."""
    stops = {KeyboardInterrupt: signal.SIGINT, SystemExit: signal.SIGTERM}
    if lost.exc_type in stops:
        again = Timer(0.01, interrupt_main, [stops[lost.exc_type]])
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


if __name__ == "__main__":
    main()
