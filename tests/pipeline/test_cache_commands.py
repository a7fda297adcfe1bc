"""`rcnn cache why, diff, verify, prune` as a user types them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.cache import layout, use
from rcnn.cache.files import folder_size
from rcnn.cache.store import Shelf, Store
from rcnn.pipeline import cli, saved
from rcnn.stages.record import RecordList

Command = Callable[..., int]


@pytest.fixture
def shelves(toys: Any) -> dict[str, list[Shelf]]:
    """By step, the shelves of two toys trained with other proposals."""
    found: dict[str, list[Shelf]] = {}
    for name, share in (("a", 0.5), ("b", 0.4)):
        pipeline = toys.pipeline(proposals=toys.Corners(share))
        _records, run = toys.detections(pipeline, toys.data(), toys.cache)
        saved.save(pipeline, toys.cache.parent / name)
        for step in pipeline:
            found.setdefault(step.name, []).append(run.shelf(step.name))
        run.close()
    return found


@pytest.fixture
def rcnn(toys: Any, monkeypatch: pytest.MonkeyPatch) -> Command:
    def command(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["rcnn", "cache", *words])
        monkeypatch.setenv("RCNN_CACHE", str(toys.cache))
        monkeypatch.setenv("COLUMNS", "100")
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return command


def hurt(path: Path) -> Path:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    return path


def test_why_prints_one_line(
    rcnn: Command, shelves: dict[str, list[Shelf]], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (shelf.path.name for shelf in shelves["features"])
    assert rcnn("why", a[:-3], b) == 0
    assert capsys.readouterr().out == f"{a} -> {b}: reads proposals, where share 0.5 -> 0.4\n"


def test_why_takes_run_folders(
    rcnn: Command, shelves: dict[str, list[Shelf]], toys: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (str(toys.cache.parent / name) for name in "ab")
    assert rcnn("why", one, other, "--allow", toys.Means.__module__) == 0
    assert capsys.readouterr().out == "proposals.share: 0.5 -> 0.4\n"
    shelf = shelves["classifier"][1].path.name
    assert rcnn("why", one, shelf) == 0
    assert "reads features, which reads proposals, where share 0.5 -> 0.4" in capsys.readouterr().out
    assert rcnn("why", one, shelves["features"][1].path.name) == 2
    assert "keeps the keys of what it learned (classifier), not of features" in capsys.readouterr().err


def test_a_beginning_that_fits_two_shelves_is_refused(
    rcnn: Command, shelves: dict[str, list[Shelf]], capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["why", "features", "prop"], ["diff", "features", "prop"]):
        assert rcnn(*words) == 2
        assert "2 shelves of" in capsys.readouterr().err
    assert rcnn("verify", "nothing") == 2
    assert "begins with 'nothing'" in capsys.readouterr().err


def test_diff_tells_fields_and_the_furthest_images(
    rcnn: Command, shelves: dict[str, list[Shelf]], capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (shelf.path.name for shelf in shelves["proposals"])
    assert rcnn("diff", a, b, "--json", "--limit", "2") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differing"] == 6
    assert found["fields"]["boxes"]["largest"] == 3.0  # 0.5 x 30 against 0.4 x 30
    assert [one["image"] for one in found["worst"]] == ["a/0", "a/1"]
    assert rcnn("diff", a, b) == 0
    out = capsys.readouterr().out
    assert "6 images in both, 0 of them the same" in out
    assert "2 x 4" in out
    assert max(map(len, out.splitlines())) <= 120
    assert rcnn("diff", a, b, "nobody") == 2
    assert "has an entry of image 'nobody'" in capsys.readouterr().err


def test_diff_of_two_caches(
    rcnn: Command, shelves: dict[str, list[Shelf]], toys: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = shelves["features"][0].path.name
    toys.detections(toys.pipeline(), toys.data(5), tmp_path / "other")
    assert rcnn("diff", name, name, "--other", str(tmp_path / "other"), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["only_a"], found["identical"], found["differing"]) == (["a/5"], 5, 0)
    assert rcnn("why", name, name, "--other", str(tmp_path / "other")) == 0
    assert capsys.readouterr().out.endswith(": the same method\n")


def test_verify_names_what_is_damaged_and_removes_it_if_asked(
    rcnn: Command, shelves: dict[str, list[Shelf]], toys: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rcnn("verify") == 0
    assert "no files are damaged" in capsys.readouterr().err
    features, classifier = shelves["features"][0], shelves["classifier"][0]
    entry = hurt(sorted(features.path.glob("??/*.safetensors"))[0])
    state = hurt(classifier.path / "state.safetensors")
    assert rcnn("verify", "--json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert {row["path"]: row["kind"] for row in rows} == {str(entry): "damaged", str(state): "damaged"}
    assert rcnn("verify", "features", "--remove") == 1
    assert "1 files are damaged and removed" in capsys.readouterr().err
    assert not entry.exists()
    assert state.exists()
    assert rcnn("verify", "--remove") == 1
    assert rcnn("verify") == 0
    toys.calls.clear()
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert toys.calls["Nearest.fit"] == 6
    assert toys.calls["Means"] == 1


def test_prune_keeps_the_budget_and_says_what_went(
    rcnn: Command, shelves: dict[str, list[Shelf]], toys: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in shelves.values():
        os.utime(step[0].path / layout.USED, (1, 1))
    size = folder_size(toys.cache)
    budget = size - shelves["features"][0].size()
    assert rcnn("prune", "--max-size", str(budget), "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out)["before"] == folder_size(toys.cache) == size
    assert rcnn("prune", "--max-size", str(budget)) == 0
    out = capsys.readouterr().out
    assert folder_size(toys.cache) <= budget
    assert "are left" in out
    assert all(shelf.path.name not in out for shelf in (step[1] for step in shelves.values() if step[0] != step[1]))
    assert Store(toys.cache).shelves()
    toys.calls.clear()
    toys.detections(toys.pipeline(proposals=toys.Corners(0.4)), toys.data(), toys.cache)
    assert set(toys.calls) <= {"Means"}  # of the annotated boxes, which both toys used


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "say how much may stay: --max-size 20GB"),
        (["--max-size", "20XB"], "'20XB' is no size"),
        (["--older-than", "soon"], "'soon' is no age"),
        (["--older-than", "1d", "--step", "featrues"], "has no shelf of a step 'featrues'; it has classifier, "),
    ],
)
def test_prune_says_what_it_cannot_read(
    rcnn: Command, shelves: Any, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rcnn("prune", *words) == 2
    assert why in capsys.readouterr().err


def test_a_budget_that_live_runs_do_not_allow_is_a_failure(
    rcnn: Command, shelves: Any, toys: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lease = use.lease(toys.cache)
    for shelf in Store(toys.cache).shelves():
        use.stamp(shelf.path)
    assert rcnn("prune", "--max-size", "0") == 1
    assert "are in use" in capsys.readouterr().out
    assert lease is not None
    lease.release()
    assert rcnn("prune", "--max-size", "1kB") == 0
    assert np.all([path.name == layout.RUNS for path in toys.cache.iterdir()])


@pytest.mark.parametrize("text", ["[]", "{}"])
def test_about_that_says_nothing_is_one_sentence(
    rcnn: Command, shelves: dict[str, list[Shelf]], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = shelves["proposals"]
    (one.path / "about.json").write_text(text)
    assert rcnn("why", one.path.name, other.path.name) == 2
    err = capsys.readouterr().err
    assert "about.json is damaged: it names no step" in err
    assert err.count("\n") == 1


def test_an_image_is_counted_once_whatever_it_was_made_from(
    rcnn: Command, toys: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2):
        toys.detections(toys.pipeline(), RecordList([toys.record("x", seed)], ("cat",)), toys.cache)
    capsys.readouterr()
    assert rcnn("ls", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["images"] for row in rows if row["shelf"].startswith("features")} == {1}
    (path,) = toys.cache.glob("features-*")
    assert len(list(Shelf(path).entries())) == 2
    assert rcnn("show", path.name, "x") == 0
    assert "features.mean" in capsys.readouterr().out
