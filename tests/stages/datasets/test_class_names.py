from __future__ import annotations

import pytest
from rcnn.stages.datasets.class_names import near_pairs, nearest
from rcnn.stages.datasets.voc import CLASSES


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dgo", "dog"), ("Dog", "dog"), ("dining table", "diningtable"), ("tv_monitor", "tvmonitor"),
        ("persan", "person"), ("motorcycle", None), ("helmet", None), ("?", None), ("can", None),
    ],
)  # fmt: skip
def test_the_name_that_was_meant(name: str, meant: str | None) -> None:
    assert nearest(name, CLASSES) == meant


def test_classes_of_voc_are_not_near_each_other() -> None:
    assert all(nearest(name, CLASSES) is None for name in CLASSES)


def test_a_number_is_no_slip() -> None:
    assert nearest("class 1", ["class 2", "class 12"]) is None
    assert nearest("clas 2", ["class 1", "class 2"]) == "class 2"


def test_only_a_rare_name_is_taken_for_another() -> None:
    assert list(near_pairs({"wolf": 40, "wolff": 2})) == [("wolff", "wolf")]
    assert list(near_pairs({"wolf": 40, "wolff": 3})) == []
    assert list(near_pairs({"wolf": 40, "bear": 1})) == []
    assert list(near_pairs({"with_mask": 3232, "without_mask": 717})) == []
    assert list(near_pairs({"RBC": 4155, "WBC": 20, "Platelets": 361})) == []


def test_names_that_differ_in_case_alone_are_near_however_often_they_occur() -> None:
    assert list(near_pairs({"wolf": 40, "Wolf": 39})) == [("Wolf", "wolf")]
    assert len(list(near_pairs({"wolf": 4, "Wolf": 4}))) == 1
