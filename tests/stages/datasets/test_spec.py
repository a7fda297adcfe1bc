from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.stages.datasets.coco import COCO
from rcnn.stages.datasets.folder import Folder
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.datasets.spec import open_dataset
from rcnn.stages.datasets.subset import Subset
from rcnn.stages.datasets.voc import VOC


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "a:b"  # a colon in a path is no separator
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    body = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>"
    (root / "Annotations" / "x.xml").write_text(
        f"<a><object><name>dog</name>{body}<object><name>cat</name><difficult>1</difficult>{body}</a>"
    )
    for split in ("trainval", "easy"):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("x\n")
    Image.new("RGB", (9, 9)).save(root / "JPEGImages" / "x.jpg")
    return root


@pytest.fixture
def coco(voc: Path) -> Path:
    document: dict[str, Any] = {"annotations": [], "categories": [{"id": 4, "name": "dog"}]}
    document["images"] = [{"id": 1, "file_name": "x.jpg", "height": 9, "width": 9}]
    (voc / "set.json").write_text(json.dumps(document))
    return voc / "set.json"


def test_voc(voc: Path) -> None:
    data = open_dataset(f"voc:{voc}:trainval")
    assert isinstance(data, VOC)
    assert len(data[0]["truth_boxes"]) == 2
    assert len(open_dataset(f"voc:{voc}:trainval:easy")[0]["truth_boxes"]) == 1
    assert len(open_dataset(f"voc:{voc}:trainval+easy")) == 1


def test_coco(coco: Path) -> None:
    data = open_dataset(f"coco:{coco}:{coco.parent / 'JPEGImages'}")
    assert isinstance(data, COCO)
    assert data[0].id == "x.jpg"
    with pytest.raises(UserError, match="images"):
        open_dataset(f"coco:{coco}")


def test_folder_and_shapes(voc: Path) -> None:
    data = open_dataset(f"folder:{voc}")
    assert isinstance(data, Folder)
    assert [record.id for record in data] == ["JPEGImages/x.jpg"]
    shapes = open_dataset("shapes:12:7")
    assert isinstance(shapes, Shapes)
    assert (len(shapes), shapes.seed, len(open_dataset("shapes:3"))) == (12, 7, 3)


FORMS = ("", "voc", "voc:", "voc:DIR", "coco:", "coco:file.txt", "folder:", "imagenet:DIR")
NUMBERS = ("", "x", "3:x", "3:", "-3", "1:2:3")


@pytest.mark.parametrize("spec", [*FORMS, *(f"shapes:{number}" for number in NUMBERS)])
def test_a_bad_spec_says_the_forms(spec: str) -> None:
    with pytest.raises(UserError, match=r"voc:DIR:SPLIT.*coco:FILE.*folder:DIR.*shapes:N"):
        open_dataset(spec)


def test_a_number_of_shapes_that_cannot_be_meant() -> None:
    with pytest.raises(UserError, match="n is"):
        open_dataset("shapes:0")


def test_a_subset_is_in_canonical_order_and_keeps_attributes(coco: Path) -> None:
    data = Shapes(10, seed=3)
    part = Subset(data, [7, 2, -1, 2])
    assert [record.id for record in part] == [data[i].id for i in (2, 7, 9)]
    assert (part.classes, part.seed) == (data.classes, 3)
    with pytest.raises(IndexError):
        Subset(data, [10])
    with pytest.raises(AttributeError):
        _ = part.category_ids
    assert Subset(COCO(coco, coco.parent / "JPEGImages"), [0]).category_ids == (4,)


def test_data_sets_go_to_other_processes() -> None:
    part = pickle.loads(pickle.dumps(Subset(Shapes(10), [4])))
    assert part[0].id == "shapes-0-000004"
    assert part.seed == 0
