"""Region proposal networks (Ren, He, Girshick, Sun: Faster R-CNN, NIPS 2015, TPAMI 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import UserError
from ..boxes import clip, decode, encode
from ..nets.frozen import built
from ..nets.member import Member
from ..nets.precision import PRECISIONS, precision_of
from ..record import Record
from ..sample import truth_overlaps, usable_truths
from ..stage import Ref
from .anchors import anchors_on, base_anchors, inside, label_anchors

SCORES = {"softmax": 2, "sigmoid": 1}  # values an anchor
NORMALISED = ("paper", "sampled")


def propose(anchors: Any, scores: Any, deltas: Any, size: Sequence[int], *, least: float, before: int,
            threshold: float | None, top: int) -> tuple[Any, Any]:  # fmt: skip
    """Proposals (R 4) and their scores (R), best first, from anchors (n 4), scores (n) and deltas (n 4); tensors.

    size: (H, W); boxes are cut at its border. least: side in pixels under which a box is dropped. before: how many of
    the best enter suppression. threshold: IoU above which the worse of two is suppressed; None for none. top: how many
    are given.
    """
    from torchvision.ops import nms

    best = scores.topk(min(before, len(scores))).indices
    boxes, values = clip(decode(anchors[best], deltas[best]), size), scores[best]
    large = ((boxes[:, 2:] - boxes[:, :2]) >= least).all(1)
    boxes, values = boxes[large], values[large]
    kept = slice(top) if threshold is None else nms(boxes, values, threshold)[:top]
    return boxes[kept], values[kept]


class RPN(Member):
    """Proposals by a small net that slides over the shared map and refines anchors.

    weights: Ref of the Jointly that trains it.
    sides, ratios: of anchors: square roots of their areas in pixels of what the net sees, and heights to widths; 128,
        256, 512 and 1:2, 1:1, 2:1 (section 3.1.1).
    width: channels of the 3 x 3 convolution; 512 (256 for ZF).
    score: "softmax" over object and background, as the paper, or "sigmoid".
    positive_iou, negative_iou: 0.7 and 0.3. best_positive: whether the best anchors of a truth are objects too (3.1.2).
    cross_border: whether anchors that the image's border cuts are learned from; False (3.1.3).
    sample, share: anchors that an image's loss is over, and the share of objects among them at most; 256 and 0.5.
    balance: lambda, the weight of the box loss; 10 (3.1.2).
    normalise: "paper": the class loss over the sample, the box loss over the places of the map; "sampled": both over
        the sample, as later code, where a balance of 1 is usual.
    before, top: boxes that enter suppression at most, and that are given; 6000 and 300 (section 4).
    train_before, train_top: the same in training; 12000 and 2000.
    nms: IoU above which the worse of two boxes is suppressed; 0.7. None: none is.
    min_side: of a box, in pixels of what the net sees; 16.
    classify, regress: whether scores rank the boxes, or chance does; whether anchors are moved. Both True (table 2).
    difficult: whether objects marked difficult are learned from.
    precision: "bfloat16" or "float32"; "auto". device: "auto", "cpu", "cuda" or "cuda:N".
    random_state: of the initial weights.

    Reads map, map_scales, image_scales and size; writes boxes (R 4) and objectness (R), best first, on the device.
    """

    needs = ("map", "map_scales", "image_scales", "size")
    gives = ("boxes", "objectness")
    speed: ClassVar[tuple[str, ...]] = ("device",)
    losses: ClassVar[tuple[str, ...]] = ("class", "box")
    new: ClassVar[bool] = True
    at_use: ClassVar[tuple[str, ...]] = ("precision", "before", "top", "nms", "min_side", "classify", "regress")

    def __init__(self, weights: Ref | None = None, *, sides: Sequence[float] = (128.0, 256.0, 512.0),
                 ratios: Sequence[float] = (0.5, 1.0, 2.0), width: int = 512, score: str = "softmax",
                 positive_iou: float = 0.7, negative_iou: float = 0.3, best_positive: bool = True,
                 cross_border: bool = False, sample: int = 256, share: float = 0.5, balance: float = 10.0,
                 normalise: str = "paper", before: int = 6000, top: int = 300, train_before: int = 12_000,
                 train_top: int = 2000, nms: float | None = 0.7, min_side: float = 16.0, classify: bool = True,
                 regress: bool = True, difficult: bool = True, precision: str = "auto", device: str = "auto",
                 random_state: int = 0):  # fmt: skip
        self.weights = weights
        self.sides = sides
        self.ratios = ratios
        self.width = width
        self.score = score
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.best_positive = best_positive
        self.cross_border = cross_border
        self.sample = sample
        self.share = share
        self.balance = balance
        self.normalise = normalise
        self.before = before
        self.top = top
        self.train_before = train_before
        self.train_top = train_top
        self.nms = nms
        self.min_side = min_side
        self.classify = classify
        self.regress = regress
        self.difficult = difficult
        self.precision = precision
        self.device = device
        self.random_state = random_state

    def key_params(self) -> dict[str, Any]:
        return {**super().key_params(), "precision": precision_of(self.precision, self.device)}

    def validate(self) -> None:
        for name in ("sides", "ratios"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} is {list(getattr(self, name))}; it holds numbers above 0")
        for name, known in {"score": SCORES, "normalise": NORMALISED, "precision": PRECISIONS}.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(known)}")
        if not 0 <= self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(f"negative_iou is {self.negative_iou}; it is in [0, positive_iou], {self.positive_iou}")
        for name in ("width", "sample", "before", "top", "train_before", "train_top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it is in (0, 1]")
        for name in ("balance", "min_side"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 0")
        if self.nms is not None and not 0 <= self.nms <= 1:
            raise ValueError(f"nms is {self.nms}; it is in [0, 1], or None")

    # -- training --------------------------------------------------------------------------------------

    def module(self, weights: Any, like: Mapping[str, Any], classes: int) -> Any:
        import torch

        from ..nets.layers import RPNHead

        if weights:
            return self._made(weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            return RPNHead(len(like["map"]), self.width, len(self.sides) * len(self.ratios), SCORES[self.score])

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        logits, deltas = net(fields["map"])
        anchors = self._anchors(fields)
        labels, best = self._labelled(anchors, fields)
        chosen = torch.from_numpy(self._drawn(labels, generator)).to(logits.device)
        wanted = torch.from_numpy(labels).to(logits.device)[chosen]
        places = len(anchors) / (len(self.sides) * len(self.ratios))
        losses = {"class": self._class_loss(logits[chosen], wanted), "box": deltas.sum() * 0}
        mine = chosen[wanted == 1]
        if len(mine):
            at = mine.cpu().numpy()
            truth = fields["truth_boxes"][usable_truths(fields, self.difficult)][best[at]]
            targets = torch.from_numpy(encode(anchors[at], truth.astype(np.float32))).to(deltas.device)
            over = places if self.normalise == "paper" else len(chosen)
            losses["box"] = torch.nn.functional.smooth_l1_loss(deltas[mine], targets, reduction="sum") / over
        losses["box"] = losses["box"] * self.balance
        boxes, scores = self._proposed(
            logits.detach(), deltas.detach(), anchors, fields, self.train_before, self.train_top
        )
        return losses, {"boxes": boxes.cpu().numpy(), "objectness": scores}

    def _labelled(self, anchors: Any, fields: Mapping[str, Any]) -> tuple[Any, Any]:
        """Labels (n: 1, 0, -1) of anchors, and which usable truth each is nearest to."""
        usable = usable_truths(fields, self.difficult)
        labels, best = label_anchors(anchors, fields["truth_boxes"][usable], self.positive_iou, self.negative_iou,
                                     self.best_positive)  # fmt: skip
        if not usable.all():  # what lies on a crowd, or on what does not count, is no background
            others = truth_overlaps(anchors, fields["truth_boxes"], fields["truth_crowd"])[:, ~usable].max(1)
            labels[(labels == 0) & (others >= self.negative_iou)] = -1
        if not self.cross_border:
            labels[~inside(anchors, fields["size"])] = -1
        return labels, best

    def _drawn(self, labels: Any, generator: Any) -> Any:
        """Indices of the anchors that the loss is over; background fills what objects leave."""
        import torch

        objects, rest = (np.flatnonzero(labels == one) for one in (1, 0))
        few = objects[torch.randperm(len(objects), generator=generator)[: round(self.sample * self.share)].numpy()]
        return np.concatenate(
            [few, rest[torch.randperm(len(rest), generator=generator)[: self.sample - len(few)].numpy()]]
        )

    def _class_loss(self, logits: Any, wanted: Any) -> Any:
        """Mean over the sample; 0 without one."""
        import torch.nn.functional as F

        if not len(wanted):
            return logits.sum() * 0
        if self.score == "softmax":
            return F.cross_entropy(logits, wanted)
        return F.binary_cross_entropy_with_logits(logits[:, 0], wanted.to(logits))

    # -- use -------------------------------------------------------------------------------------------

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        import torch

        if self.weights is None:
            raise UserError("RPN has learned nothing: a Jointly trains it, and weights is its Ref")
        net = built(self, self._made)
        place = net.conv.weight
        found = []
        for record in records:
            with torch.no_grad():
                logits, deltas = net(torch.as_tensor(record["map"]).to(place))
                boxes, scores = self._proposed(logits, deltas, self._anchors(record), record, self.before, self.top)
            found.append({"boxes": boxes, "objectness": scores})
        return found

    def _anchors(self, fields: Mapping[str, Any]) -> Any:
        base, enlarged = base_anchors(self.sides, self.ratios), float(fields["image_scales"][0])
        return anchors_on(base, fields["map"].shape[1:], fields["map_scales"][0], (enlarged, enlarged))

    def _proposed(self, logits: Any, deltas: Any, anchors: Any, fields: Mapping[str, Any], before: int,
                  top: int) -> tuple[Any, Any]:  # fmt: skip
        import torch

        scores = logits.softmax(1)[:, 1] if self.score == "softmax" else logits[:, 0].sigmoid()
        if not self.classify:
            scores = torch.rand(len(scores), generator=torch.Generator().manual_seed(self.random_state)).to(scores)
        if not self.regress:
            deltas = torch.zeros_like(deltas)
        places = torch.from_numpy(anchors).to(deltas.device)
        size = [int(side) for side in fields["size"]]
        least = self.min_side / float(fields["image_scales"][0])
        return propose(places, scores, deltas, size, least=least, before=before, threshold=self.nms, top=top)

    def _made(self, state: Any) -> Any:
        import torch

        from ..nets.layers import RPNHead

        width, channels = state["conv.weight"].shape[:2]
        anchors = len(state["deltas.weight"]) // 4
        net = RPNHead(channels, width, anchors, len(state["scores.weight"]) // anchors)
        net.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
        return net
