"""A trained RUN folder holds all that detection needs, and is believed only as far as it can be checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.pipeline import saved
from rcnn.pipeline.pipeline import Pipeline, Step

IMAGE = np.full((20, 30, 3), 90, np.uint8)


@pytest.fixture
def run(toys: Any, tmp_path: Path) -> Path:
    (tmp_path / "w.txt").write_text("2.0")
    pipeline = toys.pipeline(features=toys.Means(str(tmp_path / "w.txt"))).fit(toys.data(), cache=toys.cache)
    saved.save(pipeline, tmp_path / "run")
    return tmp_path / "run"


def load(toys: Any, folder: Path) -> Any:
    return saved.load(folder, allow=[toys.Means.__module__])


def test_what_is_loaded_detects_the_same(toys: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "w.txt").rename(tmp_path / "gone.txt")  # the run has its own copy
    fresh = toys.pipeline(features=toys.Means(str(tmp_path / "gone.txt"))).fit(toys.data(), cache=toys.cache)
    pipeline = load(toys, run)
    assert pipeline.classes == ("cat", "dog")
    for name in pipeline.outputs:
        np.testing.assert_array_equal(pipeline(IMAGE)[name], fresh(IMAGE)[name])


def test_it_reads_the_cache_that_its_training_filled(toys: Any, run: Path) -> None:
    from rcnn.pipeline.run import Run

    toys.calls.clear()
    list(Run(load(toys, run), cache=toys.cache, progress=False).over(toys.data(), ["det_boxes"]))
    assert toys.calls["Means"] == 0
    assert toys.calls["Nearest"] == 6
    toys.calls.clear()
    list(Run(load(toys, run), cache=toys.cache, progress=False).over(toys.data(), ["det_boxes"]))
    assert not toys.calls


def test_a_state_of_another_training_is_refused(toys: Any, run: Path, tmp_path: Path) -> None:
    other = toys.pipeline(classifier=toys.Nearest(bias=2.0)).fit(toys.data(), cache=toys.cache)
    saved.save(other, tmp_path / "other")
    state = "states/classifier.safetensors"
    (run / state).write_bytes((tmp_path / "other" / state).read_bytes())
    with pytest.raises(UserError, match="was learned in another training"):
        load(toys, run)


def test_a_stage_that_gives_other_numbers_since_is_told(toys: Any, run: Path) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    (row,) = [row for row in recipe["steps"] if row["name"] == "classifier"]
    assert row["version"] == 1
    del row["version"]
    (run / "recipe.json").write_text(json.dumps(recipe))
    load(toys, run)  # no version is the first
    row["version"] = 0
    (run / "recipe.json").write_text(json.dumps(recipe))
    with pytest.warns(UserWarning, match="'classifier' was saved with version 0 of Nearest; this is version 1"):
        load(toys, run)


def test_a_half_copied_weight_file_is_not_believed(toys: Any, run: Path, tmp_path: Path) -> None:
    (kept,) = (run / "files").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:1])
    fresh = toys.pipeline(features=toys.Means(str(tmp_path / "w.txt"))).fit(toys.data(), cache=toys.cache)
    saved.save(fresh, run)
    assert kept.read_bytes() == whole


def test_a_run_is_not_trained_again_without_the_data_of_its_own(toys: Any, tmp_path: Path) -> None:
    rest = list(toys.pipeline())[:3]
    own = Step("classifier", toys.Nearest(), data=toys.labelled())
    pipeline = Pipeline([*rest, own], outputs=["scores"]).fit(toys.data(), cache=toys.cache)
    saved.save(pipeline, tmp_path / "own")
    with pytest.raises(UserError, match="step 'classifier' learns from data of its own, which a RUN does not hold"):
        load(toys, tmp_path / "own").fit(toys.data(), cache=toys.cache)


def test_saving_again_replaces_a_run(toys: Any, run: Path) -> None:
    saved.save(load(toys, run), run)
    assert load(toys, run).classes == ("cat", "dog")


def test_another_folder_is_not_touched(toys: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes").write_text("x")
    with pytest.raises(UserError, match=r"mine is there already and is no trained run"):
        saved.save(load(toys, run), tmp_path / "mine")


def test_classes_from_elsewhere_need_leave(toys: Any, run: Path) -> None:
    with pytest.raises(UserError, match=r"which is not of rcnn; say --allow"):
        saved.load(run)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 99}, "is of format 99; this version reads 1"),
        (
            {"steps": [{"name": "x", "keep": True, "apart": False, "class": "rcnn.errors.UserError", "params": {}}]},
            "no stage",
        ),
        (
            {"steps": [{"name": "x", "keep": True, "apart": False, "class": "rcnn.nowhere.X", "params": {}}]},
            "cannot be imported",
        ),
    ],
)
def test_a_recipe_that_is_wrong_is_refused(toys: Any, run: Path, change: dict[str, Any], said: str) -> None:
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps({**recipe, **change}))
    with pytest.raises(UserError, match=said):
        load(toys, run)


def test_what_is_missing_or_damaged_is_named(toys: Any, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no trained run: it has no recipe.json"):
        saved.load(tmp_path)
    (run / "states/classifier.safetensors").unlink()
    with pytest.raises(UserError, match=r"classifier\.safetensors is missing"):
        load(toys, run)
    (run / "recipe.json").write_text("{")
    with pytest.raises(UserError, match=r"recipe\.json is damaged"):
        load(toys, run)
