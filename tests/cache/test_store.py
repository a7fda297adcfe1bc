"""Shelves: entries by image, packs, states, about."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.cache import files
from rcnn.cache.files import Replaced, Unreadable
from rcnn.cache.keys import digest, digest_value
from rcnn.cache.store import Shelf, Store
from rcnn.errors import UserError

IDS = ["plain", "a/b/c", "A/B/C", "ünïcødé", "../../escape", "x" * 300, ""]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Store(tmp_path).shelf("step", "0123456789abcdef")


def fields(i: int) -> dict[str, Any]:
    return {"boxes": np.full((i, 4), i, np.float32)}


@pytest.mark.parametrize("id", IDS)
def test_any_text_is_an_id(shelf: Shelf, id: str) -> None:
    shelf.write(id, "inputs", fields(3))
    entry = shelf.find(id)
    assert entry is not None
    assert np.array_equal(shelf.read(entry, ["boxes"])["boxes"], fields(3)["boxes"])
    assert all(shelf.path in path.parents for path in shelf.path.rglob("*.safetensors"))


def test_no_entry_is_not_an_empty_one(shelf: Shelf) -> None:
    assert shelf.find("x") is None
    shelf.write("x", "inputs", fields(0))
    entry = shelf.find("x")
    assert entry is not None
    assert shelf.read(entry, ["boxes"])["boxes"].shape == (0, 4)


def test_packing_changes_no_entry(shelf: Shelf) -> None:
    for i in range(40):
        shelf.write(f"id{i}", f"in{i}", fields(i))
    before = shelf.find("id7")
    assert before is not None
    assert shelf.pack() == 40
    assert not list(shelf.path.glob("??/*.safetensors"))
    for reader in (shelf, Shelf(shelf.path)):
        assert sorted(e.id for e in reader.entries()) == sorted(f"id{i}" for i in range(40))
        for i in range(40):
            entry = reader.find(f"id{i}")
            assert entry is not None
            assert entry.inputs == f"in{i}"
            assert np.array_equal(reader.read(entry, ["boxes"])["boxes"], fields(i)["boxes"])
    assert np.array_equal(shelf.read(before, ["boxes"])["boxes"], fields(7)["boxes"])  # found before it moved


def test_a_newer_entry_hides_the_packed_one_and_outlives_the_next_pack(shelf: Shelf) -> None:
    for i in range(20):
        shelf.write(f"id{i}", "in", fields(i))
    shelf.pack()
    for i in range(20):
        shelf.write(f"id{i}", "in", fields(i + 1))
    assert shelf.find("id3", "in").path.parent.name != "packs"  # type: ignore[union-attr]
    shelf.pack()
    for reader in (shelf, Shelf(shelf.path)):
        for inputs in ("in", None):
            entry = reader.find("id3", inputs)
            assert entry is not None
            assert len(reader.read(entry, ["boxes"])["boxes"]) == 4
    assert len(list(shelf.entries())) == 20


def test_few_or_large_entries_are_not_packed(shelf: Shelf) -> None:
    for i in range(30):
        shelf.write(f"id{i}", "in", {"features.pool5": np.zeros((10, 9216), np.float16)})
    assert shelf.pack() == 0
    small = Shelf(shelf.path.with_name("other-000000000000"))
    small.write("x", "in", fields(1))
    assert small.pack() == 0


def test_a_damaged_pack_is_named_and_holds_nothing(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(20):
        shelf.write(f"id{i}", "in", fields(i))
    shelf.pack()
    (pack,) = shelf.path.glob("packs/*")
    pack.write_bytes(pack.read_bytes()[:100])
    assert Shelf(shelf.path).find("id3") is None
    assert str(pack) in caplog.text


def test_a_flipped_bit_is_found_at_the_first_reading(shelf: Shelf) -> None:
    entry = shelf.write("x", "in", fields(5))
    raw = bytearray(entry.path.read_bytes())
    raw[-2] ^= 4
    entry.path.write_bytes(raw)
    fresh = Shelf(shelf.path)
    with pytest.raises(Unreadable, match="damaged"):
        fresh.read(entry, ["boxes"])
    assert len(Shelf(shelf.path, verify=False).read(entry, ["boxes"])["boxes"]) == 5


def test_a_file_in_the_place_of_another_is_not_believed(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    a, b = shelf.write("a", "in", fields(1)), shelf.write("b", "in", fields(2))
    b.path.write_bytes(a.path.read_bytes())
    assert shelf.find("b") is None
    assert str(b.path) in caplog.text


def test_about_keeps_every_environment_once(shelf: Shelf) -> None:
    for device in ("cpu", "cuda", "cpu"):
        shelf.describe({"step": "step"}, {"device": device})
    assert shelf.about() == {"step": "step", "filled_by": [{"device": "cpu"}, {"device": "cuda"}]}


def test_states_come_back(shelf: Shelf) -> None:
    state = {"w_": np.eye(3), "net_.0.bias": np.ones(2, np.float32), "scale_": np.array(2.5)}
    assert shelf.load_state() is None
    shelf.save_state(state)
    found = shelf.load_state()
    assert found is not None
    assert {n: digest_value(a) for n, a in found.items()} == {n: digest_value(a) for n, a in state.items()}


def test_hashes_keep_their_parts_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
    assert digest_value(np.zeros(4, np.float32)) != digest_value(np.zeros(2, np.float64))
    assert digest_value(np.zeros((2, 3))) != digest_value(np.zeros((3, 2)))
    assert digest_value({"a": 1, "b": 2.0}) == digest_value({"b": 2.0, "a": 1})
    assert digest_value({"top": 300}) != digest_value({"top": 2000})


def test_the_default_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "mine"))
    assert Store().root == tmp_path / "mine"
    monkeypatch.delenv("RCNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Store().root == tmp_path / "rcnn"


def test_a_process_that_knew_an_old_pack_finds_the_new_one(shelf: Shelf) -> None:
    other = Shelf(shelf.path)
    for i in range(20):
        shelf.write(f"id{i}", "old", fields(i))
    shelf.pack()
    assert other.find("id3", "old") is not None
    for i in range(20):
        shelf.write(f"id{i}", "new", fields(i + 1))
    shelf.pack()
    assert other.find("id3", "new") is not None


def test_packing_leaves_what_is_damaged_where_it_is(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(20):
        shelf.write(f"id{i}", "in", fields(i))
    hurt = shelf.find("id3")
    assert hurt is not None
    raw = bytearray(hurt.path.read_bytes())
    raw[-1] ^= 1
    hurt.path.write_bytes(raw)
    assert Shelf(shelf.path).pack() == 19
    assert hurt.path.exists()
    assert str(hurt.path) in caplog.text


def test_packing_spares_an_entry_written_meanwhile(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(20):
        shelf.write(f"id{i}", "in", fields(i))
    write = files.write

    def meanwhile(path: Path, *more: Any) -> Any:
        done = write(path, *more)
        if path.parent.name == "packs":
            Shelf(shelf.path).write("id3", "in", fields(9))
        return done

    monkeypatch.setattr(files, "write", meanwhile)
    shelf.pack()
    monkeypatch.undo()
    found = Shelf(shelf.path).find("id3", "in")
    assert found is not None
    assert len(shelf.read(found, ["boxes"])["boxes"]) == 9


def test_two_processes_pack_one_shelf(shelf: Shelf) -> None:
    for i in range(40):
        shelf.write(f"id{i}", "in", fields(i))
    code = f"from rcnn.cache.store import Shelf; from pathlib import Path; Shelf(Path({str(shelf.path)!r})).pack()"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(entry.id for entry in Shelf(shelf.path).entries()) == sorted(f"id{i}" for i in range(40))


def test_a_replaced_entry_is_not_read_through_the_old_one(shelf: Shelf) -> None:
    old = shelf.write("x", "in", fields(5))
    shelf.write("x", "in", fields(7))
    with pytest.raises(Replaced):
        shelf.read(old, ["boxes"])


def test_what_a_killed_process_left_is_swept_when_it_is_old(shelf: Shelf) -> None:
    for i in range(20):
        shelf.write(f"id{i}", "in", fields(i))
    old, new = (shelf.path / f"00/.{name}.tmp" for name in ("old", "new"))
    for file in (old, new):
        file.parent.mkdir(exist_ok=True)
        file.write_text("half")
    os.utime(old, (0, 0))
    shelf.pack()
    assert not old.exists()
    assert new.exists()


def test_a_name_that_is_no_unicode_is_an_id(shelf: Shelf) -> None:
    id = os.fsdecode(b"caf\xe9.jpg")
    shelf.write(id, "in", fields(2))
    assert shelf.find(id, "in") is not None


def test_a_pack_of_nothing_is_not_written(shelf: Shelf) -> None:
    for i in range(20):
        entry = shelf.write(f"id{i}", "in", fields(i))
        entry.path.write_bytes(entry.path.read_bytes()[:50])
    assert Shelf(shelf.path).pack() == 0
    assert not list(shelf.path.glob("packs/*"))


def test_half_files_of_a_shelf_that_is_never_packed_are_swept_too(shelf: Shelf) -> None:
    shelf.write("x", "in", {"features.pool5": np.zeros((10, 9216), np.float16)})
    half = shelf.path / "00" / ".half.tmp"
    half.parent.mkdir(exist_ok=True)
    half.write_text("half")
    os.utime(half, (0, 0))
    assert shelf.pack() == 0
    assert not half.exists()


def test_a_damaged_pack_goes_once_its_entries_were_made_again(shelf: Shelf) -> None:
    for i in range(20):
        shelf.write(f"id{i}", "in", fields(i))
    shelf.pack()
    (pack,) = shelf.path.glob("packs/*")
    pack.write_bytes(pack.read_bytes()[:100])
    fresh = Shelf(shelf.path)
    assert fresh.find("id3") is None
    for i in range(20):
        fresh.write(f"id{i}", "in", fields(i))
    assert fresh.pack() == 20
    assert not pack.exists()
    assert len(list(Shelf(shelf.path).entries())) == 20


def test_a_pack_of_a_later_version_stays(shelf: Shelf) -> None:
    pack = shelf.path / "packs" / "1.safetensors"
    files.write(pack, {"0/boxes": np.zeros((2, 4))}, {"entries": [{"id": "x", "inputs": "in"}], "format": 99})
    assert shelf.find("x") is None
    shelf.pack()
    assert pack.exists()


def test_a_damaged_about_is_named_and_written_anew(shelf: Shelf, caplog: pytest.LogCaptureFixture) -> None:
    shelf.describe({"step": "step"}, {"device": "cpu"})
    (shelf.path / "about.json").write_text('{"step": "st')
    with pytest.raises(UserError, match=r"about\.json is damaged"):
        shelf.about()
    assert not shelf.described()
    assert "about.json is damaged" in caplog.text
    shelf.describe({"step": "step"}, {"device": "cuda"})
    assert shelf.about() == {"step": "step", "filled_by": [{"device": "cuda"}]}


def read(shelf: Shelf, id: str, inputs: str | None = None) -> int | None:
    """How many boxes an entry holds."""
    entry = shelf.find(id, inputs)
    return None if entry is None else len(shelf.read(entry, ["boxes"])["boxes"])


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_has_an_entry_for_each_of_its_inputs(shelf: Shelf, packed: bool) -> None:
    for i in range(20):
        for n, inputs in enumerate(("train", "val", "a/b"), 1):
            path = shelf.write(f"id{i}", inputs, fields(n)).path
            os.utime(path, (n, n))
    assert shelf.pack() == 60
    if not packed:
        shelf.write("id3", "val", fields(7))
    for reader in (shelf, Shelf(shelf.path)):
        assert [read(reader, "id3", name) for name in ("train", "a/b", "none")] == [1, 3, None]
        assert read(reader, "id3", "val") == (2 if packed else 7)
        assert read(reader, "id3") == (3 if packed else 7)  # the newest
        assert len({(entry.id, entry.inputs) for entry in reader.entries()}) == len(list(reader.entries())) == 60


def test_the_newest_of_loose_entries_is_shown(shelf: Shelf) -> None:
    for seconds, inputs in ((3, "a"), (9, "b"), (5, "c")):
        os.utime(shelf.write("x", inputs, fields(seconds)).path, (seconds, seconds))
    assert read(shelf, "x") == 9


def test_a_shelf_that_is_being_removed_is_no_shelf(shelf: Shelf, tmp_path: Path) -> None:
    shelf.describe({"step": "step"}, {})
    shelf.path.rename(tmp_path / ".removed-1")
    assert Store(tmp_path).shelves() == []


@pytest.mark.parametrize("text", ["[]", "{}", "7", '{"key": "0"}'])
def test_about_that_names_no_step_is_damaged(shelf: Shelf, text: str) -> None:
    shelf.path.mkdir()
    (shelf.path / "about.json").write_text(text)
    with pytest.raises(UserError, match=r"about\.json is damaged: it names no step"):
        shelf.about()
    shelf.describe({"step": "step"}, {"device": "cpu"})
    assert shelf.about()["step"] == "step"


def test_about_that_cannot_be_read_is_one_sentence(shelf: Shelf) -> None:
    (shelf.path / "about.json").mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot read .*about\.json: Is a directory"):
        shelf.about()


def test_a_shelf_that_is_taken_away_under_a_write_is_made_again(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def taken(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "replace", replace)
        shelf.path.rename(tmp_path / ".removed-1")
        replace(source, target)

    monkeypatch.setattr(os, "replace", taken)
    shelf.write("x", "in", fields(3))
    assert read(Shelf(shelf.path), "x", "in") == 3


def test_there_is_something_to_tidy_when_something_was_met(shelf: Shelf) -> None:
    assert not shelf.untidy
    for i in range(20):
        shelf.write(f"id{i}", "in", fields(i))
    assert shelf.untidy
    later = Shelf(shelf.path)  # of a run that finds what a killed one left
    for i in range(20):
        assert later.untidy == (i >= 16)
        later.find(f"id{i}", "in")
    shelf.pack()
    assert not shelf.untidy
    reader = Shelf(shelf.path)
    reader.find("id3", "in")
    assert not reader.untidy
    (pack,) = shelf.path.glob("packs/*")
    pack.write_bytes(pack.read_bytes()[:-1])
    hurt = Shelf(shelf.path)
    assert hurt.find("id3", "in") is None
    assert hurt.untidy
