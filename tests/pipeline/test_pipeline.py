"""A pipeline is checked when it is built."""

from __future__ import annotations

from typing import Any

import pytest
from rcnn.pipeline.pipeline import Again, Pipeline, Step
from rcnn.stages.stage import Ref


def test_a_missing_field_is_refused_by_step_and_field(toys: Any) -> None:
    with pytest.raises(ValueError, match=r"step 'features' \(Means\) needs 'boxes', which no earlier step gives"):
        Pipeline([("features", toys.Means())], outputs=["features.mean"])


def test_a_field_has_one_author(toys: Any) -> None:
    with pytest.raises(ValueError, match=r"step 'again' \(Corners\) writes 'boxes', which proposals writes already"):
        Pipeline([("proposals", toys.Corners()), ("again", toys.Corners(0.3))], outputs=["boxes"])


def test_a_bad_parameter_is_refused_by_step(toys: Any) -> None:
    with pytest.raises(ValueError, match=r"step 'proposals' \(Corners\): share is 0"):
        toys.pipeline(proposals=toys.Corners(share=0))


def test_a_ref_must_name_an_earlier_step_that_learns(toys: Any) -> None:
    with pytest.raises(ValueError, match="takes the state of 'proposals', which is no earlier step that learns"):
        toys.pipeline(features=toys.Means(weights=Ref("proposals")))


def test_detection_cannot_read_truth(toys: Any) -> None:
    class Cheat(toys.Corners):
        needs = ("truth_boxes",)

    with pytest.raises(ValueError, match="step 'proposals' reads 'truth_boxes' in detection"):
        toys.pipeline(proposals=Cheat())


def test_an_output_needs_an_author(toys: Any) -> None:
    with pytest.raises(ValueError, match="is to give 'det_boxes', which no step gives"):
        Pipeline([("proposals", toys.Corners())])


def test_again_needs_its_step(toys: Any) -> None:
    with pytest.raises(ValueError, match="'again' is 'features' again, which is no earlier step"):
        Pipeline([("again", Again("features"))], outputs=[])


def test_only_what_detection_needs_is_run_for_it(toys: Any) -> None:
    pipeline = toys.pipeline()
    assert pipeline.needed(pipeline.outputs) == ["proposals", "features", "classifier", "suppression"]
    assert pipeline.taught(pipeline.outputs) == ["classifier"]
    assert pipeline.taught(["features.mean"]) == []


def test_set_params_reaches_the_step_and_what_repeats_it(toys: Any, tmp_path: Any) -> None:
    weights = tmp_path / "w.txt"
    weights.write_text("2")
    pipeline = toys.pipeline().set_params(features__weights=str(weights), proposals__share=0.4)
    assert pipeline["features"].weights == str(weights)
    assert pipeline["truth_features"].stage.weights == str(weights)
    assert pipeline.get_params()["proposals__share"] == 0.4


def test_set_params_names_what_it_does_not_know(toys: Any) -> None:
    with pytest.raises(ValueError, match="Corners has no parameter 'shape'; it has share"):
        toys.pipeline().set_params(proposals__shape=1)
    with pytest.raises(ValueError, match="'nothing__share' names no parameter"):
        toys.pipeline().set_params(nothing__share=1)


def test_a_refused_set_params_changes_nothing(toys: Any) -> None:
    pipeline = toys.pipeline()
    with pytest.raises(ValueError, match="share"):
        pipeline.set_params(proposals__share=7)
    assert pipeline.get_params()["proposals__share"] == 0.5


def test_a_slice_ends_with_the_step(toys: Any) -> None:
    part = toys.pipeline()[:"features"]
    assert [step.name for step in part] == ["proposals", "features"]
    assert part.outputs == ("features.mean",)


def test_a_swapped_step_keeps_its_place_and_its_data(toys: Any) -> None:
    rest = list(toys.pipeline())[:3]
    own = Step("classifier", toys.Nearest(), keep=False, data=toys.labelled())
    pipeline = Pipeline([*rest, own], outputs=["scores"]).swap("classifier", toys.Nearest(bias=2.0))
    step = pipeline.step("classifier")
    assert (step.keep, step.apart, step.data) == (False, True, own.data)
    assert pipeline["classifier"].bias == 2.0


def test_a_refused_swap_changes_nothing(toys: Any) -> None:
    pipeline = toys.pipeline()
    with pytest.raises(ValueError, match="needs 'boxes', which no earlier step gives"):
        pipeline.swap("proposals", toys.Best())
    assert type(pipeline["proposals"]) is toys.Corners
    with pytest.raises(ValueError, match="has no step 'nothing'"):
        pipeline.swap("nothing", toys.Best())
