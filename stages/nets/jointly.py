"""Single-stage training: one descent over the summed losses of several stages (Fast R-CNN, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from ...errors import UserError
from ..record import Records
from ..stage import Checkpoint, NoCheckpoint, Ref, Stage, State
from . import ranks
from .draws import TRUTH, Draws, Sampling
from .member import Member
from .memory import reuse_freed_memory
from .precision import check_precision, device_of, low_precision, precision_of

# Fields that members need not give; det_labels are read at use alone
MADE = ("image", "size", "boxes", "det_labels", "map_scales", "map_offset", "image_scales")


class Jointly(Stage):
    """Train several stages at once; gives a state, of which each takes its part by `weights=Ref(...)`.

    An image-centric batch: `images` images, and of each rois / images RoIs. Images go one after the other, so that they
    need no common size; with frozen batch norms the sum of their gradients is that of the batch. Processes that
    torchrun started share a batch's images; they take the steps that one would, but for the order of sums. The deltas
    that a box head learns are normalised by their mean and deviation over all foreground boxes (the authors' by class).

    A member that gives boxes proposes: what those after it learn from is drawn of its boxes and the annotated ones, and
    deltas are divided by 0.1, 0.1, 0.2 and 0.2, as in the authors' code of Faster R-CNN.

    Where no member needs the image it learns from features that earlier steps gave: those of the proposals, and those
    of the annotated boxes as truth_features.* (SPPnet, section 4.1, trains its fully connected layers so).

    members: names of the steps, in order, that are trained; stages of nets.member.
    weights: what members with a backbone start from, as nets.backbones.load takes it; or the Ref of another Jointly,
        from which each member takes its part; one that it has not, and that is nothing untrained, begins anew.
    only: names, or their beginnings, of what learns: MEMBER, or MEMBER.PART; none for all that the members let learn.
    by: names of the losses, MEMBER.LOSS, to learn by; none for all.
    steps: of the descent; 40,000 (section 2.3).
    images, rois: N and R; 2 and 128 (section 2.3).
    foreground: the share of RoIs that are objects, at most; 0.25.
    foreground_iou, background_iou: 0.5, and [0.1, 0.5).
    flip: whether images are mirrored with a probability of 0.5; True. Features of earlier steps cannot be mirrored.
    lr: 0.001, multiplied by 0.1 every `drop_every` steps; 30,000.
    momentum, decay: of the descent; 0.9 and 0.0005 (section 2.3). Biases learn twice as fast.
    bias_decay: whether biases decay too; True (section 2.3; in the authors' released prototxt they do not).
    warm_up: steps over which the rate rises from a third of itself; 0.
    clip: the largest norm of a step's gradient; None.
    difficult: whether objects marked difficult count; True. If not, boxes on them are left out.
    memory: GB of decoded images (or of features), and as many of the maps of a backbone that learns nothing, that are
        kept; 2.0.
    precision: "bfloat16" or "float32", of what is computed; "auto" is bfloat16 where the device computes in it.
    device: "auto", "cpu", "cuda" or "cuda:N". random_state: seed of all that is drawn.

    Learns from the truth, the image or the features that its members need, and boxes, if none of them proposes. Learns
    net_ (the members' modules by name) and history_ (steps x losses, as `losses` names them). UserError if no image has
    an object to learn from.
    """

    speed: ClassVar[tuple[str, ...]] = ("device", "memory")
    files: ClassVar[tuple[str, ...]] = ("weights",)
    arrays: ClassVar[str] = "torch"
    rounds: ClassVar[str] = "steps"
    version: ClassVar[int] = 2  # 2: biases decay, RoIs are drawn image by image
    distributed: ClassVar[bool] = True
    _read: tuple[str, ...] = ()  # features of earlier steps that members need
    _image: bool = True  # whether one of them needs the image
    _proposer: str | None = None  # the member that gives the boxes
    _truth: tuple[str, ...] = ()  # of the annotated objects, what members learn from beside TRUTH

    def __init__(self, members: Sequence[str] = (), weights: str | Ref | None = None, *, only: Sequence[str] = (),
                 by: Sequence[str] = (), steps: int = 40_000, images: int = 2, rois: int = 128,
                 foreground: float = 0.25, foreground_iou: float = 0.5,
                 background_iou: Sequence[float] = (0.1, 0.5), flip: bool = True, lr: float = 0.001,
                 drop_every: int = 30_000, momentum: float = 0.9, decay: float = 5e-4, bias_decay: bool = True,
                 warm_up: int = 0, clip: float | None = None, difficult: bool = True, memory: float = 2.0,
                 precision: str = "auto", device: str = "auto", random_state: int = 0):  # fmt: skip
        self.members = members
        self.weights = weights
        self.only = only
        self.by = by
        self.steps = steps
        self.images = images
        self.rois = rois
        self.foreground = foreground
        self.foreground_iou = foreground_iou
        self.background_iou = background_iou
        self.flip = flip
        self.lr = lr
        self.drop_every = drop_every
        self.momentum = momentum
        self.decay = decay
        self.bias_decay = bias_decay
        self.warm_up = warm_up
        self.clip = clip
        self.difficult = difficult
        self.memory = memory
        self.precision = precision
        self.device = device
        self.random_state = random_state

    # -- what is trained -------------------------------------------------------------------------------

    def lets_learn(self, member: str) -> bool:
        """Whether a member, or a part of it, is among those that learn."""
        return not self.only or any(start.partition(".")[0] == member for start in self.only)

    def join(self, stages: Mapping[str, Stage]) -> None:
        """Be told the stages of the steps that are its members. ValueError if one cannot be trained."""
        members: dict[str, Member] = {}
        proposer = next((name for name, stage in stages.items() if "boxes" in stage.gives), None)
        given = set(MADE) - ({"boxes"} if proposer else set())
        read: list[str] = []  # of earlier steps
        for name, stage in stages.items():
            if not isinstance(stage, Member):
                raise ValueError(f"member {name!r} is a {type(stage).__name__}, which cannot be trained with others")
            lacking = [field for field in stage.needs if field not in given]
            if strange := [field for field in lacking if not field.startswith("features.")]:
                raise ValueError(f"member {name!r} needs {strange[0]!r}, which no member before it gives")
            read += lacking
            given |= {*lacking, *stage.gives}
            members[name] = stage
        if members and not any(stage.losses for stage in members.values()):
            raise ValueError("no member has a loss to learn by")
        self._stages = members
        self._read = tuple(read)
        self._proposer = proposer
        self._truth = tuple(dict.fromkeys(field for stage in members.values() for field in stage.truth))
        self._image = any("image" in stage.needs for stage in members.values())

    def clone(self) -> Jointly:
        """As any stage's; it knows its members."""
        made = super().clone()
        if "_stages" in self.__dict__:
            made.join(self._stages)
        return made

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*(("image",) if self._image else ()), *(() if self._proposer else ("boxes",)), *self._read)

    @property
    def learns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*TRUTH, *self._truth, *(f"truth_{field}" for field in self._read))

    def key_params(self) -> dict[str, Any]:
        from .backbones import weights_key

        trained = {}  # the order is that of members
        backbone = ""
        for name, stage in self._joined().items():
            params = {key: value for key, value in stage.key_params().items()
                      if key not in stage.at_use and not isinstance(value, Ref)}  # fmt: skip
            kind = f"{type(stage).__module__}.{type(stage).__qualname__}"
            trained[name] = {"class": kind, "version": stage.version, **params}
            backbone = params.get("backbone", backbone)
        weights = weights_key(backbone, self.weights) if backbone else self.weights
        precision = precision_of(self.precision, self.device)
        return {**super().key_params(), "trained": trained, "weights": weights, "precision": precision}

    @property
    def losses(self) -> tuple[str, ...]:
        """The names of the losses, MEMBER.LOSS, in the order of the columns of history_."""
        return tuple(f"{name}.{loss}" for name, stage in self._joined().items() for loss in stage.losses)

    def work(self, images: int) -> float:
        return self.steps * self.images

    def validate(self) -> None:
        if not self.members:
            raise ValueError("members is empty: there is nothing to train")
        self._check_samples()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is {self.momentum}; it is in [0, 1)")
        for name in ("decay", "warm_up", "random_state"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 0")
        for name in ("lr", "memory", "clip"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it is above 0")
        check_precision(self.precision)
        if "_stages" in self.__dict__:
            self._check_what()

    def check_processes(self, count: int) -> None:
        if self.images < count:
            raise UserError(f"images is {self.images}: {count} processes have no image each in a step")

    def _check_what(self) -> None:
        """Of what is trained, from what, and by what."""
        if self.flip and self._read:
            raise ValueError(f"flip is True, and {self._read[0]}, which an earlier step gives, has no mirror image")
        if strange := [name for name in self.by if name not in self.losses]:
            raise ValueError(f"by names {strange[0]!r}; the losses are {', '.join(self.losses)}")
        if strange := [name for name in self.only if name.partition(".")[0] not in self.members]:
            raise ValueError(f"only names {strange[0]!r}; the members are {', '.join(self.members)}")
        for name in {one.partition(".")[0] for one in self.only}:
            if "weights" not in self._joined()[name].param_names():
                raise ValueError(f"only names {name!r}, a {type(self._joined()[name]).__name__}, which learns nothing")
        if self._proposer and self._read:
            raise ValueError(f"{self._proposer} proposes boxes, of which an earlier step cannot give {self._read[0]}")
        if len(backbones := set(self._backbones())) > 1:
            raise ValueError(f"members have different backbones, {' and '.join(sorted(backbones))}")
        until, behind = self._params("until"), self._params("behind")
        if until and behind and until != behind:
            raise ValueError(f"a member goes on behind {behind.pop()}, and the map before it is that of {until.pop()}")
        if isinstance(self.weights, str) and not backbones:
            raise ValueError(f"weights is {self.weights!r}, and no member starts from a backbone's weights")

    def _check_samples(self) -> None:
        """Of what a step takes."""
        for name in ("steps", "images", "drop_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least 1")
        for name in ("foreground", "foreground_iou"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is in (0, 1]")
        if round(self.rois // self.images * self.foreground) < 1:
            raise ValueError(f"rois is {self.rois}: of {self.images} images no object would ever be drawn")
        low, high = self.background_iou if len(self.background_iou) == 2 else (1.0, 0.0)
        if not 0 <= low < high <= self.foreground_iou:
            raise ValueError(f"background_iou is {list(self.background_iou)}: two IoUs in rising order, up to "
                             f"foreground_iou, {self.foreground_iou}")  # fmt: skip

    def named(self, param: str) -> State:
        """The tensors of the weights that `weights` names."""
        from .backbones import load

        return load(self._backbones()[0], self.given("weights"), self.random_state).state_dict()

    def state_for(self, step: str) -> State:
        """The part of a member: its module's tensors under their own names. All, for another Jointly."""
        return part_of(self.state(), step) if step in self.members else self.state()

    def build_modules(self, state: Mapping[str, Any]) -> None:
        """Hold the members' tensors; each member builds its own module of them."""
        import torch

        self.net_ = Tensors({key.removeprefix("net_."): torch.as_tensor(value) for key, value in state.items()
                             if key.startswith("net_.")})  # fmt: skip

    def _backbones(self) -> list[str]:
        """The names of the members' backbones."""
        params = [stage.get_params() for stage in self._joined().values()]
        return [one["backbone"] for one in params if "backbone" in one]

    def _params(self, name: str) -> set[Any]:
        """The values of a parameter of the members that have it."""
        params = [stage.get_params() for stage in self._joined().values()]
        return {one[name] for one in params if name in one}

    def _joined(self) -> dict[str, Member]:
        try:
            stages: dict[str, Member] = self.__dict__["_stages"]
        except KeyError:
            raise RuntimeError("Jointly was not told its members: they are steps of the same pipeline") from None
        return stages

    # -- training --------------------------------------------------------------------------------------

    def fit(self, records: Records, checkpoint: Checkpoint | None = None) -> None:
        import torch

        from .sgd import batch_of, sgd

        checkpoint = checkpoint or NoCheckpoint()
        device = device_of(self.device)
        if device.type == "cpu":
            reuse_freed_memory()
        sampling = Sampling(self.rois // self.images, self.foreground, self.foreground_iou, self.background_iou,
                            self.difficult)  # fmt: skip
        data = Draws(records, sampling, image=self._image, read=self._read, proposed=self._proposer is not None,
                     masks="truth_masks" in self._truth, memory=self.memory, device=device)  # fmt: skip
        self.check_processes(ranks.count())
        net = self._modules(data, len(records.classes), device)
        kept = Kept(self.memory)
        model = ranks.shared(net, partial(self._forward, data, kept))

        def loss(step: int, generator: Any) -> Iterator[Any]:
            net.train()
            chosen = data.usable[batch_of(step, self.images, len(data.usable), self.random_state)].tolist()
            seeds = torch.randint(1 << 62, (len(chosen),), generator=generator).tolist()  # each image has its own
            mine = list(zip(chosen, seeds, data.shares(chosen)))[ranks.rank() :: ranks.count()]
            for at, (i, seed, share) in enumerate(mine):
                own = torch.Generator().manual_seed(seed)
                side = self.flip and bool(torch.rand((), generator=own) < 0.5)
                fields = data.of(i, side, own)
                with ranks.unsynchronised(model, at < len(mine) - 1):
                    yield model((i, side), fields, own) * share

        self.history_ = sgd(net, loss, checkpoint, steps=self.steps, lr=self.lr, drop_every=self.drop_every,
                            momentum=self.momentum, decay=self.decay, bias_rate=2.0, bias_decay=self.bias_decay,
                            warm_up=self.warm_up, clip=self.clip, losses=len(self.losses),
                            shared=ranks.count() > 1, random_state=self.random_state)  # fmt: skip
        self.net_ = net.eval().cpu()

    def _samples_after(self, name: str) -> bool:
        """Whether a member has proposed what those after it read."""
        return name == self._proposer and name != self.members[-1]

    def _modules(self, data: Draws, classes: int, device: Any) -> Any:
        """The members' modules, each built when those before it have shown what they give for one image.

        UserError if `only` names nothing that learns.
        """
        import torch
        from torch import nn

        net = nn.ModuleDict()
        generator = torch.Generator().manual_seed(self.random_state)
        fields = data.of(data.first(), False, generator) | data.statistics(self.flip)
        for name, stage in self._joined().items():
            module = stage.module(self._initial(name, stage), fields, classes).to(
                device, memory_format=torch.channels_last
            )
            net[name] = module
            with torch.no_grad(), low_precision(self.device, self.precision):
                fields |= stage.loss(module.eval(), fields, generator)[1]
            if self._samples_after(name):
                fields |= data.sampled(fields, generator)
        self._narrow(net)
        return net

    def _narrow(self, net: Any) -> None:
        """Let learn what `only` names, of what the members let learn."""
        learning = [name for name, one in net.named_parameters() if one.requires_grad]
        for start in self.only:
            if not any(f"{name}.".startswith(f"{start}.") for name in learning):
                raise UserError(f"only names {start!r}, and no parameter of that name learns; {learning[0]} does")
        for name, one in net.named_parameters():
            named = not self.only or any(f"{name}.".startswith(f"{start}.") for start in self.only)
            one.requires_grad_(one.requires_grad and named)

    def _initial(self, name: str, stage: Member) -> Any:
        """What a member starts from: its part of another Jointly's state; else `weights`, if it has a backbone."""
        weights = self.given("weights")
        part = part_of(weights, name) if isinstance(weights, Mapping) else {}
        return part or (weights if "backbone" in stage.param_names() else None)

    def _forward(self, data: Draws, kept: Kept, net: Any, side: Any, fields: dict[str, Any], generator: Any) -> Any:
        """The losses of an image, as `losses` names them; those not learned by without a gradient."""
        import torch

        with low_precision(self.device, self.precision):
            found = self._losses(data, net, side, fields, kept, generator)
        learned = {name: loss if name in (self.by or found) else loss.detach() for name, loss in found.items()}
        losses = torch.stack([learned[name] for name in self.losses])
        if not losses.requires_grad:
            raise UserError("by names losses and only names parts of which none goes with another: nothing is learned")
        return losses

    def _losses(self, data: Draws, net: Any, side: Any, fields: dict[str, Any], kept: Kept,
                generator: Any) -> dict[str, Any]:  # fmt: skip
        """The losses of an image by name. side: which image, and whether it is mirrored."""
        losses: dict[str, Any] = {}
        for name, stage in self._joined().items():
            if stage.constant(net[name]):
                given = kept.get((name, *side), partial(stage.loss, net[name], fields, generator))
            else:
                own, given = stage.loss(net[name], fields, generator)
                losses |= {f"{name}.{key}": value for key, value in own.items()}
            fields |= given
            if self._samples_after(name):
                fields |= data.sampled(fields, generator)
        return losses


def part_of(state: Mapping[str, Any], member: str) -> dict[str, Any]:
    """What a state of a Jointly holds of a member, under its own names."""
    start = f"net_.{member}."
    return {name.removeprefix(start): value for name, value in state.items() if name.startswith(start)}


class Kept:
    """What follows from an image alone, kept as far as a budget of GB goes."""

    def __init__(self, memory: float):
        self.left = memory * 1e9
        self.fields: dict[Any, dict[str, Any]] = {}

    def get(self, key: Any, loss: Callable[[], tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
        """The fields that a member's loss gives: those kept, or made without gradients and kept if there is room."""
        import torch

        if key in self.fields:
            return self.fields[key]
        with torch.no_grad():
            made = loss()[1]
        size = sum(value.nbytes for value in made.values())
        if size <= self.left:
            self.left -= size
            self.fields[key] = made
        return made


class Tensors:
    """Tensors by name, where a module would stand."""

    def __init__(self, tensors: Mapping[str, Any]):
        self.tensors = dict(tensors)

    def state_dict(self) -> dict[str, Any]:
        return self.tensors

    def load_state_dict(self, tensors: Mapping[str, Any]) -> None:
        self.tensors = dict(tensors)
