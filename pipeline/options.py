"""What the commands take, as typer reads it; words.py makes objects of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str, typer.Argument(help="A recipe's name; `rcnn recipes` lists them.")]
RunOrRecipe = Annotated[str, typer.Argument(metavar="RUN|RECIPE", help="A trained RUN folder, or a recipe.")]
Trained = Annotated[Path, typer.Argument(metavar="RUN", help="A trained RUN folder.")]
Data = Annotated[
    str,
    typer.Option(
        help="voc:DIR:SPLIT, coco:FILE.json[:IMAGES], labelled:DIR, folder:DIR or shapes:N[:SEED]; "
        "#CLASS,CLASS behind it takes these classes alone."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop if anything of the data cannot be used.")]
Sets = Annotated[list[str], typer.Option("--set", metavar="STEP__PARAM=VALUE", help="Change a parameter.")]
Swaps = Annotated[
    list[str],
    typer.Option("--swap", metavar="STEP=CLASS", help="Another stage for a step: proposals=precomputed.Precomputed."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Worker processes for CPU stages. [default: all cores]")]
Seed = Annotated[int | None, typer.Option(help="random_state of every step that has one.")]
Shard = Annotated[str, typer.Option(metavar="I/N", help="Only every N-th image, from the I-th (0-based).")]
CacheDir = Annotated[Path | None, typer.Option("--cache", help="Cache folder. [default: $RCNN_CACHE]")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print markdown on stdout.")]
Metric = Annotated[str, typer.Option(help="What the intervals are of: voc_area or voc_11pt.")]
Resamples = Annotated[int, typer.Option(min=100, help="Resamples of the images for an interval.")]
ByClass = Annotated[bool, typer.Option("--by-class", help="An interval for each class too.")]
Allow = Annotated[list[str], typer.Option(help="Another module whose stages the RUN may name.")]
