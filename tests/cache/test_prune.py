"""A budget that is kept, in the order of last use; and what is never removed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rcnn.cache import layout, use
from rcnn.cache.files import Replaced, folder_size
from rcnn.cache.prune import File, Holding, parse_age, parse_size, plan, prune
from rcnn.cache.store import Shelf, Store
from rcnn.errors import UserError

KB = 1000


def fill(root: Path, step: str, age: float, entries: int = 4, *, learned: bool = False) -> Shelf:
    """A shelf of entries of 10 kB each that was last used `age` seconds ago."""
    shelf = Store(root).shelf(step, "0" * 12)
    shelf.describe({"step": step}, {"device": "cpu"})
    for i in range(entries):
        entry = shelf.write(f"{i}", "in", {"boxes": np.full((10 * KB - 250) // 8, i, np.float64)})
        os.utime(entry.path, (1000 + i, 1000 + i))
    if learned:
        shelf.save_state({"weights_": np.zeros(100)})
    use.stamp(shelf.path)
    os.utime(shelf.path / layout.USED, ns=(0, time.time_ns() - int(age * 1e9)))
    return shelf


def names(root: Path) -> list[str]:
    return [shelf.path.name.partition("-")[0] for shelf in Store(root).shelves()]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("123", 123),
        ("20GB", 20 * 10**9),
        ("20g", 20 * 10**9),
        ("1.5 TB", 15 * 10**11),
        ("512MiB", 512 * 2**20),
        ("1Ki", 1024),
        ("7 B", 7),
        ("2k", 2000),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "20 XB", "-1GB", "1,5GB", "20GBs", "iB", "5iB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is no size: write 20GB"):
        parse_size(text)


def test_ages_are_read() -> None:
    assert [parse_age(text) for text in ("12h", "30d", "6 w", "0.5d")] == [43200, 2592000, 3628800, 43200]
    with pytest.raises(UserError, match="'30' is no age"):
        parse_age("30")


def test_within_the_budget_nothing_goes(tmp_path: Path) -> None:
    fill(tmp_path, "a", 100)
    done = prune(tmp_path, 1000 * KB)
    assert (list(done.removed), list(done.leftovers)) == ([], [])
    assert folder_size(tmp_path) == done.left


def test_what_was_used_longest_ago_goes_first_and_whole(tmp_path: Path) -> None:
    for step, age in {"new": 10, "old": 300, "middle": 200}.items():
        fill(tmp_path, step, age)
    done = prune(tmp_path, 90 * KB)
    assert [(one.shelf, one.images, one.whole) for one in done.removed] == [("old-000000000000", 4, True)]
    assert sorted(names(tmp_path)) == ["middle", "new"]
    assert done.left == folder_size(tmp_path) <= 90 * KB
    assert done.before - done.left == pytest.approx(done.removed[0].nbytes, abs=500)


def test_of_the_last_shelf_no_more_goes_than_must_the_oldest_first(tmp_path: Path) -> None:
    fill(tmp_path, "old", 300)
    shelf = fill(tmp_path, "new", 10)
    prune(tmp_path, 25 * KB)
    assert names(tmp_path) == ["new"]
    assert sorted(entry.id for entry in shelf.entries()) == ["2", "3"]


def test_what_was_learned_goes_last_of_all(tmp_path: Path) -> None:
    old, new = (fill(tmp_path, step, age, learned=True) for step, age in (("old", 300), ("new", 10)))
    prune(tmp_path, 5 * KB)
    assert [list(shelf.entries()) for shelf in (old, new)] == [[], []]
    assert [shelf.load_state() is not None for shelf in (old, new)] == [True, True]
    prune(tmp_path, 2 * KB)
    assert names(tmp_path) == ["new"]
    assert new.load_state() is not None
    prune(tmp_path, 0)
    assert names(tmp_path) == []


def test_packs_go_whole(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf("small", "0" * 12)
    shelf.describe({"step": "small"}, {})
    for i in range(40):
        shelf.write(f"{i}", "in", {"boxes": np.zeros((i, 4), np.float32)})
    shelf.pack()
    shelf.save_state({"a": np.zeros(3)})
    use.stamp(shelf.path)
    done = prune(tmp_path, folder_size(tmp_path) - 1)
    assert [(one.images, one.whole) for one in done.removed] == [(40, False)]
    assert list(Shelf(shelf.path).entries()) == []
    assert shelf.described()


def test_an_age_is_a_bound_by_itself_and_a_step_a_choice(tmp_path: Path) -> None:
    for step, age in {"a": 7200, "b": 7200, "c": 10}.items():
        fill(tmp_path, step, age, learned=True)
    prune(tmp_path, older_than=3600, step="b")
    assert sorted(names(tmp_path)) == ["a", "c"]
    prune(tmp_path, older_than=3600)
    assert names(tmp_path) == ["c"]


def test_a_dry_run_says_the_same_and_removes_nothing(tmp_path: Path) -> None:
    for step, age in {"a": 300, "b": 200, "c": 10}.items():
        fill(tmp_path, step, age, learned=True)
    (tmp_path / "a-000000000000/checkpoint.safetensors").write_bytes(b"x" * 777)
    before = folder_size(tmp_path)
    told = prune(tmp_path, 50 * KB, dry_run=True)
    assert folder_size(tmp_path) == before
    done = prune(tmp_path, 50 * KB)
    assert (told.removed, told.leftovers, told.left) == (done.removed, done.leftovers, done.left)
    assert len(done.leftovers) == 1


def test_what_a_live_run_uses_stays(tmp_path: Path) -> None:
    fill(tmp_path, "unused", 100)
    lease = use.lease(tmp_path)
    used = fill(tmp_path, "used", 0)
    done = prune(tmp_path, 0)
    assert names(tmp_path) == ["used"]
    assert done.in_use == used.size()
    assert lease is not None
    lease.release()
    prune(tmp_path, 0)
    assert names(tmp_path) == []


def test_a_killed_run_uses_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from rcnn.cache import use;"
        "root = Path(sys.argv[1]); kept = use.lease(root); use.stamp(root / 'a-000000000000');"
        "print('ready', flush=True); time.sleep(60)"
    )
    fill(tmp_path, "a", 100)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        prune(tmp_path, 0)
        assert names(tmp_path) == ["a"]
        process.kill()
    prune(tmp_path, 0)
    assert names(tmp_path) == []
    assert use.live_runs(tmp_path) == []
    assert not list((tmp_path / layout.RUNS).glob("*.lock"))


def test_a_cache_that_may_not_be_written_needs_no_lock(tmp_path: Path) -> None:
    (tmp_path / layout.RUNS).write_text("in the way")
    assert use.lease(tmp_path) is None
    assert use.live_runs(tmp_path) == []
    use.stamp(tmp_path / "nowhere")
    with pytest.raises(UserError, match="cannot prune the cache"):
        prune(tmp_path, 0)


def test_a_run_that_begins_in_between_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = fill(tmp_path, "a", 100)
    leases = []

    def begins(*_args: object) -> object:
        leases.append(use.lease(tmp_path))
        use.stamp(shelf.path)
        return plan(*_args)  # type: ignore[arg-type]

    monkeypatch.setattr("rcnn.cache.prune.plan", begins)
    assert list(prune(tmp_path, 0).removed) == []
    assert names(tmp_path) == ["a"]
    assert leases


def test_two_processes_prune_one_cache(tmp_path: Path) -> None:
    for number in range(12):
        fill(tmp_path, f"step{number}", 100 + number, 6, learned=number % 2 == 0)
    code = (
        "import sys; from pathlib import Path; from rcnn.cache import prune;"
        "prune.prune(Path(sys.argv[1]), 100_000); prune._prune(Path(sys.argv[1]), 0, None, None, dry_run=False)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [layout.RUNS]


def test_what_another_removes_meanwhile_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = fill(tmp_path, "a", 100, learned=True)

    def meanwhile(*args: object) -> object:
        todo = plan(*args)  # type: ignore[arg-type]
        for id in "01":
            shelf.find(id).path.unlink()  # type: ignore[union-attr]
        return todo

    monkeypatch.setattr("rcnn.cache.prune.plan", meanwhile)
    (row,) = prune(tmp_path, 20 * KB).removed
    assert row.images == 1  # of the three that were to go
    assert [entry.id for entry in shelf.entries()] == ["3"]


def test_a_removal_that_was_cut_short_is_finished(tmp_path: Path) -> None:
    shelf = fill(tmp_path, "a", 100)
    shelf.path.rename(tmp_path / ".removed-1")
    assert [one.path.name for one in prune(tmp_path, 1000 * KB).leftovers] == [".removed-1"]
    assert not (tmp_path / ".removed-1").exists()


def test_a_reader_of_a_removed_pack_is_told(tmp_path: Path) -> None:
    shelf = Store(tmp_path).shelf("small", "0" * 12)
    for i in range(20):
        shelf.write(f"{i}", "in", {"boxes": np.zeros((i, 4), np.float32)})
    shelf.pack()
    entry = shelf.find("3")
    assert entry is not None
    entry.path.unlink()
    with pytest.raises(Replaced, match="was removed"):
        shelf.read(entry, ["boxes"])
    assert shelf.find("3") is None  # so that it is made and kept again


def test_an_older_versions_shelf_was_used_when_it_was_described(tmp_path: Path) -> None:
    shelf = fill(tmp_path, "a", 100)
    (shelf.path / layout.USED).unlink()
    os.utime(shelf.path / "about.json", ns=(5, 5))
    assert use.last_use(shelf.path) == 5
    assert use.last_use(tmp_path / "gone") == 0


@given(
    st.lists(
        st.tuples(st.lists(st.integers(1, 50), max_size=6), st.integers(0, 30), st.integers(0, 100)),
        max_size=6,
    ),
    st.integers(-10, 500),
)
def test_a_plan_frees_what_must_go_and_no_file_more(shelves: list[tuple[list[int], int, int]], excess: int) -> None:
    held = []
    for n, (sizes, state, used) in enumerate(shelves):
        files = [File(Path(f"{n}/{i}"), size, i) for i, size in enumerate(sizes)]
        held.append(Holding(Path(f"{n}"), used, files, sum(sizes) + state, state > 0))
    todo = plan(held, excess)
    total = sum(one.nbytes for one in held)
    freed = sum(removal.nbytes for removal in todo)
    assert freed >= min(max(excess, 0), total)
    if todo and not todo[-1].whole:
        assert freed - todo[-1].entries[-1].nbytes < excess
    entries = [removal for removal in todo if removal.entries]
    used = [removal.holding.used for removal in entries]
    assert used == sorted(used)
    if any(removal.holding.learned and removal.whole for removal in todo):  # then no entry is spared
        assert sum(len(removal.entries) for removal in entries) == sum(len(one.entries) for one in held)


@pytest.mark.parametrize("dry_run", [False, True])
def test_what_the_system_refuses_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    def refuse(_shelf: object, _runs: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path))

    fill(tmp_path, "a", 100)
    monkeypatch.setattr("rcnn.cache.prune.use.in_use", refuse)
    with pytest.raises(UserError, match=rf"cannot prune the cache: {tmp_path}: Permission denied"):
        prune(tmp_path, 0, dry_run=dry_run)


def test_a_lock_that_another_process_looks_at_as_it_is_made_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the file's making and its locking, somebody tries whether its run is dead."""
    from filelock import FileLock

    acquire = FileLock.acquire

    def looked_at(self: Any, *args: Any, **more: Any) -> Any:
        monkeypatch.setattr(FileLock, "acquire", acquire)
        Path(self.lock_file).touch()
        others = [FileLock(path) for path in (tmp_path / layout.RUNS).glob("*.lock")]
        for other in others:
            other.acquire(timeout=0)
        try:
            return self.acquire(*args, **more)
        finally:
            for other in others:
                other.release()

    monkeypatch.setattr(FileLock, "acquire", looked_at)
    lease = use.lease(tmp_path)
    assert lease is not None
    assert len(use.live_runs(tmp_path)) == 1
    lease.release()
    assert use.live_runs(tmp_path) == []
    assert not list((tmp_path / layout.RUNS).iterdir())


def test_a_lock_that_is_nobodys_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / layout.RUNS).mkdir()
    (tmp_path / layout.RUNS / "mine.lock").touch()
    assert use.live_runs(tmp_path) == []
    assert (tmp_path / layout.RUNS / "mine.lock").exists()
