"""What stands on a net's features of regions: SVMs with ridge regressors, or the heads of Fast R-CNN."""

from __future__ import annotations

from collections.abc import Sequence

from ...stages.classifiers.softmax_head import SoftmaxHead
from ...stages.classifiers.svm import LinearSVMs
from ...stages.features.fc import FCLayers
from ...stages.features.new_fc import NewFCLayers
from ...stages.regressors.ridge import RidgeBoxRegressors
from ...stages.stage import Ref
from ...stages.suppression.nms import PerClassNMS
from ..pipeline import Again, Step

CLASSIFIERS = ("svm", "softmax")


def refuse_classifier(classifier: str) -> None:
    """ValueError unless it is one of these."""
    if classifier not in CLASSIFIERS:
        raise ValueError(f"classifier is {classifier!r}; it is {' or '.join(CLASSIFIERS)}")


def fully_connected(
    backbone: str, own: bool, widths: Sequence[int], trained: Ref, keep: bool
) -> tuple[list[Step], str]:
    """The step "fc", if any, and the layer that it ends in.

    own: whether the backbone's fc6 and fc7 are taken; else new layers of these widths are, where there are any.
    trained: the Jointly that trains them. keep: whether the cache holds what they give.
    """
    if own:
        return [Step("fc", FCLayers(backbone, layers=("fc7",), weights=trained), keep=keep)], "fc7"
    if widths:
        return [Step("fc", NewFCLayers(widths=tuple(widths), weights=trained), keep=keep)], "fc"
    return [], "pool5"


def head_on(layer: str, trained: Ref, outputs: Sequence[str]) -> Step:
    """The two heads of Fast R-CNN on a layer; outputs: those that detection uses."""
    norm = None if layer in ("fc6", "fc7") else 20.0  # of fc6 and fc7 the norm is what new layers are made for
    return Step("head", SoftmaxHead(layer=layer, norm=norm, outputs=tuple(outputs), weights=trained))


def head_outputs(classifier: str, box_regression: bool) -> tuple[str, ...]:
    """What detection uses of heads that score, or that leave this to SVMs."""
    return (*(("scores",) if classifier == "softmax" else ()), *(("deltas",) if box_regression else ()))


def truth_features() -> Step:
    """The features of the annotated boxes."""
    return Step("truth_features", Again("features", boxes="truth_boxes", features="truth_features"))


def truth_fc(keep: bool = True) -> Step:
    """The fully connected layers on those."""
    return Step("truth_fc", Again("fc", features="truth_features"), keep=keep)


def svms(layer: str) -> Step:
    return Step("classifier", LinearSVMs(layer=layer))


def ridge() -> Step:
    return Step("regressor", RidgeBoxRegressors(layer="pool5"))


def suppression(classifier: str, box_regression: bool, masks: bool = False) -> Step:
    """Greedy NMS; of probabilities those under 0.05 are left out first, as in Fast R-CNN's code.

    masks: whether detections get masks, which the best 100 of an image do (Mask R-CNN, section 3.1).
    """
    least, best = 0.05 if classifier == "softmax" else None, 100 if masks else None
    return Step("suppression", PerClassNMS(min_score=least, top_per_image=best, deltas=box_regression))
