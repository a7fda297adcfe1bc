"""One file a paper: a function that puts its steps in a row. Two files differ as their two papers do."""

from .hog import hog
from .rcnn import rcnn

__all__ = ["hog", "rcnn"]
