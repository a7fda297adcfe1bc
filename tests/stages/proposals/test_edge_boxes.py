"""Edge boxes on a small forest: what OpenCV gives, its odd inputs, and model files that are none."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.stages.boxes import overlap
from rcnn.stages.proposals.edge_boxes import EdgeBoxes, detect_edges, edge_boxes, read_forest
from rcnn.stages.record import Record

cv2 = pytest.importorskip("cv2")

CORNERS = np.array([[50, 32], [108, 28], [112, 78], [54, 82]])  # not along the axes, where OpenCV's thinning fails
AROUND = np.array([[50, 28, 112, 82]], np.float32)


def picture(height: int = 120, width: int = 160, seed: int = 0) -> Any:
    """One leaning red square on grey with a little noise."""
    image = np.full((height, width, 3), 60, np.uint8)
    cv2.fillPoly(image, [CORNERS], (220, 80, 40))
    noise = np.random.default_rng(seed).normal(0, 2, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def propose(model: Path, image: Any, **params: Any) -> dict[str, Any]:
    record = Record("a", {"image": image})
    stage = EdgeBoxes(str(model), **{"min_box_area": 200.0, **params})
    stage.validate()
    fields = stage([record])[0]
    record.add(fields)  # fits FIELDS
    return fields


def test_the_object_is_among_the_best_boxes(forest: Path) -> None:
    fields = propose(forest, picture())
    boxes, objectness = fields["boxes"], fields["objectness"]
    assert overlap(boxes[:10], AROUND).max() > 0.75
    assert len(boxes) > 100
    assert (np.diff(objectness) <= 0).all()
    assert objectness[-1] >= 0.01
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [160, 120]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_edges_are_where_the_square_ends(forest: Path) -> None:
    edges, directions = detect_edges(picture(), read_forest(str(forest)))
    assert edges.shape == directions.shape == (120, 160)
    assert edges.dtype == directions.dtype == np.float32
    outline = np.zeros((120, 160), np.uint8)
    cv2.polylines(outline, [CORNERS], True, 1, 7)
    assert edges.max() > 0.5
    assert edges[outline == 0].sum() < 0.1 * edges.sum()


def outline_map() -> tuple[Any, Any]:
    """Edges of an object on the pixels 40..99 by 30..89, one pixel thin, and their directions."""
    edges, directions = np.zeros((120, 160), np.float32), np.zeros((120, 160), np.float32)
    edges[30:90, [40, 99]] = 1
    edges[[30, 89], 40:100] = 1
    directions[[30, 89], 40:100] = np.pi / 2
    return edges, directions


def test_the_best_box_lies_around_an_outline() -> None:
    boxes, scores = edge_boxes(*outline_map())
    assert overlap(boxes[:1], np.array([[40, 30, 100, 90]], np.float32))[0, 0] > 0.8
    assert scores[0] > scores[1]


def test_opencvs_corners_are_counted_from_one() -> None:
    """If this fails, OpenCV has changed: `edge_boxes` need not take one off."""
    edges = np.random.default_rng(0).random((40, 60)).astype(np.float32)
    rects, _ = cv2.ximgproc.createEdgeBoxes(minScore=0, minBoxArea=100).getBoundingBoxes(edges, edges)
    assert rects[:, :2].min() == 1
    assert (rects[:, :2] + rects[:, 2:]).max(0).tolist() == [60, 40]
    boxes, _ = edge_boxes(edges, edges, minScore=0, minBoxArea=100)
    np.testing.assert_array_equal(boxes[:, :2], rects[:, :2] - 1)
    np.testing.assert_array_equal(boxes[:, 2:] - boxes[:, :2], rects[:, 2:])


def test_the_parameters_reach_opencv(forest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    create = cv2.ximgproc.createEdgeBoxes
    monkeypatch.setattr(cv2.ximgproc, "createEdgeBoxes", lambda **settings: made.append(create(**settings)) or made[-1])
    EdgeBoxes(str(forest))([Record("a", {"image": picture()})])
    default = create()
    getters = [
        name for name in dir(default) if name.startswith("get") and name not in ("getBoundingBoxes", "getDefaultName")
    ]
    assert len(getters) == len(EdgeBoxes.param_names()) - 1 == 12
    for name in getters:
        assert getattr(made[0], name)() == getattr(default, name)()  # our defaults are OpenCV's
    values = {"alpha": 0.5, "beta": 0.6, "eta": 0.9, "min_score": 0.02, "max_boxes": 7, "edge_min_mag": 0.2,
              "edge_merge_thr": 0.6, "cluster_min_mag": 0.7, "max_aspect_ratio": 2.0, "min_box_area": 300.0,
              "gamma": 1.0, "kappa": 1.2}  # fmt: skip
    propose(forest, picture(), **values)
    for name, value in values.items():
        getter = "get" + name.title().replace("_", "")
        assert getattr(made[1], getter)() == pytest.approx(value)


def test_the_best_are_kept_with_and_without_suppression(forest: Path) -> None:
    full = propose(forest, picture())
    np.testing.assert_array_equal(propose(forest, picture(), max_boxes=9)["boxes"], full["boxes"][:9])
    assert len(propose(forest, picture(), max_boxes=9, beta=1.0)["boxes"]) == 9


def test_earlier_images_and_threads_change_nothing(forest: Path) -> None:
    first = propose(forest, picture())
    before = cv2.getNumThreads()
    try:
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            propose(forest, picture(90, 130, seed=threads))
            for name, value in propose(forest, picture()).items():
                np.testing.assert_array_equal(value, first[name])
    finally:
        cv2.setNumThreads(before)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (15, 15), (15, 90), (16, 16), (16, 40), (17, 33), (300, 16)])
def test_odd_images(forest: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for image in (noise, np.full_like(noise, 77)):
        fields = propose(forest, image, min_box_area=16.0)
        assert np.isfinite(fields["objectness"]).all()
        assert (fields["boxes"][:, 2:] <= size[::-1]).all()
        assert len(fields["boxes"]) == 0 or min(size) >= 16


def test_a_flat_image_has_no_boxes(forest: Path) -> None:
    assert propose(forest, np.full((60, 80, 3), 99, np.uint8))["boxes"].shape == (0, 4)


def test_an_image_beyond_opencvs_table_is_refused(forest: Path) -> None:
    with pytest.raises(UserError, match=r"image 'a': 19900 x 100 pixels"):
        propose(forest, np.zeros((100, 19_900, 3), np.uint8))


def test_a_packed_model_is_the_same_and_another_file_is_read(forest: Path, tmp_path: Path) -> None:
    packed = tmp_path / "kept.gz"  # a RUN folder keeps model.yml.gz by this suffix
    packed.write_bytes(gzip.compress(forest.read_bytes()))
    here, there = propose(forest, picture()), propose(packed, picture())
    np.testing.assert_array_equal(here["boxes"], there["boxes"])
    packed.write_bytes(gzip.compress(forest.read_bytes().replace(b"1.0, 0.0", b"9.0, 0.0")))
    assert len(propose(packed, picture())["boxes"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("", "", "no such file"),
        (None, "", r"broken\.yml: this is no model"),
        (None, "no model at all\n", "no model"),
        (None, "%YAML:1.0\n---\nfoo: 1\n", "options hold no stride"),  # ends the process, if OpenCV reads it
        (None, "%YAML:1.0\n---\n- 1\n- 2\n", "no model"),
        (None, "%YAML:1.0\n---\noptions: 3\n", "no model"),
        ("numberOfTrees: 2", "numberOfTrees: 0", "no numberOfTrees of 1 or more"),
        ("numberOfTrees: 2", "numberOfTrees: 4", "do not fit"),
        ("numberOfTreesToEvaluate", "other", "no numberOfTreesToEvaluate"),
        ("stride: 2", "stride: two", "no stride"),
        ("childs", "other", "0 childs"),
        ("thresholds", "other", "0 thresholds"),
        ("edgeBoundaries", "other", "cut short"),
        ("edgeBins", "other", "cut short"),
    ],
)
def test_files_that_are_no_model_are_named(forest: Path, tmp_path: Path, old: str | None, new: str, says: str) -> None:
    path = tmp_path / "broken.yml"
    if old != "":
        path.write_text(new if old is None else forest.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=says) as caught:
        propose(path, picture())
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\x89PNG" + bytes(500), bytes(range(256)) * 40])
def test_bytes_that_are_no_model_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.yml.gz"
    for written in (content, gzip.compress(content)):
        path.write_bytes(written)
        with pytest.raises(UserError, match="this is no model"):
            propose(path, picture())


def test_missing_contrib_says_what_to_install(forest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(UserError, match="pip install opencv-contrib-python-headless"):
        propose(forest, picture())
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="pip install opencv-contrib-python-headless"):
        propose(forest, picture())


@pytest.mark.parametrize(
    "params",
    [{"alpha": 1}, {"alpha": 0}, {"beta": 0}, {"eta": 1.1}, {"min_score": -1}, {"max_boxes": 0}, {"min_box_area": 1},
     {"max_aspect_ratio": 0.5}, {"kappa": float("nan")}, {"gamma": -1}],
)  # fmt: skip
def test_wrong_parameters_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        EdgeBoxes("model.yml.gz", **params).validate()
    EdgeBoxes("model.yml.gz").validate()
