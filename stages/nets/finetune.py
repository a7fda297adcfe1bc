"""Domain-specific fine-tuning: N+1-way classification of warped proposals (R-CNN, section 2.3).

Girshick et al. 2014; numbers without a section are those of the authors' released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...errors import UserError
from ..record import Records
from ..sample import row_norms, training_boxes, truth_overlaps, usable_truths
from ..stage import Checkpoint, NoCheckpoint, Ref, Stage, State
from .crops import check as check_crops
from .crops import normalised, warp, windows
from .images import remembered
from .memory import reuse_freed_memory
from .precision import device_of, low_precision, precision_of

SAMPLE = 256  # windows that the scale of the features is measured on


class Windows(NamedTuple):
    """Boxes to learn from, of all images: image N, box N 4 (pixels), label N (0 is background)."""

    image: Any
    box: Any
    label: Any

    def those(self, which: Any) -> Windows:
        return Windows(self.image[which], self.box[which], self.label[which])


def label_boxes(boxes: Any, record: Any, difficult: bool, min_iou: float) -> Any:
    """Class of each box, R: that of the object which it overlaps most, by `min_iou` or more; else 0, or -1.

    -1 is for what may show an object all the same: a box that lies, by as much, in a crowd, or on an object marked
    difficult where `difficult` is False.
    """
    usable = usable_truths(record, difficult)  # T
    near = truth_overlaps(boxes, record["truth_boxes"], record["truth_crowd"])  # R T
    label = np.where((near >= min_iou) & ~usable, -1, 0).min(1, initial=0)  # R
    if usable.any():
        best = near[:, usable].argmax(1)  # R
        found = near[:, usable][np.arange(len(boxes)), best] >= min_iou
        label[found] = record["truth_labels"][usable][best[found]]
    return label


def sample_batch(kinds: Sequence[Any], counts: Sequence[int], generator: Any) -> Any:
    """Of each kind (an array of indices) so many, alike over all of them; one may come twice."""
    import torch

    drawn = [k[torch.randint(len(k), (n,), generator=generator).numpy()] for k, n in zip(kinds, counts) if n]
    return np.concatenate(drawn)


def crop(image: Any, place: Any, side: int, net: Any, device: Any) -> Any:
    """One crop, 1 3 S S, normalised for `net`: `place` (8) is of nets.crops.windows, `image` H W 3 uint8."""
    import torch

    x0, y0, x1, y1 = place[:4]
    part = normalised(image[y0:y1, x0:x1], net.mean, net.std, device)  # not of the whole image, for one crop
    if not part.numel():
        return torch.zeros(1, 3, side, side, device=device)
    return warp(part, np.concatenate([[0, 0, x1 - x0, y1 - y0], place[4:]])[None], side)


class FineTuning(Stage):
    """Go on training a backbone, on warped proposals, to tell the classes of a data set and background.

    A proposal is of the class of the annotated box that it overlaps most, by `positive_iou` or more; the others are
    background. Annotated boxes are positives too. Boxes that lie so much in a crowd are left out.

    backbone, weights, pool, random_state: as nets.backbones.load takes them; what training starts from.
    steps: batches; 70,000.
    positives, negatives: windows of each kind in a batch, drawn from all images; 32 and 96.
    positive_iou: 0.5.
    lr: rate of the pre-trained layers, multiplied by 0.1 every `drop_every` steps; 0.001 and 20,000.
    new_rate: what the rate of the new last layer is multiplied by; 10.
    momentum, decay: of the descent; biases learn and decay as weights do (the authors' doubled the rate of biases and
        did not decay them).
    dropout: of fc6 and fc7, where the net has them; 0.5.
    frozen: names, below the trunk, of parts that stay as they are (features.0); none.
    norm: mean L2 norm that features are scaled to for the new layer, as for the SVMs; 20.
    mode, padding, size: of the crops, as WarpedCNN takes them.
    difficult: whether objects marked difficult count; True. If not, boxes on them are left out.
    memory: GB of decoded images that are kept; 2.0.
    at_once: crops whose activations are in memory at a time; None is 32 on a CPU, 128 on a GPU.
    device: "auto", "cpu", "cuda" or "cuda:N".

    Learns from image, boxes and the truth. Gives a state, `weights=Ref("finetune")`: net_ (a Classifier of K + 1
    classes, background first) and history_ (the loss of each step). UserError if no proposal is positive, or all are.
    """

    needs = ("image", "boxes")
    learns = ("truth_boxes", "truth_labels", "truth_difficult", "truth_crowd")
    speed: ClassVar[tuple[str, ...]] = ("device", "memory", "at_once")
    files: ClassVar[tuple[str, ...]] = ("weights",)
    arrays: ClassVar[str] = "torch"
    rounds: ClassVar[str] = "steps"

    def __init__(
        self,
        backbone: str = "alexnet",
        weights: str | Ref | None = None,
        *,
        steps: int = 70_000,
        positives: int = 32,  # section 2.3
        negatives: int = 96,  # section 2.3
        positive_iou: float = 0.5,  # section 2.3
        lr: float = 0.001,  # section 2.3: 1/10th of the initial pre-training rate
        drop_every: int = 20_000,
        new_rate: float = 10.0,
        momentum: float = 0.9,
        decay: float = 5e-4,
        dropout: float = 0.5,
        frozen: Sequence[str] = (),
        norm: float = 20.0,
        mode: str = "warp",  # appendix A
        padding: int = 16,  # appendix A
        size: int | None = None,
        pool: int = 6,
        difficult: bool = True,
        memory: float = 2.0,
        at_once: int | None = None,
        device: str = "auto",
        random_state: int = 0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.steps = steps
        self.positives = positives
        self.negatives = negatives
        self.positive_iou = positive_iou
        self.lr = lr
        self.drop_every = drop_every
        self.new_rate = new_rate
        self.momentum = momentum
        self.decay = decay
        self.dropout = dropout
        self.frozen = frozen
        self.norm = norm
        self.mode = mode
        self.padding = padding
        self.size = size
        self.pool = pool
        self.difficult = difficult
        self.memory = memory
        self.at_once = at_once
        self.device = device
        self.random_state = random_state

    def key_params(self) -> dict[str, Any]:
        from .backbones import weights_key

        precision = precision_of("auto", self.device)
        return {**super().key_params(), "weights": weights_key(self.backbone, self.weights), "precision": precision}

    def work(self, images: int) -> float:
        return self.steps * (self.positives + self.negatives)

    def validate(self) -> None:
        from . import sgd
        from .backbones import check, check_parts, input_size

        check(self.backbone)
        sgd.check(self)
        check_crops(self.mode, self.padding, self.size or input_size(self.backbone))
        least = {"steps": 1, "positives": 1, "negatives": 0, "drop_every": 1, "pool": 1, "at_once": 1}
        for name, bound in least.items():
            if getattr(self, name) is not None and getattr(self, name) < bound:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least {bound}")
        for name in ("new_rate", "norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is above 0")
        check_parts(self.backbone, self.frozen)
        if not 0 < self.positive_iou <= 1:
            raise ValueError(f"positive_iou is {self.positive_iou}; it is in (0, 1]")

    def named(self, param: str) -> State:
        """The tensors of the weights that `weights` names."""
        return self._backbone().state_dict()

    def fit(self, records: Records, checkpoint: Checkpoint | None = None) -> None:
        from .backbones import freeze
        from .sgd import sgd

        checkpoint = checkpoint or NoCheckpoint()
        found = self._windows(records)
        self.net_ = self._classifier(len(records.classes) + 1)
        freeze(self.net_.backbone.trunk, self.frozen)
        device = device_of(self.device)
        if device.type == "cpu":
            reuse_freed_memory()
        net = self.net_.to(device)
        images = remembered(lambda i: np.asarray(records[i]["image"]), len(records), self.memory)
        saved = checkpoint.load()
        if saved is None:  # else it comes back with the net
            net.scale.fill_(self._scale(net, images, found))

        kinds = np.flatnonzero(found.label > 0), np.flatnonzero(found.label == 0)

        def loss(step: int, generator: Any) -> Iterator[Any]:
            batch = found.those(sample_batch(kinds, (self.positives, self.negatives), generator))
            return self._losses(net.train(), images, batch, generator)

        self.history_ = sgd(net, loss, checkpoint, steps=self.steps, lr=self.lr, drop_every=self.drop_every,
                            momentum=self.momentum, decay=self.decay, rates={"classifier.": self.new_rate},
                            random_state=self.random_state)  # fmt: skip
        self.net_ = net.eval().cpu()

    def build_modules(self, state: Mapping[str, Any]) -> None:
        from .backbones import Classifier, load

        inside = {key: value for key, value in state.items() if key.startswith("net_.backbone.")}
        backbone = load(self.backbone, inside, layers=self._layers(), pool=self.pool)
        self.net_ = Classifier(backbone, len(state["net_.classifier.weight"])).eval()

    # -- what is learned from --------------------------------------------------------------------------

    def _windows(self, records: Records) -> Windows:
        """All boxes of all images with their classes; reads no image."""
        found = [self._windows_of(record) for record in records]
        counts = [len(labels) for _, labels in found]
        if not counts:
            raise UserError("FineTuning was given no images")
        image = np.repeat(np.arange(len(found)), counts)
        all_windows = Windows(image, *(np.concatenate(parts) for parts in zip(*found)))
        for what, there in (("positive", all_windows.label > 0), ("background", all_windows.label == 0)):
            if not there.any() and (what == "positive" or self.negatives):
                raise UserError(f"FineTuning: of {len(image)} boxes in {len(found)} images none is {what}")
        return all_windows

    def _windows_of(self, record: Any) -> tuple[Any, Any]:
        boxes = training_boxes(record)
        label = label_boxes(boxes, record, self.difficult, self.positive_iou)
        return boxes[label >= 0], label[label >= 0]

    # -- the net ---------------------------------------------------------------------------------------

    def _classifier(self, classes: int) -> Any:
        import torch

        from .backbones import Classifier

        backbone = self._backbone()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            net = Classifier(backbone, classes)
            torch.nn.init.normal_(net.classifier.weight, std=0.01)
            torch.nn.init.zeros_(net.classifier.bias)
        return net.to(memory_format=torch.channels_last)

    def _backbone(self) -> Any:
        from .backbones import load

        return load(self.backbone, self.given("weights"), self.random_state, self._layers(), pool=self.pool)

    def _layers(self) -> tuple[str, ...]:
        from .backbones import layers_of

        return ("pool5", "fc6", "fc7") if "fc7" in layers_of(self.backbone) else ("pool5",)

    def _scale(self, net: Any, images: Any, found: Windows) -> float:
        """What brings the features of some windows to the mean norm `norm`."""
        import torch

        rng = np.random.default_rng(self.random_state)
        some = found.those(np.sort(rng.permutation(len(found.label))[:SAMPLE]))
        norms = []
        for part in self._parts(len(some.label), net):
            with torch.no_grad(), low_precision(self.device):
                features = net.eval().backbone(self._crops(net, images, some.those(part)), [net.layer])[net.layer]
            norms.append(row_norms(features.float().cpu().numpy()))
        mean = float(np.concatenate(norms).mean())
        if not (np.isfinite(mean) and mean > 0):
            raise UserError(f"the features of {self.backbone} cannot be scaled: their mean norm is {mean}")
        return self.norm / mean

    # -- a step ----------------------------------------------------------------------------------------

    def _losses(self, net: Any, images: Any, batch: Windows, generator: Any) -> Iterator[Any]:
        """The cross entropy of a batch, in parts that add up to its mean."""
        import torch

        mirror = torch.rand(len(batch.label), generator=generator) < 0.5
        masks = net.masks(len(batch.label), self.dropout, generator)
        for part in self._parts(len(batch.label), net):
            x = self._crops(net, images, batch.those(part))  # n 3 S S
            x = torch.where(mirror[part].to(x.device)[:, None, None, None], x.flip(3), x)
            labels = torch.as_tensor(batch.label[part], device=x.device)
            with low_precision(self.device):
                scores = net(x, {name: mask[part].to(x.device) for name, mask in masks.items()})  # n K+1
            yield torch.nn.functional.cross_entropy(scores.float(), labels, reduction="sum") / len(batch.label)

    def _parts(self, count: int, net: Any) -> Iterator[slice]:
        step = self.at_once or (32 if net.scale.device.type == "cpu" else 128)
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def _crops(self, net: Any, images: Any, some: Windows) -> Any:
        """The crops (n 3 S S) of these windows, normalised, on the net's device."""
        import torch

        side = self.size or net.backbone.input_size
        crops = []
        for i, box in zip(some.image.tolist(), some.box):
            place = windows(box[None], images(i).shape[:2], side, self.padding, self.mode)[0]
            crops.append(crop(images(i), place, side, net.backbone, net.scale.device))
        return torch.cat(crops).contiguous(memory_format=torch.channels_last)
