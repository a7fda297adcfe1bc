"""Pre-training on drawn images, its state in a backbone, and resumption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.stages.features.warp import WarpedCNN
from rcnn.stages.nets.backbones import load
from rcnn.stages.nets.pretrain import Pretraining, _moved
from rcnn.stages.record import Record, RecordList
from rcnn.stages.stage import NoCheckpoint, Ref, State

CLASSES = ("bars", "columns", "dark")


def picture(label: int, rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """Horizontal bars, vertical bars, or nothing, in noise."""
    y, x = np.mgrid[:side, :side]
    wave = (np.sin(y / 3 + rng.uniform(0, 6)), np.sin(x / 3 + rng.uniform(0, 6)), 0 * x - 0.5)[label - 1]
    return np.clip(128 + 60 * wave[..., None] + rng.normal(0, 25, (side, side, 3)), 0, 255).astype(np.uint8)


def records(count: int, seed: int = 0, side: int = 64) -> RecordList:
    rng = np.random.default_rng(seed)
    labels = [1 + i % 3 for i in range(count)]
    fields = [{"image": picture(label, rng, side), "truth_labels": np.array([label, 1])} for label in labels]
    return RecordList([Record(f"{i:04}", of_image) for i, of_image in enumerate(fields)], CLASSES)


QUICK = {"backbone": "shapenet", "epochs": 2, "batch": 16, "lr": 0.01, "shift": 4, "device": "cpu"}


@pytest.fixture(scope="module")
def trained() -> Pretraining:
    stage = Pretraining(**QUICK)
    stage.validate()
    stage.fit(records(150), NoCheckpoint())
    return stage


def test_it_tells_new_images_apart(trained: Pretraining) -> None:
    new = records(60, seed=1)
    x = torch.stack([torch.tensor(r["image"]).permute(2, 0, 1) for r in new])
    with torch.no_grad():
        told = trained.net_(trained.net_.backbone.normalise(x)).argmax(1) + 1
    assert (told == torch.tensor([r["truth_labels"][0] for r in new])).float().mean() > 0.9
    assert trained.history_.shape == (20,)
    assert not trained.net_.training


def test_its_state_is_a_backbones_weights(trained: Pretraining) -> None:
    state = trained.state()
    net = load("shapenet", state)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.trunk(x), trained.net_.backbone.trunk(x))
    warped = WarpedCNN("shapenet", Ref("pretrain"), device="cpu")
    warped.bind("weights", lambda: state, "key")
    image = Record("a", {"image": records(1)[0]["image"], "boxes": np.array([[2, 2, 40, 40]], np.float32)})
    assert warped([image])[0]["features.pool5"].abs().sum() > 0


def test_state_and_back(trained: Pretraining) -> None:
    again = Pretraining(**QUICK)
    again.load_state(trained.state())
    x = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        x = again.net_.backbone.normalise(x)
        assert torch.equal(again.net_(x), trained.net_(x))


def test_same_seed_same_net() -> None:
    nets = []
    for seed in (0, 0, 1):
        stage = Pretraining(**{**QUICK, "epochs": 1}, random_state=seed)
        stage.fit(records(32), NoCheckpoint())
        nets.append(stage.net_.classifier.weight)
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_killed_and_resumed_is_the_same() -> None:
    class Once(NoCheckpoint):
        state: State | None = None

        def load(self) -> State | None:
            return self.state

        def save(self, make, *, now: bool = False) -> None:  # type: ignore[no-untyped-def]
            if self.state is None:
                self.state = {name: torch.as_tensor(value).clone() for name, value in make().items()}
                raise KeyboardInterrupt

    whole, part, once = Pretraining(**QUICK), Pretraining(**QUICK), Once()
    whole.fit(records(32), NoCheckpoint())
    with pytest.raises(KeyboardInterrupt):
        part.fit(records(32), once)
    part.fit(records(32), once)
    assert all(torch.equal(a, b) for a, b in zip(whole.net_.state_dict().values(), part.net_.state_dict().values()))
    assert np.array_equal(whole.history_, part.history_)


def test_augmentation_only_moves_and_mirrors() -> None:
    images = torch.arange(2 * 3 * 8 * 8, dtype=torch.uint8).view(2, 3, 8, 8)
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(_moved(images, 1, generator)[1].flatten().tolist()) for _ in range(200)}
    padded = np.pad(images[1].numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
    views = [padded[:, y : y + 8, x : x + 8][:, :, ::step] for y in range(3) for x in range(3) for step in (1, -1)]
    assert seen == {tuple(view.flatten().tolist()) for view in views}
    assert torch.unique(torch.stack([_moved(images, 0, generator) for _ in range(20)]), dim=0).shape[0] == 4


def test_images_of_another_size_are_resized() -> None:
    stage = Pretraining(**{**QUICK, "epochs": 1})
    stage.fit(records(16, side=90), NoCheckpoint())
    assert np.isfinite(stage.history_).all()


def test_no_class_is_told() -> None:
    image = picture(1, np.random.default_rng(0))
    for labels in ([], [4], [0]):
        one = RecordList([Record("x/1", {"image": image, "truth_labels": np.array(labels, np.int64)})], CLASSES)
        with pytest.raises(UserError, match="'x/1' has no class between 1 and 3"):
            Pretraining(**QUICK).fit(one, NoCheckpoint())
    with pytest.raises(UserError, match="no images"):
        Pretraining(**QUICK).fit(RecordList([], CLASSES), NoCheckpoint())


@pytest.mark.parametrize(
    "params",
    [
        {"backbone": "shapnet"},
        {"epochs": 0},
        {"lr": 0.0},
        {"shift": -1},
        {"batch": 0},
        {"drop_epochs": 0},
        {"dropout": 1.0},
        {"memory": 0.0},
    ],
)
def test_parameters_that_cannot_be_meant(params: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(params)))):
        Pretraining(**params).validate()


def test_images_that_do_not_fit_in_memory_are_read_again(trained: Pretraining) -> None:
    stage = Pretraining(**QUICK, memory=1e-6)  # room for less than one
    stage.fit(records(150), NoCheckpoint())
    assert np.array_equal(stage.history_, trained.history_)


def test_a_net_with_batch_norms_learns_them() -> None:
    """From random weights frozen norms are none: the loss of such a net is not finite within three steps."""
    stage = Pretraining("resnet18", epochs=1, batch=8, lr=0.01, device="cpu")
    stage.fit(records(24), NoCheckpoint())
    assert np.isfinite(stage.history_).all()
    state = stage.state()
    assert state["net_.backbone.trunk.bn1.running_mean"].abs().max() > 0
    assert load("resnet18", state).trunk.bn1.running_mean.equal(state["net_.backbone.trunk.bn1.running_mean"])
