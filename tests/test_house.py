"""The plan of the house, kept by reading the imports of every file.

stages/ knows neither cache/ nor pipeline/, and no room of it knows another but nets/, which all may use;
cache/ knows neither stages nor torch nor scikit-learn; only the command's entry knows pipeline/.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
Name = tuple[str, ...]  # of a module, by its parts; inside the package relative to its root


def package_files() -> list[PurePosixPath]:
    files = [
        *ROOT.glob("*.py"),
        *(f for top in ("stages", "cache", "pipeline") for f in ROOT.glob(f"{top}/**/*.py")),
    ]
    return [PurePosixPath(file.relative_to(ROOT).as_posix()) for file in sorted(files)]


def imports(file: PurePosixPath, source: str) -> Iterator[tuple[int, bool, Name]]:
    """Line, whether inside the package, and name of everything that a file imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, False, tuple(alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = file.parent.parts[: len(file.parent.parts) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((node.lineno, bool(node.level), (*module, alias.name)) for alias in node.names)


def why_not(file: PurePosixPath, inside: bool, name: Name) -> str:
    """The rule that an import breaks; "" if none."""
    top, room = file.parts[0], file.parts[1] if len(file.parts) > 2 else ""
    to, to_room = name[0], name[1] if len(name) > 1 else ""
    heavy = to in ("torch", "torchvision", "sklearn")
    another_room = to == "stages" and to_room in rooms() - {room, "nets"}
    rules = {
        "imports inside the package are relative": not inside and to == "rcnn",
        f"cache/ does not know {to}": top == "cache" and ((not inside and heavy) or (inside and to == "stages")),
        "only the command's entry knows pipeline/": inside
        and to == "pipeline"
        and top not in ("pipeline", "__main__.py"),
        "only the commands know typer": not inside and to == "typer" and not of_the_command(file),
        "stages/ does not know cache/": inside and top == "stages" and to == "cache",
        f"{room or top}/ does not know the room {to_room}/": inside and top == "stages" and another_room,
    }
    return next((rule for rule, broken in rules.items() if broken), "")


def of_the_command(file: PurePosixPath) -> bool:
    return file.parts[:2] == ("pipeline", "commands") or str(file) in ("pipeline/cli.py", "pipeline/options.py")


def rooms() -> set[str]:
    return {folder.name for folder in (ROOT / "stages").iterdir() if (folder / "__init__.py").exists()}


def broken_rules(file: PurePosixPath, source: str) -> list[str]:
    found = ((line, why_not(file, inside, name)) for line, inside, name in imports(file, source))
    return [f"{file}:{line}: {why}" for line, why in found if why]


def test_every_file_keeps_the_plan() -> None:
    files = package_files()
    assert len(files) > 15
    assert [rule for file in files for rule in broken_rules(file, (ROOT / file).read_text())] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("stages/classifiers/svm.py", "from ...cache.store import Store"),
        ("stages/classifiers/svm.py", "from ... import cache"),
        ("stages/classifiers/svm.py", "def f():\n    from ...pipeline import run"),
        ("stages/classifiers/svm.py", "from ..regressors.ridge import whiten"),
        ("stages/classifiers/svm.py", "from .. import regressors"),
        ("stages/nets/backbones.py", "from ..features import warp"),
        ("stages/sample.py", "from .classifiers.svm import Pool"),
        ("stages/sample.py", "from rcnn.stages.boxes import overlap"),
        ("stages/sample.py", "import rcnn"),
        ("pipeline/cli.py", "import rcnn.cache"),
        ("cache/store.py", "import torch.nn"),
        ("cache/store.py", "def f():\n    from sklearn import svm"),
        ("cache/store.py", "from ..stages.record import Record"),
        ("cache/store.py", "from .. import pipeline"),
        ("errors.py", "from .pipeline import cli"),
        ("pipeline/words.py", "def f():\n    import typer"),
    ],
)
def test_what_the_plan_forbids_is_seen(file: str, source: str) -> None:
    assert len(broken_rules(PurePosixPath(file), source)) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        (
            "stages/classifiers/svm.py",
            "from ..nets.heads import Head\nfrom ..sample import affine\nimport torch",
        ),
        ("stages/classifiers/svm.py", "from .solvers import hinge\nfrom ...errors import UserError"),
        ("stages/sample.py", "from .boxes import overlap\nfrom ..errors import UserError"),
        ("pipeline/recipes/fast.py", "from ...stages.features.warp import Warp\nfrom ..run import run"),
        ("cache/store.py", "import numpy\nfrom .keys import key\nfrom ..errors import UserError"),
        ("__main__.py", "from .pipeline.cli import main"),
        ("pipeline/commands/train.py", "import typer"),
    ],
)
def test_what_the_plan_allows_passes(file: str, source: str) -> None:
    assert broken_rules(PurePosixPath(file), source) == []


def module_name(file: PurePosixPath) -> str:
    parts = ("rcnn", *file.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def python(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT.parent)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("name", ["cache", "pipeline.cli"])
def test_quick_commands_import_nothing_heavy(name: str) -> None:
    names = [module_name(file) for file in package_files()]
    quick = [module for module in names if f"{module}.".startswith(f"rcnn.{name}.")]
    if not quick:
        pytest.skip(f"rcnn.{name} does not exist yet")
    loaded = python(f"import sys, {', '.join(quick)}\nprint(*sys.modules)").split()
    assert quick[0] in loaded
    assert not {"torch", "torchvision", "sklearn", "skimage", "cv2"} & set(loaded)


def test_stages_can_be_imported_without_their_methods_libraries() -> None:
    stages = [module_name(file) for file in package_files() if file.parts[0] == "stages"]
    blocked = "sys.modules.update(dict.fromkeys(['cv2', 'sklearn', 'skimage']))"
    loaded = python(f"import sys\n{blocked}\nimport {', '.join(stages)}\nprint(*sys.modules)").split()
    assert set(stages) <= set(loaded)
