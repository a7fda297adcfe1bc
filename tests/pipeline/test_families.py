"""Recipes side by side: what is set for which, what training took, times that add up, the tables of the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from rcnn.errors import UserError
from rcnn.pipeline import cli, families
from rcnn.pipeline.recipes import fast, faster, faster_4step, faster_unshared, rcnn, sppnet
from rcnn.pipeline.run import Run
from rcnn.pipeline.times import Taken, _medians, kinds_of, times

SMALL = ("--set", "backbone=shapenet", "--set", "weights=null", "--set", "proposals=40", "--set", "fast:fc=[16]")
FAST = ("--set", "fast:scales=[120]", "--set", "fast:training__steps=2", "--set", "sppnet:scales=[120]")


def test_settings_are_for_all_or_for_one() -> None:
    sets = ["proposals=3", "fast:scales=[600]", "weights=C:/a.pth"]
    assert families.settings("rcnn", sets, ["rcnn", "fast"]) == ["proposals=3", "weights=C:/a.pth"]
    assert families.settings("fast", sets, ["rcnn", "fast"]) == ["proposals=3", "scales=[600]", "weights=C:/a.pth"]


@pytest.mark.parametrize(("names", "why"), [(["fast"], "name two recipes at least"), (["a", "a"], "a is named twice")])
def test_what_is_no_comparison_is_refused(names: list[str], why: str) -> None:
    with pytest.raises(UserError, match=why):
        families.refuse_names(names)


def test_training_is_told_where_nothing_came_from_the_cache(toys: Any, tmp_path: Path) -> None:
    for place in (tmp_path / "a", tmp_path / "b"):
        with Run(toys.pipeline(), cache=tmp_path / "cache", jobs=1, progress=False) as run:
            families.train(run, toys.data(6), place)
            assert families.disk(run) > 0
            keys = run.pipeline.keys
    assert families.training_seconds(tmp_path / "a", keys) > 0
    assert families.training_seconds(tmp_path / "a", {**keys, "classifier": "another"}) is None
    assert families.training_seconds(tmp_path / "b", keys) is None


def test_times_are_of_every_step_and_add_up(toys: Any, tmp_path: Path) -> None:
    pipelines = {}
    for name in ("one", "other"):
        pipeline = toys.pipeline()
        Run(pipeline, cache=tmp_path, jobs=1, progress=False).fit(toys.data(6))
        pipelines[name] = pipeline
    images = list(toys.data(3))
    found = times(pipelines, images, "cpu")
    for row in found.values():
        assert list(row["steps"]) == pipelines["one"].needed(pipelines["one"].outputs)
        assert sum(row["steps"].values()) <= row["total"] * 1.5
        assert row["throughput"] > 0
        assert row["without_proposals"] <= row["total"]
    assert found["one"]["speedup"] == 1
    for row in found.values():
        assert row["images"] == 3
    with pytest.raises(ValueError, match="no images to time"):
        times(pipelines, [])


def test_an_image_without_regions_has_no_work() -> None:
    rows = [
        Taken({"map": 1.0, "fc": 1.0}, 2.0, 2.0, {"map": 10}),
        Taken({"map": 1.0, "fc": 3.0}, 4.0, 4.0, {"map": 10, "fc": 30}),
    ]
    found = _medians(rows, rows)
    assert found["multiply_adds"] == {"map": 10, "fc": 15}
    assert found["nets"] == 2.5
    assert (found["promised"], found["kept"]) == (1, 1)


def test_parts_of_the_papers_table() -> None:
    """Conv is what regions are read from; a map that proposals alone are read from is theirs."""
    for pipeline, conv, proposal in (
        (rcnn("squeezenet1_1", None), [], ["proposals"]),
        (fast("squeezenet1_1", None), ["map"], ["proposals"]),
        (faster("squeezenet1_1", None), ["map"], ["proposals"]),
        (faster("resnet18", None, fpn=True), ["map"], ["proposals"]),
        (faster_4step("squeezenet1_1", None), ["map"], ["proposals", "best"]),
        (faster_unshared("squeezenet1_1", None), ["map"], ["first_map", "proposals", "best"]),
    ):
        found = kinds_of(pipeline)
        assert list(found) == pipeline.needed(pipeline.outputs)
        assert [name for name in found if found[name] == "conv"] == conv
        assert [name for name in found if found[name] == "proposal"] == proposal
        assert found["suppression"] == "region-wise"


def test_what_is_not_alike_is_told() -> None:
    alike = [rcnn("squeezenet1_1", None), sppnet("squeezenet1_1", None), fast("squeezenet1_1", None)]
    assert families.unlike(alike) == []
    said = families.unlike([rcnn("alexnet", "a.pth"), fast("vgg16", "DEFAULT", proposals=100)])
    assert said[0] == "backbone: rcnn has alexnet, fast has vgg16"
    assert said[1] == "weights: rcnn has a.pth, fast has DEFAULT"
    assert said[2].startswith("proposals: ")
    others = [faster("squeezenet1_1", None), faster_4step("squeezenet1_1", None)]  # nothing of these is trained
    assert [text.partition(":")[0] for text in families.unlike([alike[-1], *others])] == ["proposals"]
    assert families.unlike([others[0], faster("squeezenet1_1", None)]) == []


def test_boxes_of_a_method_that_learns_nothing_are_no_training() -> None:
    for pipeline, free in (
        (fast("squeezenet1_1", None), ["proposals"]),
        (faster("squeezenet1_1", None), []),
        (faster_unshared("squeezenet1_1", None, search=True), ["search"]),
    ):
        assert [step.name for step in pipeline if families.proposes(pipeline.method(step.name))] == free


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rcnn", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    words = ["compare", "rcnn", "sppnet", "fast", "--data", "shapes:6:1", "--test", "shapes:3:2", "--times", "2",
             "--device", "cpu", "--jobs", "1", *SMALL, *FAST]  # fmt: skip
    assert run(monkeypatch, *words) == 2
    assert "give all three" in capsys.readouterr().err
    assert run(monkeypatch, *words, "--out", str(tmp_path / "out")) == 0
    printed = capsys.readouterr().out
    for title in (
        "accuracy on the same 3 images",
        "cost",
        "milliseconds an image by part",
        "seconds an image by step",
        "as published",
    ):
        assert title in printed
    found = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (
        [row["recipe"] for row in found["costs"]] == [row["run"] for row in found["runs"]] == ["rcnn", "sppnet", "fast"]
    )
    for row in found["costs"]:
        assert row["training_seconds"] > 0
        assert 1e8 < row["memory"] < 2e9
        assert row["cache"] > 0
        assert sum(row["parts"].values()) == pytest.approx(row["total"] - row["rest"], rel=0.3)  # medians, each its own
    assert set(found["costs"][2]["steps"]) >= {"proposals", "map", "features", "fc", "head", "suppression"}
    assert (tmp_path / "out" / "fast" / "recipe.json").is_file()


def test_settings_are_for_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run(monkeypatch, "compare", "a", "b", "--data", "shapes:2", "--set", "x=1") == 2
    assert "--set x=1: a trained RUN is what it is" in capsys.readouterr().err
