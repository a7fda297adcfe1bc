"""What the stages share that hold a part of a backbone, and that Jointly can train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..stage import Ref, State
from .member import Member
from .precision import check_precision, precision_of


class BackboneMember(Member):
    """A member with a backbone: its parameters, the keys of its weights, and which of its parts learn.

    Subclasses have the parameters backbone, weights, frozen, precision, device, random_state, and `_load`; where their
    module is no Backbone itself, `_backbone`.
    """

    speed: ClassVar[tuple[str, ...]] = ("device",)
    files: ClassVar[tuple[str, ...]] = ("weights",)
    at_use: ClassVar[tuple[str, ...]] = ("precision",)

    backbone: str
    weights: str | Ref | None
    frozen: Sequence[str]
    precision: str
    device: str
    random_state: int

    def key_params(self) -> dict[str, Any]:
        """With the precision that "auto" is here, and the weights that "DEFAULT" stands for."""
        from .backbones import weights_key

        weights = weights_key(self.backbone, self.weights)
        return {**super().key_params(), "weights": weights, "precision": precision_of(self.precision, self.device)}

    def validate(self) -> None:
        from .backbones import check, check_parts

        check(self.backbone)
        check_precision(self.precision)
        check_parts(self.backbone, [part for part in self.frozen if part != "all"])

    def named(self, param: str) -> State:
        """The tensors of the weights that `weights` names."""
        return dict(self._load(self.given("weights")).state_dict())

    def module(self, weights: Any, like: Mapping[str, Any], classes: int) -> Any:
        from .backbones import freeze

        net = self._load(weights)
        freeze(self._backbone(net).trunk, self.frozen)
        return net

    def _backbone(self, net: Any) -> Any:
        """The Backbone in what `_load` gives."""
        return net

    def _load(self, weights: Any) -> Any:
        """The module with these weights: a file, a name, None, or the state of such a module."""
        raise NotImplementedError
