from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.stages.datasets.coco import COCO
from rcnn.stages.datasets.problem import Problem
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.datasets.spec import open_dataset
from rcnn.stages.datasets.subset import Chosen, Subset, keep_truths
from rcnn.stages.record import Lazy, Record


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two images: a.jpg with a car, a spoon, a fork and a car of no size; b.jpg with nothing."""
    boxes = [(3, [1, 1, 5, 5]), (50, [2, 2, 6, 6]), (48, [3, 3, 7, 7]), (3, [4, 4, 0, 8])]
    annotations = [
        {"id": i, "image_id": 1, "category_id": c, "bbox": box, "segmentation": [[1, 1, 9, 1, 9, i + 2]]}
        for i, (c, box) in enumerate(boxes)
    ]
    images = [{"id": i, "file_name": f"{name}.jpg", "height": 20, "width": 30} for i, name in ((1, "a"), (2, "b"))]
    categories = [{"id": 3, "name": "car"}, {"id": 48, "name": "fork"}, {"id": 50, "name": "spoon"}]
    document: dict[str, Any] = {"images": images, "annotations": annotations, "categories": categories}
    for image in images:
        Image.new("RGB", (30, 20)).save(tmp_path / str(image["file_name"]))
    (tmp_path / "set.json").write_text(json.dumps(document))
    return tmp_path / "set.json"


def test_the_classes_named_are_the_labels_in_their_order(coco: Path) -> None:
    data = open_dataset(f"coco:{coco}#spoon, car")
    assert (data.classes, getattr(data, "category_ids")) == (("spoon", "car"), (50, 3))  # noqa: B009
    assert [record.id for record in data] == ["a.jpg", "b.jpg"]
    assert data[0]["truth_labels"].tolist() == [2, 1]
    assert data[0]["truth_boxes"].tolist() == [[1, 1, 6, 6], [2, 2, 8, 8]]
    assert len(data[0]["truth_areas"]) == len(data[0]["truth_masks"]) == 2
    assert data[0]["truth_masks"] == [COCO(coco)[0]["truth_masks"][i] for i in (0, 1)]
    assert data[1]["truth_labels"].tolist() == []


def test_all_classes_in_their_order_change_nothing(coco: Path) -> None:
    chosen, whole = Chosen(COCO(coco), ["car", "fork", "spoon"]), COCO(coco)
    for name in whole[0]:
        assert np.array_equal(chosen[0][name], whole[0][name])
    assert chosen[0].raw("truth_masks").identity() == whole[0].raw("truth_masks").identity()


def test_objects_of_other_classes_are_not_left_out_but_never_annotated(coco: Path) -> None:
    assert len(Chosen(COCO(coco), ["car"]).left_out) == 1
    chosen = Chosen(COCO(coco), ["fork"])
    assert chosen.left_out == []
    assert chosen.source(0).objects == ("annotation 2 (fork)",)
    assert [problem.kind for problem in chosen.problems] == ["empty annotation"]


def test_what_has_no_class_of_the_set_may_be_of_the_chosen_ones(coco: Path) -> None:
    problem = Problem("unknown class", "a.xml", "object 0 is a 'spon'", "object", "spon")
    whole = COCO(coco)
    whole.problems.append(problem)
    assert Chosen(whole, ["spoon"]).left_out == [str(problem)]


def test_the_identity_of_masks_tells_which_are_taken(coco: Path) -> None:
    forks, spoons = (Chosen(COCO(coco), [name])[0].raw("truth_masks").identity() for name in ("fork", "spoon"))
    assert forks != spoons


@pytest.mark.parametrize(
    ("names", "said"),
    [("spon", "'spon'.*near ones: spoon"), ("xyz", "there are car, fork, spoon"), ("car,car", "twice"), ("Car", "car")],
)
def test_a_class_that_is_not_there_is_refused_with_near_ones(coco: Path, names: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        open_dataset(f"coco:{coco}#{names}")


def test_a_hash_in_a_path_is_no_class(tmp_path: Path) -> None:
    (tmp_path / "a#b").mkdir()
    Image.new("RGB", (3, 3)).save(tmp_path / "a#b" / "x.jpg")
    assert len(open_dataset(f"folder:{tmp_path}/a#b")) == 1
    with pytest.raises(UserError, match="ImageSets"):
        open_dataset(f"voc:{tmp_path}/a#b:train")


def test_what_is_there_under_the_whole_name_is_meant_before_classes_are(coco: Path) -> None:
    folder = coco.parent
    (folder / "c#car.json").write_bytes(coco.read_bytes())
    assert len(open_dataset(f"coco:{folder}/c#car.json").classes) == 3
    assert open_dataset(f"coco:{folder}/c#car.json#fork").classes == ("fork",)
    for name in ("set", "set#2"):
        (folder / name / f"of {name}").mkdir(parents=True)
        Image.new("RGB", (3, 3)).save(folder / name / f"of {name}" / "x.jpg")
    assert open_dataset(f"labelled:{folder}/set#2").classes == ("of set#2",)
    assert open_dataset(f"labelled:{folder}/set#of set").classes == ("of set",)
    for image in ("a.jpg", "b.jpg"):
        (folder / "set#2" / image).write_bytes((folder / image).read_bytes())
    data = open_dataset(f"coco:{coco}:{folder}/set#2")
    assert (len(data.classes), data.images) == (3, folder / "set#2")  # type: ignore[attr-defined]


def test_any_data_set_with_classes_can_be_chosen_from() -> None:
    data = open_dataset("shapes:6:1#star,disc")
    names = [Shapes(1).classes[label - 1] for record in Shapes(6, 1) for label in record["truth_labels"]]
    mine = [data.classes[label - 1] for record in data for label in record["truth_labels"]]
    assert mine == [name for name in names if name in ("star", "disc")]
    assert mine
    assert pickle.loads(pickle.dumps(data))[0].id == data[0].id


def test_a_part_of_a_part(coco: Path) -> None:
    part = Subset(Chosen(COCO(coco), ["spoon"]), [1])
    assert part.source(0).image.name == "b.jpg"
    assert part.category_ids == (50,)
    assert not hasattr(Subset(Shapes(2), [1]), "source")


def test_keeping_truths_leaves_lazy_ones_unmade() -> None:
    made: list[int] = []

    def make() -> list[str]:
        made.append(1)
        return ["m0", "m1", "m2"]

    fields = {"truth_labels": np.array([1, 2, 3]), "truth_masks": Lazy(make, lambda: b"masks"), "size": np.zeros(2)}
    kept = keep_truths(Record("a", fields), np.array([True, False, True]))
    assert (kept["truth_labels"].tolist(), made) == ([1, 3], [])
    assert kept["truth_masks"] == ["m0", "m2"]
    assert kept.raw("truth_masks").identity() != b"masks"
    assert len(kept["size"]) == 2
