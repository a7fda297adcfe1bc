from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rcnn.pipeline import cli, data_report, data_tables
from rcnn.stages.datasets.shapes import Shapes


def rcnn(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rcnn", *words])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0


@pytest.fixture
def leaky(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Two COCO sets that share one image; the first has five boxes of no size."""
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    specs = []
    for name, seeds in (("train", (1, 2)), ("test", (3, 1))):
        (tmp_path / name).mkdir()
        for i, seed in enumerate(seeds):
            image = np.random.default_rng(seed).integers(0, 256, (50, 80, 3), np.uint8)
            Image.fromarray(image).save(tmp_path / name / f"{i}.png")
        images = [{"id": i, "file_name": f"{i}.png", "height": 50, "width": 80} for i in range(2)]
        boxes = [(0, 1, [0, 0, 40, 25]), (0, 2, [10, 10, 8, 8]), (1, 1, [0, 0, 80, 50])]
        boxes += [(1, 1, [0, 0, 0, i]) for i in range(5)] if name == "train" else []
        annotations = [{"id": i, "image_id": image, "category_id": category, "bbox": box}
                       for i, (image, category, box) in enumerate(boxes)]  # fmt: skip
        categories = [{"id": i, "name": word} for i, word in ((1, "cat"), (2, "dog"), (3, "[red]cow"))]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / name / "set.json").write_text(json.dumps(document))
        specs.append(f"coco:{tmp_path / name / 'set.json'}")
    return specs[0], specs[1]


def test_json_holds_all_of_it(leaky: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn("data", *leaky, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    train = found["sets"][0]
    assert (train["spec"], train["images"], train["objects"]) == (leaky[0], 2, 3)
    assert train["left_out"] == {"objects": 5, "images": 0}
    assert train["classes"]["cat"] == {"objects": 2, "images": 2}
    assert train["classes"]["[red]cow"] == {"objects": 0, "images": 0}
    assert train["areas"] == {"small": 2, "medium": 1, "large": 0}
    assert {name: n for name, n in train["shares"].items() if n} == {"10-20 %": 1, "50-75 %": 1, "75-100 %": 1}
    assert train["objects_an_image"] == {**dict.fromkeys(train["objects_an_image"], 0), "1": 1, "2-4": 1}
    assert train["quantiles"]["box width"]["median"] == 40
    assert train["image_sizes"] == {"80 x 50": 2}
    assert train["anchors"]["paper"]["sides"] == [128, 256, 512]
    (leak,) = (row for row in found["problems"] if row["kind"] != "box without size")
    assert (leak["set"], leak["kind"], leak["left_out"]) == ("B", "identical, in two sets", "")
    assert leak["file"].endswith("test/1.png")
    assert "0.png of set A" in leak["what"]


def test_the_tables_hold_the_first_files_or_all(leaky: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn("data", *leaky) == 0
    out = capsys.readouterr().out
    assert "and 2 more: --all" in out
    assert out.count("has a box of no size") == 3
    assert "without objects: [red]cow" in out
    assert rcnn("data", *leaky, "--all") == 0
    assert capsys.readouterr().out.count("has a box of no size") == 5


def test_strict_is_status_2_after_the_report(leaky: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn("data", leaky[0], "--strict") == 2
    said = capsys.readouterr()
    assert said.err == "rcnn: 5 objects cannot be used\n"
    assert "box without size" in said.out
    assert rcnn("data", leaky[1], "--strict") == 0


@pytest.mark.parametrize("spec", ["shapes:3", "folder:FOLDER"])
def test_sets_without_files_and_without_truth(
    spec: str, leaky: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rcnn("data", spec.replace("FOLDER", str(tmp_path / "train"))) == 0
    out = capsys.readouterr().out
    assert "no problem was found" in out
    assert ("objects by class" in out) == (spec == "shapes:3")
    assert rcnn("data", spec.replace("FOLDER", str(tmp_path / "train")), leaky[0]) == 0


def test_a_census_counts_as_the_records_do() -> None:
    (census,) = data_report.report(["shapes:8:3"], None)["sets"]
    labels = np.concatenate([record["truth_labels"] for record in Shapes(8, 3)])
    assert census["objects"] == len(labels) == sum(row["objects"] for row in census["classes"].values())
    assert sum(census["areas"].values()) == sum(census["shares"].values()) == len(labels)
    assert sum(census["objects_an_image"].values()) == 8


@pytest.mark.parametrize(("n", "text"), [(0, ""), (1, "▏"), (8, "▌"), (16, "█"), (24, "█▌"), (32, "██")])
def test_a_bar_is_as_long_as_its_number(n: int, text: str) -> None:
    assert data_tables.bar(n, 32, 2) == text


def test_a_slip_in_a_class_name_is_told_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    Image.new("RGB", (9, 9)).save(tmp_path / "JPEGImages" / "a.jpg")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    objects = [f"<object><name>{name}</name>{box}</object>" for name in ("dgo", "cat", "person")]
    (tmp_path / "Annotations" / "a.xml").write_text(f"<annotation>{''.join(objects)}</annotation>")
    assert rcnn("data", f"voc:{tmp_path}:train", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["classes"]) == 20
    rows = [(row["kind"], row["left_out"], row["class"]) for row in found["problems"]]
    assert ("unknown class", "object", "dgo") in rows


def run_report(*specs: str) -> Any:
    return data_report.report(specs, None)


@pytest.mark.realdata
def test_bccd_has_the_defects_of_its_notes(data_root: Path) -> None:
    specs = [f"voc:{data_root / 'data' / 'bccd'}:{split}" for split in ("train", "val", "test")]
    rows = run_report(*specs)["problems"]
    empty = {(row["set"], Path(row["file"]).stem, row["left_out"]) for row in rows if row["kind"] == "box without size"}
    assert empty == {("A", "BloodImage_00343", "object"), ("B", "BloodImage_00338", "object")}
    twins = {(Path(row["file"]).stem, row["what"]) for row in rows if "identical" in row["kind"]}
    assert len(twins) == 1
    ((stem, what),) = twins
    assert (stem, "BloodImage_00038" in what, "of set A" in what) == ("BloodImage_00037", True, True)
    double = {Path(row["file"]).stem[-5:] for row in rows if row["kind"] == "double box"}
    assert double == {"00013", "00020", "00100", "00104", "00251", "00284", "00331", "00403"}
    assert len(rows) == 2 + 1 + 8


@pytest.mark.realdata
def test_coco_mini_has_no_defect(data_root: Path) -> None:
    folder = data_root / "data" / "coco-mini" / "annotations"
    found = run_report(*(f"coco:{folder / f'instances_{split}2017.json'}" for split in ("train", "val")))
    assert found["problems"] == []
    assert [list(one["areas"].values()) for one in found["sets"]] == [[301, 283, 155], [284, 163, 177]]
    assert found["sets"][0]["classes"]["person"]["objects"] == 172
