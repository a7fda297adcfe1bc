"""Supervised pre-training of a backbone on labelled images (R-CNN, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from ...errors import UserError
from ..record import Record, Records
from ..stage import Checkpoint, Stage
from .images import all_fit, remembered
from .memory import reuse_freed_memory
from .precision import device_of, low_precision, precision_of


class Pretraining(Stage):
    """Train a backbone to tell the class of a whole image; gives a state, `weights=Ref("pretrain")`.

    backbone: as nets.backbones.load takes it; trained from random weights, batch norms too.
    epochs: passes over the images.
    batch: images in a step.
    lr, drop_epochs: the rate, and after how many passes it is multiplied by 0.1.
    momentum, decay: of the descent.
    dropout: of fc6 and fc7, where the net has them; 0.5.
    shift: pixels by which an image is moved at most in training, its edges repeated; it is also mirrored.
    random_state: of initial weights, order, shifts, mirroring and dropout.
    memory: GB of images, as bytes at the backbone's input size, that are kept; 4.0.
    device: "auto", "cpu", "cuda" or "cuda:N".

    Learns from image and the first of truth_labels. Learns net_ (a Classifier of records.classes) and history_ (the
    loss of each step).
    """

    needs = ("image",)
    learns = ("truth_labels",)
    speed: ClassVar[tuple[str, ...]] = ("device", "memory")
    arrays: ClassVar[str] = "torch"
    rounds: ClassVar[str] = "epochs"

    def __init__(self, backbone: str = "alexnet", epochs: int = 90, batch: int = 128, lr: float = 0.01,
                 drop_epochs: int = 30, momentum: float = 0.9, decay: float = 5e-4,
                 dropout: float = 0.5, shift: int = 16, random_state: int = 0, memory: float = 4.0,
                 device: str = "auto"):  # fmt: skip
        self.backbone = backbone
        self.epochs = epochs  # Krizhevsky et al. 2012, section 5: about 90
        self.batch = batch  # the same
        self.lr = lr  # the same
        self.drop_epochs = drop_epochs  # three times in 90, when it no longer helped
        self.momentum = momentum  # the same, section 5
        self.decay = decay  # the same
        self.dropout = dropout  # the same, section 4.2
        self.shift = shift  # the same, section 4.1: 224 of 256 pixels, and reflections
        self.random_state = random_state
        self.memory = memory
        self.device = device

    def key_params(self) -> dict[str, Any]:
        return {**super().key_params(), "precision": precision_of("auto", self.device)}

    def work(self, images: int) -> float:
        return self.epochs * -(-images // self.batch) * self.batch

    def validate(self) -> None:
        from . import sgd
        from .backbones import check

        check(self.backbone)
        for name in ("epochs", "batch", "drop_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1")
        if self.shift < 0:
            raise ValueError(f"shift is {self.shift}; it is at least 0")
        sgd.check(self)

    def fit(self, records: Records, checkpoint: Checkpoint) -> None:
        import torch

        from .sgd import batch_of, sgd

        if not len(records):
            raise UserError("Pretraining was given no images")
        self.net_ = self._classifier(len(records.classes))
        device = device_of(self.device)
        if device.type == "cpu":
            reuse_freed_memory()
        net = self.net_.to(device, memory_format=torch.channels_last)
        net.backbone.frozen_norms = False  # they have no statistics worth keeping yet
        net.train()
        side = net.backbone.input_size
        images = remembered(lambda i: _resized(records[i]["image"], side), len(records), self.memory)
        # N; images are read in their order while they last, for crops of one scene follow one another
        labels = _labels(records, images if all_fit(images, len(records)) else lambda i: None)
        passes = -(-len(labels) // self.batch)  # steps in a pass

        def loss(step: int, generator: Any) -> Any:
            indices = batch_of(step, self.batch, len(labels), self.random_state)
            x = torch.stack([images(i) for i in indices.tolist()])  # N 3 S S
            x = net.backbone.normalise(_moved(x, self.shift, generator).to(device))
            masks = net.masks(len(x), self.dropout, generator)
            with low_precision(self.device):
                scores = net(x, {name: mask.to(device) for name, mask in masks.items()})  # N K
            yield torch.nn.functional.cross_entropy(scores.float(), labels[indices].to(device))

        self.history_ = sgd(net, loss, checkpoint, steps=passes * self.epochs, lr=self.lr,
                            drop_every=passes * self.drop_epochs, momentum=self.momentum,
                            decay=self.decay, random_state=self.random_state)  # fmt: skip
        self.net_ = net.eval().cpu()

    def build_modules(self, state: Mapping[str, Any]) -> None:
        self.net_ = self._classifier(len(state["net_.classifier.weight"])).eval()

    def _classifier(self, classes: int) -> Any:
        import torch

        from .backbones import Classifier, load

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            return Classifier(load(self.backbone, None, self.random_state), classes)


def _labels(records: Records, read: Callable[[int], Any]) -> Any:
    """The classes, 0..K-1, of all images (N); each is read on the way."""
    import torch

    labels = []
    for i, record in enumerate(records):
        labels.append(_label(record, len(records.classes)) - 1)
        read(i)
    return torch.tensor(labels)


def _moved(images: Any, shift: int, generator: Any) -> Any:
    """Images (N 3 S S) each moved by up to `shift` pixels, its edges repeated, and every second one mirrored."""
    import torch

    side = images.shape[-1]
    mirror = torch.rand(len(images), generator=generator) < 0.5
    corners = torch.randint(0, 2 * shift + 1, (len(images), 2), generator=generator).tolist()
    padded = torch.nn.functional.pad(images, (shift,) * 4, mode="replicate")
    moved = torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(padded, corners)])
    return torch.where(mirror[:, None, None, None], moved.flip(3), moved)


def _label(record: Record, classes: int) -> int:
    labels = record["truth_labels"]
    if not len(labels) or not 1 <= labels[0] <= classes:
        raise UserError(f"image {record.id!r} has no class between 1 and {classes} for Pretraining to learn")
    return int(labels[0])


def _resized(image: np.ndarray, side: int) -> Any:
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1)  # 3 H W
    if pixels.shape[1:] == (side, side):
        return pixels
    return interpolate(pixels[None], (side, side), mode="bilinear", antialias=True)[0]
