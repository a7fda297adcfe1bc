"""The `rcnn` command. Nothing heavy is imported before a command needs it, so that --help is instant."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from ..errors import UserError
from ..stages.nets import ranks
from .commands import (
    cache,
    compare,
    data,
    demo,
    detect,
    doctor,
    evaluate,
    exchange,
    grid,
    plan,
    proposals,
    recipes,
    run,
    stage,
    train,
)

STOPPED = (130, 143)  # by Ctrl-C, by SIGTERM
LOST = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)  # of writes that a file system refuses


class Verbs(TyperGroup):
    """The commands. Ctrl-C is an exit status, so that main says what it means."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise SystemExit(STOPPED[0]) from None


app = typer.Typer(
    cls=Verbs,
    help="The R-CNN family as one staged pipeline of swappable stages.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


for verb in (
    recipes.recipes,
    recipes.show,
    train.train,
    detect.detect,
    evaluate.evaluate,
    run.run,
    stage.stage,
    demo.demo,
    compare.compare,
    data.data,
    grid.grid,
    proposals.proposals,
    plan.plan,
    doctor.doctor,
):
    app.command()(verb)
app.command("import")(exchange.import_)
app.command()(exchange.export)

cache_app = typer.Typer(help="Look into the cache, compare, check and clear it.", no_args_is_help=True)
for command in (cache.ls, cache.show, cache.why, cache.diff, cache.verify, cache.prune):
    cache_app.command()(command)
app.add_typer(cache_app, name="cache")


def main() -> None:
    """Run the command; what a user did wrong, or a disk refused, is one sentence on stderr and exit status 2."""
    logging.basicConfig(level=logging.WARNING, format="rcnn: %(message)s")
    warnings.formatwarning = lambda message, *_args, **_more: f"rcnn: {message}\n"
    warnings.filterwarnings("ignore", r"\d+ tasks ")  # of joblib, which is told to stop when the run is
    try:
        if ranks.started() and sys.argv[1:2] != ["train"]:
            raise UserError("torchrun is for rcnn train: of any other command every process would do the whole")
        _to_the_last_byte()
    except UserError as error:
        print(f"rcnn: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in LOST:
            raise
        print(f"rcnn: cannot write {error.filename or 'what was asked for'}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code in STOPPED:
            print("rcnn: stopped; what was computed is kept, and the same command goes on from there", file=sys.stderr)
        raise


def _to_the_last_byte() -> None:
    """The command with all that it prints, which a full disk may refuse as late as in the flush."""
    try:
        app()
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- Python would try again, and complain, at its exit
            raise
