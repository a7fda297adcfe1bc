"""The command, as a user types it: what it prints, what it leaves, and its one sentence on bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rcnn.pipeline import cli
from rcnn.stages.datasets.shapes import Shapes

SMALL = ["--set", "backbone=shapenet", "--set", "proposals=60", "--set", "pretrain__epochs=1"]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder with a cache and a RUN trained on four drawn images, and a way to run the command in it."""
    place = tmp_path_factory.mktemp("cli")

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

    assert rcnn("train", "rcnn", "--data", "shapes:4", "--out", "run", *SMALL, "--jobs", "1") == 0
    image = np.random.default_rng(0).integers(0, 255, (80, 90, 3)).astype(np.uint8)
    Image.fromarray(image).save(place / "image.png")
    return type("Workshop", (), {"rcnn": staticmethod(rcnn), "place": place})


def test_evaluate_prints_every_metric(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workshop.rcnn("evaluate", "run", "--data", "shapes:3:9", "--json", "--jobs", "1") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"voc_11pt", "voc_area", "coco_ap", "coco_ap50"} <= found["metrics"].keys()
    assert len(found["per_class"]) == 8
    assert sum(row["truths"] for row in found["per_class"].values()) >= 3
    assert sum(found["lost"].values()) == sum(row["truths"] for row in found["per_class"].values())


def test_the_second_evaluation_calls_no_stage_and_says_so(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.rcnn("evaluate", "run", "--data", "shapes:2:5", "--jobs", "1")
    first = capsys.readouterr()
    workshop.rcnn("evaluate", "run", "--data", "shapes:2:5", "--jobs", "1")
    second = capsys.readouterr()
    assert "no stage was called" not in first.err
    assert "no stage was called" in second.err
    assert first.out == second.out


def test_detect_leaves_coco_results_and_pictures(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workshop.rcnn("detect", "run", "image.png", "--out", "found", "--json", "--jobs", "1") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows == json.loads((workshop.place / "found/results.json").read_text())
    assert rows
    for row in rows:
        assert row["file_name"] == "image.png"
        assert row["image_id"] == 1
        assert row["category"] == Shapes(1).classes[row["category_id"] - 1]
        x, y, w, h = row["bbox"]
        assert 0 <= x <= x + w <= 90.001
        assert 0 <= y <= y + h <= 80.001
    assert Image.open(workshop.place / "found/pictures/000001-image.png").size[0] > 300


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three drawn images, one of which was cut short, and their annotations."""
    folder = tmp_path_factory.mktemp("broken")
    shapes = Shapes(3, 9)
    rows, images = [], []
    for i, record in enumerate(shapes):
        height, width = (int(side) for side in record["size"])
        Image.fromarray(record["image"]).save(folder / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        for (x0, y0, x1, y1), label in zip(record["truth_boxes"].tolist(), record["truth_labels"].tolist()):
            rows.append({"id": len(rows), "image_id": i, "category_id": label, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:500])
    categories = [{"id": i, "name": name} for i, name in enumerate(shapes.classes, 1)]
    text = json.dumps({"images": images, "annotations": rows, "categories": categories})
    (folder / "set.json").write_text(text)
    return folder


def test_detect_names_a_broken_image_and_takes_the_others(
    workshop: Any, broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("detect", "run", *(str(broken / f"{i}.png") for i in range(3)), "image.png", "--out", "found4")
    assert workshop.rcnn(*words, "--json", "--jobs", "1") == 0
    said = capsys.readouterr()
    assert {Path(row["file_name"]).name for row in json.loads(said.out)} == {"0.png", "2.png", "image.png"}
    assert f"left out: {broken / '1.png'}: the image cannot be read" in said.err
    assert workshop.rcnn(*words, "--strict") == 2
    assert "1 image cannot be used (--strict); the first: " in capsys.readouterr().err


def test_what_is_left_out_is_in_the_result(workshop: Any, broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = f"coco:{broken / 'set.json'}"
    (workshop.place / "twin").symlink_to("run")
    window = "sliding_window.SlidingWindow:scales=[64]"
    commands = {
        "evaluate": ("evaluate", "run", "--data", spec),
        "compare": ("compare", "run", "twin", "--data", spec, "--resamples", "100"),
        "proposals": ("proposals", spec, "--with", window, "--cache", "proposals_cache"),
    }
    for name, words in commands.items():
        assert workshop.rcnn(*words, "--json", "--jobs", "1") == 0
        left = json.loads(capsys.readouterr().out)["left_out"]
        assert (left["images"], left["objects"]) == (1, 0), name
        (sentence,) = left["first"]
        assert sentence.startswith(f"{broken / '1.png'}: the image cannot be read")
        assert workshop.rcnn(*words, "--jobs", "1") == 0
        assert "left out, and so not measured: 1 image; the first:" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("train", "rcnn", "--data", "SPEC", "--out", "strict"),
        ("evaluate", "run", "--data", "SPEC"),
        ("run", "rcnn", "--data", "SPEC"),
        ("plan", "rcnn", "--data", "SPEC"),
        ("plan", "rcnn", "--data", "shapes:2", "--test", "SPEC"),
        ("compare", "run", "moved", "--data", "SPEC"),
        ("grid", "rcnn", "classifier__C=0.1", "--data", "SPEC", "--test", "shapes:2"),
        ("grid", "rcnn", "classifier__C=0.1", "--data", "shapes:2", "--test", "SPEC"),
        ("proposals", "SPEC", "--with", "sliding_window.SlidingWindow"),
    ],
)
def test_strict_stops_every_command_that_takes_data(
    workshop: Any, broken: Path, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    small, spec = SMALL if words[1] == "rcnn" else [], f"coco:{broken / 'set.json'}"
    assert workshop.rcnn(*(spec if word == "SPEC" else word for word in words), *small, "--strict") == 2
    said = capsys.readouterr().err
    assert said.startswith(f"rcnn: {spec}: 1 image cannot be used (--strict); the first: ")
    assert not (workshop.place / "strict").exists()


def test_a_run_is_movable(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.rcnn("detect", "run", "image.png", "--json", "--jobs", "1")
    here = capsys.readouterr().out
    (workshop.place / "run").rename(workshop.place / "moved")
    try:
        code = workshop.rcnn("detect", "moved", "image.png", "--json", "--jobs", "1", "--cache", "empty")
    finally:
        (workshop.place / "moved").rename(workshop.place / "run")
    assert code == 0
    assert capsys.readouterr().out == here


@pytest.mark.parametrize("step", ["proposals", "features", "classifier", "regressor", "suppression"])
def test_stage_draws_what_a_step_gave(workshop: Any, step: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert workshop.rcnn("stage", "run", step, "image.png", "--out", "drawn") == 0
    assert "image.png:" in capsys.readouterr().out
    assert Image.open(workshop.place / f"drawn/000001-image-{step}.png").size[0] > 300


def test_stage_draws_regions(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = "drawn/000001-image-proposals.png", "regions/000001-image-proposals.png"
    words = ["stage", "rcnn", "proposals", "image.png", "--set", "proposals__mode=single", *SMALL, "--cache", "apart"]
    assert workshop.rcnn(*words, "--out", "drawn") == 0
    for _ in range(2):  # computed, then taken from the cache
        assert workshop.rcnn(*words, "--set", "proposals__regions=true", "--out", "regions") == 0
        assert "regions.merges" in capsys.readouterr().out
        widths = [Image.open(workshop.place / path).size[0] for path in (small, large)]
        assert widths[1] == 4 * widths[0]  # a panel for boxes, label maps, trees and the regions of boxes


def test_stage_of_a_recipe_learns_only_what_has_data_of_its_own(
    workshop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert workshop.rcnn("stage", "rcnn", "features", "image.png", *SMALL) == 0
    assert workshop.rcnn("stage", "rcnn", "classifier", "image.png", *SMALL) == 2
    assert "step 'classifier' has learned nothing yet" in capsys.readouterr().err


def test_run_one_step_in_shards(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "rcnn", "--data", "shapes:3:77", *SMALL, "--jobs", "1"]
    assert workshop.rcnn(*words, "--only", "features") == 2
    assert "the cache lacks what step 'proposals' gives" in capsys.readouterr().err
    for shard in ("0/2", "1/2"):
        assert workshop.rcnn(*words, "--until", "proposals", "--shard", shard) == 0
    capsys.readouterr()
    assert workshop.rcnn(*words, "--only", "features") == 0


def test_a_step_that_gives_a_state_runs_alone(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tuned = [*SMALL, "--set", "finetune=true", "--set", "finetune__steps=1", "--set", "finetune__positives=2"]
    words = ["run", "rcnn", "--data", "shapes:4:78", *tuned, "--jobs", "1"]
    assert workshop.rcnn(*words, "--only", "finetune") == 2
    assert "the cache lacks what step 'proposals' gives" in capsys.readouterr().err
    assert workshop.rcnn(*words, "--until", "proposals") == 0
    assert workshop.rcnn(*words, "--only", "features") == 2
    assert "since step 'finetune' has not learned; run with --until finetune first" in capsys.readouterr().err
    assert workshop.rcnn(*words, "--only", "finetune") == 0
    told = capsys.readouterr().err
    assert "finetune" in told
    assert "features" not in told
    assert workshop.rcnn("stage", "rcnn", "finetune", "image.png", *tuned) == 2
    assert "step 'finetune' serves training and gives no field to look at" in capsys.readouterr().err


def test_cache_ls_and_show(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workshop.rcnn("cache", "ls", "--json") == 0
    rows = {row["shelf"].split("-")[0]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["classifier"]["learned"]
    assert rows["proposals"]["images"] >= 4
    assert workshop.rcnn("cache", "ls") == 0
    assert "proposals-" in capsys.readouterr().out
    assert workshop.rcnn("cache", "show", rows["features"]["shelf"], "shapes-0-000000") == 0
    assert "features.pool5: float16" in capsys.readouterr().out
    assert workshop.rcnn("cache", "show", "classifier") == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["layer"] == "pool5"


def test_recipes_and_show(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert workshop.rcnn("recipes") == 0
    assert "rcnn" in capsys.readouterr().out
    assert workshop.rcnn("show", "rcnn", "--set", "proposals__mode=quality") == 0
    shown = capsys.readouterr().out
    assert "proposals__mode = 'quality'" in shown
    assert "classifier: LinearSVMs" in shown
    assert workshop.rcnn("show", "run") == 0


BAD = {
    "no such recipe": (["show", "rcmm"], "'rcmm' is neither a trained RUN folder nor a recipe"),
    "no such parameter": (["show", "rcnn", "--set", "proposals__depth=3"], "no parameter 'depth'"),
    "no such recipe parameter": (["show", "rcnn", "--set", "depth=3"], "recipe rcnn has no such parameter"),
    "no assignment": (["show", "rcnn", "--set", "depth"], "--set depth: write step__parameter=value"),
    "value of a wrong type": (["show", "rcnn", "--set", "proposals__width=abc"], "width is 'abc', not int | None"),
    "null": (["show", "rcnn", "--set", "classifier__C=null"], "C is None, not float"),
    "part of a box": (["show", "rcnn", "--set", "proposals=2.5"], "proposals is 2.5, not int"),
    "backbone that is a number": (["show", "rcnn", "--set", "backbone=1"], "backbone is 1, not str"),
    "text for a list": (["show", "rcnn", "--set", "features__layers=pool5"], "layers is 'pool5', not Sequence"),
    "layer that the net has not": (["show", "rcnn", "--set", "backbone=shapenet", "--set", "layer=fc7"], "pool5, gap"),
    "no such device": (["run", "run", "--data", "shapes:2", "--device", "foo"], "device 'foo' is none"),
    "device that is not here": (["run", "run", "--data", "shapes:2", "--device", "cuda:77"], "'cuda:77' is not there"),
    "truth of an image": (["stage", "run", "truth_features", "image.png"], "needs 'truth_boxes', which its data"),
    "cache that is a file": (["run", "run", "--data", "shapes:2", "--cache", "image.png"], "is a file"),
    "no such cache": (["cache", "ls", "--cache", "nowhere"], "there is no cache nowhere"),
    "only and until": (["run", "run", "--data", "shapes:2", "--only", "features", "--until", "features"], "--only"),
    "results in the way": (["detect", "run", "image.png", "--out", "image.png"], "image.png"),
    "no stage": (["show", "rcnn", "--swap", "proposals=Nothing"], "there is no stage 'Nothing'"),
    "stage that does not fit": (["show", "rcnn", "--swap", "proposals=nms.PerClassNMS"], "needs 'boxes'"),
    "swap on a run": (["show", "run", "--swap", "proposals=sliding_window.SlidingWindow"], "is trained"),
    "folder without truth": (["evaluate", "run", "--data", "folder:."], "no annotations to measure against"),
    "bad value": (["show", "rcnn", "--set", "proposals__mode=slow"], "mode"),
    "bad backbone": (["show", "rcnn", "--set", "backbone=alexnett"], "alexnet"),
    "layer that is none": (["show", "rcnn", "--set", "layer=fc9"], "fc9"),
    "bad spec": (["run", "rcnn", "--data", "shapes"], "shapes"),
    "no such data": (["run", "rcnn", "--data", "coco:nowhere.json"], "nowhere.json"),
    "no such image": (["detect", "run", "nowhere.png"], "nowhere.png"),
    "not an image": (["detect", "run", "run/recipe.json"], "recipe.json"),
    "not a run": (["evaluate", "nowhere", "--data", "shapes:2"], "nowhere"),
    "bad shard": (["run", "run", "--data", "shapes:2", "--shard", "2/2"], "--shard 2/2"),
    "no such step": (["run", "run", "--data", "shapes:2", "--until", "fc9"], "no step 'fc9'"),
    "no such shelf": (["cache", "show", "fc9"], "0 shelves"),
    "set on a run": (["show", "run", "--set", "proposals__top=3"], "is trained"),
    "no such weights": (["stage", "rcnn", "features", "image.png", "--set", "backbone=alexnet",
                         "--set", "weights=nowhere.pth"], "nowhere.pth"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_status_2(workshop: Any, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, said = BAD[name]
    assert workshop.rcnn(*words) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("rcnn: ")
    assert len(captured.err.strip().splitlines()) == 1
    assert "Traceback" not in captured.err


def test_training_into_a_folder_of_something_else_is_refused_before_the_work(
    workshop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = workshop.place / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    assert workshop.rcnn("train", "rcnn", "--data", "shapes:400:8", "--out", "other", *SMALL) == 2
    assert "other is there already and is no trained run" in capsys.readouterr().err
    assert (other / "thesis.txt").read_text() == "years of work"


def test_nothing_is_drawn_where_stderr_is_no_terminal(workshop: Any) -> None:
    words = [sys.executable, "-m", "rcnn", "run", "rcnn", "--data", "shapes:2:3", "--until", "proposals"]
    done = subprocess.run(
        [*words, "--cache", str(workshop.place / "other_cache")], capture_output=True, text=True, check=True
    )
    assert "\x1b" not in done.stderr
    assert "━━" not in done.stderr.split("cost by step")[0]


def test_help_imports_nothing_heavy() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "rcnn", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "detect" in done.stdout
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "torchvision", "sklearn", "cv2", "scipy", "matplotlib"}


def test_recipe_json_names_classes_of_rcnn_only(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = json.loads((workshop.place / "run/recipe.json").read_text())
    recipe["steps"][0]["class"] = "os.path.join"
    (workshop.place / "foreign").mkdir()
    (workshop.place / "foreign/recipe.json").write_text(json.dumps(recipe))
    assert workshop.rcnn("detect", "foreign", "image.png") == 2
    assert "--allow os.path" in capsys.readouterr().err


def test_states_that_were_damaged_are_named(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.copytree(workshop.place / "run", workshop.place / "hurt")
    state = Path(workshop.place / "hurt/states/classifier.safetensors")
    raw = bytearray(state.read_bytes())
    raw[-1] ^= 1
    state.write_bytes(raw)
    assert workshop.rcnn("detect", "hurt", "image.png") == 2
    assert "classifier.safetensors is damaged" in capsys.readouterr().err


def test_a_stage_is_swapped_by_name(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--swap", "proposals=sliding_window.SlidingWindow", "--set", "proposals__stride=0.5"]
    assert workshop.rcnn("show", "rcnn", *words) == 0
    shown = capsys.readouterr().out
    assert "proposals: SlidingWindow" in shown
    assert "proposals__stride = 0.5" in shown
    np.savez(workshop.place / "boxes.npz", **{"image.png": np.array([[0, 0, 40, 50]], np.float32)})
    words = ["--swap", "proposals=precomputed.Precomputed", "--set", "proposals__file=boxes.npz"]
    assert workshop.rcnn("stage", "rcnn", "proposals", "image.png", *words) == 0
    assert "boxes 1 x 4 float32" in capsys.readouterr().out


def test_steps_that_learn_nothing_run_without_annotations(workshop: Any) -> None:
    (workshop.place / "folder").mkdir()
    Image.open(workshop.place / "image.png").save(workshop.place / "folder/a.png")
    assert workshop.rcnn("run", "rcnn", "--data", "folder:folder", "--until", "proposals", *SMALL) == 0


def test_one_learning_step_alone_computes_nothing_else(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "rcnn", "--data", "shapes:3:123", *SMALL, "--only", "classifier"]
    assert workshop.rcnn(*words) == 2
    assert "step 'classifier' alone cannot run" in capsys.readouterr().err


def test_ctrl_c_says_that_nothing_is_lost(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def stop(*_args: Any, **_more: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr("rcnn.pipeline.run.Run.over", stop)
        assert workshop.rcnn("detect", "run", "image.png") == 130
    assert "what was computed is kept" in capsys.readouterr().err


def test_a_folder_named_like_a_recipe_does_not_hide_it(workshop: Any) -> None:
    (workshop.place / "rcnn").mkdir()
    assert workshop.rcnn("show", "rcnn", *SMALL) == 0


def test_named_weights_are_read_from_the_cache_of_the_training(
    workshop: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rcnn.stages.nets import backbones

    state = backbones.load("squeezenet1_1", None, layers=["pool5"]).state_dict()
    monkeypatch.setattr(backbones, "_download", lambda name, weights: state)
    words = ["--set", "backbone=squeezenet1_1", "--set", "proposals=5", "--set", "features__pool=2"]
    assert workshop.rcnn("train", "rcnn", "--data", "shapes:2:40", "--out", "named", *words) == 0
    monkeypatch.setattr(backbones, "_download", lambda name, weights: pytest.fail("the run has the weights"))
    capsys.readouterr()
    assert workshop.rcnn("evaluate", "named", "--data", "shapes:2:40", "--json") == 0
    assert workshop.rcnn("run", "named", "--data", "shapes:2:40", "--only", "features") == 0
    row = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("│ features"))
    assert row.split("│")[2].strip() == "0"  # computed


def test_detect_tells_categories_by_their_coco_numbers(workshop: Any, capsys: pytest.CaptureFixture[str]) -> None:
    Image.open(workshop.place / "image.png").save(workshop.place / "a.png")
    boxes = [{"id": i, "image_id": 1, "category_id": c, "bbox": [10 * i, 5, 30, 40], "area": 1200, "iscrowd": 0}
             for i, c in ((1, 44), (2, 18))]  # fmt: skip
    coco = {"images": [{"id": 1, "file_name": "a.png", "width": 90, "height": 80}], "annotations": boxes,
            "categories": [{"id": 18, "name": "dog"}, {"id": 44, "name": "bottle"}]}  # fmt: skip
    (workshop.place / "coco.json").write_text(json.dumps(coco))
    assert workshop.rcnn("train", "rcnn", "--data", "coco:coco.json", "--out", "animals", *SMALL) == 0
    capsys.readouterr()
    assert workshop.rcnn("detect", "animals", "a.png", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["category_id"], row["category"]) for row in rows} == {(18, "dog"), (44, "bottle")}
