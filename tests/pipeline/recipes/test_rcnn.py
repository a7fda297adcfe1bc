"""The recipe of R-CNN: what its parameters put in the row, and pre-training on a user's own labelled images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rcnn.pipeline.recipes import rcnn
from rcnn.pipeline.run import Run
from rcnn.stages.datasets.shapes import Shapes
from rcnn.stages.stage import Ref


def names(**params: object) -> list[str]:
    return [step.name for step in rcnn(**params)]  # type: ignore[arg-type]


def test_the_row_of_the_paper() -> None:
    plain = ["proposals", "features", "truth_features", "fc", "truth_fc", "classifier", "regressor", "suppression"]
    assert names() == plain
    assert names(finetune=True) == [plain[0], "finetune", *plain[1:]]
    assert names(layer="pool5", box_regression=False) == ["proposals", "features", "truth_features", "classifier",
                                                          "suppression"]  # fmt: skip


def test_all_that_runs_the_net_takes_what_was_fine_tuned() -> None:
    model = rcnn(finetune=True, weights=None)
    assert model.stage("finetune").get_params()["weights"] is None
    assert [model.stage(name).get_params()["weights"] for name in ("features", "fc")] == [Ref("finetune")] * 2


def test_fine_tuning_takes_what_was_pre_trained() -> None:
    model = rcnn(backbone="shapenet", finetune=True)
    assert model.stage("finetune").get_params()["weights"] == Ref("pretrain")


def labelled(folder: Path) -> Path:
    """Two classes of images, one of them cut short."""
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 190)):
        (folder / label).mkdir(parents=True)
        for i in range(4):
            image = np.clip(rng.normal(level, 20, (70, 80, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(folder / label / f"{i}.jpg")
    short = folder / "dark" / "3.jpg"
    short.write_bytes(short.read_bytes()[:-400])
    return folder


def test_pre_training_on_labelled_images_of_ones_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = rcnn(backbone="shapenet", pretrain=f"labelled:{labelled(tmp_path / 'images')}", finetune=True, proposals=30)
    model.set_params(pretrain__epochs=1, pretrain__batch=4, finetune__steps=2, finetune__positives=2,
                     finetune__negatives=2)  # fmt: skip
    run = Run(model, cache=tmp_path / "cache", jobs=1, device="cpu")
    run.fit(Shapes(3), ["features.pool5"])
    assert model.stage("pretrain").state()["net_.classifier.weight"].shape[0] == 2
    assert len(model.stage("finetune").history_) == 2
    assert "step 'pretrain': left out of its data: 1" in caplog.text
    assert "dark/3.jpg" in caplog.text
    (record, *_) = run.over(Shapes(3), ["features.pool5"])
    assert np.isfinite(record["features.pool5"]).all()
