"""Convolutional nets cut into a trunk (image to map) and the fully connected layers that R-CNN names.

Any classification net of torchvision by its name, timm's as "timm:NAME", and "shapenet", our own small one.
"""

from __future__ import annotations

import difflib
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UserError
from ..stage import NamedFile
from .cells import first_centre

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of RGB in 0..1
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_NORMALISED_BY = {"googlenet": HALF, "inception_v3": HALF, "shapenet": HALF}
# AlexNet: the paper's 227. torchvision pads its conv1 by 2, so 224 and 227 both end in a 6 x 6 map.
_INPUT_SIZE = {"alexnet": 227, "inception_v3": 299, "shapenet": 64}

_MODEL_ENDS = ("avgpool", "classifier", "fc")  # the first child that is not of the trunk
_RANDOM = ("StochasticDepth", "DropPath")  # they draw from torch's global generator
_SIDE_BRANCHES = ("aux1", "aux2", "AuxLogits")  # used in training only
_NO_MAP = ("vit_", "maxvit")  # tokens, and a net of one image size


class Backbone(nn.Module):
    """A net as R-CNN reads it: image (N 3 S S) -> trunk -> map (N C h w) -> named layers (N F).

    name: as given to `load`.
    trunk: image to map.
    head: the fully connected layers "fc6" and "fc7" of AlexNet and VGG; empty for the others.
    pool: grid of pool5; that of its own fc6 where the net has one.
    channels, stride: C of the map, and input pixels from one of its cells to the next.
    first_centre: the pixel (x, y) of its input on which its first cell is centred.
    mean, std: of each of RGB, in 0..1; (x / 255 - mean) / std is what the trunk takes.

    `layers` are the names that can be asked for and `lengths` their F. pool5 of AlexNet and VGG is the map
    after the last max pooling, as Caffe's; at an input other than theirs it is pooled to the grid of fc6.
    fc6 and fc7 are taken after ReLU, and multiplied by the `masks` of dropout that training may give. pool5 of other
    nets is the map average-pooled to pool x pool, and gap its mean. The statistics of batch norms stay as they are,
    also in training, unless `frozen_norms` is set to False; layers that are left out at random never are.
    """

    def __init__(self, name: str, trunk: nn.Module, head: Mapping[str, nn.Linear], pool: int,
                 channels: int, stride: int, mean: Sequence[float], std: Sequence[float]):  # fmt: skip
        super().__init__()
        self.name, self.pool, self.channels, self.stride = name, pool, channels, stride
        self.mean, self.std, self.input_size = tuple(mean), tuple(std), input_size(name)
        self.trunk, self.head, self.frozen_norms = trunk, nn.ModuleDict(head), True
        self.lengths: dict[str, int] = {"pool5": channels * pool * pool}
        self.lengths |= {layer: part.bias.numel() for layer, part in head.items()}
        if "gap" in layers_of(name):
            self.lengths["gap"] = channels
        self.eval()

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(self.lengths)

    @cached_property
    def first_centre(self) -> tuple[float, float]:
        return first_centre(self.trunk, self.stride)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for part in self.modules():
            frozen = self.frozen_norms and isinstance(part, nn.modules.batchnorm._BatchNorm)
            if frozen or type(part).__name__ in _RANDOM:
                part.eval()
        return self

    def forward(self, x: Tensor, layers: Iterable[str], masks: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The asked layers, name -> N F, from one forward that goes no further than the last of them."""
        layers = tuple(layers)
        refuse_layers(self.name, layers, self.layers)
        maps = self.trunk(x)  # N C h w
        found = {"gap": maps.mean((2, 3))} if "gap" in layers else {}  # N C
        others = [layer for layer in layers if layer != "gap"]
        if others:
            found |= self.from_layer("pool5", self.pooled(maps), others, masks)
        return {layer: found[layer] for layer in layers}

    def normalise(self, x: Tensor) -> Tensor:
        """Image bytes (N 3 S S) as the trunk takes them."""
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (self.mean, self.std))
        return ((x.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def pooled(self, maps: Tensor) -> Tensor:
        """pool5 (N F) of maps (N C h w)."""
        if maps.shape[2:] != (self.pool, self.pool):
            maps = F.adaptive_avg_pool2d(maps, self.pool)
        return maps.flatten(1)

    def from_layer(
        self, source: str, features: Tensor, layers: Iterable[str], masks: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Layers (name -> N F) that follow from `features` (N F) of an earlier one. ValueError for others."""
        layers = tuple(layers)
        chain = after(self.name, source)
        refuse_layers(f"{source} of {self.name}", layers, [n for n in chain if n in self.layers])
        found = {source: features}
        for layer in chain[1 : 1 + max(chain.index(layer) for layer in layers)]:
            features = F.relu(self.head[layer](features))
            found[layer] = features = features * masks[layer] if masks else features
        return {layer: found[layer] for layer in layers}


class Classifier(nn.Module):
    """A backbone and a linear layer on fc7, or on pool5 where there is none: a normalised crop -> K scores.

    So what R-CNN's linear classifiers read is what a linear classifier was trained on.

    classes: K.
    """

    def __init__(self, backbone: Backbone, classes: int):
        super().__init__()
        self.backbone = backbone
        self.layer = "fc7" if "fc7" in backbone.layers else "pool5"
        self.classifier = nn.Linear(backbone.lengths[self.layer], classes)
        self.register_buffer("scale", torch.ones(()))  # brings features to the norm that the rates are meant for

    def forward(self, x: Tensor, masks: Mapping[str, Tensor] | None = None) -> Tensor:
        """Scores (N K) of normalised crops (N 3 S S), with these masks of dropout in training."""
        return self.classifier(self.backbone(x, [self.layer], masks)[self.layer] * self.scale)

    def masks(self, count: int, dropout: float, generator: torch.Generator) -> dict[str, Tensor]:
        """For each of fc6 and fc7 what `count` rows of it are multiplied by: 0 with the probability `dropout`."""
        return {
            name: (torch.rand(count, self.backbone.lengths[name], generator=generator) >= dropout) / (1 - dropout)
            for name in self.backbone.head
        }


def layers_of(name: str) -> tuple[str, ...]:
    """The layers that the net of this name publishes."""
    return ("pool5", "fc6", "fc7") if name.startswith(("alexnet", "vgg")) else ("pool5", "gap")


def after(name: str, source: str) -> tuple[str, ...]:
    """`source` and the layers that follow from it. ValueError if the net has no such layer."""
    refuse_layers(name, [source], layers_of(name))
    if source == "gap":
        return ("gap",)
    chain = tuple(layer for layer in layers_of(name) if layer != "gap")  # gap follows from the map alone
    return chain[chain.index(source) :]


def refuse_layers(name: str, layers: Sequence[str], known: Sequence[str]) -> None:
    """ValueError unless `layers` are some of `known`."""
    strange = [layer for layer in layers if layer not in known]
    if strange or not layers:
        what = f"no layer {strange[0]!r} can be had from {name}" if strange else f"no layer is asked of {name}"
        raise ValueError(f"{what}; there is {', '.join(known)}")


def check(name: str) -> None:
    """ValueError unless a net of this name can be built."""
    if name.startswith(_NO_MAP):
        raise ValueError(f"backbone {name!r} gives no convolutional map of an image of any size")
    known = _timm_names() if name.startswith("timm:") else _names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=4, cutoff=0.5)
        hint = f"near it are {', '.join(near)}" if near else "name a torchvision classification net"
        raise ValueError(f"there is no backbone {name!r}; {hint}")


def input_size(name: str) -> int:
    """The side in pixels of the square image that a net was made for."""
    if name.startswith("timm:"):
        return int(_timm().get_pretrained_cfg(name.removeprefix("timm:")).input_size[-1])
    return _INPUT_SIZE.get(name, 224)


@cache
def trunk_names(name: str) -> tuple[str, ...]:
    """The names of the trunk's parameters, without the memory for them."""
    with torch.random.fork_rng(devices=[]), torch.device("meta" if _meta_builds(name) else "cpu"):
        trunk = _build(name, ("pool5",), 1)[0].trunk
    return tuple(n for n, _ in trunk.named_parameters())


def load(name: str, weights: Any = None, random_state: int = 0, layers: Sequence[str] | None = None, pool: int = 6,
         trunk: bool = True, behind: str | None = None, until: str | None = None) -> Backbone:  # fmt: skip
    """The net `name` with its weights, float32 on the CPU, able to give `layers` (by default all).

    weights: None for random ones drawn from `random_state`; a name of torchvision's ("DEFAULT"; downloaded by
        torchvision); a file (.safetensors, .pth, .pt); or a state (name -> array). A file or state holds a
        whole classification net, its trunk alone, or a Backbone. Parts that no asked layer uses may miss.
    pool: grid of pool5, where the net has no fc6 that fixes it.
    trunk: False for the layers behind pool5 alone.
    behind, until: parts of the trunk, as `children` names them, between which it is left: without what comes before and
        with `behind`, and what follows `until`.

    Draws nothing from torch's global generator. ValueError for an unknown name or layer; UserError for
    weights that do not fit.
    """
    check(name)
    layers = layers_of(name) if layers is None else layers
    refuse_layers(name, layers, layers_of(name))
    if weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_state)
            net = _build(name, layers, pool)[0]
        if not trunk:
            net.trunk = nn.Identity()
        return _cut(net, behind, until)
    state, origin = _read(name, weights)
    with torch.random.fork_rng(devices=[]), torch.device("meta" if _meta_builds(name) else "cpu"):
        net, renamed, ignored = _build(name, layers, pool)
    found = _own_names(net, state, renamed, ignored, origin)
    if not trunk:
        net.trunk = nn.Identity()
    own = _cut(net, behind, until).state_dict()
    _fill(net, {key: value for key, value in found.items() if key in own}, origin)
    return net.eval()


def grid_of(name: str) -> int:
    """Bins a side of the RoI pooling that a net's fc6 takes; 7 where it has none."""
    return 6 if name == "alexnet" else 7


def convolutional(net: Backbone) -> Backbone:
    """The same net, its trunk changed to one that a RoI pooling can follow: without a max pooling at its end."""
    last = net.trunk
    while list(last.children()):
        owner, (name, last) = last, list(last.named_children())[-1]
    if isinstance(last, nn.MaxPool2d):
        setattr(owner, name, nn.Identity())
        net.stride //= last.stride if isinstance(last.stride, int) else last.stride[0]
    return net


def level_parts(name: str) -> dict[int, tuple[str, int]]:
    """Level k -> the last part of the trunk whose map has a cell for 2^k pixels, and its channels; k from 2 on.

    These are C2, C3 and so on of the FPN paper (section 3). ValueError for a net of timm.
    """
    return {level: (part, channels) for part, (level, channels) in parts_of(name).items() if level >= 2}


@cache
def parts_of(name: str) -> dict[str, tuple[int, int]]:
    """Part of the trunk, as `children` names it -> level and channels of its map; ValueError for a net of timm."""
    if name.startswith("timm:"):
        raise ValueError(f"backbone {name!r}: the parts of timm's nets are not known; take a net of torchvision's")
    with torch.random.fork_rng(devices=[]), torch.device("meta" if _meta_builds(name) else "cpu"):
        net = convolutional(_build(name, ("pool5",), 1)[0]).to("meta")
    found, maps = {}, torch.empty(1, 3, 1024, 1024, device="meta")
    for part, module in children(net.trunk):
        maps = module(maps)
        found[part] = (round(math.log2(1024 / maps.shape[2])), maps.shape[1])
    return found


def _cut(net: Backbone, behind: str | None, until: str | None) -> Backbone:
    """The net, of whose trunk the parts up to `behind` and those after `until` do nothing."""
    names = [name for name, _ in children(net.trunk)] if behind or until else []
    first = names.index(behind) + 1 if behind else 0
    last = names.index(until) + 1 if until else len(names)
    for name in [*names[:first], *names[last:]]:
        owner, _, leaf = name.rpartition(".")
        setattr(net.trunk.get_submodule(owner), leaf, nn.Identity())
    if until:
        level, net.channels = parts_of(net.name)[until]
        net.stride = 2**level
    return net


def children(trunk: nn.Module) -> list[tuple[str, nn.Module]]:
    """The parts of a trunk in the order in which they are run, by name."""
    parts = list(trunk.named_children())
    while len(parts) == 1 and isinstance(parts[0][1], nn.Sequential):
        parts = [(f"{parts[0][0]}.{name}", part) for name, part in parts[0][1].named_children()]
    return parts


def early_parts(name: str) -> tuple[str, ...]:
    """The layers that Fast R-CNN leaves as they are (section 4.5): VGG's before conv3_1, AlexNet's conv1.

    They are generic, and cost training time and memory. Of other nets none.
    """
    if "fc6" not in layers_of(name):
        return ()
    poolings, early = 0, []
    for part, layer in _trunk(_model_without_memory(name)).named_modules():
        poolings += isinstance(layer, nn.MaxPool2d)
        if poolings == (1 if name == "alexnet" else 2):
            break
        if next(layer.children(), None) is None and next(layer.parameters(), None) is not None:
            early.append(part)
    return tuple(early)


def check_parts(name: str, parts: Sequence[str]) -> None:
    """ValueError unless each is the name of a part of the trunk of the net of this name."""
    names = trunk_names(name) if parts else ()
    for part in parts:
        if not any(f"{known}.".startswith(f"{part}.") for known in names):
            raise ValueError(f"frozen: {name} has no part {part!r}; one is {names[0]}")


def check_until(name: str, param: str, part: str | None) -> None:
    """ValueError, naming the parameter, unless a trunk can be cut at this part."""
    if part is not None and part not in parts_of(name):
        raise ValueError(f"{param} is {part!r}; the parts of {name} are {', '.join(parts_of(name))}")


def freeze(trunk: nn.Module, parts: Sequence[str]) -> None:
    """Let these parts of a trunk ("all" for all) learn nothing."""
    for name, parameter in trunk.named_parameters():
        if "all" in parts or any(f"{name}.".startswith(f"{part}.") for part in parts):
            parameter.requires_grad_(False)


def lengths_of(name: str, layers: Sequence[str], pool: int = 6) -> dict[str, int]:
    """F of these layers of the net of this name; no memory is taken for it where that can be."""
    with torch.random.fork_rng(devices=[]), torch.device("meta" if _meta_builds(name) else "cpu"):
        lengths = _build(name, layers, pool)[0].lengths
    return {layer: lengths[layer] for layer in layers}


# -- building ----------------------------------------------------------------------------------------------

_Built = tuple[Backbone, dict[str, str], tuple[str, ...]]  # net, its head's names in files, names to ignore


def _build(name: str, layers: Sequence[str], pool: int) -> _Built:
    if name == "shapenet":
        return _plain(name, nn.Sequential(OrderedDict(features=shapenet())), pool), {}, _MODEL_ENDS
    if name.startswith("timm:"):
        return _build_timm(name, pool)
    model = _model(name)
    if "fc6" not in layers_of(name):
        return _plain(name, _trunk(model), pool), {}, (*_MODEL_ENDS, *_SIDE_BRANCHES, "flatten", "head")
    linear = {n: part for n, part in model.classifier.named_children() if isinstance(part, nn.Linear)}
    depth = max(layers_of(name).index(layer) for layer in layers)
    head = dict(list(zip(("fc6", "fc7"), linear.values()))[:depth])
    renamed = {f"classifier.{n}": f"head.{layer}" for n, layer in list(zip(linear, head))}
    return _plain(name, _trunk(model), model.avgpool.output_size[0], head), renamed, _MODEL_ENDS


def _plain(name: str, trunk: nn.Module, pool: int, head: Mapping[str, nn.Linear] | None = None) -> Backbone:
    channels, stride = _geometry(name)
    return Backbone(name, trunk, head or {}, pool, channels, stride, *_NORMALISED_BY.get(name, IMAGENET))


def _trunk(model: nn.Module) -> nn.Module:
    """All that a torchvision net does before its global pooling, under the net's own names."""
    parts: dict[str, nn.Module] = {}
    for name, part in model.named_children():
        if name in _MODEL_ENDS:
            break
        if name not in _SIDE_BRANCHES:
            parts[name] = part
    if type(model).__name__ == "DenseNet":
        parts["relu"] = nn.ReLU()  # its forward does this between features and pooling
    return nn.Sequential(OrderedDict(parts))


def _model(name: str) -> Any:
    from torchvision.models import get_model_builder

    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}  # else they warn
    return get_model_builder(name)(**options)


def _model_without_memory(name: str) -> Any:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return _model(name)


def _meta_builds(name: str) -> bool:
    """Whether a net can be built without memory; RegNet and some of timm's need values as they are built."""
    return not name.startswith(("regnet", "timm:"))


@cache
def _geometry(name: str) -> tuple[int, int]:
    """Channels and stride, from two images without memory, large enough that borders do not count."""
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta" if _meta_builds(name) else "cpu"):
            trunk = shapenet() if name == "shapenet" else _trunk(_model(name))
        small, large = (trunk.to("meta").eval()(torch.empty(1, 3, s, s, device="meta")).shape for s in (1024, 2048))
    return small[1], round(1024 / (large[2] - small[2]))


def shapenet() -> nn.Sequential:
    """Four convolutions for 64-pixel images of drawn shapes: no norm layers."""
    widths, layers = (3, 32, 64, 96, 128), []
    for i, (before, width) in enumerate(pairwise(widths)):
        conv = nn.Conv2d(before, width, 5 if i == 0 else 3, stride=2 if i == 0 else 1, padding=2 if i == 0 else 1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, nn.ReLU(), *([nn.MaxPool2d(2)] if i in (1, 2) else [])]
    return nn.Sequential(*layers)  # stride 8


# -- timm --------------------------------------------------------------------------------------------------


class _TimmTrunk(nn.Module):
    """A timm net without its pooling and classifier."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_features(x)


def _build_timm(name: str, pool: int) -> _Built:
    model = _timm().create_model(name.removeprefix("timm:"), num_classes=0, global_pool="").eval()
    cfg, info = model.pretrained_cfg, getattr(model, "feature_info", None)
    with torch.no_grad():
        maps = model.forward_features(torch.zeros(1, 3, input_size(name), input_size(name)))
    if maps.ndim != 4 or maps.shape[1] != model.num_features:
        raise ValueError(f"backbone {name!r} gives no convolutional map (N C h w) of an image")
    stride = info[-1]["reduction"] if info else round(input_size(name) / maps.shape[2])
    net = Backbone(name, _TimmTrunk(model), {}, pool, maps.shape[1], stride, cfg["mean"], cfg["std"])
    classifier = cfg.get("classifier") or ()
    return net, {}, (classifier,) if isinstance(classifier, str) else tuple(classifier)


def _timm() -> Any:
    try:
        import timm
    except ImportError:
        raise UserError("a backbone named timm:... needs timm: pip install 'rcnn[timm]'") from None
    return timm


@cache
def _timm_names() -> list[str]:
    return [f"timm:{name}" for name in _timm().list_models()]


@cache
def _names() -> list[str]:
    import torchvision

    return [n for n in torchvision.models.list_models(torchvision.models) if not n.startswith(_NO_MAP)] + ["shapenet"]


# -- weights -----------------------------------------------------------------------------------------------


def _read(name: str, weights: Any) -> tuple[dict[str, Tensor], str]:
    """A state, and where it is from for messages."""
    if isinstance(weights, Mapping):
        return {key: torch.as_tensor(value) for key, value in weights.items()}, "the given state"
    if Path(weights).suffix in (".safetensors", ".pth", ".pt"):
        return read_file(Path(weights)), str(weights)
    return _download(name, str(weights)), f"{weights} of {name}"


def read_file(path: Path) -> dict[str, Tensor]:
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise UserError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{path} cannot be read as weights: {str(error).splitlines()[0]}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no state (name -> tensor)")
    return state


def weights_key(name: str, weights: Any) -> Any:
    """What stands for a parameter `weights` in a cache key: of a name, the weights that it means today."""
    named = isinstance(weights, str) and not isinstance(weights, NamedFile)
    return weights_name(name, weights) if named else weights


def weights_name(name: str, weights: str) -> str:
    """The weights that a name stands for: torchvision's "DEFAULT" means other ones in other versions."""
    from torchvision.models import get_model_weights

    if weights != "DEFAULT" or name == "shapenet" or name.startswith("timm:"):
        return weights
    return str(get_model_weights(name).DEFAULT.name)


def _download(name: str, weights: str) -> dict[str, Tensor]:
    from torchvision.models import get_model_weights

    if name.startswith("timm:") and weights == "DEFAULT":
        return _timm().create_model(name.removeprefix("timm:"), pretrained=True).state_dict()
    members = {} if name == "shapenet" or name.startswith("timm:") else get_model_weights(name).__members__
    if weights not in members:
        raise UserError(f"weights {weights!r} are neither a .safetensors, .pth or .pt file nor a name "
                        f"of {name}'s ({', '.join(members) or 'it has none'})")  # fmt: skip
    try:
        return members[weights].get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        raise UserError(f"weights {weights} of {name} cannot be downloaded: {error}") from error


def _own_names(net: Backbone, state: Mapping[str, Tensor], renamed: Mapping[str, str],
               ignored: Sequence[str], origin: str) -> dict[str, Tensor]:  # fmt: skip
    """The state under the names of a Backbone, without parts it does not use. UserError if any is strange."""
    own, found, strange = net.state_dict(), {}, []
    of_stage = any(key.startswith("net_.") for key in state)  # whose other learned things are no weights
    for key, value in state.items():
        if of_stage and (key == "net_.scale" or not key.startswith("net_.")):
            continue
        plain = key.removeprefix("net_.").removeprefix("backbone.")
        owner, _, leaf = plain.rpartition(".")
        candidates = (plain, f"{renamed.get(owner, owner)}.{leaf}",
                      f"trunk.{plain}", f"trunk.features.{plain}", f"trunk.model.{plain}")  # fmt: skip
        name = next((c for c in candidates if c in own), None)
        if name:
            found[name] = value
        elif not plain.startswith(tuple(f"{part}." for part in (*ignored, "head", "classifier"))):
            strange.append(key)
    if strange:
        raise UserError(f"{origin} is not of {net.name}: it has {_first(strange)}, which that net has not")
    return found


def _fill(net: Backbone, found: dict[str, Tensor], origin: str) -> None:
    """Load a state under the net's own names, strictly. UserError names the first keys that do not fit."""
    own = net.state_dict()
    for key in own:
        if key.endswith("num_batches_tracked"):  # old files lack this counter; a frozen norm does not use it
            found.setdefault(key, torch.tensor(0))
    missing = [key for key in own if key not in found]
    if missing:
        raise UserError(f"{origin} is not of {net.name}: it lacks {_first(missing)}")
    wrong = [f"{key} {tuple(found[key].shape)} for {tuple(own[key].shape)}" for key in own
             if found[key].shape != own[key].shape]  # fmt: skip
    if wrong:
        raise UserError(f"{origin} is not of {net.name}: it has {_first(wrong)}")
    # copies: the state stays its owner's; float32 whatever it was stored as
    net.load_state_dict({k: v.to(own[k].dtype, copy=True).contiguous() for k, v in found.items()}, assign=True)
    net.requires_grad_(True)


def _first(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")
