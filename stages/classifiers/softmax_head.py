"""The sibling heads of Fast R-CNN (Girshick, ICCV 2015, section 2.3): softmax over K + 1 classes, and box deltas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ...errors import UserError
from ..nets.frozen import built
from ..nets.member import Member
from ..nets.precision import check_precision, precision_of
from ..record import Record
from ..stage import Ref


class SoftmaxHead(Member):
    """Probability of each class, and the box of each class, from features.

    weights: Ref of the Jointly that trains it.
    layer: features to read.
    balance: lambda, the weight of the box loss beside the class loss; 1 (section 2.3).
    beta: where smooth L1 turns linear; 1 (section 2.3). Torchvision has 1/9.
    norm: mean L2 norm that features are scaled to; None leaves them as they are.
    kept: of labels 1..K those that are given, as 1, 2 and so on; none: all. (COCO's 90 numbers are 80 classes.)
    outputs: of scores and deltas those that are used; none where it serves training alone (SPPnet's fine-tuning).
    precision: "float32", "bfloat16", or "auto".
    device: "auto", "cpu", "cuda" or "cuda:N". random_state: of the initial weights.

    Reads features.LAYER (R F); writes, as far as they are among the outputs, scores (R K), the probabilities of classes
    1..K, and deltas (R K 4), on the device. The box loss is smooth L1 over the four deltas of the true class of
    foreground RoIs, normalised by the mean and deviation of those it starts with, summed, over the number of RoIs.
    """

    speed: ClassVar[tuple[str, ...]] = ("device",)
    losses: ClassVar[tuple[str, ...]] = ("class", "box")
    new: ClassVar[bool] = True
    at_use: ClassVar[tuple[str, ...]] = ("precision", "outputs", "kept")

    def __init__(self, weights: Ref | None = None, layer: str = "fc7", balance: float = 1.0,
                 beta: float = 1.0, norm: float | None = None, kept: Sequence[int] = (),
                 outputs: Sequence[str] = ("scores", "deltas"),
                 precision: str = "float32", device: str = "auto", random_state: int = 0):  # fmt: skip
        self.weights = weights
        self.layer = layer
        self.balance = balance
        self.beta = beta
        self.norm = norm
        self.kept = kept
        self.outputs = outputs
        self.precision = precision
        self.device = device
        self.random_state = random_state

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("features." + self.layer,)

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.outputs)

    def key_params(self) -> dict[str, Any]:
        return {**super().key_params(), "precision": precision_of(self.precision, self.device)}

    def validate(self) -> None:
        if strange := [name for name in self.outputs if name not in ("scores", "deltas")]:
            raise ValueError(f"outputs has {strange[0]!r}; it holds scores, deltas, both or none")
        if self.kept and min(self.kept) < 1:
            raise ValueError(f"kept is {list(self.kept)}; it holds labels, which begin with 1")
        if self.balance < 0:
            raise ValueError(f"balance is {self.balance}; it is at least 0")
        if not self.beta > 0:
            raise ValueError(f"beta is {self.beta}; it is above 0")
        if self.norm is not None and not self.norm > 0:
            raise ValueError(f"norm is {self.norm}; it is above 0, or None")
        check_precision(self.precision)

    def module(self, weights: Any, like: Mapping[str, Any], classes: int) -> Any:
        import torch

        from ..nets.layers import TwoHeads, mean_scale

        if weights:
            return self._made(weights)
        features = like["features." + self.layer]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            net = TwoHeads(features.shape[1], classes)
        if self.norm:
            net.scale.fill_(mean_scale(features, self.norm))
        net.mean.copy_(torch.as_tensor(like["target_mean"]))
        net.std.copy_(torch.as_tensor(like["target_std"]))
        return net

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        import torch
        import torch.nn.functional as F

        logits, deltas = net(fields["features." + self.layer])  # R K+1, R K 4
        labels = torch.as_tensor(fields["roi_labels"], device=logits.device)
        targets = torch.as_tensor(fields["roi_targets"], device=logits.device)  # R 4
        there = labels > 0
        mine = deltas[there, labels[there] - 1]
        wanted = (targets[there] - net.mean) / net.std
        over = max(len(labels), 1)  # an image may have no RoI: all of it a crowd, say
        box = F.smooth_l1_loss(mine, wanted, beta=self.beta, reduction="sum") / over
        return {"class": F.cross_entropy(logits, labels, reduction="sum") / over, "box": self.balance * box}, {}

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        if self.weights is None:
            raise UserError("SoftmaxHead has learned nothing: a Jointly trains it, and weights is its Ref")
        net = built(self, self._made)
        return [self._scores(net, record["features." + self.layer]) for record in records]

    def _scores(self, net: Any, features: Any) -> dict[str, Any]:
        import torch

        device = net.scale.device
        with torch.no_grad():
            logits, deltas = net(torch.as_tensor(features).to(device))
        scores, deltas = logits.softmax(1)[:, 1:], deltas * net.std.float() + net.mean.float()
        if self.kept:
            mine = [label - 1 for label in self.kept]
            scores, deltas = scores[:, mine], deltas[:, mine]
        found = {"scores": scores, "deltas": deltas}
        return {name: found[name] for name in self.outputs}

    def _made(self, state: Any) -> Any:
        import torch

        from ..nets.layers import TwoHeads

        net = TwoHeads(state["scores.weight"].shape[1], len(state["scores.weight"]) - 1)
        net.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
        return net
