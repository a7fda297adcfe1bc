"""`python -m rcnn` is the `rcnn` command."""

from .pipeline.cli import main

main()
