"""The losses of a training, as a picture."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rcnn.errors import UserError
from rcnn.pipeline import loss_plots


def step(name: str, **learned: Any) -> Any:
    return SimpleNamespace(name=name, stage=SimpleNamespace(**learned))


def test_a_line_for_each_loss(tmp_path: Path) -> None:
    both = np.stack([np.linspace(2, 1, 80), np.linspace(1, 0.5, 80)], 1)
    run: Any = [
        step("proposals"),
        step("training", history_=both, losses=("a", "b"), rounds="steps"),
        step("net", history_=both[:, 0], rounds="epochs"),
        step("classifier", history_=both),  # of mining: no losses
    ]
    found = loss_plots.curves(run, "run")
    assert {name: list(one) for name, one in found.items()} == {"training": ["a", "b"], "net": ["loss"]}
    np.testing.assert_array_equal(found["training"]["b"], both[:, 1])
    loss_plots.draw(found, tmp_path / "a.png")
    colours = Image.open(tmp_path / "a.png").convert("RGB").getcolors(1 << 20)
    assert (
        sum(count > 200 and max(c) - min(c) > 60 for count, c in colours) == 2
    )  # the two lines' colours, in two panels


def test_a_point_is_the_mean_of_those_before_it() -> None:
    np.testing.assert_allclose(loss_plots.smoothed([4, 2, 0, 6], 2), [4, 3, 1, 3])


def test_a_run_without_descent_says_so() -> None:
    run: Any = [step("proposals")]
    with pytest.raises(UserError, match="runs/a has no losses"):
        loss_plots.curves(run, "runs/a")
