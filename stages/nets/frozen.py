"""A stage that runs a backbone as it is: built once, on its device, in its precision, never trained."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, ClassVar

from ...errors import UserError
from ..stage import Ref, Stage, State
from .memory import in_batches, reuse_freed_memory
from .precision import device_of, precision_of

STORAGE = ("float16", "float32")


class Frozen(Stage):
    """What the stages with a frozen backbone share: its parameters, the built net, and the keys of its weights.

    Subclasses have the parameters backbone, weights, layers, storage, precision, device, random_state.
    """

    speed: ClassVar[tuple[str, ...]] = ("batch", "device")
    files: ClassVar[tuple[str, ...]] = ("weights",)
    arrays: ClassVar[str] = "torch"

    backbone: str
    weights: str | Ref | None
    layers: Any
    storage: str
    precision: str
    device: str
    random_state: int

    @property
    def gives(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"features.{layer}" for layer in self.layers)

    def key_params(self) -> dict[str, Any]:
        """With the precision that "auto" is here, and the weights that "DEFAULT" stands for."""
        from .backbones import weights_key

        weights = weights_key(self.backbone, self.weights)
        return {**super().key_params(), "weights": weights, "precision": precision_of(self.precision, self.device)}

    def named(self, param: str) -> State:
        """The tensors of the weights that `weights` names."""
        return self._load().state_dict()

    def net(self) -> Any:
        """The backbone as it is used."""
        return built(self, lambda _weights: self.trimmed(self._load()))

    def trimmed(self, net: Any) -> Any:
        """The net without the parts that this stage does not run."""
        return net

    def batched(self, work: Callable[[slice], None], count: int, size: int, what: str) -> None:
        """Do work on slices of `batch` things, by default `size`, halved as far as memory asks for it."""
        asked = self.get_params()["batch"] or size
        known, fits = self.__dict__.get("_fits", (asked, asked))  # what fitted before, if as much was asked then
        self._fits = asked, in_batches(work, count, fits if known == asked else asked, what)

    def finite(self, features: Any, layer: str, id: str) -> Any:
        """The features. UserError if one overflowed the storage."""
        if not all_finite(features):
            raise UserError(f"image {id!r}: {layer} of {self.backbone} is not finite in {self.storage}")
        return features

    def _load(self) -> Any:
        from .backbones import load

        pool = {"pool": self.get_params()["pool"]} if "pool" in self.param_names() else {}
        return load(self.backbone, self.given("weights"), self.random_state, self.layers, **pool)


def all_finite(values: Any) -> bool:
    """Whether no value of a tensor is infinite or none at all; in one pass that writes nothing."""
    import torch

    return not values.numel() or bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())  # they pass NaN on


def built(stage: Stage, make: Callable[[Any], Any]) -> Any:
    """A stage's net as it is used: made from its `weights`, on its device, in its precision, without gradients.

    Made once for the same parameters and the same weight file. The stage has the parameters weights, precision, device.
    """
    import torch

    params, weights = stage.get_params(), stage.given("weights")
    recipe = {**params, "weights": None, "file": _stamp(weights)}
    known = stage.__dict__.get("_built")
    if not known or known[0] != recipe or known[1] is not weights:
        place = device_of(params["device"])
        if place.type == "cpu":
            reuse_freed_memory()
        dtype = getattr(torch, precision_of(params["precision"], params["device"]))
        net = make(weights).requires_grad_(False).eval().to(device=place, dtype=dtype)
        known = stage.__dict__["_built"] = (recipe, weights, net.to(memory_format=torch.channels_last))
    return known[2]


def _stamp(weights: Any) -> Any:
    """What tells a file from the one that stood in its place before."""
    if not isinstance(weights, (str, os.PathLike)) or not os.path.isfile(weights):
        return None
    stat = os.stat(weights)
    return stat.st_mtime_ns, stat.st_size
