"""`rcnn doctor`: each finding on a machine where it holds and one where it does not."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rcnn.pipeline import cli, doctor
from rcnn.pipeline.doctor import OK, PROBLEM, WARNING, Finding

CONTRIB = {"cv2": ["opencv-contrib-python-headless"]}


def states(findings: list[Finding]) -> list[str]:
    assert all(one.advice for one in findings if one.state != OK)
    return [one.state for one in findings]


def loader(**modules: Any) -> Callable[[str], Any]:
    """An import that gives these, and raises those that are errors."""

    def load(name: str) -> Any:
        found = modules.get(name, SimpleNamespace())
        if isinstance(found, Exception):
            raise found
        return found

    return load


CV2 = SimpleNamespace(ximgproc=SimpleNamespace(segmentation=1))


def test_opencv_as_it_should_be() -> None:
    assert states(doctor.opencv(CONTRIB, loader(cv2=CV2))) == [OK]


def test_opencv_installed_twice_names_both() -> None:
    twice = {"cv2": ["opencv-python", "opencv-contrib-python-headless", "opencv-python"]}
    (found,) = doctor.opencv(twice, loader(cv2=CV2))
    assert found.state == PROBLEM
    assert "2 times" in found.text
    assert "pip uninstall -y opencv-contrib-python-headless opencv-python;" in found.advice


def test_opencv_without_contrib_or_that_cannot_be_imported() -> None:
    (found,) = doctor.opencv({"cv2": ["opencv-python"]}, loader(cv2=SimpleNamespace()))
    assert (found.name, found.state) == ("opencv contrib", PROBLEM)
    (found,) = doctor.opencv({}, loader(cv2=ImportError("libGL.so.1: cannot open\nshared object")))
    assert (found.state, found.text) == (PROBLEM, "libGL.so.1: cannot open")


def test_requirements_name_what_is_missing_and_what_is_old() -> None:
    versions = {"numpy": "1.2", "torch": "2.9"}

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    asked = ["numpy>=1.26", "torch>=2.4", "xxhash>=3.4", "timm>=1.0; extra == 'timm'"]
    found = doctor.requirements(lambda _name: asked, version)
    assert states(found) == [OK, PROBLEM, PROBLEM]
    assert "torch 2.9" in found[0].text
    assert found[1].text == "1.2, not >=1.26"
    assert found[2].advice == "pip install 'xxhash>=3.4'"


def test_what_is_installed_but_cannot_be_imported_is_found() -> None:
    assert states(doctor.libraries(loader())) == [OK]
    broken = RuntimeError("operator torchvision::nms does not exist")
    (found,) = doctor.libraries(loader(torchvision=broken))
    assert (found.name, found.state, found.text) == ("import torchvision", PROBLEM, str(broken))


def test_torchvision_that_does_not_fit_torch() -> None:
    import torch

    def nms(*_args: Any) -> Any:
        raise NotImplementedError("Could not run 'torchvision::nms' with arguments from the 'CPU' backend")

    wrong = SimpleNamespace(ops=SimpleNamespace(nms=nms), __version__="0")
    assert states(doctor.operators(loader(torch=torch, torchvision=wrong))) == [PROBLEM]
    wrong = SimpleNamespace(ops=SimpleNamespace(nms=lambda *_args: torch.tensor([0])), __version__="0")
    assert states(doctor.operators(loader(torch=torch, torchvision=wrong))) == [PROBLEM]
    assert states(doctor.operators()) == [OK]


def test_a_processor_is_read_from_cpuinfo() -> None:
    info = (
        "processor\t: 0\nmodel name\t: Some CPU @ 2: 3GHz\nflags\t\t: fpu avx2 amx_bf16\n\nprocessor\t: 1\nflags\t: x\n"
    )
    assert doctor.cpu_of(info) == ("Some CPU @ 2: 3GHz", {"fpu", "avx2", "amx_bf16"})
    assert doctor.cpu_of("") == ("", set())


@pytest.mark.parametrize(
    ("code", "runs"),
    [("sm_86", True), ("sm_80", True), ("sm_89", False), ("sm_90a", False), ("compute_75", True), ("sm_75", False)],
)
def test_code_that_a_gpu_of_capability_86_runs(code: str, runs: bool) -> None:
    assert doctor.runs_on(code, 8, 6) == runs
    assert doctor.runs_on("sm_120", 12, 0)


def test_a_gpu_that_torch_cannot_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert states(doctor.gpus(lambda: False)) == [OK]
    assert states(doctor.gpus(lambda: True)) == [WARNING]


@pytest.mark.parametrize(("codes", "state"), [(["sm_80", "sm_90"], OK), (["sm_50", "sm_70"], PROBLEM)])
def test_a_gpu_and_whether_this_torch_has_code_for_it(
    codes: list[str], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("rcnn.stages.nets.precision.precision_of", lambda _precision, _device: "bfloat16")
    fakes = {
        "is_available": lambda: True,
        "device_count": lambda: 2,
        "get_device_properties": lambda _i: SimpleNamespace(name="Some GPU", major=9, minor=0),
        "mem_get_info": lambda _i: (100e9, 150e9),
        "get_arch_list": lambda: codes,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    found = doctor.gpus()
    assert states(found) == [state, state]
    assert [one.name for one in found] == ["GPU cuda:0", "GPU cuda:1"]
    assert "Some GPU, capability 9.0, 150.0 GB, 100.0 GB free; precision auto is bfloat16" in found[0].text


def test_more_threads_than_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert states(doctor.threads({}, None, 8)) == [OK]
    (found,) = doctor.threads({}, 2.0, 8)
    assert found.state == WARNING
    assert "OMP_NUM_THREADS=2" in found.advice
    assert states(doctor.threads({}, None, 4)) == [WARNING]


def test_limits_of_control_groups(tmp_path: Path) -> None:
    assert doctor.cpu_limit(tmp_path) is None
    assert doctor.memory_limit(tmp_path) is None
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert (doctor.cpu_limit(tmp_path), doctor.memory_limit(tmp_path)) == (None, None)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2 << 30}\n")
    assert (doctor.cpu_limit(tmp_path), doctor.memory_limit(tmp_path)) == (1.5, 2 << 30)
    info = "MemTotal:       65000000 kB\nMemAvailable:   60000000 kB\n"
    assert states(doctor.memory(info, tmp_path)) == [WARNING]
    assert states(doctor.memory(info, tmp_path / "none")) == [OK]


def test_limits_of_the_first_control_groups(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert doctor.cpu_limit(tmp_path) is None
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("400000\n")
    assert doctor.cpu_limit(tmp_path) == 4


def test_the_cache_folder(tmp_path: Path) -> None:
    (found,) = doctor.cache_folder(tmp_path / "new", "", 10 << 30)
    assert found.state == OK
    assert not (tmp_path / "new").exists()
    assert states(doctor.cache_folder(tmp_path, "", 1 << 30)) == [WARNING]
    (found,) = doctor.cache_folder(tmp_path, f"server:/x {tmp_path} nfs4 rw 0 0\n", 10 << 30)
    assert found.state == WARNING
    assert "network" in found.text
    (tmp_path / "file").write_text("")
    assert states(doctor.cache_folder(tmp_path / "file")) == [PROBLEM]


def test_a_cache_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_args: False)
    assert states(doctor.cache_folder(tmp_path)) == [PROBLEM]


def test_published_weights(tmp_path: Path) -> None:
    assert states(doctor.weights(tmp_path / "none")) == [WARNING]
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"x")
    assert states(doctor.weights(tmp_path)) == [OK]


def test_malloc_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    (found,) = doctor.malloc()
    assert (found.state, "MALLOC_ARENA_MAX" in found.text) == (WARNING, True)


def test_what_stops_a_check_is_a_finding() -> None:
    def check() -> list[Finding]:
        raise ImportError("No module named 'torch'")

    (found,) = doctor.checked("threads", check)
    assert (found.name, found.state) == ("threads", PROBLEM)
    assert "torch" in found.text


@pytest.mark.parametrize("error", [ImportError("no torch"), RuntimeError("of another build"), AttributeError("old")])
def test_a_library_that_is_broken_is_a_finding_and_a_mistake_of_ours_is_none(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_name: str) -> Any:
        raise error

    monkeypatch.setattr(doctor.importlib, "import_module", broken)
    (found,) = doctor.checked("processor", doctor.processor)
    assert (found.state, found.text) == (PROBLEM, f"cannot be looked at: torch cannot be imported: {error}")

    def mistaken() -> list[Finding]:
        raise AttributeError("'NoneType' object has no attribute 'split'")

    with pytest.raises(AttributeError):
        doctor.checked("memory", mistaken)


def test_the_command_and_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["rcnn", "doctor", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0)

    status("--cache", str(tmp_path), "--json")
    found = json.loads(capsys.readouterr().out)
    assert {"python", "requirements", "opencv contrib", "processor", "GPU"} - {one["name"] for one in found} <= {"GPU"}
    monkeypatch.setattr(doctor, "examine", lambda _cache: [Finding("a", OK, "x"), Finding("b", WARNING, "y", "do")])
    assert status() == 0
    assert "-> do" in capsys.readouterr().out
    monkeypatch.setattr(
        doctor, "examine", lambda _cache: [Finding("bad", PROBLEM, "[red]odd[/]", "do"), Finding("a", OK, "x")]
    )
    assert status() == 1
    said = capsys.readouterr().out
    assert said.index("bad") > said.index("x")
    assert "[red]odd[/]" in said
