"""A stage whose net can be trained together with others (Jointly), and used as it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..stage import Stage


class Member(Stage):
    """A stage that Jointly can train.

    At use it is called as any stage, with a net that `weights` gives: a file, a name, or Ref(step) of the Jointly that
    it is a member of. In training Jointly builds its module and asks for its `loss`, image by image.

    truth: fields of the annotated objects that its `loss` reads beside boxes, labels and flags: truth_masks.
    at_use: the parameters that count at use alone: others of them need no new training.
    losses: the names of those that its `loss` gives. new: whether it is nothing before it was trained.
    """

    arrays: ClassVar[str] = "torch"
    losses: ClassVar[tuple[str, ...]] = ()
    new: ClassVar[bool] = False
    truth: ClassVar[tuple[str, ...]] = ()
    at_use: ClassVar[tuple[str, ...]] = ()  # parameters that training does not read

    def module(self, weights: Any, like: Mapping[str, Any], classes: int) -> Any:
        """The nn.Module to train, float32 on the CPU; one without parameters where there is nothing to learn.

        weights: what it starts from: a file, a name, None (new ones), or the state of such a module.
        like: the fields of one image, as the members before give them: their shapes count. classes: K.
        """
        from torch import nn

        return nn.Identity()

    def constant(self, net: Any) -> bool:
        """Whether what `loss` gives follows from the image alone, so that it may be kept from one step to another."""
        return False

    def loss(self, net: Any, fields: Mapping[str, Any], generator: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Losses of one image by name, and the fields that it gives the members after it.

        net: what `module` made, on its device. fields: what Jointly draws (image, size, truth_*, sampled_boxes,
        roi_labels, roi_objects, roi_targets: numpy; truth_masks: TruthMasks) and what members before gave (maps and
        features: tensors on that device; where they lie: numpy). A member may give boxes (R 4, numpy; or Lazy, made if
        a member after it learns from them).
        generator: torch's, on the CPU; all that is random in it.
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be trained")
