"""Data sets with every fault there is: what is used, what is left out and told, and what is looked at again."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rcnn.cache.store import Store
from rcnn.errors import UserError
from rcnn.pipeline import cli, data_report, usable
from rcnn.pipeline.run import Run
from rcnn.pipeline.words import open_data, same_classes
from rcnn.stages.datasets.problem import Source
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.datasets.spec import open_dataset

WIDE, HIGH = 60, 40
GOOD = (5, 5, 25, 30)


def picture(seed: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (HIGH, WIDE, 3), np.uint8)


def write_images(folder: Path) -> dict[str, str]:
    """Images of every kind: stem -> file name."""
    folder.mkdir(parents=True, exist_ok=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(picture(0)).save(folder / "good.jpg")
    Image.fromarray(picture(1)).convert("L").save(folder / "grey.jpg")
    Image.fromarray(picture(2)).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(picture(3)).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(picture(4)[..., 0].astype(np.uint16) * 256).save(folder / "wide.png")
    Image.fromarray(picture(5)).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:1200])
    (folder / "text.jpg").write_text("no image")
    Image.fromarray(picture(6)).resize((30, 20)).save(folder / "small.jpg")
    Image.fromarray(picture(7)).save(folder / "boxes.jpg")
    Image.fromarray(picture(8)).save(folder / "empty.jpg")
    Image.fromarray((picture(0) * 0.9).astype(np.uint8)).save(folder / "twin.jpg")
    (folder / "whole.jpg").replace(folder / "copy.jpg")
    (folder / "again.jpg").write_bytes((folder / "copy.jpg").read_bytes())
    return {path.stem: path.name for path in sorted(folder.iterdir())} | {"gone": "gone.jpg"}


BOXES = [  # half-open; of the image "boxes"
    ("cat", GOOD),
    ("cat", (6, 5, 25, 30)),  # nearly the same
    ("dog", (61, 5, 70, 20)),  # outside
    ("dog", (50, 5, 70, 20)),  # partly so
    ("dog", (7, 7, 7, 20)),  # of no width
    ("dog", (9, 30, 20, 8)),  # inverted
]


def write_voc(root: Path) -> str:
    stems = list(write_images(root / "JPEGImages"))
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    for stem in stems:
        objects = {"boxes": BOXES, "empty": []}.get(stem, [("cat", GOOD)])
        (root / "Annotations" / f"{stem}.xml").write_text(voc_xml(objects))
    (root / "Annotations" / "text.xml").write_text("<annotation>")
    listed = [*stems, "good", "nowhere"]
    (root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(listed))
    return f"voc:{root}:train"


def voc_xml(objects: Any) -> str:
    body = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin>"
        f"<xmax>{x1 + (x1 == x0)}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, (x0, y0, x1, y1) in objects
    )
    return f"<annotation><size><width>{WIDE}</width><height>{HIGH}</height></size>{body}</annotation>"


def write_coco(root: Path) -> str:
    names = write_images(root / "images")
    images = [{"id": i, "file_name": name, "height": HIGH, "width": WIDE} for i, name in enumerate(names.values())]
    number = {stem: i for i, stem in enumerate(names)}
    rows = [("cat", stem, GOOD) for stem in names if stem not in ("boxes", "empty")]
    rows += [(name, "boxes", box) for name, box in BOXES]
    categories = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    annotations = [
        {"id": i, "image_id": number[stem], "category_id": {"cat": 7, "dog": 9}[name],
         "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
        for i, (name, stem, box) in enumerate(rows)
    ]  # fmt: skip
    annotations += [
        {"id": 1000, "image_id": 0, "category_id": 8, "bbox": [1, 1, 5, 5]},
        {"id": 1000, "image_id": 999, "category_id": 7, "bbox": [1, 1, 5, 5]},
        {"id": 1001, "image_id": 0, "category_id": 7, "bbox": [1, 1, 5]},
    ]
    images.append(images[0])
    (root / "set.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return f"coco:{root / 'set.json'}"


WRITERS = {"voc": write_voc, "coco": write_coco}
EVERYWHERE = Counter({
    "missing image": 1, "unreadable image": 1, "wrong size": 1, "box without size": 2, "box outside": 1,
    "box partly outside": 1, "double box": 1, "empty annotation": 1, "EXIF-rotated": 1, "CMYK": 1, "16-bit": 1,
    "grey": 2, "identical": 1, "near-identical": 1,
})  # fmt: skip
OWN = {
    "voc": Counter({"missing annotation": 1, "unreadable annotation": 1, "duplicate id": 1}),
    "coco": Counter({"unreadable image": 1, "duplicate id": 2, "unknown class": 1, "unknown image": 1, "no box": 1}),
}
LOST = {"voc": (3, 5), "coco": (6, 4)}  # objects, images


@pytest.fixture(params=["voc", "coco"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def spec(kind: str, tmp_path: Path) -> str:
    return WRITERS[kind](tmp_path / "set")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


def test_every_kind_of_problem_is_reported(kind: str, spec: str, store: Store) -> None:
    found = data_report.report([spec], store)
    assert Counter(row["kind"] for row in found["problems"]) == EVERYWHERE + OWN[kind]
    lost = data_report.left_out(found)
    assert (lost["object"], lost["image"]) == LOST[kind]
    assert found["sets"][0]["left_out"] == {"objects": lost["object"], "images": lost["image"]}
    files = {row["kind"]: Path(row["file"]).name for row in found["problems"]}
    expected = {"wrong size": "small.jpg", "EXIF-rotated": "turned.jpg", "CMYK": "cmyk.jpg", "16-bit": "wide.png"}
    assert {name: files[name] for name in expected} == expected
    assert (files["identical"], files["near-identical"]) == ("copy.jpg", "twin.jpg")


def test_what_is_left_out_is_just_what_cannot_be_used(spec: str, store: Store) -> None:
    data = usable.usable(open_dataset(spec), store)
    stems = {Path(record.id).stem for record in data}
    assert stems == {"good", "grey", "cmyk", "turned", "wide", "boxes", "empty", "twin", "copy", "again"}
    for record in data:
        assert record["image"].shape == (HIGH, WIDE, 3)
    i = next(i for i, record in enumerate(data) if Path(record.id).stem == "boxes")
    record = data[i]
    assert record["truth_boxes"].tolist() == [list(map(float, BOXES[k][1])) for k in (0, 1, 3)]
    assert [data.classes[label - 1] for label in record["truth_labels"]][-1] == "dog"
    assert len(data.source(i).objects) == len(record["truth_areas"]) == 3  # type: ignore[attr-defined]


def test_open_data_says_in_one_line_what_is_left_out(
    kind: str, spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = open_data(spec, cache=tmp_path / "cache", jobs=1)
    objects, images = LOST[kind]
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"left out: {objects} objects and {images} images" in said
    assert len(getattr(data, "left_out")) == objects + images  # noqa: B009
    with pytest.raises(UserError, match=rf"{objects} objects and {images} images cannot be used \(--strict\)"):
        open_data(spec, strict=True, cache=tmp_path / "cache", jobs=1)


def test_a_pipeline_trains_and_measures_on_the_rest(toys: Any, spec: str) -> None:
    data = open_data(spec, cache=toys.cache, jobs=1)
    found, _run = toys.detections(toys.pipeline(), data, toys.cache)
    assert found.keys() == {record.id for record in data}
    assert len(found) == 10


def test_a_sound_set_is_as_it_was(tmp_path: Path, toys: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """What is right is the same record, so that the cache of an older version serves."""
    (tmp_path / "set" / "JPEGImages").mkdir(parents=True)
    for folder in ("Annotations", "ImageSets/Main"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for i in range(3):
        Image.fromarray(picture(i)).save(tmp_path / f"set/JPEGImages/{i}.jpg")
        (tmp_path / f"set/Annotations/{i}.xml").write_text(voc_xml([("cat", GOOD), ("dog", (50, 5, 70, 20))]))
    (tmp_path / "set/ImageSets/Main/train.txt").write_text("0\n1\n2\n")
    spec = f"voc:{tmp_path / 'set'}:train"
    toys.detections(toys.pipeline(), open_dataset(spec), toys.cache)
    toys.calls.clear()
    data = open_data(spec, strict=True, cache=toys.cache)
    assert capsys.readouterr().err == ""
    toys.detections(toys.pipeline(), data, toys.cache)
    assert not toys.calls


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    real = usable.examine

    def counting(path: Path) -> Any:
        seen.append(Path(path).stem)
        return real(path)

    monkeypatch.setattr(usable, "examine", counting)
    return seen


def test_a_second_opening_decodes_nothing(spec: str, store: Store, decodes: list[str]) -> None:
    first = usable.usable(open_dataset(spec), store)
    assert len(decodes) > 10
    decodes.clear()
    second = usable.usable(open_dataset(spec), Store(store.root))
    assert decodes == []
    assert second.problems == first.problems  # type: ignore[attr-defined]
    assert data_report.report([spec], store) == data_report.report([spec], None)


def test_a_file_that_changed_is_looked_at_again(tmp_path: Path, store: Store, decodes: list[str]) -> None:
    write_images(tmp_path / "set")
    spec = f"folder:{tmp_path / 'set'}"
    before = usable.usable(open_dataset(spec), store)
    decodes.clear()
    Image.fromarray(picture(9)).save(tmp_path / "set" / "text.jpg")
    after = usable.usable(open_dataset(spec), store)
    assert decodes == ["text"]
    assert len(after) == len(before) + 1
    os.utime(tmp_path / "set" / "good.jpg", (1, 1))
    usable.usable(open_dataset(spec), store)
    assert decodes == ["text", "good"]


def test_without_a_cache_all_is_examined_and_nothing_kept(tmp_path: Path, decodes: list[str]) -> None:
    write_images(tmp_path / "set")
    for _time in range(2):
        usable.usable(open_dataset(f"folder:{tmp_path / 'set'}"), None)
    assert len(decodes) == 2 * len(set(decodes))
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_damaged_verdict_is_made_again(tmp_path: Path, store: Store, decodes: list[str]) -> None:
    (tmp_path / "set").mkdir()
    Image.fromarray(picture(0)).save(tmp_path / "set" / "a.png")
    (verdict,) = usable.examined([tmp_path / "set" / "a.png"], store)
    (path,) = store.root.glob("images-*/??/*.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    (again,) = usable.examined([tmp_path / "set" / "a.png"], Store(store.root))
    assert decodes == ["a", "a"]
    assert (again.thumbnail == verdict.thumbnail).all()
    assert again._replace(thumbnail=0) == verdict._replace(thumbnail=0)


def test_a_cache_that_cannot_be_written_is_done_without(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_args: Any, **_more: Any) -> None:
        raise UserError("cannot write: read-only")

    monkeypatch.setattr("rcnn.cache.store.files.write", refuse)
    assert len(usable.usable(open_dataset(spec), Store(tmp_path / "cache"))) == 10
    assert [record.message for record in caplog.records] == [
        "cannot write: read-only; images are examined anew each time"
    ]


def test_many_images_are_examined_side_by_side_and_packed(tmp_path: Path, store: Store) -> None:
    (tmp_path / "set").mkdir()
    for i in range(usable.MANY + 2):
        Image.fromarray(picture(i)).resize((8, 8)).save(tmp_path / "set" / f"{i:03d}.png")
    paths = sorted((tmp_path / "set").iterdir())
    verdicts = usable.examined(paths, store, jobs=2)
    alone = usable.examined(paths, None)
    assert [verdict.hash for verdict in verdicts] == [verdict.hash for verdict in alone]
    assert len({verdict.hash for verdict in verdicts}) == len(paths)
    (shelf,) = store.shelves()
    assert (shelf.about()["step"], len(list(shelf.entries()))) == ("images", len(paths))
    assert list(store.root.glob("images-*/packs/*"))
    assert not list(store.root.glob("images-*/??/*.safetensors"))


def test_drawn_images_need_no_check() -> None:
    shapes = Shapes(2)
    assert usable.usable(shapes, None) is shapes


def test_where_nothing_remains_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jpg").write_text("no image")
    with pytest.raises(UserError, match=r"no image can be used; the first: .*a\.jpg: .*no image that"):
        open_data(f"folder:{tmp_path / 'set'}", cache=tmp_path / "cache")


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((0, 0, 60, 40), None),
        ((-0.4, 0, 60.4, 40), None),  # tools round
        ((-1, 0, 60, 40), "box partly outside"),
        ((0, 0, 60, 41), "box partly outside"),
        ((-9, 5, 0, 9), "box outside"),
        ((5, 40, 9, 50), "box outside"),
        ((60, 5, 70, 9), "box outside"),
    ],
)
def test_where_a_box_lies(box: tuple[float, ...], kind: str | None) -> None:
    source = Source(Path("a.jpg"), Path("a.xml"), objects=("object 0",))
    (problem,) = usable.box_problems(source, ["cat"], np.array([box], np.float32), (HIGH, WIDE))
    assert (problem and problem.kind) == kind
    assert problem is None or (problem.loses == "object") == (kind == "box outside")


def rcnn(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rcnn", *words])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0


def test_strict_stops_the_commands_with_status_2(
    spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Run, "fit", lambda *_args: pytest.fail("nothing may be trained"))
    assert rcnn("train", "rcnn", "--data", spec, "--out", str(tmp_path / "run"), "--strict") == 2
    assert rcnn("run", "rcnn", "--data", spec, "--strict") == 2
    monkeypatch.setattr("rcnn.pipeline.commands.evaluate.pipeline_of", lambda *_args, **_more: None)
    assert rcnn("evaluate", "run", "--data", spec, "--strict") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert all("cannot be used (--strict); the first: " in line for line in said)
    assert not (tmp_path / "run").exists()


def test_a_run_says_how_its_classes_are_chosen_from_more(tmp_path: Path) -> None:
    pipeline: Any = SimpleNamespace(classes=("star", "disc"))
    same_classes(pipeline, open_dataset("shapes:2#star,disc"), tmp_path)
    with pytest.raises(UserError, match="#star,disc behind its name"):
        same_classes(pipeline, Shapes(2), tmp_path)
    with pytest.raises(UserError, match=r"the data set has star$"):
        same_classes(pipeline, open_dataset("shapes:2#star"), tmp_path)


def test_what_the_system_refuses_is_no_verdict(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not answer, or too many open files, today: the image is whole tomorrow."""
    (tmp_path / "set").mkdir()
    for name in "ab":
        Image.fromarray(picture(0)).save(tmp_path / "set" / f"{name}.png")
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "a.png":
            raise OSError(24, "Too many open files")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    today = usable.usable(open_dataset(f"folder:{tmp_path / 'set'}"), store)
    assert "Too many open files" in today.left_out[0]  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert len(usable.usable(open_dataset(f"folder:{tmp_path / 'set'}"), store)) == 2


def test_a_file_of_no_bytes_has_a_verdict(tmp_path: Path, store: Store, decodes: list[str]) -> None:
    (tmp_path / "empty.png").touch()
    for _time in range(2):
        (verdict,) = usable.examined([tmp_path / "empty.png"], store)
        assert verdict.fault
    assert decodes == ["empty"]


def test_a_lost_verdict_is_an_error_not_a_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usable, "_examine_all", lambda _paths, _jobs: iter([usable.Verdict("")]))
    with pytest.raises(ValueError, match="shorter"):
        usable.examined([tmp_path / "a", tmp_path / "b"], None)
