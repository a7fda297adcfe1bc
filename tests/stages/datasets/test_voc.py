from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.stages.datasets.spec import open_dataset
from rcnn.stages.datasets.voc import CLASSES, VOC
from rcnn.stages.masks import area_of, decode
from rcnn.stages.record import check_field

Objects = list[tuple[str, tuple[Any, ...], int]]


def write(root: Path, splits: dict[str, dict[str, Objects]], suffix: str = ".jpg") -> Path:
    """A folder in VOC's layout: split -> stem -> objects (name, box as written, difficult)."""
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for split, images in splits.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(images) + "\n")
        for stem, objects in images.items():
            Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{stem}{suffix}")
            (root / "Annotations" / f"{stem}.xml").write_text(annotation(objects))
    return root


def annotation(objects: Objects) -> str:
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, box, difficult in objects
    )
    return f"<annotation><owner><name>somebody</name></owner>{body}</annotation>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write(tmp_path / "set", {
        "trainval": {
            "b": [("dog", (1, 1, 40, 30), 0), ("cat", (5, 6, 5, 9), 0), ("person", (3.5, 4, 10, 12.5), 1)],
            "a": [],
        },
        "test": {"c": [("train", (2, 3, 4, 5), 0), ("dog", (9, 9, 2, 20), 0)]},
    })  # fmt: skip


def test_boxes_become_half_open(root: Path) -> None:
    data = VOC(root, "trainval")
    assert [record.id for record in data] == ["a", "b"]
    record = data[1]
    assert record["truth_boxes"].tolist() == [[0, 0, 40, 30], [2.5, 3, 10, 12.5]]
    assert [data.classes[label - 1] for label in record["truth_labels"]] == ["dog", "person"]
    assert record["truth_difficult"].tolist() == [False, True]
    assert record["truth_crowd"].tolist() == [False, False]
    assert record["truth_areas"].tolist() == [1200, 7.5 * 9.5]
    assert record["size"].tolist() == [30, 40]
    assert record["image"].shape == (30, 40, 3)


def test_an_image_without_objects_has_empty_truth(root: Path) -> None:
    record = VOC(root, "trainval")[0]
    assert record["truth_boxes"].shape == (0, 4)
    assert record["truth_labels"].shape == (0,)


def test_fields_are_as_declared(root: Path) -> None:
    for record in VOC(root, "trainval+test"):
        known: dict[str, int] = {}
        for name in record:
            check_field(name, record[name], known, "voc")


def test_every_access_makes_a_new_record(root: Path) -> None:
    data = VOC(root, "trainval")
    assert data[0] is not data[0]
    assert data[0]["image"] is not data[0]["image"]


def test_without_difficult(root: Path) -> None:
    record = VOC(root, "trainval", difficult=False)[1]
    assert record["truth_boxes"].tolist() == [[0, 0, 40, 30]]


def test_a_box_of_no_size_is_left_out_and_told(root: Path) -> None:
    data = VOC(root, "trainval")
    assert len(data.left_out) == 1
    assert "b.xml: object 1 (cat" in data.left_out[0]
    assert "(5, 6, 5, 9)" in data.left_out[0]
    assert len(VOC(root, "test").left_out) == 1  # the inverted one
    with pytest.raises(UserError, match="object 1"):
        VOC(root, "trainval", strict=True)


def test_a_box_of_one_pixel_more_is_kept(tmp_path: Path) -> None:
    """Sizes are judged on the numbers as written: (5, 5, 6, 6) is two pixels wide once it is half-open."""
    data = VOC(write(tmp_path, {"trainval": {"a": [("dog", (5, 5, 6, 6), 0)]}}))
    assert data[0]["truth_boxes"].tolist() == [[4, 4, 6, 6]]
    assert data.left_out == []


def test_the_twenty_classes_whatever_part_of_them_occurs(root: Path) -> None:
    assert VOC(root, "test").classes == CLASSES
    assert len(CLASSES) == 20


def test_other_classes_are_those_of_every_split(tmp_path: Path) -> None:
    box = (1, 1, 9, 9)
    write(tmp_path, {"train": {"a": [("wolf", box, 0)]}, "test": {"b": [("bear", box, 0), ("cat", box, 0)]}})
    for split, label in (("train", 3), ("test", 1)):
        data = VOC(tmp_path, split)
        assert data.classes == ("bear", "cat", "wolf")
        assert data[0]["truth_labels"][0] == label


def names_of(tmp_path: Path, counts: dict[str, int]) -> VOC:
    """A set of two images, the first with so many objects of each name."""
    objects: Objects = [(name, (1, 1, 9, 9), 0) for name, n in counts.items() for _ in range(n)]
    return VOC(write(tmp_path, {"trainval": {"a": objects, "b": [("dog", (1, 1, 9, 9), 0)]}}))


TWENTY = dict.fromkeys(CLASSES, 10)


@pytest.mark.parametrize(
    ("counts", "lost"),
    [
        ({"dog": 1, "cat": 1, "dgo": 1}, 1),  # near, and only once
        ({"dog": 200, "cat": 97, "dgo": 1, "Cat": 1}, 2),  # near, 1 % of all
        ({"dog": 190, "cat": 97, "dgo": 1, "Cat": 3}, 0),
        ({"dog": 500, "helmet": 1}, 0),  # it is near none, and this is not a set of the 20
        ({**TWENTY, "helmet": 1}, 1),
        ({**TWENTY, "helmet": 2}, 0),  # more than 1 in 1000, so it may be meant as the 21st
        ({**TWENTY, "person": 2000, "helmet": 2}, 2),
        ({**TWENTY, "dgo": 1, "helmet": 1}, 2),
    ],
)
def test_a_slip_does_not_turn_voc_into_another_set(tmp_path: Path, counts: dict[str, int], lost: int) -> None:
    data = names_of(tmp_path, counts)
    assert data.classes == (CLASSES if lost else tuple(sorted(counts)))
    assert [problem.kind for problem in data.problems if problem.loses] == ["unknown class"] * lost
    assert len(data.left_out) == lost
    if "dgo" in counts and lost:
        assert any(
            "a.xml" in said and "'dgo', which is not among the classes; 'dog' is" in said for said in data.left_out
        )


def test_a_class_near_another_is_worth_knowing(tmp_path: Path) -> None:
    data = names_of(tmp_path, {"wolf": 40, "bear": 1, "wolff": 2})
    assert data.classes == ("bear", "dog", "wolf", "wolff")
    (problem,) = data.problems
    assert (problem.kind, problem.loses, Path(problem.file).name) == ("class name near another", "", "a.xml")
    assert problem.what == "the class 'wolff' (2 objects) is near 'wolf' (40 objects)"


def test_given_classes_are_the_labels(root: Path) -> None:
    data = VOC(root, "trainval", classes=["person", "cat", "dog"])
    assert data[1]["truth_labels"].tolist() == [3, 1]
    with pytest.raises(UserError, match=r"c\.xml.*'train'"):
        VOC(root, "test", classes=["person", "cat", "dog"], strict=True)
    data = VOC(root, "test", classes=["person", "cat", "dog"])
    assert [problem.kind for problem in data.problems] == ["unknown class", "box without size"]
    assert len(data.left_out) == 2


def test_a_union_of_splits_holds_each_image_once(root: Path) -> None:
    (root / "ImageSets" / "Main" / "both.txt").write_text("a\nc\n")
    assert [record.id for record in VOC(root, "both+trainval+test")] == ["a", "b", "c"]


def test_the_column_of_a_list_of_one_class_is_no_name(root: Path) -> None:
    (root / "ImageSets" / "Main" / "dog_train.txt").write_text("a -1\nb  1\n")
    assert [record.id for record in VOC(root, "dog_train")] == ["a", "b"]


def test_a_list_that_is_no_text_is_named(root: Path) -> None:
    (root / "ImageSets" / "Main" / "odd.txt").write_bytes("träum\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"odd\.txt cannot be read"):
        VOC(root, "odd")
    (root / "ImageSets" / "Main" / "odd.txt").write_bytes(b"\xef\xbb\xbfa\n")
    assert [record.id for record in VOC(root, "odd")] == ["a"]


def test_an_annotation_that_is_a_folder_is_left_out(root: Path) -> None:
    (root / "Annotations" / "b.xml").unlink()
    (root / "Annotations" / "b.xml").mkdir()
    data = VOC(root)
    assert [record.id for record in data] == ["a"]
    assert "b.xml" in data.left_out[0]


def test_two_images_of_one_name_are_told(root: Path) -> None:
    Image.new("RGB", (4, 3)).save(root / "JPEGImages" / "a.png")
    Image.new("RGB", (4, 3)).save(root / "JPEGImages" / "c.png")  # of another split
    data = VOC(root)
    assert data.source(0).image == root / "JPEGImages" / "a.jpg"
    (problem,) = (p for p in data.problems if p.kind == "two images of one name")
    assert (problem.file, problem.loses) == (str(root / "JPEGImages" / "a.jpg"), "")
    assert problem.what == "a.png has the same name but for the suffix, and is not read"


def test_names_may_hold_spaces_and_dots(tmp_path: Path) -> None:
    data = VOC(write(tmp_path, {"trainval": {"IMG 1.v2": [("dog", (1, 1, 5, 5), 0)]}}, suffix=".PNG"))
    assert data[0].id == "IMG 1.v2"
    assert data[0]["image"].shape == (30, 40, 3)


@pytest.fixture
def devkit(tmp_path: Path) -> Path:
    write(
        tmp_path / "kit" / "VOC2007",
        {"trainval": {"000001": [("dog", (1, 1, 5, 5), 0)]}, "test": {"000002": []}},
    )
    write(
        tmp_path / "kit" / "VOC2012",
        {"trainval": {"000001": [("cow", (2, 2, 9, 9), 0), ("cow", (2, 2, 2, 2), 0)]}},
    )
    return tmp_path / "kit"


def test_a_union_of_years_names_the_year(devkit: Path) -> None:
    data = VOC(devkit, "07+12_trainval")
    assert [record.id for record in data] == ["2007/000001", "2012/000001"]
    assert data[0]["truth_boxes"].tolist() == [[0, 0, 5, 5]]
    assert data[1]["truth_boxes"].tolist() == [[1, 1, 9, 9]]
    assert len(data.left_out) == 1
    assert [record.id for record in VOC(devkit, "2007+2012_trainval")] == [record.id for record in data]


def test_one_year_of_several(devkit: Path) -> None:
    assert [record.id for record in VOC(devkit, "07_trainval+test")] == ["000001", "000002"]
    assert [record.id for record in VOC(devkit / "VOC2012", "trainval")] == ["000001"]


@pytest.mark.parametrize(
    ("split", "said"),
    [("trainval", "07\\+12_trainval"), ("07+11_trainval", "VOC2011"), ("07+12_test", "test.txt")],
)
def test_years_that_cannot_be_meant(devkit: Path, split: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        VOC(devkit, split)


def test_a_missing_split_says_which_there_are(root: Path) -> None:
    with pytest.raises(UserError, match=r"val\.txt.*test, trainval"):
        VOC(root, "val")


def test_a_folder_that_is_not_voc(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ImageSets/Main"):
        VOC(tmp_path)


@pytest.mark.parametrize(
    ("gone", "kind"), [("Annotations/b.xml", "missing annotation"), ("JPEGImages/b.jpg", "missing image")]
)
def test_an_image_without_a_file_is_left_out_and_told(root: Path, gone: str, kind: str) -> None:
    (root / gone).unlink()
    data = VOC(root, "trainval")
    assert [record.id for record in data] == ["a"]
    (problem,) = (problem for problem in data.problems if problem.loses == "image")
    assert (problem.kind, gone.split(".", maxsplit=1)[0] in problem.file) == (kind, True)
    with pytest.raises(UserError, match=gone.split(".", maxsplit=1)[0]):
        VOC(root, "trainval", strict=True)


def test_a_split_of_which_nothing_remains_is_refused(root: Path) -> None:
    (root / "JPEGImages" / "c.jpg").unlink()
    with pytest.raises(UserError, match="no such image"):
        VOC(root, "test")


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("<annotation><object>", "unreadable annotation", "cannot be read"),
        ("<?xml version='1.0' encoding='klingon'?><annotation/>", "unreadable annotation", "cannot be read"),
        ("<?xml version='1.0' encoding='big5'?><annotation/>", "unreadable annotation", "cannot be read"),
        (annotation([("dog", (1, "x", 3, 4), 0)]), "no box", "dog"),
        (annotation([("dog", (1, "nan", 3, 4), 0)]), "no box", "dog"),
        (annotation([("", (1, 2, 3, 4), 0)]), "unknown class", "no name"),
        ("<annotation><object><name>dog</name></object></annotation>", "no box", "object 0"),
    ],
)
def test_what_is_broken_in_an_annotation_is_left_out_and_told(root: Path, text: str, kind: str, said: str) -> None:
    (root / "Annotations" / "b.xml").write_text(text)
    data = VOC(root, "trainval")
    (problem,) = (problem for problem in data.problems if problem.loses)
    assert (problem.kind, problem.file) == (kind, str(root / "Annotations" / "b.xml"))
    assert said in problem.what
    assert len(data) == (1 if kind == "unreadable annotation" else 2)
    assert all(len(record["truth_labels"]) == 0 for record in data)
    with pytest.raises(UserError, match=rf"b\.xml.*{said}"):
        VOC(root, "trainval", strict=True)


def test_what_is_worth_knowing_of_a_split(root: Path) -> None:
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb\na\n")
    data = VOC(root, "trainval")
    told = [(problem.kind, problem.loses) for problem in data.problems]
    assert told == [("duplicate id", ""), ("empty annotation", ""), ("box without size", "object")]
    assert len(data) == 2


def test_a_difficult_object_that_is_not_asked_for_is_no_problem(root: Path) -> None:
    (root / "Annotations" / "b.xml").write_text(annotation([("dog", (5, 5, 5, 9), 1)]))
    assert VOC(root, "trainval", difficult=False).left_out == []
    assert len(VOC(root, "trainval").left_out) == 1


def test_a_record_says_where_it_comes_from(root: Path) -> None:
    source = VOC(root, "trainval").source(1)
    assert source.image == root / "JPEGImages" / "b.jpg"
    assert source.objects == ("object 0 (dog, counted from 0)", "object 2 (person, counted from 0)")
    assert source.size is None
    text = annotation([]).replace("</owner>", "</owner><size><width>40</width><height>30</height></size>")
    (root / "Annotations" / "b.xml").write_text(text)
    assert VOC(root, "trainval").source(1).size == (30, 40)


@pytest.mark.realdata
def test_bccd_is_as_its_notes_say(data_root: Path) -> None:
    counts = {"train": (205, 2382, 214, 209), "val": (87, 968, 87, 83), "test": (72, 805, 71, 69)}
    left_out = {"train": "BloodImage_00343.xml: object 3 ", "val": "BloodImage_00338.xml: object 12 "}
    for split, (images, *objects) in counts.items():
        data = VOC(data_root / "data" / "bccd", split)
        labels = np.concatenate([record["truth_labels"] for record in data])
        found = {name: int((labels == i).sum()) for i, name in enumerate(data.classes, 1)}
        objects[0] -= len(data.left_out)
        assert len(data) == images
        assert [found[name] for name in ("RBC", "WBC", "Platelets")] == objects
        assert len(data.left_out) == (split in left_out)
        assert all(left_out[split] in sentence for sentence in data.left_out)
        for record in data:
            low, high = record["truth_boxes"][:, :2], record["truth_boxes"][:, 2:]
            assert (low >= 0).all()
            assert (high <= record["size"][::-1]).all()
            assert (high > low).all()
    whole = VOC(data_root / "data" / "bccd", "trainval+test")
    assert (len(whole), whole.classes) == (364, ("Platelets", "RBC", "WBC"))
    assert all(problem.kind in ("box without size", "empty annotation") for problem in whole.problems)


@pytest.fixture
def segmented(root: Path) -> Path:
    """The image b with masks of its objects 0 and 2; object 1 has a box of no size."""
    lists, places = root / "ImageSets" / "Segmentation", root / "SegmentationObject"
    lists.mkdir()
    places.mkdir()
    (lists / "trainval.txt").write_text("b\n")
    values = np.zeros((30, 40), np.uint8)
    values[2:20, 3:30], values[5:9, 5:9], values[20, :] = 1, 3, 255
    image = Image.fromarray(values, "P")
    image.putpalette([i for k in range(256) for i in (k, 0, 0)])
    image.save(places / "b.png")
    return root


def test_masks_are_by_the_place_of_the_object(segmented: Path) -> None:
    (record,) = open_dataset(f"voc:{segmented}:trainval:masks")
    assert len(record["truth_boxes"]) == 2
    whole, part = map(decode, record["truth_masks"])
    assert whole.shape == (30, 40)
    assert (whole.sum(), part.sum()) == (18 * 27 - 16, 16)
    assert part[5:9, 5:9].all()
    assert "truth_masks" not in VOC(segmented, "trainval")[1]
    (easy,) = open_dataset(f"voc:{segmented}:trainval:easy:masks")
    assert [area_of(mask) for mask in easy["truth_masks"]] == [18 * 27 - 16]
    (dogs,) = open_dataset(f"voc:{segmented}:trainval:masks#person")
    assert [area_of(mask) for mask in dogs["truth_masks"]] == [16]
    assert pickle.loads(pickle.dumps(record.raw("truth_masks"))).value() == record["truth_masks"]
    before = record.raw("truth_masks").identity()
    values = np.array(Image.open(segmented / "SegmentationObject" / "b.png"))
    values[0, 0] = 1
    Image.fromarray(values).save(segmented / "SegmentationObject" / "b.png")
    assert VOC(segmented, "trainval", masks=True)[0].raw("truth_masks").identity() != before


def test_masks_that_are_not_there_are_named(segmented: Path) -> None:
    png = segmented / "SegmentationObject" / "b.png"
    Image.fromarray(np.ones((30, 40), np.uint8)).save(png)
    with pytest.raises(UserError, match=r"b\.png: no pixel is of object 2 \(counted from 0\)"):
        VOC(segmented, "trainval", masks=True)[0]["truth_masks"]
    Image.fromarray(np.ones((30, 41), np.uint8)).save(png)
    with pytest.raises(UserError, match=r"b\.png is 30 x 41 pixels, which .*b\.\w+ is not"):
        VOC(segmented, "trainval", masks=True)[0]["truth_masks"]
    Image.fromarray(np.ones((30, 40, 3), np.uint8)).save(png)
    with pytest.raises(UserError, match=r"b\.png has neither a palette nor grey values: its pixels are RGB"):
        VOC(segmented, "trainval", masks=True)[0]["truth_masks"]
    png.unlink()
    with pytest.raises(UserError, match=r"b\.png: there is no such file, and a split of masks lists the image"):
        VOC(segmented, "trainval", masks=True)
