"""What may befall a run, with the real thing happening: signals, full disks, disks to be read only, damaged files.

Of each: nothing that was computed is lost, the user reads one sentence, and the same command run again finishes with
the detections of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rcnn.cache import files, layout, verify
from rcnn.cache.keys import digest_state
from rcnn.cache.store import Store

HERE = Path(__file__).parent
TOY = [sys.executable, str(HERE / "toy_command.py")]
STOPPED = "rcnn: stopped; what was computed is kept, and the same command goes on from there\n"


class Place:
    """A folder with a cache and a RUN, and the toy command at work there."""

    def __init__(self, path: Path):
        self.path, self.cache, self.out = path, path / "cache", path / "run"
        path.mkdir(exist_ok=True)

    def begin(self, *words: str, pace: float = 0.0, **more: Any) -> subprocess.Popen[str]:
        """The command in a process group of its own."""
        env = {**os.environ, "RCNN_CACHE": str(self.cache), "PACE": str(pace), "OMP_NUM_THREADS": "1"}
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        before = more.pop("preexec_fn", None)

        def start() -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's job in the background has it ignored
            if before:
                before()

        return subprocess.Popen([*(words or self.words())], cwd=self.path, env=env, start_new_session=True,
                                preexec_fn=start, **pipes, **more)  # fmt: skip  # noqa: PLW1509 -- no threads here

    def words(self, *more: str) -> list[str]:
        return [*TOY, "toy", str(self.out), *more]

    def run(self, *words: str, **more: Any) -> tuple[int, str, str]:
        """The command to its end: exit status, stdout, stderr."""
        process = self.begin(*words, **more)
        try:
            out, err = process.communicate(timeout=120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # what a failed test began is not left to run
        return process.returncode, out, err

    def halves(self) -> list[Path]:
        return [*self.cache.rglob("*.tmp"), *self.out.rglob("*.tmp")]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "place")


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the toy command prints when nothing befalls it."""
    status, out, err = Place(tmp_path_factory.mktemp("undisturbed")).run()
    assert (status, err) == (0, "")
    assert len(json.loads(out)) == 8
    return out


def wait_for(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def is_one_sentence(err: str, *parts: str) -> bool:
    return err.startswith("rcnn: ") and err.count("\n") == 1 and all(part in err for part in parts)


# -- signals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stop", "everyone", "moment"),
    [
        (signal.SIGINT, True, "proposals-*/about.json"),  # in worker processes, which a terminal's Ctrl-C reaches too
        (signal.SIGINT, True, "features-*/??/*"),
        (signal.SIGINT, False, "classifier-*/checkpoint.safetensors"),
        (signal.SIGTERM, False, "proposals-*/about.json"),
    ],
)
def test_a_stopped_run_goes_on(place: Place, expected: str, stop: signal.Signals, everyone: bool, moment: str) -> None:
    process = place.begin(*place.words("--jobs", "2"), pace=0.2)
    wait_for(lambda: list(place.cache.glob(moment)))
    (os.killpg if everyone else os.kill)(process.pid, stop)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + stop, STOPPED)
    wait_for(lambda: group_is_gone(process.pid))  # no worker stays
    assert not place.halves()
    assert place.run() == (0, expected, "")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_where_python_drops_exceptions(
    place: Place, expected: str, stop: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("UNHEARD", str(int(stop)))
        status, _, err = place.run(pace=0.2)
    assert (status, err) == (128 + stop, STOPPED)
    assert place.run() == (0, expected, "")


@pytest.mark.parametrize("after", [0.01, 0.1, 0.4, 0.9])
def test_ctrl_c_while_libraries_are_imported(place: Place, after: float) -> None:
    words = ["train", "rcnn", "--data", "shapes:2", "--out", "run", "--set", "backbone=shapenet"]
    status, _, err = place.run(*TOY, "in", str(after), *words)
    assert status == 130
    assert is_one_sentence(err, "rcnn: stopped")


def test_killed_runs_give_the_same_detections() -> None:
    """SIGKILL to all processes of a whole R-CNN; benchmarks/killed_runs.py does it 60 times."""
    script = HERE.parents[1] / "benchmarks" / "killed_runs.py"
    words = [sys.executable, str(script), "--runs", "2", "--images", "2", "--seed", "5"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 gave the undisturbed run's detections" in done.stdout


# -- disks ---------------------------------------------------------------------------------------------


def in_namespace(script: str) -> list[str]:
    """A shell script in a mount namespace of its own: what it mounts is gone with it."""
    return ["unshare", "--mount", "--map-root-user", "sh", "-ec", script]


@pytest.fixture(scope="module")
def mounts() -> None:
    try:
        subprocess.run(in_namespace("mount -t tmpfs none /tmp"), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")


def parts(out: str) -> list[str]:
    return out.split("----\n")


@pytest.mark.parametrize("pages", [1, 4, 12, 20, 29, 36])
@pytest.mark.usefixtures("mounts")
def test_a_full_disk_under_the_cache(place: Place, expected: str, pages: int) -> None:
    """Full at different moments: with the first files of a step, with an entry, with a checkpoint."""
    status, out, err = full_disk(place, place.cache, pages)
    assert status == 0
    first, halves, second = parts(out)
    assert (first, halves, second) == ("2\n", "", expected)
    assert is_one_sentence(err, "cannot write ", str(place.cache), ": No space left on device")


@pytest.mark.usefixtures("mounts")
def test_a_full_disk_under_the_run_folder(place: Place, expected: str) -> None:
    status, out, err = full_disk(place, place.out, 1)
    assert status == 0
    first, halves, second = parts(out)
    assert (first, halves, second) == ("2\n", "", expected)
    assert is_one_sentence(err, "cannot write ", str(place.out), ": No space left on device")


def full_disk(place: Place, where: Path, pages: int) -> tuple[int, str, str]:
    """Run on a disk of so few pages; print status and half files; run again on a larger one."""
    where.mkdir(parents=True)
    here, command = shlex.quote(str(where)), shlex.join(place.words())
    script = f"""
        mount -t tmpfs -o size={pages * os.sysconf("SC_PAGESIZE")} none {here}
        status=0; {command} || status=$?
        echo $status; echo ----; find {here} -name '*.tmp'; echo ----
        mount -o remount,size=64M {here}
        {command}
    """
    return place.run(*in_namespace(script))


@pytest.mark.parametrize("most", [100, 400, 700])
def test_a_file_that_may_not_grow(place: Place, expected: str, most: int) -> None:
    """A limit of the system that ends a write in its midst, as a quota does; no mount is needed for it."""
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most, most))
    status, out, err = place.run(preexec_fn=limit)
    assert (status, out) == (2, "")
    assert is_one_sentence(err, "cannot write ", str(place.path), ": File too large")
    assert not place.halves()
    assert place.run() == (0, expected, "")


def test_what_a_full_disk_keeps_from_being_printed_is_told(place: Place) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            place.words(), stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=place.path,
            env={**os.environ, "RCNN_CACHE": str(place.cache)},
        )  # fmt: skip
    assert done.returncode == 2
    assert is_one_sentence(done.stderr, "No space left on device")


def test_packs_that_a_full_disk_refuses_cost_nothing(
    toys: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, _ = toys.detections(toys.pipeline(), toys.data(20), None)
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.parent.name == "packs":
            write(path, data[:100])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    second, _ = toys.detections(toys.pipeline(), toys.data(20), toys.cache)
    assert toys.same(first, second)
    assert "is not packed: cannot write" in caplog.text
    assert not list(toys.cache.rglob("*.tmp"))
    monkeypatch.undo()
    toys.calls.clear()
    toys.detections(toys.pipeline(), toys.data(20), toys.cache)
    assert not toys.calls
    assert list(toys.cache.glob("proposals-*/packs/*"))


@pytest.mark.usefixtures("mounts")
def test_a_cache_that_may_only_be_read(place: Place, expected: str) -> None:
    assert place.run(*place.words("--images", "20"))[0] == 0  # so that there are packs
    status, all_there, err = place.run(*place.words("--images", "20"))
    assert (status, err) == (0, "")
    before = listing(place.cache)
    assert read_only(place, "--images", "20") == (0, all_there, "")
    assert listing(place.cache) == before
    status, out, err = read_only(place)  # of other images, so that something else is learned
    assert (status, out) == (2, "")
    assert is_one_sentence(err, "cannot write ", str(place.cache), ": Read-only file system")
    assert listing(place.cache) == before
    assert place.run() == (0, expected, "")


@pytest.mark.usefixtures("mounts")
def test_a_cache_that_may_only_be_read_and_would_like_to_be_written(place: Place, expected: str) -> None:
    """Loose entries to pack, and an about.json to write anew: both can wait."""
    assert place.run()[0] == 0
    for lost in ("features-*/about.json", "classifier-*/inputs.json"):
        for path in place.cache.glob(lost):
            path.unlink()
    assert read_only(place) == (0, expected, "")
    for path in place.cache.glob("suppression-*/??/*"):
        damage(path, random.Random(0), "truncated")
    status, _, err = read_only(place)
    assert status == 2
    assert "suppression" in err
    assert err.endswith(": Read-only file system\n")
    assert "Traceback" not in err
    assert place.run()[:2] == (0, expected)


def read_only(place: Place, *more: str) -> tuple[int, str, str]:
    here = shlex.quote(str(place.cache))
    script = f"mount --bind {here} {here}; mount -o remount,ro,bind {here}; exec {shlex.join(place.words(*more))}"
    return place.run(*in_namespace(script))


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    stats = {str(path): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


# -- two at once ---------------------------------------------------------------------------------------


def test_two_processes_train_on_one_cache(place: Place, expected: str) -> None:
    both = [place.begin(*TOY, "toy", str(place.path / name), pace=0.02) for name in ("a", "b")]
    found = [process.communicate(timeout=60) for process in both]
    assert found == [(expected, "")] * 2
    assert [process.returncode for process in both] == [0, 0]
    shelves = layout.shelves(place.cache)
    assert len(shelves) == 5
    assert [finding for shelf in shelves for finding in verify.damages(shelf)] == []
    assert not place.halves()
    assert len({digest_state(files.read(path)) for path in place.path.glob("?/states/*")}) == 1


# -- damage --------------------------------------------------------------------------------------------

KINDS = {
    "entry": ("features-*/??/*.safetensors", 6),
    "pack": ("features-*/packs/*.safetensors", 20),
    "state": ("classifier-*/state.safetensors", 6),
    "checkpoint": ("classifier-*/checkpoint.safetensors", 6),
    "about": ("*/about.json", 6),
}


def damage(path: Path, draw: random.Random, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(raw[: draw.randrange(len(raw))])
    else:
        at = draw.randrange(8 * len(raw))
        raw[at // 8] ^= 1 << at % 8
        path.write_bytes(raw)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", ["flipped", "truncated", "deleted"])
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_named_and_mended(
    toys: Any, kind: str, how: str, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    pattern, images = KINDS[kind]
    expected, _ = toys.detections(toys.pipeline(), toys.data(images), None)
    data = toys.data(images)
    if kind == "checkpoint":
        with pytest.raises(KeyboardInterrupt):
            toys.detections(toys.pipeline(classifier=toys.Nearest(fail_at="a/4")), data, toys.cache)
    else:
        toys.detections(toys.pipeline(), data, toys.cache)
    draw = random.Random(f"{kind} {how} {seed}")
    path = draw.choice(sorted(toys.cache.glob(pattern)))
    damage(path, draw, how)
    if kind in ("entry", "pack"):  # make what reads it run again: else nobody does
        for later in (*toys.cache.glob("classifier-*/**/*.*"), *toys.cache.glob("suppression-*/**/*.*")):
            later.unlink()
    found, _ = toys.detections(toys.pipeline(), toys.data(images), toys.cache)
    assert toys.same(expected, found)
    if how != "deleted" and kind != "about":
        assert str(path) in caplog.text
    caplog.clear()
    toys.calls.clear()
    found, _ = toys.detections(toys.pipeline(), toys.data(images), toys.cache)
    assert toys.same(expected, found)
    assert not toys.calls
    assert not caplog.text


@pytest.mark.parametrize("how", ["truncated", "deleted"])
def test_about_is_written_anew(toys: Any, how: str, caplog: pytest.LogCaptureFixture) -> None:
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    before = {shelf.path.name: shelf.about() for shelf in Store(toys.cache).shelves()}
    for path in toys.cache.glob("*/about.json"):
        damage(path, random.Random(1), how)
    toys.calls.clear()
    toys.detections(toys.pipeline(), toys.data(), toys.cache)
    assert not toys.calls
    after = {shelf.path.name: shelf.about() for shelf in Store(toys.cache).shelves()}
    assert [dict(about, made="") for about in after.values()] == [dict(before[name], made="") for name in after]
    assert len(after) == len(before) == 5
    assert ("about.json is damaged" in caplog.text) == (how == "truncated")


# -- a RUN folder --------------------------------------------------------------------------------------


def test_a_run_whose_saving_was_cut_short_is_saved_again(place: Place, expected: str) -> None:
    assert place.run()[0] == 0
    (place.out / "recipe.json").rename(place.out / ".recipe.json.0.tmp")
    assert place.run() == (0, expected, "")
    (place.out / "recipe.json").unlink()
    (place.out / "notes.txt").write_text("mine")
    status, _, err = place.run()
    assert status == 2
    assert is_one_sentence(err, "is there already and is no trained run")
