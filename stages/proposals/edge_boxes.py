"""Edge boxes (Zitnick and Dollár, ECCV 2014) by OpenCV contrib, on structured edges (the same authors, ICCV 2013)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ...errors import UserError
from ..record import Record
from ..stage import Stage

OPTIONS = ("stride", "shrinkNumber", "patchSize", "patchInnerSize", "numberOfTrees", "numberOfTreesToEvaluate")
NODES = ("childs", "featureIds", "thresholds")  # one entry a node of the forest
SMALLEST = 16  # pixels: the squares of edges that the published forest predicts; OpenCV fails on less
LARGEST = 20_000  # pixels, height + width: where OpenCV's table of box sizes ends, unchecked


def detect_edges(image: Any, forest: Any) -> tuple[Any, Any]:
    """Edges thinned along their direction and that direction, both H W float32, of an image (H W 3 uint8 RGB)."""
    edges = forest.detectEdges(image.astype(np.float32) / 255)
    directions = forest.computeOrientation(edges)
    return forest.edgesNms(edges, directions), directions


def edge_boxes(edges: Any, directions: Any, **settings: float) -> tuple[Any, Any]:
    """Boxes (R 4, half-open) and their scores (R), the best first.

    edges, directions: of `detect_edges`. settings: as OpenCV's createEdgeBoxes names them.

    OpenCV's corners are MATLAB's, counted from 1.
    """
    _, ximgproc = _opencv()
    search = ximgproc.createEdgeBoxes(**settings)  # one an image: it keeps lists of the image before
    rects, scores = search.getBoundingBoxes(edges, directions)
    rects = np.asarray(rects, np.float32).reshape(-1, 4)  # R 4, (x, y, w, h)
    corners = rects[:, :2] - 1
    scores = np.zeros(0) if scores is None else scores
    return np.concatenate([corners, corners + rects[:, 2:]], 1), np.asarray(scores, np.float32).reshape(-1)


def read_forest(file: str) -> Any:
    """OpenCV's detector of structured edges from a model file, kept until another is read. UserError if it is none."""
    if not os.path.isfile(file):
        raise UserError(f"{file}: there is no such file; EdgeBoxes needs a model of structured edges (model.yml.gz)")
    stat = os.stat(file)
    return _read_forest(str(file), stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=1)  # workers are sent the stage with every image; the published forest takes seconds to read
def _read_forest(file: str, *_: int) -> Any:
    cv2, ximgproc = _opencv()
    try:
        check_forest(file)
        return ximgproc.createStructuredEdgeDetection(file)
    except (cv2.error, ValueError) as error:
        said = getattr(error, "err", None) or error
        raise UserError(f"{file}: this is no model of structured edges for OpenCV: {said}") from None


def check_forest(file: str) -> None:
    """ValueError, or cv2.error, if a file holds no forest.

    OpenCV does not look: where an option is missing it divides by 0, and the process ends.
    """
    cv2, _ = _opencv()
    storage = cv2.FileStorage()
    storage.open(file, cv2.FILE_STORAGE_READ)
    options = storage.getNode("options")
    values = {name: options.getNode(name) for name in OPTIONS}
    lost = [name for name, node in values.items() if not (node.isInt() or node.isReal()) or node.real() < 1]
    if lost:
        raise ValueError(f"options hold no {lost[0]} of 1 or more")
    sizes = {name: _length(storage.getNode(name)) for name in NODES}
    nodes = sizes[NODES[0]]
    if not nodes or set(sizes.values()) != {nodes} or nodes % int(values["numberOfTrees"].real()):
        raise ValueError(f"its trees do not fit each other: {', '.join(f'{n} {name}' for name, n in sizes.items())}")
    if _length(storage.getNode("edgeBoundaries")) < nodes or storage.getNode("edgeBins").empty():
        raise ValueError("edgeBoundaries or edgeBins are cut short")


class EdgeBoxes(Stage):
    """Boxes that wholly enclose many edges (Zitnick and Dollár 2014), edges by a structured forest.

    model: the forest, OpenCV's `model.yml.gz` (opencv_extra, testdata/cv/ximgproc).
    alpha: overlap (IoU) of neighbouring boxes in the search; 0.65.
    beta: overlap above which the worse of two boxes is dropped; 0.75. Above 0.99, none.
    eta: beta is multiplied by this for every box kept, down to 0.5; 1.
    min_score: boxes that score less are dropped; 0.01.
    max_boxes: how many of the best are kept; 10,000.
    edge_min_mag: magnitude above which a pixel is on an edge; 0.1.
    edge_merge_thr: turn, in half circles, over which pixels are grouped; 0.5.
    cluster_min_mag: groups of a smaller sum of magnitudes are merged into others; 0.5.
    max_aspect_ratio: of a box's longer to its shorter side; 3.
    min_box_area: square pixels; 1000.
    gamma: power of the affinity of two groups; 2.
    kappa: power of a box's perimeter that its score is divided by; 1.5.

    Defaults are the authors' and OpenCV's. Unlike the authors' code OpenCV does not sharpen the edges.

    Reads `image`; writes `boxes` and `objectness` (the score, falling). An image with a side of less than
    16 pixels has no boxes. UserError if the model is missing or none, if OpenCV contrib is not installed,
    and for an image whose height and width come to 20,000 pixels or more.
    """

    needs = ("image",)
    gives = ("boxes", "objectness")
    files = ("model",)
    parallel = True  # a quarter of a second an image, section 4

    def __init__(  # numbers without a section are those of the authors' edgeBoxes.m
        self,
        model: str,
        alpha: float = 0.65,  # section 4.1
        beta: float = 0.75,  # section 4.1
        eta: float = 1.0,
        min_score: float = 0.01,
        max_boxes: int = 10_000,
        edge_min_mag: float = 0.1,  # section 3.1
        edge_merge_thr: float = 0.5,  # section 3.1: pi / 2
        cluster_min_mag: float = 0.5,
        max_aspect_ratio: float = 3.0,  # section 3.3
        min_box_area: float = 1000.0,  # section 3.3
        gamma: float = 2.0,  # section 3.1
        kappa: float = 1.5,  # section 3.2
    ):
        self.model = model
        self.alpha = alpha
        self.beta = beta
        self.eta = eta
        self.min_score = min_score
        self.max_boxes = max_boxes
        self.edge_min_mag = edge_min_mag
        self.edge_merge_thr = edge_merge_thr
        self.cluster_min_mag = cluster_min_mag
        self.max_aspect_ratio = max_aspect_ratio
        self.min_box_area = min_box_area
        self.gamma = gamma
        self.kappa = kappa

    def validate(self) -> None:
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is {self.alpha}, not between 0 and 1")
        for name in ("beta", "eta"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}, not in (0, 1]")
        # boxes of a few pixels have an inside of none, and score NaN in OpenCV
        least = {"max_boxes": 1, "max_aspect_ratio": 1, "min_box_area": 16}
        own = ("min_score", "edge_min_mag", "edge_merge_thr", "cluster_min_mag", "gamma", "kappa")
        for name, low in {**least, **dict.fromkeys(own, 0)}.items():
            if not low <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}, not a number of {low} or more")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        forest = read_forest(self.model)
        return [dict(zip(self.gives, self._propose(record, forest))) for record in records]

    def _propose(self, record: Record, forest: Any) -> tuple[Any, Any]:
        image = record["image"]
        if min(image.shape[:2]) < SMALLEST:
            return np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
        if sum(image.shape[:2]) >= LARGEST:
            height, width = image.shape[:2]
            raise UserError(f"image {record.id!r}: {width} x {height} pixels are too many for EdgeBoxes")
        boxes, scores = edge_boxes(*detect_edges(image, forest), **self._settings())
        return boxes[: self.max_boxes], scores[: self.max_boxes]  # OpenCV counts only where it suppresses

    def _settings(self) -> dict[str, float]:
        """The parameters by OpenCV's names: min_score is minScore."""
        words = {name: name.split("_") for name in self.param_names() if name != "model"}
        return {first + "".join(map(str.title, rest)): getattr(self, "_".join([first, *rest]))
                for first, *rest in words.values()}  # fmt: skip


def _length(lists: Any) -> int:
    """Numbers in a node that holds a list for each tree."""
    return sum(lists.at(i).size() for i in range(lists.size()))


def _opencv() -> tuple[Any, Any]:
    """cv2 and its ximgproc. UserError where contrib is missing."""
    try:
        import cv2

        return cv2, cv2.ximgproc
    except (ImportError, AttributeError):
        raise UserError(
            "EdgeBoxes needs OpenCV's contrib modules: pip install opencv-contrib-python-headless"
        ) from None
