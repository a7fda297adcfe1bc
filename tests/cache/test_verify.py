"""Every damage is found and named, by whatever bit of whatever file; and what is left over."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rcnn.cache import inputs
from rcnn.cache.inputs import Inputs
from rcnn.cache.keys import digest_value
from rcnn.cache.layout import shelves
from rcnn.cache.store import Shelf, Store
from rcnn.cache.verify import damages, leftovers, remove, strays

METHODS = {"class": "toy.Toy", "version": 1, "parameters": {"top": 2000, "norm": 0.5}, "again": [], "reads": {}}
IMAGES = {"ü/1": {"boxes": "ab", "truth_boxes": "cd"}, "b": {"boxes": "ef", "truth_boxes": "01"}}
LEARNED = Inputs(IMAGES, {"boxes": "k"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """A shelf that has a file of every kind."""
    root = tmp_path_factory.mktemp("cache")
    method = digest_value(METHODS)
    key = inputs.state_key(method, ["cat", "dog"], LEARNED)
    shelf = Store(root).shelf("toy", key)
    about = {"step": "toy", "key": key, "method_key": method, **METHODS, "classes": ["cat", "dog"]}
    shelf.describe(about, {"device": "cpu"})
    for i in range(20):
        shelf.write(f"small/{i}", "in", {"boxes": np.full((i % 3, 4), i, np.float32)})
    shelf.pack()
    shelf.write("ünï", "in", {"boxes": np.zeros((3, 4), np.float32), "features.fc7": np.zeros((3, 5), np.float16)})
    shelf.write("none", "in", {"boxes": np.zeros((0, 4), np.float32)})
    shelf.save_state({"weights_": np.arange(6.0), "scale_": np.array(2.0)})
    shelf.save_state({"done": np.array(3)}, "checkpoint")
    inputs.write(shelf.path, LEARNED)
    return shelf


def arrays(shelf: Shelf) -> list[Path]:
    return sorted(shelf.path.rglob("*.safetensors"))


def test_a_whole_shelf_has_no_damage_and_every_byte_is_read(whole: Shelf) -> None:
    read: list[int] = []
    assert list(damages(whole.path, read.append)) == []
    assert sum(read) == whole.size()
    assert len(arrays(whole)) == 5  # a pack, two entries, the state and its checkpoint


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_flipped_bit_anywhere_is_found_in_its_file(whole: Shelf, data: Any) -> None:
    path = data.draw(st.sampled_from(arrays(whole)))
    good = path.read_bytes()
    bit = data.draw(st.integers(0, 8 * len(good) - 1))
    raw = bytearray(good)
    raw[bit // 8] ^= 1 << bit % 8
    path.write_bytes(raw)
    try:
        found = list(damages(whole.path))
    finally:
        path.write_bytes(good)
    assert [(one.path, one.kind, one.nbytes) for one in found] == [(path, "damaged", len(good))]


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data(), st.integers(-3, 3))
@example(None, 0)
def test_a_file_cut_short_or_drawn_out_is_found(whole: Shelf, data: Any, by: int) -> None:
    path = data.draw(st.sampled_from(arrays(whole))) if data else arrays(whole)[0]
    good = path.read_bytes()
    path.write_bytes(good[:by] if by < 0 else good + bytes(by) if by else b"")
    try:
        found = list(damages(whole.path))
    finally:
        path.write_bytes(good)
    assert [one.path for one in found] == [path]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"top": 2000', '"top": 2001', "its method is not that of its key"),
        ('"class": "toy.Toy"', '"class": "toy.Tox"', "its method is not that of its key"),
        ('"step": "toy"', '"step": "tox"', "it is of the shelf tox-"),
        ('"version"', '"Version"', "it lacks 'version'"),
        ("{", "[", "Expecting"),
    ],
)
def test_words_of_about_that_make_the_key_are_vouched_for(whole: Shelf, old: str, new: str, why: str) -> None:
    path = whole.path / "about.json"
    good = path.read_text()
    path.write_text(good.replace(old, new, 1))
    found = [one for one in damages(whole.path) if one.path == path]
    path.write_text(good)
    assert len(found) == 1
    assert why in found[0].why


@pytest.mark.parametrize(("old", "new"), [('"ab"', '"ac"'), ("small", ""), ('"b":', '"c":'), ("[", "(")])
def test_what_a_fit_learned_from_is_held_against_the_key(whole: Shelf, old: str, new: str) -> None:
    path = whole.path / "inputs.json"
    good = path.read_text()
    path.write_text(good.replace(old, new))
    found = [one.path for one in damages(whole.path)]
    path.write_text(good)
    assert found == ([path] if old in good else [])


def test_other_classes_are_not_those_of_the_key(whole: Shelf) -> None:
    path = whole.path / "about.json"
    good = path.read_text()
    path.write_text(good.replace('"dog"', '"cow"'))
    found = list(damages(whole.path))
    path.write_text(good)
    assert [one.why for one in found] == ["its hashes are not those of the state's key"]


def test_an_entry_in_the_place_of_another_is_found(whole: Shelf) -> None:
    one, other = whole.find("ünï"), whole.find("none")
    assert one is not None
    assert other is not None
    good = other.path.read_bytes()
    other.path.write_bytes(one.path.read_bytes())
    found = list(damages(whole.path))
    other.path.write_bytes(good)
    assert [(finding.path, finding.why) for finding in found] == [
        (other.path, "it is of image 'ünï', whose place is another")
    ]


def test_what_is_removed_is_made_again(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf("toy", "0" * 12)
    entry, kept = (shelf.write(id, "in", {"boxes": np.ones((2, 4), np.float32)}) for id in "ab")
    entry.path.write_bytes(entry.path.read_bytes()[:-1])
    (finding,) = damages(shelf.path)
    assert remove(finding)
    assert not remove(finding)  # another process was faster
    assert list(damages(shelf.path)) == []
    assert shelf.find("a") is None
    assert shelf.find("b") == kept


def test_a_file_that_vanishes_meanwhile_is_no_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Store(tmp_path).shelf("toy", "0" * 12)
    entry = shelf.write("a", "in", {"boxes": np.ones((2, 4), np.float32)})
    found = [(entry.path, entry.path.stat())]
    monkeypatch.setattr("rcnn.cache.files.walk", lambda _path: found)
    entry.path.unlink()
    assert list(damages(shelf.path)) == []


def test_what_nobody_wants_is_named(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf("toy", "0" * 12)
    for n in (20, 17):  # the second pack hides entries of the first
        for i in range(n):
            shelf.write(f"{i}", "in", {"boxes": np.zeros((i, 4), np.float32)})
        shelf.pack()
    for i in range(17):
        shelf.write(f"{i}", "in", {"boxes": np.zeros((i, 4), np.float32)})
    shelf.write("19", "other", {"boxes": np.zeros((3, 4), np.float32)})  # which hides nothing
    shelf.save_state({"a": np.zeros(3)})
    shelf.save_state({"a": np.zeros(3)}, "checkpoint")
    half, young = shelf.path / "ab/.x.tmp", shelf.path / "ab/.y.tmp"
    for path in (half, young):
        path.parent.mkdir(exist_ok=True)
        path.write_text("half")
    os.utime(half, (0, 0))
    older, newer = sorted(shelf.path.glob("packs/*"))
    assert {one.path: one.why for one in leftovers(shelf.path)} == {
        half: "half-written by a process that was killed",
        shelf.path / "checkpoint.safetensors": "the fit that it was for is finished",
        older: "newer entries hide 17 of its 20 entries",
        newer: "newer entries hide all of its 17 entries",
    }


def test_folders_that_no_list_shows_are_named(tmp_path: Path) -> None:
    bare, begun = Store(tmp_path).shelf("toy", "0" * 12), tmp_path / "toy-aaaaaaaaaaaa"
    bare.write("a", "in", {"boxes": np.ones((2, 4), np.float32)})
    begun.mkdir()
    (begun / "about.lock").touch()  # another process is about to describe it
    (tmp_path / ".removed-1").mkdir()
    (tmp_path / ".removed-1/x").write_text("12345")
    (tmp_path / "notes").mkdir()
    assert shelves(tmp_path) == [bare.path, begun]
    found = [(one.path.name, one.nbytes) for one in strays(tmp_path)]
    assert found == [(".removed-1", 5), (bare.path.name, bare.size())]


def test_an_entry_of_other_inputs_is_found(whole: Shelf) -> None:
    one = whole.find("none")
    assert one is not None
    stray = one.path.with_name(one.path.name[:33] + "0" * 12 + ".safetensors")
    stray.write_bytes(one.path.read_bytes())
    found = list(damages(whole.path))
    stray.unlink()
    assert [(finding.path, finding.why) for finding in found] == [
        (stray, "it is of image 'none', whose place is another")
    ]


def test_what_cannot_be_read_is_told_apart_from_damage(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf("toy", "0" * 12)
    path = shelf.write("a", "in", {"boxes": np.ones((2, 4), np.float32)}).path
    path.unlink()
    path.symlink_to("/proc/self/mem")
    if not path.exists():
        pytest.skip("there is no /proc/self/mem")
    assert [(one.path, one.kind, one.why) for one in damages(shelf.path)] == [(path, "unread", "Input/output error")]
