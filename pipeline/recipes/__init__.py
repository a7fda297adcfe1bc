"""One file a paper: a function that puts its steps in a row. Two files differ as their two papers do."""

from .fast import fast
from .faster import faster
from .faster_4step import faster_4step
from .faster_unshared import faster_unshared
from .hog import hog
from .mask import mask
from .rcnn import rcnn
from .sppnet import sppnet

__all__ = ["fast", "faster", "faster_4step", "faster_unshared", "hog", "mask", "rcnn", "sppnet"]
