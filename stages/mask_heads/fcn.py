"""A mask for each detection: the fully convolutional head of Mask R-CNN (He, Gkioxari, Dollar, Girshick, ICCV 2017)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from ...errors import UserError
from ..nets.frozen import built
from ..nets.member import Member
from ..nets.memory import in_batches
from ..nets.precision import check_precision, precision_of
from ..record import Record
from ..stage import Ref

SCORES = ("sigmoid", "softmax")


class MaskHead(Member):
    """K masks of each region, of which a detection takes that of its class (section 3, figure 4).

    weights: Ref of the Jointly that trains it.
    layer: the features that it reads, those of square maps, such as RoIAlign gives.
    grid: bins a side of these maps; 14 (figure 4, right). Masks are twice as wide.
    convs: 3 x 3 convolutions before the upsampling; 4 (figure 4, right; behind conv5 of a ResNet none, left).
    width: channels of these and of the upsampling; 256.
    scores: "sigmoid", each class by itself (section 3); or "softmax", over the classes and background in each cell, as
        is common for segmentation (table 2b). A cell is then of the object if that is its likeliest class (Long et
        al., FCN, 2015): p / (p + q), p its probability and q the best of the others, is above 0.5.
    norm: root of the mean square that the features are scaled to before the first layer; 3. None leaves them be.
    agnostic: whether there is one mask for all classes (section 4.1).
    kept: the labels that the detector tells, in order; none: all that it learned.
    batch: regions at once; 128.
    precision: "bfloat16" or "float32"; "auto" is bfloat16 where the device computes in it.
    device: "auto", "cpu", "cuda" or "cuda:N". random_state: of the initial weights.

    At use it reads features.LAYER (here of the detections, D F) and det_labels; writes det_masks (D m m), on the host.
    In training it learns from RoIs that are objects alone: each cell's target is whether at least half of it is of the
    object; the loss is the mean over these RoIs' cells of the cross-entropy, for a sigmoid of the mask of the RoI's
    class alone. Features may be those of all RoIs, or those of objects alone. UserError if no such maps are read.
    """

    gives = ("det_masks",)
    truth: ClassVar[tuple[str, ...]] = ("truth_masks",)
    losses: ClassVar[tuple[str, ...]] = ("mask",)
    version: ClassVar[int] = 2  # 2: of a softmax the likeliest class counts
    speed: ClassVar[tuple[str, ...]] = ("device", "batch")
    new: ClassVar[bool] = True
    at_use: ClassVar[tuple[str, ...]] = ("precision", "kept", "batch")

    def __init__(self, weights: Ref | None = None, layer: str = "pool5", grid: int = 14, convs: int = 4,
                 width: int = 256, scores: str = "sigmoid", norm: float | None = 3.0, agnostic: bool = False,
                 kept: Sequence[int] = (), batch: int = 128, precision: str = "auto", device: str = "auto",
                 random_state: int = 0):  # fmt: skip
        self.weights = weights
        self.layer = layer
        self.grid = grid
        self.convs = convs
        self.width = width
        self.scores = scores
        self.norm = norm
        self.agnostic = agnostic
        self.kept = kept
        self.batch = batch
        self.precision = precision
        self.device = device
        self.random_state = random_state

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (f"features.{self.layer}", "det_labels")

    @property
    def size(self) -> int:
        """Cells a side of the masks."""
        return 2 * self.grid

    def key_params(self) -> dict[str, Any]:
        return {**super().key_params(), "precision": precision_of(self.precision, self.device)}

    def validate(self) -> None:
        for name, least in (("grid", 1), ("convs", 0), ("width", 1), ("batch", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least {least}")
        if self.scores not in SCORES:
            raise ValueError(f"scores is {self.scores!r}; it is one of {', '.join(SCORES)}")
        if self.norm is not None and not self.norm > 0:
            raise ValueError(f"norm is {self.norm}; it is above 0, or None")
        if self.kept and min(self.kept) < 1:
            raise ValueError(f"kept is {list(self.kept)}; it holds labels, which begin with 1")
        check_precision(self.precision)

    def module(self, weights: Any, like: Mapping[str, Any], classes: int) -> Any:
        import torch

        from ..nets.layers import MaskNet

        if weights:
            return self._filled(weights)
        maps = self._maps(like[self.needs[0]], "")
        values = (1 if self.agnostic else classes) + (self.scores == "softmax")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            net = MaskNet(maps.shape[1], self.convs, self.width, values)
        square = float(maps.float().square().mean()) if len(maps) else 0.0
        if self.norm and square > 0:
            net.scale.fill_(self.norm / square**0.5)
        return net

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch
        import torch.nn.functional as F

        objects = fields["roi_labels"] > 0
        maps = self._maps(fields[self.needs[0]], "")  # of all RoIs, or of objects alone
        if not objects.any():
            return {"mask": sum(one.sum() for one in net.parameters()) * 0.0}, {}
        if len(maps) not in (len(objects), objects.sum()):
            raise UserError(f"MaskHead: {self.needs[0]} has {len(maps)} rows; there are {len(objects)} RoIs, "
                            f"{objects.sum()} of them objects")  # fmt: skip
        if len(maps) == len(objects):
            maps = maps[torch.from_numpy(objects).to(maps.device)]
        logits = net(maps).float()  # n V m m
        wanted = fields["truth_masks"].targets(
            fields["roi_objects"][objects], fields["sampled_boxes"][objects], logits.shape[-1]
        )
        target = torch.from_numpy(wanted).to(logits.device)
        label = torch.from_numpy(self._channel(fields["roi_labels"][objects])).to(logits.device)  # n
        if self.scores == "softmax":
            return {"mask": F.cross_entropy(logits, target * (label + 1)[:, None, None])}, {}
        mine = logits[torch.arange(len(logits), device=logits.device), label]
        return {"mask": F.binary_cross_entropy_with_logits(mine, target.float())}, {}

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        if self.weights is None:
            raise UserError("MaskHead has learned nothing: a Jointly trains it, and weights is its Ref")
        net = built(self, self._made)
        return [{"det_masks": self._masks(net, record)} for record in records]

    def _masks(self, net: Any, record: Record) -> Any:
        """D m m, on the host."""
        import torch

        maps = self._maps(torch.as_tensor(record[self.needs[0]]), f"image {record.id!r}: ")
        labels = np.asarray(record["det_labels"])
        told = np.asarray(self.kept)[labels - 1] if self.kept else labels
        channel = torch.from_numpy(self._channel(told))
        found = np.zeros((len(maps), self.size, self.size), np.float32)
        param = next(net.parameters())

        def rows(part: slice) -> None:
            with torch.no_grad():
                logits = net(maps[part].to(param, memory_format=torch.channels_last)).float()
            at = torch.arange(len(logits), device=logits.device)
            mine = channel[part].to(logits.device)
            if self.scores == "softmax":
                own = logits[at, mine + 1]
                logits[at, mine + 1] = -torch.inf
                odds = (own - logits.amax(1)).sigmoid()
            else:
                odds = logits[at, mine].sigmoid()
            found[part] = odds.cpu().numpy()

        in_batches(rows, len(maps), self.batch, "regions")
        return found

    def _channel(self, labels: Any) -> Any:
        """The mask of each label, from 0."""
        return labels * 0 if self.agnostic else labels - 1

    def _maps(self, features: Any, where: str) -> Any:
        """R C g g of features (R C*g*g). UserError, beginning with `where`, if they are no such maps."""
        channels, rest = divmod(features.shape[1], self.grid**2)
        if rest:
            raise UserError(f"{where}features.{self.layer} has {features.shape[1]} values a region, which are no maps "
                            f"of {self.grid} x {self.grid} cells")  # fmt: skip
        return features.unflatten(1, (channels, self.grid, self.grid))

    def _made(self, state: Any) -> Any:
        net = self._filled(state).requires_grad_(False)
        first = net.convs[0] if len(net.convs) else net.up
        first.weight.mul_(net.scale)  # alone it would be rounded with them, to bfloat16 say
        net.scale.fill_(1)
        return net

    def _filled(self, state: Any) -> Any:
        import torch

        from ..nets.layers import MaskNet

        convs = sum(name.startswith("convs.") and name.endswith("weight") for name in state)
        first = state["convs.0.weight"].shape[1] if convs else state["up.weight"].shape[0]
        values, width = state["masks.weight"].shape[:2]
        net = MaskNet(first, convs, width, values)
        net.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
        return net
