"""Region proposal networks (Ren, He, Girshick, Sun: Faster R-CNN, NIPS 2015, TPAMI 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from ...errors import UserError
from ..boxes import LARGEST_GROWTH, clip, decode, encode
from ..nets.frozen import built
from ..nets.maps import Seen, check_maps, levels_of, seen
from ..nets.member import Member
from ..nets.precision import PRECISIONS, precision_of
from ..nets.rois import draw
from ..record import Lazy, Record
from ..sample import truth_overlaps, usable_truths
from ..stage import Ref
from .anchors import RATIOS, SIDES, STYLES, anchors_on, base_anchors, inside, label_anchors

SCORES = {"softmax": 2, "sigmoid": 1}  # values an anchor
NORMALISED = ("paper", "sampled")
AHEAD = 4  # times as many boxes as are wanted enter suppression first


class Limits(NamedTuple):
    """How many of the best boxes of each map enter suppression, and are given; its IoU; least side in pixels."""

    pre_nms: int
    top: int
    nms: float | None
    min_side: float


def propose(anchors: Sequence[Any], scores: Sequence[Any], deltas: Sequence[Any], size: Sequence[int],
            limits: Limits) -> tuple[Any, Any]:  # fmt: skip
    """Proposals (R 4) and their scores (R), best first, from anchors (n 4), scores (n) and deltas (n 4) of each map.

    size: (H, W); boxes are cut at its border, and suppressed map by map. Tensors in and out.
    """
    import torch

    found = []
    for places, values, moves in zip(anchors, scores, deltas, strict=True):
        high, best = values.topk(min(limits.pre_nms, len(values)))
        boxes = clip(decode(places[best], moves[best], LARGEST_GROWTH), size)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= limits.min_side).all(1)
        boxes, high = boxes[large], high[large]
        kept = slice(limits.top) if limits.nms is None else first_unsuppressed(boxes, high, limits.nms, limits.top)
        found.append((boxes[kept], high[kept]))
    boxes, high = (torch.cat(each) for each in zip(*found))
    order = high.sort(descending=True, stable=True).indices[: limits.top]
    return boxes[order], high[order]


def first_unsuppressed(boxes: Any, scores: Any, threshold: float, top: int) -> Any:
    """Indices of the `top` best boxes that greedy suppression leaves; scores fall.

    Whether a box stays follows from better ones alone, so that first some are looked at, and all only if too few stay.
    """
    from torchvision.ops import nms

    some = AHEAD * top
    if 2 * some <= len(boxes):
        kept = nms(boxes[:some], scores[:some], threshold)
        if len(kept) >= top:
            return kept[:top]
    return nms(boxes, scores, threshold)[:top]


class RPN(Member):
    """Proposals by a small net that slides over the shared map and refines anchors.

    weights: Ref of the Jointly that trains it.
    maps: the fields to read: map alone, or levels map.p2, map.p3 .. of FPN.
    sides, ratios: of anchors: square roots of their areas in pixels of what the net sees, and heights to widths; 128,
        256, 512 and 1:2, 1:1, 2:1 (section 3.1.1).
    side_per_map: whether each map has the one side of its place among `sides` (FPN, section 4.1: 32 to 512 on P2 to
        P6), or all of them; False.
    anchor_style: "paper", or "torchvision", whose anchors are rounded to whole pixels and centred on cells' corners.
    width: channels of the 3 x 3 convolution; 512 (256 for ZF).
    norm: root of the mean square that the maps are scaled to before that convolution, by one number; None leaves them.
        Its weights begin so small (3.1.3) that on maps under 1 it learns slowly.
    score: "softmax" over object and background, as the paper, or "sigmoid".
    positive_iou, negative_iou: 0.7 and 0.3. best_positive: whether the best anchors of a truth are objects too (3.1.2).
    cross_border: whether anchors that the image's border cuts are learned from; False (3.1.3).
    sample, share: anchors that an image's loss is over, and the share of objects among them at most; 256 and 0.5.
    balance: lambda, the weight of the box loss; 10 (3.1.2).
    normalise: "paper": the class loss over the sample, the box loss over the places of the maps; "sampled": both over
        the sample, as later code, where a balance of 1 is usual.
    beta: where smooth L1 turns linear; 1 (as Fast R-CNN), 1/9 in the authors' and later code.
    pre_nms, top: boxes of each map that enter suppression at most, and boxes that are given; 6000 and 300 (section 4).
    nms: IoU above which the worse of two boxes of a map is suppressed; 0.7. None: none is.
    min_side: of a box, in pixels of the image; 16 (the authors' code).
    train_pre_nms, train_top, train_nms, train_min_side: the same in training; 12000, 2000, 0.7 and 16.
    classify, regress: at use, whether scores rank the boxes, or chance does, and whether anchors are moved; True (table
        2, where without scores there is no suppression).
    difficult: whether objects marked difficult are learned from.
    precision: "bfloat16" or "float32"; "auto". device: "auto", "cpu", "cuda" or "cuda:N".
    random_state: of the initial weights, and of the ranks without scores.

    Reads the maps, map_scales, image_scales and size; writes boxes (R 4) and objectness (R, 0 to 1), best first, on the
    device.
    """

    gives = ("boxes", "objectness")
    speed: ClassVar[tuple[str, ...]] = ("device",)
    losses: ClassVar[tuple[str, ...]] = ("class", "box")
    new: ClassVar[bool] = True
    at_use: ClassVar[tuple[str, ...]] = ("precision", "pre_nms", "top", "nms", "min_side", "classify", "regress")

    def __init__(self, weights: Ref | None = None, *, maps: Sequence[str] = ("map",),
                 sides: Sequence[float] = SIDES, ratios: Sequence[float] = RATIOS,
                 side_per_map: bool = False, anchor_style: str = "paper", width: int = 512,
                 norm: float | None = None, score: str = "softmax",
                 positive_iou: float = 0.7, negative_iou: float = 0.3, best_positive: bool = True,
                 cross_border: bool = False, sample: int = 256, share: float = 0.5, balance: float = 10.0,
                 normalise: str = "paper", beta: float = 1.0, pre_nms: int = 6000, top: int = 300,
                 nms: float | None = 0.7, min_side: float = 16.0, train_pre_nms: int = 12_000, train_top: int = 2000,
                 train_nms: float | None = 0.7, train_min_side: float = 16.0, classify: bool = True,
                 regress: bool = True, difficult: bool = True, precision: str = "auto", device: str = "auto",
                 random_state: int = 0):  # fmt: skip
        self.weights = weights
        self.maps = maps
        self.sides = sides
        self.ratios = ratios
        self.side_per_map = side_per_map
        self.anchor_style = anchor_style
        self.width = width
        self.norm = norm
        self.score = score
        self.positive_iou = positive_iou
        self.negative_iou = negative_iou
        self.best_positive = best_positive
        self.cross_border = cross_border
        self.sample = sample
        self.share = share
        self.balance = balance
        self.normalise = normalise
        self.beta = beta
        self.pre_nms = pre_nms
        self.top = top
        self.nms = nms
        self.min_side = min_side
        self.train_pre_nms = train_pre_nms
        self.train_top = train_top
        self.train_nms = train_nms
        self.train_min_side = train_min_side
        self.classify = classify
        self.regress = regress
        self.difficult = difficult
        self.precision = precision
        self.device = device
        self.random_state = random_state

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*self.maps, "map_scales", "image_scales", "size")

    def key_params(self) -> dict[str, Any]:
        return {**super().key_params(), "precision": precision_of(self.precision, self.device)}

    def validate(self) -> None:
        check_maps(self.maps)
        if list(self.maps) != ["map"] and not levels_of(self.maps):
            raise ValueError(f"maps is {list(self.maps)}; it is map alone, or levels such as map.p2 and map.p3")
        for name in ("sides", "ratios"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} is {list(getattr(self, name))}; it holds numbers above 0")
        if self.side_per_map and len(self.sides) != len(self.maps):
            raise ValueError(
                f"sides has {len(self.sides)} for {len(self.maps)} maps; with side_per_map each has its own"
            )
        known = {"anchor_style": STYLES, "score": SCORES, "normalise": NORMALISED, "precision": PRECISIONS}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(values)}")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if not 0 <= self.negative_iou <= self.positive_iou <= 1:
            raise ValueError(f"negative_iou is {self.negative_iou}; it is in [0, positive_iou], {self.positive_iou}")
        for name in ("width", "sample", "pre_nms", "top", "train_pre_nms", "train_top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; it is in (0, 1]")
        if round(self.sample * self.share) < 1:
            raise ValueError(f"sample is {self.sample}: no object would ever be drawn")
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}; it is above 0")
        if self.norm is not None and not self.norm > 0:
            raise ValueError(f"norm is {self.norm}; it is above 0, or None")
        for name in ("balance", "min_side", "train_min_side"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 0")
        for name in ("nms", "train_nms"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is in [0, 1], or None")

    @property
    def anchors_a_cell(self) -> int:
        return len(self.ratios) * (1 if self.side_per_map else len(self.sides))

    # -- training --------------------------------------------------------------------------------------

    def module(self, weights: Any, like: Mapping[str, Any], classes: int) -> Any:
        import torch

        from ..nets.layers import RPNHead

        if weights:
            return self._filled(weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            net = RPNHead(len(like[self.maps[0]]), self.width, self.anchors_a_cell, SCORES[self.score])
        if self.norm:
            square = float(torch.cat([like[name].float().flatten() for name in self.maps]).square().mean())
            net.scale.fill_(self.norm / square**0.5 if square > 0 else 1.0)
        return net

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch

        found = [net(fields[name]) for name in self.maps]
        view = seen(fields, fields["size"])
        anchors = self._anchors(fields, view)
        plain = [(logits.detach(), deltas.detach()) for logits, deltas in found]
        logits, deltas = (torch.cat(each) for each in zip(*found))
        labels, targets = self._targets(np.concatenate(anchors), fields, view)
        chosen = draw(np.flatnonzero(labels == 1), np.flatnonzero(labels == 0), self.sample, self.share, generator)
        losses = {
            "class": self._class_loss(logits, labels, chosen),
            "box": self.balance * self._box_loss(deltas, targets, chosen[labels[chosen] == 1], len(chosen)),
        }
        return losses, {"boxes": Lazy(partial(self._train_boxes, plain, anchors, view), bytes)}

    def _train_boxes(self, found: Sequence[tuple[Any, Any]], anchors: Sequence[Any], view: Seen) -> Any:
        """Proposals (R 4) as members after it learn from them."""
        limits = Limits(self.train_pre_nms, self.train_top, self.train_nms, self.train_min_side)
        ranked = [(self._odds(logits), deltas) for logits, deltas in found]
        return self._proposed(ranked, anchors, view, limits)[0].cpu().numpy()

    def _targets(self, anchors: Any, fields: Mapping[str, Any], view: Seen) -> tuple[Any, Any]:
        """Labels (n: 1, 0, -1) of anchors (n 4), and the deltas (n 4) of those that are objects.

        Anchors across the border, where they do not count, are no truth's best either, as in the authors' code.
        """
        usable = usable_truths(fields, self.difficult)
        truth = fields["truth_boxes"] * np.tile(view.enlarged[0], 2).astype(np.float32)  # as the net sees it
        labels, targets = np.full(len(anchors), -1, np.int64), np.zeros((len(anchors), 4), np.float32)
        counted = np.flatnonzero(np.ones(len(anchors), bool) if self.cross_border else inside(anchors, view.size))
        own, best = label_anchors(anchors[counted], truth[usable], self.positive_iou, self.negative_iou,
                                  self.best_positive)  # fmt: skip
        if not usable.all():  # what lies on a crowd, or on what does not count, is no background
            others = truth_overlaps(anchors[counted], truth, fields["truth_crowd"])[:, ~usable].max(1, initial=0)
            own[(own == 0) & (others >= self.negative_iou)] = -1
        labels[counted] = own
        objects = counted[own == 1]
        targets[objects] = encode(anchors[objects], truth[usable][best[own == 1]])
        return labels, targets

    def _class_loss(self, logits: Any, labels: Any, chosen: Any) -> Any:
        """Mean over the sample; 0 without one."""
        import torch
        import torch.nn.functional as F

        mine = logits[torch.from_numpy(chosen).to(logits.device)]
        wanted = torch.from_numpy(labels[chosen]).to(logits.device)
        if not len(wanted):
            return logits.sum() * 0
        if self.score == "softmax":
            return F.cross_entropy(mine, wanted)
        return F.binary_cross_entropy_with_logits(mine[:, 0], wanted.to(logits))

    def _box_loss(self, deltas: Any, targets: Any, objects: Any, sampled: int) -> Any:
        """Smooth L1 over the sampled objects, normalised as `normalise` says."""
        import torch
        import torch.nn.functional as F

        mine = deltas[torch.from_numpy(objects).to(deltas.device)]
        wanted = torch.from_numpy(targets[objects]).to(deltas)
        over = len(deltas) / self.anchors_a_cell if self.normalise == "paper" else max(sampled, 1)
        return F.smooth_l1_loss(mine, wanted, beta=self.beta, reduction="sum") / over

    # -- use -------------------------------------------------------------------------------------------

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        import torch

        if self.weights is None:
            raise UserError("RPN has learned nothing: a Jointly trains it, and weights is its Ref")
        net = built(self, self._made)
        place = net.conv.weight
        given = []
        for record in records:
            view = seen(record, record["size"])
            with torch.no_grad():
                found = [net(torch.as_tensor(record[name]).to(place)) for name in self.maps]
                ranked = [self._ranked(i, logits, deltas, record.id) for i, (logits, deltas) in enumerate(found)]
                limits = Limits(self.pre_nms, self.top, self.nms, self.min_side)
                boxes, odds = self._proposed(ranked, self._anchors(record, view), view, limits)
            given.append({"boxes": boxes, "objectness": odds.sigmoid()})
        return given

    def _odds(self, logits: Any) -> Any:
        """Log odds (n) that an anchor is an object."""
        return logits[:, 1] - logits[:, 0] if self.score == "softmax" else logits[:, 0]

    def _ranked(self, number: int, logits: Any, deltas: Any, id: str) -> tuple[Any, Any]:
        """Log odds and deltas of a map, as far as `classify` and `regress` let them count; chance is an image's own."""
        odds = self._odds(logits)
        if not self.classify:
            chance = np.random.default_rng([self.random_state, number, *id.encode()]).random(len(odds))
            odds = odds.new_tensor(chance).logit()
        return odds, deltas if self.regress else deltas * 0

    def _anchors(self, fields: Mapping[str, Any], view: Seen) -> list[Any]:
        """Of each map its anchors (n 4), in pixels of what the net sees."""
        cells = [tuple(fields[name].shape[1:]) for name in self.maps]
        strides = [view.strides[0]] if list(self.maps) == ["map"] else [2**level for level in levels_of(self.maps)]
        return anchors_of(tuple(self.sides), tuple(self.ratios), self.side_per_map, self.anchor_style, tuple(cells),
                          tuple(float(stride) for stride in strides))  # fmt: skip

    def _proposed(self, ranked: Sequence[tuple[Any, Any]], anchors: Sequence[Any], view: Seen,
                  limits: Limits) -> tuple[Any, Any]:  # fmt: skip
        """Boxes (R 4) in pixels of the image, and their log odds (R), from odds and deltas of each map."""
        import torch

        odds, deltas = zip(*ranked)
        places = [torch.from_numpy(one).to(deltas[0].device) for one in anchors]
        least = limits.min_side * float(np.sqrt(view.enlarged[0].prod()))
        boxes, high = propose(places, odds, deltas, view.size, limits._replace(min_side=least))
        by = torch.tensor(view.enlarged[0], dtype=torch.float32, device=boxes.device).repeat(2)
        return boxes / by, high

    def _made(self, state: Any) -> Any:
        net = self._filled(state).requires_grad_(False)
        net.conv.weight.mul_(net.scale)  # alone it would be rounded with them, to bfloat16 say
        net.scale.fill_(1)
        return net

    def _filled(self, state: Any) -> Any:
        import torch

        from ..nets.layers import RPNHead

        width, channels = state["conv.weight"].shape[:2]
        anchors = len(state["deltas.weight"]) // 4
        net = RPNHead(channels, width, anchors, len(state["scores.weight"]) // anchors)
        whole = {"scale": 1.0, **state}  # which RUNs from before `norm` have not
        net.load_state_dict({name: torch.as_tensor(value) for name, value in whole.items()})
        return net


@lru_cache(maxsize=16)
def anchors_of(sides: tuple[float, ...], ratios: tuple[float, ...], side_per_map: bool, style: str,
               cells: tuple[tuple[int, int], ...], strides: tuple[float, ...]) -> list[Any]:  # fmt: skip
    """The anchors of maps of so many cells (h, w), so many pixels apart, n 4 each; not to be changed.

    In the style "torchvision" the cells of a coarser level are as far apart as the first level's extent has room for.
    """
    found = []
    for i, ((rows, columns), stride) in enumerate(zip(cells, strides)):
        apart = (stride, stride)
        if style == "torchvision":
            apart = (cells[0][1] * strides[0] // columns, cells[0][0] * strides[0] // rows)
        base = base_anchors(sides[i : i + 1] if side_per_map else sides, ratios, style)
        found.append(anchors_on(base, (rows, columns), apart, style))
    return found
