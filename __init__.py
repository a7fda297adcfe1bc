"""The R-CNN family as one staged pipeline of swappable stages."""

__version__ = "0.1.0"
