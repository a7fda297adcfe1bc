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
