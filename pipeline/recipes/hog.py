"""The detector before R-CNN: Dalal and Triggs, Histograms of oriented gradients for human detection, CVPR 2005."""

from __future__ import annotations

from collections.abc import Sequence

from ...stages.classifiers.svm import LinearSVMs
from ...stages.features.hog import HOG
from ...stages.proposals.selective_search import SelectiveSearch
from ...stages.proposals.sliding_window import SlidingWindow
from ...stages.regressors.ridge import RidgeBoxRegressors
from ...stages.stage import Stage
from ...stages.suppression.nms import PerClassNMS
from ..pipeline import Again, Pipeline

SEARCHES = ("selective_search", "sliding_window")
C = 0.01 * 105 / 20**2  # the paper's 0.01 is for features of norm sqrt(105), a 1 from each block; here they have 20


def hog(
    search: str = "selective_search",
    proposals: int | None = None,
    window: Sequence[int] = (64, 64),
    context: int = 1,
    box_regression: bool = False,
) -> Pipeline:
    """R-CNN with histograms of oriented gradients in place of its net: the classical baseline.

    search: where boxes come from, "selective_search" or "sliding_window" (the paper's).
    proposals: the most boxes an image; None is 2000 by selective search, and every window.
    window: height and width that a box is warped to, in pixels. Square, as classes differ in shape; the paper's
        for people is (128, 64).
    context: cells around the box in the window; 1, as the paper's 2 would leave half of a square one.
    box_regression: whether boxes are refined by ridge, which is R-CNN's and not the paper's.
    """
    regressor = [("regressor", RidgeBoxRegressors(layer="hog"))] if box_regression else []
    return Pipeline(
        [
            ("proposals", _search(search, proposals)),
            ("features", HOG(window=window, context=context)),
            ("truth_features", Again("features", boxes="truth_boxes", features="truth_features")),
            ("classifier", LinearSVMs(layer="hog", C=C)),
            *regressor,
            ("suppression", PerClassNMS(deltas=box_regression)),
        ],
        name="hog",
    )


def _search(name: str, proposals: int | None) -> Stage:
    if name not in SEARCHES:
        raise ValueError(f"search is {name!r}; it is one of {', '.join(SEARCHES)}")
    if name == "sliding_window":
        return SlidingWindow(top=proposals)
    return SelectiveSearch(top=2000 if proposals is None else proposals)
