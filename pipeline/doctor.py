"""What may be wrong with the machine and the installation: findings, each with what to do (`rcnn doctor`).

Nothing here raises: an import that fails, a file that cannot be read, is what is looked for. Nothing of rcnn that
needs a library is imported before a check does.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import disk
from .tables import LINE, Table, size

OK, WARNING, PROBLEM = "ok", "warning", "problem"
# what importing, or calling, a library raises that is missing, of another build, or built against other ones
IMPORT = (ImportError, OSError, RuntimeError, AttributeError, ValueError)
LIBRARIES = (
    "numpy",
    "numba",
    "torch",
    "torchvision",
    "cv2",
    "sklearn",
    "skimage",
    "pycocotools",
    "safetensors",
    "matplotlib",
)
LOW_MEMORY = 4 << 30  # bytes: fits stay under 3 GB, and nets and the system want some
LOW_DISK = 5 << 30  # bytes: some 150 images of 2000 boxes, pool5 of AlexNet in float16
WIDE = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # of a processor, the fastest first
CONTRIB = "opencv-contrib-python-headless"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. state: "ok", "warning" or "problem". advice: what to do about it."""

    name: str
    state: str
    text: str
    advice: str = ""


def examine(cache: Path | None = None) -> list[Finding]:
    """All findings of this machine. cache: the cache folder, default that of every command."""
    checks: dict[str, Callable[[], Iterable[Finding]]] = {
        "versions": versions,
        "requirements": requirements,
        "imports": libraries,
        "opencv": lambda: opencv(importlib.metadata.packages_distributions()),
        "torchvision operators": operators,
        "processor": processor,
        "GPU": gpus,
        "threads": lambda: threads(os.environ, cpu_limit(), usable_cores()),
        "memory": memory,
        "malloc": malloc,
        "cache": lambda: cache_folder(cache),
        "weights": weights,
    }
    return [finding for name, check in checks.items() for finding in checked(name, check)]


def checked(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; what stops it is a finding too: a library that is broken, a file that cannot be read."""
    try:
        return list(check())
    except (ImportError, OSError, UserError) as error:
        return [Finding(name, PROBLEM, f"cannot be looked at: {_first_line(error)}", "mend what is named here first")]


def library(name: str) -> Any:
    """A library that a check needs. UserError if it cannot be imported, whatever that raises."""
    try:
        return importlib.import_module(name)
    except IMPORT as error:
        raise UserError(f"{name} cannot be imported: {_first_line(error)}") from error


# -- software ----------------------------------------------------------------------------------------------


def versions() -> list[Finding]:
    """Of Python and of rcnn."""
    from .. import __version__

    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    return [Finding("rcnn", OK, __version__), Finding("python", OK, text)]


def requirements(
    wanted: Callable[[str], Sequence[str] | None] = importlib.metadata.requires,
    version: Callable[[str], str] = importlib.metadata.version,
) -> list[Finding]:
    """Every library that rcnn asks for, held against the version that is installed."""
    from packaging.requirements import Requirement

    try:
        texts = wanted("rcnn") or ()
    except importlib.metadata.PackageNotFoundError:
        return [Finding("rcnn", PROBLEM, "is not installed, only found", "pip install . in its checkout")]
    asked = [Requirement(text) for text in texts]
    found = [_required(one, version) for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    good = ", ".join(f"{one.name} {one.text}" for one in found if one.state == OK)
    return [Finding("requirements", OK, good or "none is met"), *(one for one in found if one.state != OK)]


def _required(one: Any, version: Callable[[str], str]) -> Finding:
    try:
        found = version(one.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(one.name, PROBLEM, "is not installed", f"pip install '{one.name}{one.specifier}'")
    if not one.specifier.contains(found, prereleases=True):
        return Finding(one.name, PROBLEM, f"{found}, not {one.specifier}", f"pip install '{one.name}{one.specifier}'")
    return Finding(one.name, OK, found)


def libraries(load: Callable[[str], Any] = importlib.import_module) -> list[Finding]:
    """Whether what is installed can be imported: a version says nothing of that."""
    found = []
    for name in LIBRARIES:
        try:
            load(name)
        except IMPORT as error:
            found.append(Finding(f"import {name}", PROBLEM, _first_line(error), f"install again what gives {name}"))
    return found or [Finding("imports", OK, ", ".join(LIBRARIES))]


def opencv(
    distributions: Mapping[str, Sequence[str]], load: Callable[[str], Any] = importlib.import_module
) -> list[Finding]:
    """Who owns cv2, and whether it has the contrib modules. distributions: module -> names of what installed it."""
    owners = sorted(set(distributions.get("cv2", ())))
    found = []
    if len(owners) > 1:
        advice = f"pip uninstall -y {' '.join(owners)}; pip install {CONTRIB}"
        found.append(Finding("opencv", PROBLEM, f"installed {len(owners)} times over: {', '.join(owners)}", advice))
    try:
        load("cv2").ximgproc.segmentation  # noqa: B018 -- whether it is there is the question
    except AttributeError:
        advice = f"pip uninstall -y {' '.join(owners) or 'opencv-python'}; pip install {CONTRIB}"
        found.append(
            Finding("opencv contrib", PROBLEM, "missing: no edge boxes, no selective search by OpenCV", advice)
        )
    except IMPORT as error:
        found.append(Finding("opencv", PROBLEM, _first_line(error), f"pip install {CONTRIB}"))
    return found or [Finding("opencv contrib", OK, ", ".join(owners))]


def operators(load: Callable[[str], Any] = importlib.import_module) -> list[Finding]:
    """Whether torchvision's compiled operators fit this torch."""
    try:
        torch, vision = load("torch"), load("torchvision")
        boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2]])
        kept = vision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5).tolist()
    except IMPORT as error:
        advice = "install torch and torchvision anew, both from the same index, in one pip command"
        return [Finding("torchvision operators", PROBLEM, f"torchvision.ops.nms fails: {_first_line(error)}", advice)]
    if kept != [1]:
        return [Finding("torchvision operators", PROBLEM, f"nms keeps {kept}, not [1]", "install torchvision anew")]
    return [Finding("torchvision operators", OK, f"torch {torch.__version__}, torchvision {vision.__version__}")]


# -- devices -----------------------------------------------------------------------------------------------


def processor() -> list[Finding]:
    """The CPU, its cores, what it multiplies fast, and what precision "auto" becomes on it."""
    library("torch")
    from ..stages.nets.precision import precision_of

    model, flags = cpu_of(_text("/proc/cpuinfo"))
    wide = [flag for flag in WIDE if flag in flags]
    said = f"{model or platform.processor() or 'unknown'}; {usable_cores()} of {os.cpu_count()} cores may be used"
    auto = f"precision auto on the CPU is {precision_of('auto', 'cpu')}"
    return [Finding("processor", OK, f"{said}; {', '.join(wide) or 'no AVX2'}; {auto}")]


def cpu_of(info: str) -> tuple[str, set[str]]:
    """Model name and flags, from the text of /proc/cpuinfo."""
    fields = dict(line.split(":", 1) for line in reversed(info.splitlines()) if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    return fields.get("model name", ""), set(fields.get("flags", fields.get("Features", "")).split())


def gpus(present: Callable[[], bool] | None = None) -> list[Finding]:
    """The GPUs that torch finds, with memory and capability."""
    torch = library("torch")
    if torch.cuda.is_available():
        return [_gpu(torch, i) for i in range(torch.cuda.device_count())]
    if not (present or _nvidia_device)():
        return [Finding("GPU", OK, "none: device auto is the CPU")]
    if torch.version.cuda is None:
        advice = "install a CUDA build of torch and torchvision (pytorch.org) to use it"
        return [Finding("GPU", WARNING, f"there is one, but torch {torch.__version__} is a build for the CPU", advice)]
    advice = "see what nvidia-smi says: the driver may be too old, or CUDA_VISIBLE_DEVICES empty"
    return [Finding("GPU", WARNING, f"there is one, but torch (CUDA {torch.version.cuda}) cannot use it", advice)]


def _gpu(torch: Any, i: int) -> Finding:
    from ..stages.nets.precision import precision_of

    props = torch.cuda.get_device_properties(i)
    free, total = torch.cuda.mem_get_info(i)
    auto = precision_of("auto", f"cuda:{i}")
    what = f"{props.name}, capability {props.major}.{props.minor}"
    text = f"{what}, {size(total)}, {size(free)} free; precision auto is {auto}"
    if any(runs_on(code, props.major, props.minor) for code in torch.cuda.get_arch_list()):
        return Finding(f"GPU cuda:{i}", OK, text)
    advice = "install a torch that is built for this GPU (pytorch.org)"
    return Finding(f"GPU cuda:{i}", PROBLEM, f"{text}; this torch has no code for it", advice)


def runs_on(code: str, major: int, minor: int) -> bool:
    """Whether a GPU of this capability runs compiled code ("sm_86") or compiles what is in between ("compute_90")."""
    match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]*", code)
    if match is None:
        return False
    kind, built = match[1], (int(match[2]), int(match[3]))
    return built <= (major, minor) and (kind == "compute" or built[0] == major)


def _nvidia_device() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidia0").exists()


def threads(environ: Mapping[str, str], limit: float | None, usable: int) -> list[Finding]:
    """Threads of torch, OMP_NUM_THREADS and the CPU time that the container allows.

    limit: CPUs' worth of time that the control group allows, None for no limit. usable: cores.
    """
    n = library("torch").get_num_threads()
    omp = environ.get("OMP_NUM_THREADS", "not set")
    text = f"torch uses {n}, OMP_NUM_THREADS is {omp}, {'no CPU limit' if limit is None else f'CPU limit {limit:g}'}"
    if limit is not None and n > max(1.0, limit) + 0.5:
        advice = (
            f"set OMP_NUM_THREADS={max(1, int(limit))}, and --jobs too: more threads than CPU time wait for each other"
        )
        return [Finding("threads", WARNING, text, advice)]
    if n > usable:
        return [Finding("threads", WARNING, text, f"set OMP_NUM_THREADS={usable}: no more cores may be used")]
    return [Finding("threads", OK, text)]


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_limit(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """CPUs' worth of time that the control group allows (versions 2 and 1), None for no limit."""
    quota, _, period = _text(root / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (_text(root / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


# -- memory and disk ---------------------------------------------------------------------------------------


def memory(info: str | None = None, root: Path = Path("/sys/fs/cgroup")) -> list[Finding]:
    """Memory of the machine, and what the container allows. info: the text of /proc/meminfo."""
    kilobytes = {line.split()[0]: int(line.split()[1]) for line in (info or _text("/proc/meminfo")).splitlines()}
    if "MemTotal:" not in kilobytes:
        return [Finding("memory", OK, "unknown: this system has no /proc/meminfo")]
    total, free = kilobytes["MemTotal:"] << 10, kilobytes.get("MemAvailable:", 0) << 10
    limit = memory_limit(root)
    said = f"{size(total)}, {size(free)} available, {'no limit' if limit is None else f'limit {size(limit)}'}"
    least = min(free, total if limit is None else limit)
    if least < LOW_MEMORY:
        advice = f"under {size(LOW_MEMORY)} a fit or a large net may be killed: close other programs or raise the limit"
        return [Finding("memory", WARNING, said, advice)]
    return [Finding("memory", OK, said)]


def memory_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the control group allows, None for no limit."""
    text = (_text(root / "memory.max") or _text(root / "memory" / "memory.limit_in_bytes")).strip()
    return int(text) if text.isdigit() and int(text) < 1 << 60 else None


def malloc() -> list[Finding]:
    """Whether this process may keep the memory that nets free, which makes extraction on a CPU faster."""
    named = sorted(name for name in os.environ if name.startswith("MALLOC_"))
    if named:
        advice = "unset them, unless they are meant: nets then ask the system for their memory at every forward"
        return [Finding("malloc", WARNING, f"{', '.join(named)} set", advice)]
    from ..stages.nets.memory import reuse_freed_memory

    kept = "freed memory is kept for the next forward" if reuse_freed_memory() else "not glibc's: left as it is"
    return [Finding("malloc", OK, f"{' '.join(platform.libc_ver()) or 'unknown libc'}; {kept}")]


def cache_folder(cache: Path | None = None, mounts: str | None = None, free: int | None = None) -> list[Finding]:
    """Where the cache is, whether it can be written, how much it holds, and how much room is left.

    mounts: the text of /proc/mounts. free: bytes.
    """
    from ..cache.files import folder_size
    from ..cache.store import default_root

    root = cache or default_root()
    base = disk.existing(root)
    if not (base.is_dir() and os.access(base, os.W_OK | os.X_OK)):
        said = "is a file" if not base.is_dir() else "cannot be written"
        return [Finding("cache", PROBLEM, f"{root}: {base} {said}", "name another folder: --cache DIR or $RCNN_CACHE")]
    free = disk.free_bytes(root) if free is None else free
    kind = disk.file_system(root, _text("/proc/mounts") if mounts is None else mounts)
    held = size(folder_size(root)) if root.is_dir() else "not there yet"
    text = f"{root}: {held}, {size(free)} free{f', {kind}' if kind else ''}"
    found = []
    if free < LOW_DISK:
        advice = "rcnn cache prune --max-size makes room; rcnn plan says how much a run will write"
        found.append(Finding("cache", WARNING, text, advice))
    if disk.is_shared(kind):
        advice = "entries are safe, but its locks may not hold between machines: prune while no run is on"
        found.append(Finding("cache", WARNING, f"{text}: a network file system", advice))
    return found or [Finding("cache", OK, text)]


def weights(folder: Path | None = None) -> list[Finding]:
    """The folder of published weights, and whether those that a recipe takes by default are there."""
    get_model_weights = library("torchvision.models").get_model_weights
    folder = folder or Path(library("torch").hub.get_dir()) / "checkpoints"
    files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    text = f"{folder}: {len(files)} files, {size(sum(path.stat().st_size for path in files))}"
    wanted = Path(get_model_weights("alexnet").DEFAULT.url).name
    if wanted in [path.name for path in files]:
        return [Finding("weights", OK, f"{text}; AlexNet's are there")]
    advice = "they are fetched when first needed; without a network name a file: --set weights=FILE"
    return [Finding("weights", WARNING, f"{text}; AlexNet's ({wanted}) are not there", advice)]


def _text(path: str | Path) -> str:
    """A small file's text; "" where there is none, for not every system has these."""
    with suppress(OSError):
        return Path(path).read_text()
    return ""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# -- what is printed ---------------------------------------------------------------------------------------


def table(findings: Sequence[Finding]) -> Table:
    """The findings, what is wrong last."""
    ordered = sorted(findings, key=lambda one: (OK, WARNING, PROBLEM).index(one.state))
    rows = [[one.state, one.name, one.text + (f"{LINE}-> {one.advice}" if one.advice else "")] for one in ordered]
    return Table("this machine", ["state", "what", "found"], rows, words=(1, 2))
