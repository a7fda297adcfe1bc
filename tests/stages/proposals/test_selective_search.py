"""Selective search: the same boxes whatever ran before, beside or in how many threads; odd images; recall."""

from __future__ import annotations

import ctypes
import json
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.stages.proposals.selective_search import ENGINES, OURS, PAPER, SelectiveSearch, resize
from rcnn.stages.record import Record

cv2 = pytest.importorskip("cv2")
MODES = ("single", "fast", "quality")
BOTH = pytest.mark.parametrize("engine", ENGINES)


def picture(seed: int = 0, height: int = 90, width: int = 120) -> Any:
    """Overlapping coloured rectangles and discs with a little noise, H W 3 uint8."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), rng.integers(0, 255, 3), np.uint8)
    for _ in range(12):
        x, y, r = int(rng.integers(width)), int(rng.integers(height)), int(rng.integers(6, 25))
        colour = [int(c) for c in rng.integers(0, 255, 3)]
        if rng.random() < 0.5:
            cv2.circle(image, (x, y), r, colour, -1)
        else:
            cv2.rectangle(image, (x, y), (x + r, y + 2 * r), colour, -1)
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)


def propose(image: Any, name: str = "a", **params: Any) -> dict[str, Any]:
    return SelectiveSearch(**{"width": 120, "min_side": 5, **params})([Record(name, {"image": image})])[0]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in ("boxes", "objectness"))


@BOTH
@pytest.mark.parametrize("mode", MODES)
def test_fields_fit_the_record(mode: str, engine: str) -> None:
    image = picture()
    record = Record("a", {"image": image})
    fields = propose(image, mode=mode, engine=engine)
    record.add(fields)
    boxes, objectness = fields["boxes"], fields["objectness"]
    assert len(boxes) > 15
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 5
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [120, 90]).all()
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert objectness[0] == 1
    assert objectness.min() > 0
    assert (np.diff(objectness) < 0).all()


@BOTH
def test_modes_grow(engine: str) -> None:
    counts = [len(propose(picture(), mode=mode, engine=engine, top=None)["boxes"]) for mode in MODES]
    assert counts[0] < counts[1] < counts[2]


@BOTH
def test_lists_of_ones_own_take_the_place_of_the_modes(engine: str) -> None:
    own = {"engine": engine, "top": None}
    single = propose(picture(), mode="single", **own)
    lists = dict(zip(("colours", "similarities", "ks"), map(list, PAPER["single"])))
    assert same(single, propose(picture(), mode="quality", **lists, **own))
    assert not same(single, propose(picture(), mode="single", colours=["RGB"], **own))


def test_the_single_mode_is_the_same_for_both_engines() -> None:
    assert OURS["single"] == PAPER["single"]


@BOTH
def test_finds_a_plain_square(engine: str) -> None:
    image = np.full((80, 100, 3), 40, np.uint8)
    image[20:60, 30:70] = (220, 30, 30)
    boxes = propose(image, width=None, engine=engine)["boxes"]
    assert np.abs(boxes - [30, 20, 70, 60]).max(1).min() <= 1  # smoothing may cost the outermost pixel


def test_red_and_blue_are_not_swapped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are RGB, and every conversion says so."""
    codes: list[int] = []
    convert = cv2.cvtColor
    monkeypatch.setattr(cv2, "cvtColor", lambda image, code: (codes.append(code), convert(image, code))[1])
    for engine in ENGINES:
        propose(np.full((30, 30, 3), (255, 0, 7), np.uint8), engine=engine)
    assert set(codes) == {cv2.COLOR_RGB2HSV_FULL, cv2.COLOR_RGB2Lab}


def test_boxes_are_scaled_back_to_the_image() -> None:
    image = picture()
    large = np.kron(image, np.ones((3, 3, 1), np.uint8))
    boxes = propose(large)["boxes"]
    assert boxes[:, 2].max() == 360
    assert boxes[:, 3].max() == 270
    assert (boxes % 3 == 0).all()  # searched at a third: whole pixels there


def test_top_keeps_the_best_ranked() -> None:
    full, cut = propose(picture(), top=None), propose(picture(), top=15)
    assert len(full["boxes"]) > 15
    np.testing.assert_array_equal(cut["boxes"], full["boxes"][:15])


def test_min_side_drops_at_the_search_width() -> None:
    boxes = propose(np.kron(picture(), np.ones((2, 2, 1), np.uint8)), min_side=30)["boxes"]  # 240 wide
    assert len(boxes)
    assert (boxes[:, 2:] - boxes[:, :2]).min() >= 60


@pytest.mark.skipif(sys.platform == "win32", reason="no CDLL(None)")
def test_earlier_calls_change_nothing() -> None:
    for engine in ENGINES:
        first = propose(picture(), engine=engine)
        propose(picture(5), mode="quality", engine=engine)
        cv2.setRNGSeed(1234)
        ctypes.CDLL(None).srand(77)  # what OpenCV ranks with
        assert same(first, propose(picture(), engine=engine))


@pytest.mark.skipif(sys.platform == "win32", reason="no CDLL(None)")
def test_opencvs_own_order_does_depend_on_earlier_calls() -> None:
    """Why the order is not taken from OpenCV. If this fails, OpenCV has changed: simplify `opencv_boxes`."""

    def order(seed: int) -> Any:
        ctypes.CDLL(None).srand(seed)
        cv2.setRNGSeed(0)
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(picture())
        search.switchToSelectiveSearchFast()
        return search.process()

    assert not np.array_equal(order(1), order(2))
    assert np.array_equal(np.unique(order(1), axis=0), np.unique(order(2), axis=0))


def test_random_state_and_image_id_change_the_rank_alone() -> None:
    image = picture()
    base = propose(image, top=None)["boxes"]
    for other in (propose(image, top=None, random_state=1), propose(image, "b", top=None)):
        assert not np.array_equal(base, other["boxes"])
        np.testing.assert_array_equal(np.unique(base, axis=0), np.unique(other["boxes"], axis=0))


@BOTH
@pytest.mark.parametrize("threads", [1, 2])
def test_threads_change_nothing(engine: str, threads: int) -> None:
    images = [picture(seed) for seed in range(4)]
    alone = [propose(image, engine=engine) for image in images]
    with ThreadPoolExecutor(2) as pool:
        beside = list(pool.map(lambda image: propose(image, engine=engine, threads=threads), images))
    assert all(same(a, b) for a, b in zip(alone, beside))


def test_opencvs_own_threads_change_nothing_and_are_left_alone() -> None:
    before = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 2):
            cv2.setNumThreads(threads)
            found.append([propose(picture(), engine=engine) for engine in ENGINES])
            assert cv2.getNumThreads() == threads
    finally:
        cv2.setNumThreads(before)
    assert all(same(a, b) for a, b in zip(*found))


def in_process(seed: int) -> dict[str, Any]:
    return propose(picture(seed))


@pytest.mark.skipif(sys.platform == "win32", reason="fork")
def test_processes_change_nothing() -> None:
    alone = [propose(picture(seed)) for seed in range(2)]
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        beside = list(pool.map(in_process, range(2)))
    assert all(same(a, b) for a, b in zip(alone, beside))


@BOTH
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("width", [None, 60])
@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (2, 2), (30, 40), (700, 1)])
@pytest.mark.parametrize("flat", [True, False])
def test_odd_images(engine: str, mode: str, width: int | None, shape: tuple[int, int], flat: bool) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = np.full_like(image, 77) if flat else image
    fields = propose(image, engine=engine, mode=mode, width=width, min_side=20)
    Record("a", {"image": image}).add(fields)
    boxes = fields["boxes"]
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes[:, 2:] <= shape[::-1]).all()
    assert len(boxes) == len(fields["objectness"])
    if width is None and min(shape) < 20:
        assert len(boxes) == 0


@BOTH
def test_forty_to_one(engine: str) -> None:
    """A wide image is searched at its width, where the least side drops all; a tall one at up to four widths."""
    wide = np.kron(picture(0, 25, 1000), np.ones((4, 4, 1), np.uint8))  # 4000 x 100
    assert len(propose(wide, engine=engine, width=500, min_side=20)["boxes"]) == 0
    found = propose(wide, engine=engine, width=500, min_side=0)["boxes"]
    assert found[:, 2].max() == 4000
    tall = propose(np.ascontiguousarray(wide.transpose(1, 0, 2)), engine=engine, width=500, min_side=20)["boxes"]
    assert tall[:, 3].max() == 4000


def test_a_tall_strip_stays_small() -> None:
    assert resize(np.zeros((3000, 1, 3), np.uint8), 500).shape[0] <= 2000
    assert resize(np.zeros((300, 100, 3), np.uint8), 500).shape == (1500, 500, 3)


def test_missing_contrib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "ximgproc")
    with pytest.raises(UserError, match="pip install opencv-contrib-python-headless"):
        propose(picture(), engine="opencv")
    assert len(propose(picture())["boxes"])  # our own does not need it


def test_missing_numba_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    importers = ("rcnn.stages.proposals.selective.", "rcnn.stages.kernels")  # as in a process that has not had numba
    for module in [name for name in sys.modules if name.startswith(importers)]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delattr("rcnn.stages.proposals.selective.search", raising=False)
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(UserError, match="selective search needs numba"):
        propose(picture())
    assert len(propose(picture(), engine="opencv")["boxes"])


WRONG: list[dict[str, Any]] = [
    {"mode": "slow"},
    {"engine": "matlab"},
    {"width": 0},
    {"top": 0},
    {"min_side": -1},
    {"random_state": -1},
    {"threads": 0},
    {"colours": []},
    {"colours": ["HSV", "CMYK"]},
    {"colours": ["HSV", "HSV"]},
    {"similarities": ["CTX"]},
    {"similarities": [""]},
    {"similarities": ["CC"]},
    {"similarities": ["CT", "TC"]},
    {"similarities": "CTSF"},
    {"ks": [100, 0]},
    {"ks": [float("inf")]},
]


@pytest.mark.parametrize("params", WRONG)
def test_wrong_parameters_are_named(params: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(params))):
        SelectiveSearch(**params).validate()
    SelectiveSearch().validate()


@BOTH
@pytest.mark.realdata
def test_best_overlap_on_pennfudan(data_root: Path, engine: str) -> None:
    from PIL import Image
    from rcnn.pipeline.measure import Truth, proposal_recall

    folder = data_root / "data" / "pennfudan"
    coco = json.loads((folder / "annotations" / "instances_val.json").read_text())
    boxes, truths = {}, {}
    for entry in coco["images"][:3]:
        name = entry["file_name"]
        image = np.asarray(Image.open(folder / "images" / name).convert("RGB"))
        xywh = np.array([a["bbox"] for a in coco["annotations"] if a["image_id"] == entry["id"]], np.float32)
        truth = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
        n = len(truth)
        truths[name] = Truth(truth, np.ones(n, np.int64), np.zeros(n, bool), np.ones(n, np.float32))
        boxes[name] = SelectiveSearch(engine=engine)([Record(name, {"image": image})])[0]["boxes"]
        assert 500 < len(boxes[name]) <= 2000
    table = proposal_recall(boxes, truths, tops=(500, 2000))
    assert table["abo"][2000] > 0.6
    assert table["abo"][500] > 0.9 * table["abo"][2000]  # the rank is worth something
