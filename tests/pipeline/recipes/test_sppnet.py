"""The recipe sppnet: its steps, several scales, and that it finds what it was shown through one map an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from rcnn.pipeline.measure import Truth, read_results, voc_ap
from rcnn.pipeline.recipes import sppnet
from rcnn.pipeline.run import Run
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.features.fc import FCLayers
from rcnn.stages.features.new_fc import NewFCLayers
from rcnn.stages.proposals.sliding_window import SlidingWindow


def test_the_row_of_the_paper() -> None:
    steps = [step.name for step in sppnet(weights=None)]
    assert steps == ["proposals", "map", "features", "truth_features", "classifier", "regressor", "suppression"]
    assert "regressor" not in [step.name for step in sppnet(weights=None, box_regression=False)]
    assert sppnet(weights=None)["features"].needs[4:] == ("map.480", "map.576", "map.688", "map.864", "map.1200")


def test_it_tells_what_it_was_shown_from_background(tmp_path: Path) -> None:
    data = Shapes(12, 1)
    pipeline = sppnet("shapenet", None, scales=(240,), levels=(3, 1))
    pipeline.swap("proposals", SlidingWindow(scales=(32, 48, 72), stride=0.2))
    with Run(pipeline, cache=tmp_path, device="cpu", jobs=1, progress=False) as run:
        run.fit(data)
        found = read_results(run.over(data, pipeline.outputs))
        assert run.clock["map"].computed >= len(data)
    truths = {r.id: Truth(r["truth_boxes"], r["truth_labels"], r["truth_difficult"], r["truth_areas"]) for r in data}
    assert max(voc_ap(found, truths).values()) > 0.5
    with Run(pipeline, cache=tmp_path, device="cpu", jobs=1, progress=False) as again:
        list(again.over(data, pipeline.outputs))
        assert again.clock.calls() == 0  # and so no map is made again


def test_fine_tuning_of_fully_connected_layers() -> None:
    own = sppnet("alexnet", levels=(6,), finetune=True)
    assert isinstance(own["fc"], FCLayers)
    assert own["training"].get_params()["weights"] == "DEFAULT" == own["map"].get_params()["weights"]
    new = sppnet("alexnet", finetune=True, fc=(8,))
    assert isinstance(new["fc"], NewFCLayers)
    assert new["training"].get_params()["weights"] is None
    assert new["training"].needs == ("boxes", "features.pool5")
    assert [step.name for step in new] == [
        "proposals", "map", "features", "truth_features", "training", "fc", "head", "truth_fc", "classifier",
        "regressor", "suppression",
    ]  # fmt: skip
    assert new["classifier"].get_params()["layer"] == "fc"
    assert "head" not in new.needed(new.outputs)  # it serves training alone
    with pytest.raises(ValueError, match="fc is empty: there is nothing to fine-tune"):
        sppnet("alexnet", finetune=True, fc=())


def test_a_softmax_on_cached_features() -> None:
    pipeline = sppnet("shapenet", None, classifier="softmax")
    assert [step.name for step in pipeline][-3:] == ["training", "head", "suppression"]
    assert pipeline["head"].gives == ("scores", "deltas")
    assert sppnet("shapenet", None, classifier="softmax", box_regression=False)["head"].gives == ("scores",)
