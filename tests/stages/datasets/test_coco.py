from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO as Official
from rcnn.errors import UserError
from rcnn.stages.boxes import overlap
from rcnn.stages.datasets.coco import COCO
from rcnn.stages.masks import box_of, decode
from rcnn.stages.record import check_field

HEIGHT, WIDTH = 30, 40
PATCH = np.zeros((HEIGHT, WIDTH), np.uint8)
PATCH[4:9, 5:17] = 1
PACKED = pycoco.encode(np.asfortranarray(PATCH))["counts"].decode()
RUNS = [5 * 30 + 4, *([5, 25] * 11), 5]
RUNS.append(HEIGHT * WIDTH - sum(RUNS))


def document() -> dict[str, Any]:
    images = [{"id": i, "file_name": f, "height": HEIGHT, "width": WIDTH} for i, f in ((7, "b.jpg"), (9, "a.jpg"))]
    polygon = {"segmentation": [[1, 1, 21, 1, 21, 11, 1, 11]], "bbox": [1, 1, 20, 10], "area": 199.5}
    packed = {"segmentation": {"size": [HEIGHT, WIDTH], "counts": PACKED}, "bbox": [5, 4, 12, 5], "area": 60}
    runs = {
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": list(RUNS)},
        "bbox": [5, 4, 12, 5],
        "area": 60,
        "iscrowd": 1,
    }
    flat = {"segmentation": [[3, 3, 9, 3, 9, 3]], "bbox": [3, 3, 6, 0], "area": 0}
    ours = [
        {"id": i, "image_id": 7, "category_id": c, "iscrowd": 0, **annotation}
        for i, (c, annotation) in enumerate([(50, polygon), (3, packed), (50, runs), (3, flat)], 100)
    ]
    categories = [{"id": 50, "name": "spoon"}, {"id": 3, "name": "car"}]
    return {"images": images, "annotations": ours, "categories": categories}


def write(root: Path, content: Any, images: str = "val2017", name: str = "instances_val2017.json") -> Path:
    (root / "annotations").mkdir(exist_ok=True)
    (root / images).mkdir(parents=True, exist_ok=True)
    for file in ("a.jpg", "b.jpg"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / images / file)
    path = root / "annotations" / name
    path.write_text(json.dumps(content))
    return path


def test_boxes_labels_and_masks(tmp_path: Path) -> None:
    data = COCO(write(tmp_path, document()))
    assert [record.id for record in data] == ["a.jpg", "b.jpg"]
    assert data.classes == ("car", "spoon")
    assert data.category_ids == (3, 50)
    assert data.image_ids == {"a.jpg": 9, "b.jpg": 7}
    record = data[1]
    assert record["truth_boxes"].tolist() == [[1, 1, 21, 11], [5, 4, 17, 9], [5, 4, 17, 9]]
    assert record["truth_labels"].tolist() == [2, 1, 2]
    assert record["truth_crowd"].tolist() == [False, False, True]
    assert record["truth_difficult"].tolist() == [False] * 3
    assert record["truth_areas"].tolist() == [199.5, 60, 60]
    assert record["image"].shape == (HEIGHT, WIDTH, 3)
    assert record["size"].tolist() == [HEIGHT, WIDTH]
    polygon, packed, runs = record["truth_masks"]
    assert (decode(packed) == PATCH).all()
    assert (decode(runs) == PATCH).all()
    assert decode(polygon).sum() == 200


def test_a_box_of_no_size_is_left_out_and_told(tmp_path: Path) -> None:
    left_out = COCO(write(tmp_path, document())).left_out
    assert len(left_out) == 1
    assert "annotation 103 of image 7" in left_out[0]


def test_an_image_without_objects_has_empty_truth(tmp_path: Path) -> None:
    record = COCO(write(tmp_path, document()))[0]
    assert record["truth_boxes"].shape == (0, 4)
    assert record["truth_masks"] == []


def test_fields_are_as_declared(tmp_path: Path) -> None:
    for record in COCO(write(tmp_path, document())):
        known: dict[str, int] = {}
        for name in record:
            check_field(name, record[name], known, "coco")


def test_a_record_goes_to_another_process(tmp_path: Path) -> None:
    record = COCO(write(tmp_path, document()))[1]
    sent = pickle.loads(pickle.dumps(record))
    assert sent["truth_masks"] == record["truth_masks"]
    assert (sent["image"] == record["image"]).all()


@pytest.mark.parametrize("segmentation", [None, []])
def test_a_file_of_boxes_has_no_masks(tmp_path: Path, segmentation: Any) -> None:
    content = document()
    for annotation in content["annotations"]:
        annotation["segmentation"] = segmentation
        del annotation["area"]
    data = COCO(write(tmp_path, content))
    assert all("truth_masks" not in record for record in data)
    assert data[1]["truth_areas"].tolist() == [200, 60, 60]


def test_masks_are_all_or_none_of_an_image(tmp_path: Path) -> None:
    content = document()
    del content["annotations"][0]["segmentation"]
    assert "truth_masks" not in COCO(write(tmp_path, content))[1]


def test_the_identity_of_masks_changes_with_them(tmp_path: Path) -> None:
    def identity(content: Any) -> bytes:
        return COCO(write(tmp_path, content))[1].raw("truth_masks").identity()

    content = document()
    before = identity(content)
    assert identity(content) == before
    content["annotations"][0]["segmentation"][0][0] = 2
    assert identity(content) != before


@pytest.mark.parametrize("images", ["val2017", "images", "images/val2017", "annotations", "annotations/images"])
def test_images_are_found_beside_the_file(tmp_path: Path, images: str) -> None:
    assert COCO(write(tmp_path, document(), images))[0]["image"].shape == (HEIGHT, WIDTH, 3)


def test_images_in_a_folder_that_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, document(), "elsewhere/deep")
    assert len(COCO(file, tmp_path / "elsewhere" / "deep")) == 2
    with pytest.raises(UserError, match=r"b\.jpg|a\.jpg"):
        COCO(file)
    with pytest.raises(UserError, match="nowhere"):
        COCO(file, tmp_path / "nowhere")


def test_a_file_name_may_name_a_folder(tmp_path: Path) -> None:
    content = document()
    for image in content["images"]:
        image["file_name"] = "deep/" + image["file_name"]
    data = COCO(write(tmp_path, content, "val2017/deep"))
    assert data[0].id == "deep/a.jpg"
    assert data[0]["size"].tolist() == [HEIGHT, WIDTH]


def test_one_missing_image_is_left_out_and_told(tmp_path: Path) -> None:
    file = write(tmp_path, document())
    (tmp_path / "val2017" / "b.jpg").unlink()
    data = COCO(file)
    assert ([record.id for record in data], data.image_ids) == (["a.jpg"], {"a.jpg": 9})
    (problem,) = (problem for problem in data.problems if problem.loses == "image")
    assert (problem.kind, problem.file) == ("missing image", str(tmp_path / "val2017" / "b.jpg"))


def test_an_image_of_another_size_has_no_masks_that_fit(tmp_path: Path) -> None:
    file = write(tmp_path, document())
    Image.new("RGB", (WIDTH, HEIGHT + 1)).save(tmp_path / "val2017" / "b.jpg")
    with pytest.raises(UserError, match=r"b\.jpg"):
        COCO(file)[1]["truth_masks"]


def test_a_broken_mask_is_named(tmp_path: Path) -> None:
    content = document()
    content["annotations"][2]["segmentation"]["counts"][0] += 1
    with pytest.raises(UserError, match="annotation 102"):
        COCO(write(tmp_path, content))[1]["truth_masks"]


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "'categories'": lambda d: d.pop("categories"),
    "'annotations'": lambda d: d.pop("annotations"),
    "'images'": lambda d: d.update(images={"1": {}}),
    "'bbox'": lambda d: [annotation.pop("bbox") for annotation in d["annotations"]],
    "two categories have one id": lambda d: d["categories"][0].update(id=3),
    "two categories have one name, 'car'": lambda d: d["categories"][0].update(name="car"),
    "the category 'car' lacks": lambda d: d["categories"].append("car"),
    "the category .* lacks": lambda d: d["categories"][0].pop("id"),
    "annotation 100 has no category_id": lambda d: [annotation.pop("category_id") for annotation in d["annotations"]],
    "image 7 has no 'file_name'": lambda d: [image.update(file_name=3) for image in d["images"]],
    "no image": lambda d: d["images"].clear() or d["annotations"].clear(),
    "the id of image 9": lambda d: d["images"][0].update(id=9) or d["annotations"].clear(),
    "the file_name of image": lambda d: d["images"][0].update(file_name="a.jpg"),
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_broken_file_is_named(tmp_path: Path, said: str) -> None:
    content = document()
    CHANGES[said](content)
    with pytest.raises(UserError, match=rf"instances_val2017\.json.*{said}"):
        COCO(write(tmp_path, content))


FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "annotation 100 is of category 8": ("unknown class", lambda d: d["annotations"][0].update(category_id=8)),
    "annotation 100 is of image 8": ("unknown image", lambda d: d["annotations"][0].update(image_id=8)),
    "annotation 100 of image 7 has no box": ("no box", lambda d: d["annotations"][0].pop("bbox")),
    "annotation 101 of image 7 has no box": ("no box", lambda d: d["annotations"][1].update(bbox=[1, 2, 3])),
    "annotation 102 of image 7 has no box": ("no box", lambda d: d["annotations"][2].update(bbox=[1, 2, 3, 1e999])),
    "annotation 102 of image 7 has no box of four": (
        "no box",
        lambda d: d["annotations"][2].update(bbox=[1, 2, 3e38, 4]),
    ),
    "annotation 101 of image 7 has a box of no size": (
        "box without size",
        lambda d: d["annotations"][1].update(bbox=[5, 5, -3, 4]),
    ),
    "annotation 100 of image 7 has a box of no size, (500, 10, 1e-06, 5)": (  # no width is left of it in float32
        "box without size",
        lambda d: d["annotations"][0].update(bbox=[500, 10, 1e-6, 5]),
    ),
    "annotation 102 of image 7 has a box of no size, (1, 300, 2, 1e-05)": (
        "box without size",
        lambda d: d["annotations"][2].update(bbox=[1, 300, 2, 1e-5]),
    ),
    "annotation 101 has no category_id": ("unknown class", lambda d: d["annotations"][1].pop("category_id")),
    "annotation 101 is of category 9": ("unknown class", lambda d: d["annotations"][1].update(category_id="9")),
    "annotation 102 has no image_id": ("unknown image", lambda d: d["annotations"][2].update(image_id=[7])),
    "annotation 100 has no image_id": ("unknown image", lambda d: d["annotations"][0].pop("image_id")),
    "annotation number 1 (counted from 0) has no image_id": ("unknown image", lambda d: nameless(d, "image_id")),
    "annotation number 1 (counted from 0) has no category_id": ("unknown class", lambda d: nameless(d, "category_id")),
    "annotation number 0 (counted from 0) is no JSON object": (
        "malformed entry",
        lambda d: d["annotations"].__setitem__(0, "spoon"),
    ),
    "annotation 100 of image 7 has no box of": ("no box", lambda d: d["annotations"][0].update(bbox="abcd")),
    "annotation 102 of image 7 has no box of": (
        "no box",
        lambda d: d["annotations"][2].update(bbox=[1, 2, 3, 10**400]),
    ),
    "annotation 101 of image 7 has no box of": ("no box", lambda d: d["annotations"][1].update(bbox=[1, 2, "3", 4])),
    "annotation 100 of image 7 has an area": ("malformed entry", lambda d: d["annotations"][0].update(area=None)),
    "annotation 101 of image 7 has an area": ("malformed entry", lambda d: d["annotations"][1].update(area="60")),
    "annotation 102 of image 7 has an iscrowd": ("malformed entry", lambda d: d["annotations"][2].update(iscrowd="no")),
}


def nameless(content: dict[str, Any], without: str) -> None:
    content["annotations"][1].pop("id")
    content["annotations"][1].pop(without)


SEGMENTATIONS: list[Any] = [
    5, "text", [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, "6"]], [[1, 2, 3, 4, 5, 6, 7]], [[1, 2, 3, 4]],
    [[1, 2, 3, 4, 5, None]], [[1, 2, 3, 4, 5, 1e999]], [[[1, 2], [3, 4], [5, 6]]], ["abcdef"],
    {"size": [30, 40]}, {"counts": PACKED}, {"counts": 5, "size": [30, 40]}, {"counts": [1.5, 2], "size": [30, 40]},
    {"counts": [10**30], "size": [30, 40]}, {"counts": PACKED, "size": 30},
]  # fmt: skip


@pytest.mark.parametrize("segmentation", SEGMENTATIONS, ids=range(len(SEGMENTATIONS)))
def test_an_odd_segmentation_loses_its_object(tmp_path: Path, segmentation: Any) -> None:
    content = document()
    content["annotations"][1]["segmentation"] = segmentation
    data = COCO(write(tmp_path, content))
    (problem,) = (problem for problem in data.problems if problem.kind == "malformed entry")
    assert problem.what.startswith("annotation 101 of image 7 has a segmentation that is neither")
    assert (problem.loses, problem.label) == ("object", "car")
    assert len(data[1]["truth_labels"]) == len(data[1]["truth_masks"]) == 2


def test_a_part_without_area_loses_nothing(tmp_path: Path) -> None:
    content = document()
    content["annotations"][0]["segmentation"].append([1, 2])
    assert decode(COCO(write(tmp_path, content))[1]["truth_masks"][0]).sum() == 200


@pytest.mark.parametrize(("said", "crowd"), [("0", False), ("1", True), (0, False), (True, True), (1.0, True)])
def test_a_crowd_is_a_number_however_it_is_written(tmp_path: Path, said: Any, crowd: bool) -> None:
    content = document()
    content["annotations"][0]["iscrowd"] = said
    assert COCO(write(tmp_path, content))[1]["truth_crowd"].tolist() == [crowd, False, True]


IMAGES: dict[str, Callable[[list[Any]], Any]] = {
    "image 9 has no 'height'": lambda images: images[1].pop("height"),
    "image 9 has no 'width'": lambda images: images[1].update(width=None),
    "image 9 has a width of -4": lambda images: images[1].update(width=-4),
    "image 9 has no 'file_name'": lambda images: images[1].update(file_name=3),
    "image number 1 (counted from 0) has no 'id'": lambda images: images[1].pop("id"),
    "image number 1 (counted from 0) is no JSON object": lambda images: images.__setitem__(1, 3),
}


@pytest.mark.parametrize("said", IMAGES)
def test_an_image_that_says_too_little_is_left_out_and_told(tmp_path: Path, said: str) -> None:
    content = document()
    IMAGES[said](content["images"])
    data = COCO(write(tmp_path, content))
    assert [record.id for record in data] == ["b.jpg"]
    (problem,) = (problem for problem in data.problems if problem.loses == "image")
    assert (problem.kind, problem.what) == ("malformed entry", said)


def test_the_objects_of_an_image_that_is_left_out_go_with_it(tmp_path: Path) -> None:
    content = document()
    content["images"][0].pop("height")
    content["images"].append({"id": 9, "file_name": "c.jpg"})  # and the sound one of its id is in doubt
    content["images"].append({"id": 1, "file_name": "d.jpg", "height": HEIGHT, "width": WIDTH})
    file = write(tmp_path, content)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "val2017" / "d.jpg")
    data = COCO(file)
    assert [record.id for record in data] == ["d.jpg"]
    assert [(problem.kind, problem.loses) for problem in data.problems] == [
        ("malformed entry", "image"), ("malformed entry", "image"), ("duplicate id", "image"), ("empty annotation", ""),
    ]  # fmt: skip


def test_an_annotation_without_id_is_called_by_its_place(tmp_path: Path) -> None:
    content = document()
    for annotation in content["annotations"]:
        del annotation["id"]
    data = COCO(write(tmp_path, content))
    assert data.source(1).objects[1] == "annotation number 1 (counted from 0) (car)"
    assert "annotation number 3 (counted from 0) of image 7" in data.left_out[0]
    assert all(problem.kind != "duplicate id" for problem in data.problems)


def test_a_box_of_part_of_a_pixel_has_a_size(tmp_path: Path) -> None:
    content = document()
    content["annotations"][0]["bbox"] = [0, 0, 1e-6, 0.25]
    boxes = COCO(write(tmp_path, content))[1]["truth_boxes"]
    assert boxes[0].tolist() == [0, 0, pytest.approx(1e-6), 0.25]
    np.testing.assert_array_equal(np.diag(overlap(boxes, boxes)), 1)


@pytest.mark.parametrize("said", FAULTS)
def test_an_object_that_cannot_be_used_is_left_out_and_told(tmp_path: Path, said: str) -> None:
    content = document()
    kind, change = FAULTS[said]
    change(content)
    data = COCO(write(tmp_path, content))
    assert len(data[1]["truth_labels"]) == len(data.source(1).objects) == 2
    assert len(data.left_out) == 2  # annotation 103 always is
    (problem,) = (problem for problem in data.problems if problem.what.startswith(said))
    assert (problem.kind, problem.loses) == (kind, "object")


def test_what_is_in_the_file_twice(tmp_path: Path) -> None:
    content = document()
    content["images"] += [content["images"][0], {"id": 1, "file_name": "c.jpg", "height": 1, "width": 1}]
    content["images"] += [{"id": 2, "file_name": "c.jpg", "height": 1, "width": 1}]
    content["annotations"][1]["id"] = 100
    data = COCO(write(tmp_path, content))
    assert [record.id for record in data] == ["a.jpg", "b.jpg"]
    assert len(data[1]["truth_labels"]) == 3  # an annotation is one whatever its id is
    told = [(problem.what, problem.loses) for problem in data.problems if problem.kind == "duplicate id"]
    assert told == [
        ("image 7 (b.jpg) is listed 2 times", ""),
        ("the file_name of image 1 (c.jpg) is another image's too", "image"),
        ("the file_name of image 2 (c.jpg) is another image's too", "image"),
        ("2 annotations have the id 100", ""),
    ]


def test_an_image_without_annotations_is_worth_knowing(tmp_path: Path) -> None:
    (problem,) = (p for p in COCO(write(tmp_path, document())).problems if p.kind == "empty annotation")
    assert (problem.what, problem.loses) == ("image 9 (a.jpg) has no annotation", "")


@pytest.mark.parametrize("content", ["{", "[]", "3", "[" * 100_000], ids=["cut", "list", "number", "deep"])
def test_what_is_no_annotation_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(UserError, match=r"x\.json"):
        COCO(tmp_path / "x.json")
    with pytest.raises(UserError, match=r"y\.json"):
        COCO(tmp_path / "y.json")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("split", "images", "objects", "crowds", "sizes"),
    [("train2017", 80, 739, 8, (301, 283, 155)), ("val2017", 79, 624, 5, (284, 163, 177))],
)
def test_coco_mini_is_as_its_notes_say(
    data_root: Path, split: str, images: int, objects: int, crowds: int, sizes: tuple[int, ...]
) -> None:
    file = data_root / "data" / "coco-mini" / "annotations" / f"instances_{split}.json"
    data, official = COCO(file), Official(str(file))
    assert (len(data), len(data.classes), data.left_out) == (images, 80, [])
    areas = np.concatenate([record["truth_areas"] for record in data])
    assert len(areas) == objects
    assert np.histogram(areas, [0, 32**2, 96**2, 1e9])[0].tolist() == list(sizes)
    assert sum(record["truth_crowd"].sum() for record in data) == crowds
    for record in data:
        annotations = official.loadAnns(official.getAnnIds(data.image_ids[record.id]))
        assert [data.category_ids[i - 1] for i in record["truth_labels"]] == [a["category_id"] for a in annotations]
        for mask, annotation in zip(record["truth_masks"], annotations, strict=True):
            assert (decode(mask) == official.annToMask(annotation)).all()


@pytest.mark.realdata
def test_pennfudan_masks_agree_with_their_boxes(data_root: Path) -> None:
    for split, images, objects in (("train", 120, 292), ("val", 50, 131)):
        data = COCO(data_root / "data" / "pennfudan" / "annotations" / f"instances_{split}.json")
        assert (len(data), data.classes) == (images, ("person",))
        seen = 0
        for record in data:
            boxes = np.stack([box_of(mask) for mask in record["truth_masks"]])
            assert boxes.tolist() == record["truth_boxes"].tolist()
            assert [pycoco.area(mask) for mask in record["truth_masks"]] == record["truth_areas"].tolist()
            seen += len(boxes)
        assert seen == objects
