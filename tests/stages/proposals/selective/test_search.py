"""All hierarchies of an image: leaves are segments, threads and memory layout change nothing; odd images."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rcnn.stages import kernels
from rcnn.stages.proposals.selective import search
from rcnn.stages.proposals.selective.colours import COLOURS, in_colour
from rcnn.stages.proposals.selective.search import hierarchies

LISTS = (("HSV", "Lab", "I"), ("CTSF", "S"), (20, 60))


def picture(height: int = 60, width: int = 80, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    patches = np.kron(rng.integers(0, 230, (4, 4, 3)), np.ones((-(-height // 4), -(-width // 4), 1)))
    return np.clip(patches[:height, :width] + rng.normal(0, 5, (height, width, 3)), 0, 255).astype(np.uint8)


def same(one: list[Any], other: list[Any]) -> bool:
    fields = ("merges", "box", "size")
    trees = all(np.array_equal(getattr(a.tree, f), getattr(b.tree, f)) for a, b in zip(one, other) for f in fields)
    return len(one) == len(other) and trees and all(np.array_equal(a.labels, b.labels) for a, b in zip(one, other))


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 14), st.integers(1, 14), st.just(3))))
@settings(max_examples=40, deadline=None)
def test_properties(image: Any) -> None:
    height, width = image.shape[:2]
    found = hierarchies(image, ("RGB", "H"), ("CTSF",), (5, 3))
    assert [(h.colour, h.k) for h in found] == [("RGB", 3), ("RGB", 5), ("H", 3), ("H", 5)]  # in rising k
    for hierarchy in found:
        tree, labels, n = hierarchy.tree, hierarchy.labels, hierarchy.segments.n
        assert labels.shape == (height, width)
        assert sorted(np.unique(labels)) == list(range(n))  # every segment is a leaf
        assert len(tree.merges) == n - 1
        assert len(tree.box) == len(tree.size) == 2 * n - 1
        np.testing.assert_array_equal(tree.size[:n], np.bincount(labels.ravel(), minlength=n))
        assert (tree.box[:, :2] >= 0).all()
        assert (tree.box[:, :2] < tree.box[:, 2:]).all()
        assert (tree.box[:, 2:] <= (width, height)).all()
        assert tree.size[-1] == height * width
        assert sorted(tree.merges.ravel()) == list(range(2 * n - 2))  # each node merges once
        np.testing.assert_array_equal(tree.size[n:], tree.size[tree.merges].sum(1))


def test_one_for_each_of_the_lists() -> None:
    found = hierarchies(picture(), *LISTS)
    named = [(h.colour, h.k, h.measures) for h in found]
    assert named == [(colour, k, measures) for colour in LISTS[0] for k in LISTS[2] for measures in LISTS[1]]


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_change_nothing(threads: int) -> None:
    assert same(hierarchies(picture(), *LISTS), hierarchies(picture(), *LISTS, threads=threads))


@given(
    hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))),
    st.sampled_from([np.uint8, np.int8, np.uint16, np.int64, np.float32, np.float64]),
    st.sampled_from(["C", "F", "backwards", "strided"]),
)
@settings(max_examples=40, deadline=None)
def test_neither_dtype_nor_memory_layout_change_anything(image: Any, dtype: Any, layout: str) -> None:
    image = image // 2 if dtype is np.int8 else image
    other = np.asarray(image.astype(dtype), order="F" if layout == "F" else "C")
    if layout == "backwards":
        other = other[::-1, ::-1].copy()[::-1, ::-1]
    if layout == "strided":
        other = np.repeat(np.repeat(other, 2, 0), 3, 1)[::2, ::3]
    assert np.array_equal(other, image)
    assert same(hierarchies(image, ("HSV", "I"), ("TSF",), (4,)), hierarchies(other, ("HSV", "I"), ("TSF",), (4,)))


def test_memory_layout_changes_nothing() -> None:
    image = picture()
    first = hierarchies(image, *LISTS)
    for other in (np.asfortranarray(image), image[..., ::-1].copy()[..., ::-1], np.repeat(image, 2, 1)[:, ::2]):
        assert not other.flags.c_contiguous
        assert same(first, hierarchies(other, *LISTS))
    readonly = image.copy()
    readonly.flags.writeable = False
    assert same(first, hierarchies(readonly, *LISTS))


def test_dtype_changes_nothing() -> None:
    image = picture()
    first = hierarchies(image, *LISTS)
    for dtype in (np.int64, np.uint16, np.float32):
        assert same(first, hierarchies(image.astype(dtype), *LISTS))


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (
            np.full((9, 9, 3), 300, np.uint16),
            "an image of uint16 holds values that are not whole numbers from 0 to 255",
        ),
        (np.full((9, 9, 3), 0.5, np.float32), "an image of float32 holds values"),
        (np.full((9, 9, 3), -1, np.int64), "an image of int64 holds values"),
        (np.zeros((9, 9), np.uint8), r"an image of shape \(9, 9\) is not H W 3"),
        (np.zeros((9, 9, 4), np.uint8), r"shape \(9, 9, 4\)"),
        (np.zeros((0, 9, 3), np.uint8), r"shape \(0, 9, 3\)"),
        (np.broadcast_to(np.zeros(3, np.uint8), (1 << 15, 1 << 15, 3)), "is too large to be searched"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        hierarchies(image, *LISTS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 700), (700, 1), (30, 1200)])
@pytest.mark.parametrize("kind", ["flat", "grey", "noise"])
def test_odd_images(shape: tuple[int, int], kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image = {"flat": np.full_like(noise, 70), "grey": np.repeat(noise[..., :1], 3, 2), "noise": noise}[kind]
    for hierarchy in hierarchies(image, ("HSV", "rgI", "rgb", "I"), ("CTSF",), (50, 100)):
        assert hierarchy.tree.box[-1].tolist() == [0, 0, shape[1], shape[0]]
        if kind == "flat":
            assert hierarchy.segments.n == 1


def test_a_large_image() -> None:
    image = np.tile(picture(300, 400), (10, 10, 1))  # 4000 x 3000
    found = hierarchies(image, ("Lab",), ("CTSF",), (300,))
    assert found[0].tree.size[-1] == 12_000_000
    assert found[0].segments.n > 1000


@pytest.mark.parametrize("colour", COLOURS)
def test_colours(colour: str) -> None:
    image = picture()
    found = in_colour(image, colour)
    assert found.dtype == np.uint8
    assert found.shape in (image.shape, image.shape[:2])
    assert found.flags.c_contiguous


def test_colours_of_plain_red() -> None:
    red = np.full((2, 2, 3), (200, 0, 0), np.uint8)
    pixels = {colour: in_colour(red, colour)[0, 0].tolist() for colour in COLOURS}
    assert pixels["RGB"] == [200, 0, 0]
    assert pixels["rgb"] == [255, 0, 0]
    assert pixels["I"] == 60  # 0.299 x 200, BT.601
    assert pixels["rgI"] == [255, 0, 60]
    assert pixels["Lab"] == [106, 195, 184]  # CIE's 41.7, 66.7, 56.0 of sRGB (200, 0, 0), as bytes
    assert pixels["HSV"] == [0, 255, 200]
    assert pixels["H"] == 0
    assert in_colour(np.zeros((1, 1, 3), np.uint8), "rgb").tolist() == [[[0, 0, 0]]]


def test_shares_of_all_colours() -> None:
    first, second, third = np.meshgrid(np.arange(256), np.arange(0, 256, 3), np.arange(0, 256, 5), indexing="ij")
    image = np.stack([first, second, third], -1).reshape(256, -1, 3).astype(np.uint8)
    plain = 255 * image.astype(int) // np.maximum(image.sum(-1, dtype=int, keepdims=True), 1)
    np.testing.assert_array_equal(in_colour(image, "rgb"), plain)


def test_compiling_is_told_once_and_kept(tmp_path: Path) -> None:
    """A first process compiles and says so, with the time; a second reads what the first kept, and is silent."""
    code = "\n".join(
        (
            "import numpy as np",
            "from rcnn.stages.proposals.selective_search import SelectiveSearch",
            "from rcnn.stages.record import Record",
            "for _ in range(2):",
            "    SelectiveSearch()([Record('a', {'image': np.zeros((20, 30, 3), np.uint8)})])",
        )
    )
    env = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run([sys.executable, "-c", code], check=False, env=env, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert [process.returncode for process in said] == [0, 0]
    assert said[0].stderr.count("UserWarning: compiling selective search for this machine") == 1
    assert len(re.findall(r"UserWarning: compiled in \d+ s, and kept", said[0].stderr)) == 1
    assert said[1].stderr == ""


def test_all_that_is_ever_called_is_compiled_before() -> None:
    """`ready` compiles each kernel for all that any colour space, list or image asks of it."""
    code = "\n".join(
        (
            "import numpy as np",
            "from rcnn.stages.proposals.selective import colours, describe, grouping, search, segments",
            "everything = [*vars(segments).values(), *vars(describe).values(), *vars(grouping).values()]",
            "kernels = [one for one in everything if hasattr(one, 'signatures')]",
            "search.ready()",
            "before = [len(k.signatures) for k in kernels]",
            "noise = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)",
            "for image in (noise, noise[:1], noise[:, :1], noise[:1, :1], np.zeros_like(noise)):",
            "    search.hierarchies(image, tuple(colours.COLOURS), ('CTSF', 'TSF', 'C', 'T', 'S', 'F'), (1, 5.5, 40))",
            "assert sum(before) > 10, before",
            "assert before == [len(k.signatures) for k in kernels]",
        )
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_place_to_keep_it_every_process_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    def njit(function: Any, cache: bool = False, **options: Any) -> Any:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return function, options

    monkeypatch.setattr(kernels.numba, "njit", njit)
    monkeypatch.setattr(kernels, "kept", True)
    assert kernels.kernel(picture) == (picture, {"nogil": True, "error_model": "numpy"})
    assert not kernels.kept


def test_ready_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    search.ready()
    monkeypatch.setattr(search, "in_one_colour", None)
    search.ready()
