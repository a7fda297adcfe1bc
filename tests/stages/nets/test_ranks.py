"""Training in the processes of torchrun: the same weights as in one, everything made once, one RUN."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcnn.errors import UserError
from rcnn.pipeline import cli
from rcnn.stages.nets import ranks
from safetensors.numpy import load_file

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TRAIN = ("-m", "rcnn", "train", "fast", "--data", "shapes:6:1", "--device", "cpu", "--jobs", "1")
SETS = ("backbone=shapenet", "weights=null", "proposals=60", "scales=[120]", "fc=[16]", "classifier=svm",
        "training__steps=6", "training__lr=0.01", "training__images=3")  # fmt: skip


def loopback() -> bool:
    """Whether processes of this machine can talk to each other."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), 1).close()
    except OSError:
        return False
    return True


def train(place: Path, *launcher: str, sets: tuple[str, ...] = SETS) -> str:
    words = [*launcher, *TRAIN, *(word for one in sets for word in ("--set", one))]
    words += ["--out", str(place / "run"), "--cache", str(place / "cache")]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=env, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stderr


def states(place: Path) -> dict[str, Any]:
    files = {path.name: load_file(path) for path in (place / "run").rglob("*.safetensors")}
    return {f"{name}: {key}": value for name, file in files.items() for key, value in file.items()}


@pytest.mark.skipif(not loopback(), reason="two processes of this machine cannot talk: there is no loopback network")
def test_two_processes_learn_what_one_does(tmp_path: Path) -> None:
    """Of three images the first process takes two a step, the other one; the SVMs are the first one's alone."""
    train(tmp_path / "one")
    said = train(tmp_path / "two", *TORCHRUN)
    assert said.count("trained fast on 6 images") == 1
    one, two = states(tmp_path / "one"), states(tmp_path / "two")
    assert one.keys() == two.keys()
    assert any(name.startswith("classifier") for name in one)
    for name, value in one.items():
        np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    shelves = [{path.name.partition("-")[0] for path in (tmp_path / k / "cache").iterdir()} for k in ("one", "two")]
    assert shelves[0] == shelves[1]


def test_alone_nothing_is_waited_for() -> None:
    with ranks.joined("cpu"):
        assert (ranks.rank(), ranks.count(), ranks.agreed("a")) == (0, 1, "a")
        values = np.ones(2)
        assert ranks.summed(values) is values


@pytest.mark.parametrize(
    ("device", "why"),
    [("cuda:0", "device 'cuda:0': of processes that train together each has a GPU"), ("cuda", "process 5 has no GPU")],
)
def test_each_process_has_its_own_gpu_or_none(device: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "6"), ("LOCAL_RANK", "5")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=why), ranks.joined(device):
        pass


def test_other_commands_are_not_for_torchrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["rcnn", "recipes"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "torchrun is for rcnn train" in capsys.readouterr().err
