"""The stages swap: every combination is built or refused with its sentence, and a pairwise covering set of them runs.

Any two choices that can stand together do so in one of the pipelines that learn here and detect, on two tiny images.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.pipeline.pipeline import Again, Pipeline, Step
from rcnn.pipeline.recipes.mask_branch import Branch, mask_branch
from rcnn.pipeline.recipes.shared_map import first_map
from rcnn.pipeline.run import Run
from rcnn.stages.classifiers.softmax_head import SoftmaxHead
from rcnn.stages.classifiers.svm import LinearSVMs
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.features.conv_map import ConvMap
from rcnn.stages.features.fc import FCLayers
from rcnn.stages.features.fpn import FPN
from rcnn.stages.features.hog import HOG
from rcnn.stages.features.new_fc import NewFCLayers
from rcnn.stages.features.roi_align import RoIAlign
from rcnn.stages.features.roi_pool import RoIPool
from rcnn.stages.features.spp import SpatialPyramidPool
from rcnn.stages.features.warp import WarpedCNN
from rcnn.stages.nets.jointly import Jointly
from rcnn.stages.proposals.edge_boxes import EdgeBoxes
from rcnn.stages.proposals.precomputed import Precomputed
from rcnn.stages.proposals.rpn import RPN
from rcnn.stages.proposals.selective_search import SelectiveSearch
from rcnn.stages.proposals.sliding_window import SlidingWindow
from rcnn.stages.regressors.ridge import RidgeBoxRegressors
from rcnn.stages.stage import Ref, Stage
from rcnn.stages.suppression.nms import PerClassNMS

AXES: dict[str, tuple[Any, ...]] = {
    "proposals": ("selective_search", "sliding_window", "edge_boxes", "precomputed", "rpn"),
    "features": ("hog", "warp", "spp", "roi_pool", "roi_align"),
    "maps": ("", "one", "two", "levels"),  # none where each region is a crop
    "fc": ("none", "new", "own"),
    "training": ("none", "on features", "jointly"),
    "classifier": ("svm", "softmax"),
    "boxes": ("none", "ridge", "head"),
    "masks": ("none", "branch"),
}
Choice = dict[str, Any]


def refusal(choice: Choice) -> str:
    """Why a combination cannot work; none if it can."""
    crops, trained = choice["features"] in ("hog", "warp"), choice["training"] != "none"
    if crops and choice["training"] == "jointly":
        kind = {"hog": "HOG", "warp": "WarpedCNN"}[choice["features"]]
        return f"member 'features' is a {kind}, which cannot be trained with others"
    if choice["fc"] == "new" and not trained:
        return r"step 'fc' \(NewFCLayers\) is nothing before it was trained"
    if not trained and "head" in (choice["boxes"], {"softmax": "head"}.get(choice["classifier"])):
        return r"step 'head' \(SoftmaxHead\) is nothing before it was trained"
    if choice["maps"] == "levels" and choice["features"] == "spp":
        return r"needs 'map_offset', which no (earlier step|member before it) gives"
    if choice["fc"] == "own" and choice["features"] == "hog":
        return r"needs 'features\.pool5', which no earlier step gives"
    return ""


def meant(choice: Choice) -> bool:
    """Whether the choices are about the same pipeline: maps are read by poolers, and by the branch for masks."""
    branch = choice["masks"] == "none" or (choice["maps"] and choice["training"] == "jointly")
    return branch and (choice["features"] in ("hog", "warp")) == (not choice["maps"])


def pipeline_of(choice: Choice, files: dict[str, str]) -> Pipeline:
    own, trained, jointly = choice["fc"] == "own", choice["training"] != "none", choice["training"] == "jointly"
    backbone = "alexnet" if own else "shapenet"
    taught = Ref("training")
    weights = taught if jointly else None
    maps: Any = ConvMap(backbone, weights, (48, 64) if choice["maps"] == "two" else (64,), 100)
    if choice["maps"] == "levels":
        maps = FPN(backbone, weights, 64, 100, channels=256 if own else 8)
    fields = tuple(name for name in maps.maps() if name != "map.p6")
    features: dict[str, Any] = {
        "hog": HOG(window=(32, 32), context=1),
        "warp": WarpedCNN(backbone, None, layers=("pool5",), **({} if own else {"pool": 2})),
        "spp": SpatialPyramidPool((6,) if own else (2, 1), fields),
        "roi_pool": RoIPool(6 if own else 2, fields),
        "roi_align": RoIAlign(6 if own else 2, fields),
    }
    source = "hog" if choice["features"] == "hog" else "pool5"
    layer = {"none": source, "new": "fc", "own": "fc6"}[choice["fc"]]
    fc: dict[str, Any] = {
        "new": NewFCLayers(taught if trained else None, source, widths=(8,)),
        "own": FCLayers("alexnet", taught if trained else None, layers=("fc6",)),
    }
    above = [Step("fc", fc[choice["fc"]])] if choice["fc"] != "none" else []
    head_of = {"softmax": ("scores",), "svm": ()}[choice["classifier"]]
    head = SoftmaxHead(taught if trained else None, layer, norm=20.0,
                       outputs=(*head_of, *(("deltas",) if choice["boxes"] == "head" else ())))  # fmt: skip
    heads = [Step("head", head)] if trained or head.outputs else []
    proposing, before = rpn_of(choice, maps) if choice["proposals"] == "rpn" else ((), [])
    shared = (*(("map",) if choice["maps"] else ()), *proposing, "features")
    branch = mask_branch(taught, fields, width=8) if choice["masks"] == "branch" else Branch([], ())
    members = (*(shared if jointly else ()), *(step.name for step in (*above, *heads)), *branch.members)
    training = [Step("training", Jointly(members, steps=2, rois=16, foreground_iou=0.3, background_iou=(0.0, 0.3),
                                         flip=jointly))] if trained else []  # fmt: skip
    proposals: dict[str, Stage] = {
        "selective_search": SelectiveSearch(width=100, top=30),
        "sliding_window": SlidingWindow((48,), (1.0,), 0.4),
        "edge_boxes": EdgeBoxes(files["forest"], max_boxes=30),
        "precomputed": Precomputed(files["boxes"]),
    }
    first = before or [Step("proposals", proposals[choice["proposals"]])]
    first, later = ([], first) if proposing else (first, [])  # a member that proposes reads the map
    after = [Step("truth_fc", Again("fc", features="truth_features"))] if above else []
    pooled = [Step("features", features[choice["features"]]),
              Step("truth_features", Again("features", boxes="truth_boxes", features="truth_features"))]  # fmt: skip
    return Pipeline([
        *first,
        *(training if jointly else []),
        *([Step("map", maps, keep=False)] if choice["maps"] else []),
        *later,
        *pooled,
        *([] if jointly else training), *above, *heads, *after,
        *([Step("classifier", LinearSVMs(layer=layer))] if choice["classifier"] == "svm" else []),
        *([Step("regressor", RidgeBoxRegressors(layer=source, min_iou=0.3))] if choice["boxes"] == "ridge" else []),
        Step("suppression", PerClassNMS(deltas=choice["boxes"] != "none", top_per_image=20)),
        *branch.steps,
    ])  # fmt: skip


def rpn_of(choice: Choice, maps: Any) -> tuple[tuple[str, ...], list[Step]]:
    """A network that proposes: a member on the shared map, or one on a map of its own where none is shared."""
    plain: dict[str, Any] = {"sides": (16, 32, 64), "width": 8, "min_side": 4.0, "top": 30, "train_top": 30}
    if choice["training"] == "jointly" and choice["maps"] == "levels":
        sides = {"sides": (8, 16, 32, 64, 128), "side_per_map": True}
        return ("proposals",), [Step("proposals", RPN(Ref("training"), maps=maps.maps(), **{**plain, **sides}))]
    if choice["training"] == "jointly" and choice["maps"] == "one":
        return ("proposals",), [Step("proposals", RPN(Ref("training"), **plain))]
    own = ConvMap("shapenet", Ref("rpn_training"), (64,), 100)
    rpn = RPN(Ref("rpn_training"), **plain)
    return (), [
        Step("rpn_training", Jointly(("rpn_map", "proposals"), images=1, steps=2)),
        Step("rpn_map", own, keep=False, fields=first_map(own)),
        Step("proposals", rpn, fields=first_map(rpn)),
    ]


def choices() -> list[Choice]:
    made = [dict(zip(AXES, values)) for values in product(*AXES.values())]
    return [choice for choice in made if meant(choice)]


def pairs(choice: Choice) -> set[Any]:
    return set(combinations(choice.items(), 2))


def covering(legal: list[Choice]) -> Iterator[Choice]:
    """Few of these that hold every pair of values that any of them holds, greedily."""
    left = set().union(*map(pairs, legal))
    while left:
        best = max(legal, key=lambda choice: len(pairs(choice) & left))
        left -= pairs(best)
        yield best


LEGAL = [choice for choice in choices() if not refusal(choice)]
COVERING = list(covering(LEGAL))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, forest: Path) -> dict[str, str]:
    """What proposals are read from: a model of edges, and boxes near the objects."""
    rng, boxes = np.random.default_rng(0), {}
    for record in Shapes(2, 5):
        near = np.repeat(record["truth_boxes"], 8, 0)
        boxes[record.id] = near + rng.normal(0, 6, near.shape)
    path = tmp_path_factory.mktemp("boxes") / "boxes.npz"
    np.savez(path, **{id: found.astype(np.float32) for id, found in boxes.items()})
    return {"forest": str(forest), "boxes": str(path)}


def test_legal_combinations_are_built_and_others_refused(files: dict[str, str]) -> None:
    for choice in choices():
        if choice["proposals"] not in ("precomputed", "rpn"):  # no other refusal is about proposals
            continue
        if why := refusal(choice):
            with pytest.raises(ValueError, match=why):
                pipeline_of(choice, files)
        else:
            assert "proposals" in pipeline_of(choice, files).needed(("det_boxes",))


def test_other_things_that_cannot_stand_together(files: dict[str, str]) -> None:
    base: Choice = {"proposals": "sliding_window", "features": "spp", "maps": "two", "fc": "new",
                    "training": "on features", "classifier": "softmax", "boxes": "head",
                    "masks": "none"}  # fmt: skip
    pipeline = pipeline_of(base, files)
    for change, why in (
        ({"features__maps": ("map",)}, r"step 'features' .* needs 'map', which no earlier step gives"),
        ({"training__flip": True}, r"flip is True, and features\.pool5, which an earlier step gives, has no mirror"),
        ({"head__outputs": ("deltas",)}, r"step 'suppression' .* needs 'scores', which no earlier step gives"),
        ({"head__layer": "fc7"}, r"step 'training' .* needs 'features\.fc7', which no earlier step gives"),
        ({"fc__weights": None}, r"step 'fc' is trained by 'training' and takes its weights from it, not None"),
    ):
        with pytest.raises(ValueError, match=why):
            pipeline.set_params(**change)
    svm = pipeline_of({**base, "classifier": "svm"}, files)
    with pytest.raises(ValueError, match=r"step 'classifier' .* writes 'scores', which head writes already"):
        svm.set_params(head__outputs=("scores", "deltas"))


def named(choice: Choice) -> str:
    return "-".join(str(value).replace(" ", "_") for value in choice.values())


@pytest.mark.parametrize("choice", COVERING, ids=named)
def test_a_covering_set_learns_and_detects(choice: Choice, files: dict[str, str], tmp_path: Path) -> None:
    data = Shapes(2, 5)
    found = []
    for turn in range(2):
        with Run(pipeline_of(choice, files), cache=tmp_path, device="cpu", jobs=1, progress=False) as run:
            run.fit(data)
            outputs = run.pipeline.outputs
            found.append([{name: np.asarray(record[name]) for name in outputs} for record in run.over(data, outputs)])
            assert bool(run.clock.calls()) == (turn == 0)  # the second time all is read
    for first, again in zip(*found):
        count = len(first["det_boxes"])
        assert first["det_boxes"].shape == (count, 4)
        assert first["det_scores"].shape == first["det_labels"].shape == (count,)
        assert ("det_masks" in first) == (choice["masks"] == "branch")
        assert len(first.get("det_masks", first["det_boxes"])) == count
        assert all(np.isfinite(values).all() for values in first.values())
        assert all(np.array_equal(first[name], again[name]) for name in first)
    assert sum(len(fields["det_boxes"]) for fields in found[0]) > 0


def test_without_a_cache_a_fit_reads_what_is_on_no_disk(files: dict[str, str]) -> None:
    """Steps that are not kept give tensors on their device; a fit is handed arrays."""
    choice: Choice = {"proposals": "precomputed", "features": "roi_pool", "maps": "one", "fc": "new",
                      "training": "on features", "classifier": "svm", "boxes": "head",
                      "masks": "none"}  # fmt: skip
    data = Shapes(2, 5)
    with Run(pipeline_of(choice, files), cache=None, device="cpu", jobs=1, progress=False) as run:
        run.fit(data)
        assert len(run.one(data[0])["det_boxes"])
