"""Fixtures of all tests. Real data and weights are found through --data-root and never needed."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--data-root", default=None, help="folder with data/ and weights/ for realdata tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    root = config.getoption("--data-root")
    if root and Path(root, "data").is_dir():
        return
    why = f"no data/ below --data-root {root}" if root else "no --data-root given"
    for item in items:
        if "realdata" in item.keywords:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.fixture
def data_root(request: pytest.FixtureRequest) -> Path:
    return Path(request.config.getoption("--data-root"))


@pytest.fixture(scope="session")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file of structured edges that EdgeBoxes can read: an edge is where the gradient is large.

    Two trees of three nodes. The root asks for the gradient's magnitude, normalised, in the middle of a patch of
    32 x 32 pixels; of its leaves one says nothing and one marks the four pixels in the middle of the inner 16 x 16.
    """
    half, inner, channels, magnitude = 16, 16, 10, 3  # patches are seen at half size; of 13 channels 3 is the magnitude
    options = {
        "stride": 2,
        "shrinkNumber": 2,
        "patchSize": 32,
        "patchInnerSize": inner,
        "numberOfGradientOrientations": 4,
        "gradientSmoothingRadius": 0,
        "regFeatureSmoothingRadius": 2,
        "ssFeatureSmoothingRadius": 8,
        "gradientNormalizationRadius": 4,
        "selfsimilarityGridSize": 5,
        "numberOfTrees": 2,
        "numberOfTreesToEvaluate": 1,
    }
    middle = [z * inner**2 + y * inner + x for z in range(channels) for y in (7, 8) for x in (7, 8)]
    bins = middle * 4  # each vote is a 32nd; together they make an edge of about 1
    feature = magnitude * half**2 + half // 2 * half + half // 2
    trees = {
        "childs": [[2, 0, 0]] * 2,
        "featureIds": [[feature, 0, 0]] * 2,
        "thresholds": [[1.0, 0.0, 0.0]] * 2,
        "edgeBoundaries": [[0, 0, 0], [len(bins)] * 3 + [2 * len(bins)]],  # where the bins of each node begin
        "edgeBins": [bins] * 2,
    }
    lines = ["%YAML:1.0", "---", "options:", *(f"   {name}: {value}" for name, value in options.items())]
    for name, lists in trees.items():
        lines += [f"{name}:", *(f"   - {numbers}" for numbers in lists)]
    path = tmp_path_factory.mktemp("forest") / "model.yml"
    path.write_text("\n".join(lines) + "\n")
    return path
