"""A grid trains each value once, on what all share, and says how each compares with the recipe's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.pipeline import cli, grid, measure, saved
from rcnn.pipeline.pipeline import Pipeline
from rcnn.pipeline.run import Run
from rcnn.pipeline.words import told
from rcnn.stages.datasets.shapes import Shapes

# -- the words of the command ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("classifier__negative_iou=0,0.1,0.5", [0, 0.1, 0.5]),
        ("layer=pool5,fc6,fc7", ["pool5", "fc6", "fc7"]),
        ('classifier__layer=["pool5","fc6"]', ["pool5", "fc6"]),
        ('features__layers=[["pool5"],["fc6","fc7"]]', [("pool5",), ("fc6", "fc7")]),
        ("x__sizes=[1,2],[3]", [(1, 2), (3,)]),
        ("weights=None,DEFAULT,a=b.pth", [None, "DEFAULT", "a=b.pth"]),
        ("box_regression=true,false", [True, False]),
        ("box_regression=True, False", [True, False]),
        ("proposals=300", [300]),
    ],
)
def test_values_are_read_as_set_reads_them(text: str, values: list[Any]) -> None:
    key, found = grid.axis(text)
    assert key == text.partition("=")[0]
    assert [type(value) for value in found] == [type(value) for value in values]
    assert found == values


@pytest.mark.parametrize(
    ("text", "said"),
    [("C", "write step__parameter=value"), ("=1,2", "write"), ("C=", "write"), ("C=1,2,1", "C=1 stands in it twice")],
)
def test_an_axis_of_another_form_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        grid.axis(text)


def test_the_points_are_all_combinations() -> None:
    assert grid.points([("a", [1, 2]), ("b", ["x"])]) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]
    with pytest.raises(UserError, match="a is two axes"):
        grid.points([("a", [1]), ("a", [2])])


def test_a_point_has_a_label_and_a_folder_of_its_own() -> None:
    point = {"classifier__C": 0.01, "weights": "some/file.pth"}
    assert grid.label(point) == "0.01, some/file.pth"
    assert grid.folder(point) == "classifier__C=0.01,weights=some%2Ffile.pth"
    assert grid.folder({"a": "x,b=y"}) != grid.folder({"a": "x", "b": "y"})


# -- training --------------------------------------------------------------------------------------------


def maker(toys: Any) -> Callable[[grid.Values], Pipeline]:
    return lambda values: told(lambda: toys.pipeline().set_params(**values))


def all_trained(toys: Any, points: Sequence[Mapping[str, Any]]) -> list[Any]:
    runs = [Run(maker(toys)(values), cache=toys.cache, jobs=1, progress=False) for values in points]
    train, test = toys.data(6), toys.data(9)
    return [grid.trained(run, grid.label(values), train, test) for run, values in zip(runs, points)]


def test_each_value_is_trained_once_on_what_all_share(toys: Any) -> None:
    points = grid.points([("classifier__bias", [0.0, 1.5, 2.0])])
    first, *others = all_trained(toys, points)
    assert first.clock["features"].computed == 9  # 6 to train on, which are the first of the 9 to measure on
    assert toys.calls["Nearest.fit"] == 6 * 3
    for run in others:
        assert run.clock["classifier"].fit_seconds > 0
        assert run.clock["classifier"].computed == 9
        assert [run.clock[name].computed for name in ("proposals", "features", "truth_features")] == [0, 0, 0]
    toys.calls.clear()
    assert [run.clock.calls() for run in all_trained(toys, points)] == [0, 0, 0]
    assert not toys.calls


def test_points_are_held_against_the_recipes_own(toys: Any) -> None:
    points = grid.points([("proposals__share", [0.4, 0.5, 0.8])])
    default = grid.default_point(maker(toys), points)
    assert default == 1
    runs = all_trained(toys, points)
    found = grid.found("toy", points, default, runs, toys.data(9), resamples=100)
    assert [row["against"] for row in found["runs"]] == ["0.5", None, "0.5"]
    assert [row["values"] for row in found["runs"]] == points
    assert [row["default"] for row in found["runs"]] == [False, True, False]
    truths = measure.read_truths(toys.data(9))
    assert found["runs"][2]["difference"] == measure.bootstrap(runs[1].results, runs[2].results, truths, n=100)
    table = grid.tables(json.loads(json.dumps(found)))[-1]
    assert table.title == "difference in VOC area AP, against 0.5 (the recipe's own)"
    assert table.head == ["proposals__share", "VOC area AP", "difference", "low", "high", "order"]
    assert [row[0] for row in table.rows] == ["0.4", "0.5", "0.8"]
    assert "no test result" in table.caption
    assert "of 2 such intervals some miss the truth by chance" in table.caption


def test_points_are_held_against_the_first_where_the_recipes_own_is_none(toys: Any) -> None:
    points = grid.points([("proposals__share", [0.4, 0.8])])
    assert grid.default_point(maker(toys), points) is None
    found = grid.found("toy", points, None, all_trained(toys, points), toys.data(9), resamples=100)
    assert [row["against"] for row in found["runs"]] == [None, "0.4"]
    assert not any(row["default"] for row in found["runs"])
    assert grid.tables(found)[-1].title.endswith("against 0.4 (the first: the recipe's own is not in the grid)")


def test_a_recipe_that_is_sound_only_on_the_grid_has_no_default(toys: Any) -> None:
    def make(values: grid.Values) -> Pipeline:
        return maker(toys)({"proposals__share": 7, **values})

    assert grid.default_point(make, grid.points([("proposals__share", [0.5])])) is None


def test_one_point_is_compared_with_nothing(toys: Any) -> None:
    points = grid.points([("proposals__share", [0.4])])
    found = grid.found("toy", points, None, all_trained(toys, points), toys.data(9), resamples=100)
    assert not [table for table in grid.tables(found) if table.title.startswith("difference")]


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("classifier__bias", [0.0, "much"], "bias is 'much'"),
        ("proposals__share", [0.5, 7], r"share is 7, not in \(0, 1\]"),
        ("proposals__colour", [1], "no parameter 'colour'"),
        ("features__weights", [None, "gone.txt"], "there is no file gone.txt"),
    ],
)
def test_a_point_that_cannot_be_is_refused_before_any_work(toys: Any, key: str, values: list[Any], said: str) -> None:
    def work(point: grid.Values) -> Run:
        return Run(maker(toys)(point), cache=toys.cache, jobs=1)

    with pytest.raises(UserError, match=said):
        grid.refuse(work, grid.points([(key, values)]))
    assert not toys.calls


# -- the command -----------------------------------------------------------------------------------------

DATA = ("--data", "shapes:3", "--test", "shapes:2:9", "--resamples", "100", "--jobs", "1")
SMALL = ("--set", "backbone=shapenet", "--set", "proposals=20", "--set", "pretrain__epochs=1",
         "--swap", "proposals=sliding_window.SlidingWindow", "--set", "proposals__top=40")  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a cache, and a way to run the command in it."""
    place = tmp_path_factory.mktemp("grid")

    def rcnn(*words: str) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rcnn.pipeline.recipes.pretraining.CROPS", 64)
            patch.setattr(sys, "argv", ["rcnn", *words])
            patch.setenv("RCNN_CACHE", str(place / "cache"))
            patch.chdir(place)
            try:
                cli.main()
            except SystemExit as stop:
                return int(stop.code or 0)
            return 0

    return SimpleNamespace(rcnn=rcnn, place=place)


def test_the_papers_grid_is_one_command(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("grid", "rcnn", "classifier__negative_iou=0.1,0.3", *DATA, *SMALL)
    assert workshop.rcnn(*words, "--json", "--out", "out") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert found == json.loads((workshop.place / "out/grid.json").read_text())
    assert (found["recipe"], found["data"], found["test"]) == ("rcnn", "shapes:3", "shapes:2:9")
    assert [row["default"] for row in found["runs"]] == [False, True]
    second = printed.err.split("(2 of 2)")[1]
    assert "fit classifier" in second
    assert "features" not in second
    assert "regressor" not in second
    assert workshop.rcnn(*words) == 0
    again = capsys.readouterr()
    assert again.err.count("no stage was called") == 2
    assert "against 0.3 (the recipe's own)" in again.out
    kept = saved.load(workshop.place / "out/classifier__negative_iou=0.1")
    assert kept.get_params()["classifier__negative_iou"] == 0.1
    assert kept.classes == tuple(Shapes(1).classes)
    workshop.rcnn("evaluate", "out/classifier__negative_iou=0.1", "--data", "shapes:2:9", "--json", "--jobs", "1")
    alone = json.loads(capsys.readouterr().out)
    assert found["left_out"] == alone.pop("left_out")
    assert {key: found["runs"][0][key] for key in alone} == alone


def test_a_recipes_own_parameter_is_an_axis_too(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("layer=pool5,gap", "box_regression=false", *DATA, *SMALL)
    assert workshop.rcnn("grid", "rcnn", *words, "--markdown") == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert rows[0].startswith("| layer, box_regression |")
    assert {"pool5, False", "gap, False"} <= {row.split("|")[1].strip() for row in rows}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("classifier__C=0.1,-1",), "C must be above 0, not -1"),
        (("classifier__colour=1",), "no parameter 'colour'"),
        (("colour=red",), "recipe rcnn has no such parameter"),
        (("layer=pool5,fc9",), "fc9"),
        (("proposals=30,60",), "proposals is an axis of the grid and set as well"),
        (("classifier__C=0.1", "--metric", "coco_ap75"), "--metric coco_ap75"),
        (("classifier__C=0.1", "--test", "folder:."), "no annotations"),
    ],
)
def test_what_cannot_be_a_grid_is_refused(
    workshop: Any, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (40, 30)).save(workshop.place / "plain.png")
    assert workshop.rcnn("grid", "rcnn", *DATA, *SMALL, *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1  # and nothing was trained before


def test_a_recipe_is_meant_where_a_run_of_its_name_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "hog").mkdir()
    (tmp_path / "hog" / "recipe.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    data = ["--data", "shapes:2", "--out", "out"]
    for words in (["train", "hog", "--set", "nonsense=1"], ["grid", "hog", "nonsense=1,2", "--test", "shapes:2:1"]):
        monkeypatch.setattr(sys, "argv", ["rcnn", *words, *data])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert "recipe hog has no such parameter" in " ".join(capsys.readouterr().err.split())
