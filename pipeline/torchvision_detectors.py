"""Faster and Mask R-CNN of torchvision as trained pipelines, and the other way: the same numbers, the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cache import files
from ..cache.keys import digest_state
from ..errors import UserError
from ..stages.classifiers.softmax_head import SoftmaxHead
from ..stages.features.fpn import FPN
from ..stages.features.new_fc import NewFCLayers
from ..stages.features.roi_align import RoIAlign
from ..stages.mask_heads.fcn import MaskHead
from ..stages.nets.backbones import IMAGENET
from ..stages.nets.jointly import Jointly
from ..stages.nets.maps import level_names
from ..stages.proposals.rpn import RPN
from ..stages.stage import Ref
from ..stages.suppression.nms import PerClassNMS
from .fitting import on_host
from .pipeline import Pipeline, Step

FASTER, MASK = "fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"
BACKBONES = {FASTER: "resnet50", MASK: "resnet50"}  # detectors that are known, and their nets
TRAINED = Ref("training")
MEMBERS = ("map", "proposals", "features", "fc", "head")
CONVS = 4  # of the mask head
# Ours -> torchvision's beginnings of the names of tensors
NAMES = {
    "map.body.trunk.": "backbone.body.",
    "map.fpn.": "backbone.fpn.",
    "proposals.conv.": "rpn.head.conv.0.0.",
    "proposals.scores.": "rpn.head.cls_logits.",
    "proposals.deltas.": "rpn.head.bbox_pred.",
    "fc.layers.0.": "roi_heads.box_head.fc6.",
    "fc.layers.1.": "roi_heads.box_head.fc7.",
    "head.scores.": "roi_heads.box_predictor.cls_score.",
    "head.deltas.": "roi_heads.box_predictor.bbox_pred.",
    **{f"masks.convs.{i}.": f"roi_heads.mask_head.{i}.0." for i in range(CONVS)},
    "masks.up.": "roi_heads.mask_predictor.conv5_mask.",
    "masks.masks.": "roi_heads.mask_predictor.mask_fcn_logits.",
}
EPS = 1e-5  # of our batch norms


def detector_of(name: str, weights: str) -> Any:
    """A detector of torchvision with weights: a name of its own (downloaded by it), or a file of its state.

    Of a name, torchvision sets the eps of batch norms to what those weights were learned with; of a file it is 1e-5.

    name: as torchvision's.
    UserError if there is no such detector, or the file is not of it.
    """
    from torchvision.models import get_model, get_model_weights

    from ..stages.nets.backbones import read_file

    if name not in BACKBONES:
        raise UserError(f"{name!r} is no detector that is known here; those are {', '.join(BACKBONES)}")
    if not weights.endswith((".safetensors", ".pth", ".pt")):
        known = get_model_weights(name).__members__
        if weights not in known:
            raise UserError(f"weights {weights!r} are neither a .safetensors, .pth or .pt file nor a name of {name}'s "
                            f"({', '.join(known)})")  # fmt: skip
        try:
            return get_model(name, weights=weights, weights_backbone=None).eval()
        except OSError as error:
            raise UserError(f"weights {weights} of {name} cannot be downloaded: {error}") from error
    state = read_file(Path(weights))
    scores = state.get("roi_heads.box_predictor.cls_score.bias")
    if scores is None:
        raise UserError(f"{weights} is not of {name}: it has no roi_heads.box_predictor.cls_score.bias")
    model = get_model(name, weights=None, weights_backbone=None, num_classes=len(scores))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{weights} is not of {name}: {str(error).splitlines()[1].strip()}") from error
    return model.eval()


def imported(model: Any, backbone: str = "resnet50", classes: Sequence[str] = ()) -> Pipeline:
    """A pipeline that detects as a torchvision FasterRCNN or MaskRCNN on a feature pyramid does, float32.

    classes: names of labels 1..K; those of COCO, by its numbers, where there are 90 and none are given. The ten of them
        that are no class are dropped before suppression; torchvision counts them among the detections of an image.
    UserError if the model has a part that no stage here has.
    """
    heads, rpn = model.roi_heads, model.rpn
    labels = len(heads.box_predictor.cls_score.bias) - 1
    told = class_names(labels, classes)
    _check(model)
    pooler, levels = heads.box_roi_pool, level_names(2, 1 + len(heads.box_roi_pool.featmap_names))
    sizes = rpn.anchor_generator.sizes
    one: dict[str, Any] = {"weights": TRAINED, "precision": "float32"}
    masks = _mask_steps(heads, told.labels, one) if heads.has_mask() else []
    members = (*MEMBERS, *(step.name for step in masks))
    steps = [
        Step("training", Jointly(members, steps=70_000, rois=2 * heads.fg_bg_sampler.batch_size_per_image,
                                 foreground=heads.fg_bg_sampler.positive_fraction, background_iou=(0.0, 0.5),
                                 precision="float32")),
        Step("map", FPN(backbone, size=int(model.transform.min_size[-1]), longest=int(model.transform.max_size),
                        highest=1 + len(sizes), channels=model.backbone.out_channels, **one), keep=False),
        Step("proposals", RPN(
            maps=level_names(2, 1 + len(sizes)), sides=tuple(float(side) for (side,) in sizes),
            ratios=tuple(map(float, rpn.anchor_generator.aspect_ratios[0])), side_per_map=True,
            anchor_style="torchvision",
            width=rpn.head.cls_logits.in_channels, score="sigmoid", cross_border=True, balance=1.0,
            normalise="sampled", beta=1 / 9, pre_nms=rpn._pre_nms_top_n["testing"], top=rpn._post_nms_top_n["testing"],
            train_pre_nms=rpn._pre_nms_top_n["training"], train_top=rpn._post_nms_top_n["training"],
            nms=rpn.nms_thresh, min_side=rpn.min_size, train_nms=rpn.nms_thresh, train_min_side=rpn.min_size, **one)),
        Step("features", RoIAlign(pooler.output_size[0], levels, pooler.sampling_ratio, aligned=False),
             keep=False),
        Step("fc", NewFCLayers(widths=(heads.box_head.fc6.out_features, heads.box_head.fc7.out_features), **one),
             keep=False),
        Step("head", SoftmaxHead(layer="fc", beta=1 / 9, kept=told.labels, **one)),
        Step("suppression", PerClassNMS(heads.nms_thresh, heads.score_thresh, None, heads.detections_per_img)),
        *masks,
    ]  # fmt: skip
    pipeline = Pipeline(steps, name="mask" if masks else "faster")
    state = {f"net_.{name}": value for name, value in ours(model).items()}
    pipeline.stage("training").load_state(state)
    pipeline.classes, pipeline.category_ids = told.names, told.numbers
    pipeline.keys = {"training": digest_state(on_host(state))}
    return pipeline


def _mask_steps(heads: Any, kept: Sequence[int], one: Mapping[str, Any]) -> list[Step]:
    """The mask branch of a torchvision MaskRCNN. UserError if it is another than torchvision makes."""
    pooler, head = heads.mask_roi_pool, heads.mask_head
    said = {
        "roi_heads.mask_head": (type(head).__name__, "MaskRCNNHeads"),
        "the convolutions of roi_heads.mask_head": (len(head), CONVS),
        "roi_heads.mask_roi_pool.canonical_scale": (pooler.canonical_scale, 224),
        "roi_heads.mask_roi_pool.canonical_level": (pooler.canonical_level, 4),
    }
    _refuse_unlike(said)
    (grid, _), levels = pooler.output_size, level_names(2, 1 + len(pooler.featmap_names))
    width = heads.mask_predictor.conv5_mask.out_channels
    pooled = {"boxes": "det_boxes", "features.pool5": "det_features.pool5"}
    return [
        Step("mask_features", RoIAlign(grid, levels, pooler.sampling_ratio, aligned=False, objects=True), keep=False,
             fields=pooled),
        Step("masks", MaskHead(grid=grid, convs=CONVS, width=width, kept=kept, **one),
             fields={"features.pool5": "det_features.pool5"}),
    ]  # fmt: skip


class Classes(NamedTuple):
    """What a detector tells: names, their numbers in COCO, and which of its labels they are; none: all."""

    names: tuple[str, ...]
    numbers: tuple[int, ...] = ()
    labels: tuple[int, ...] = ()


def class_names(count: int, given: Sequence[str]) -> Classes:
    """The classes of a detector of `count` labels: those given, else COCO's if there are as many as it has.

    COCO has 90 numbers, of which 80 are of a class.
    """
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    known = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"][1:]
    if given and len(given) != count:
        raise UserError(f"{len(given)} classes are named, and the weights are of {count}")
    if given or count != len(known):
        return Classes(tuple(given) or tuple(f"class {i}" for i in range(1, count + 1)))
    labels = tuple(i for i, name in enumerate(known, 1) if name != "N/A")
    return Classes(tuple(known[i - 1] for i in labels), labels, labels)


def ours(model: Any) -> dict[str, Any]:
    """The model's tensors as the state of a Jointly, MEMBER.TENSOR."""
    import torch

    state = model.state_dict()
    found: dict[str, Any] = {}
    for mine, its in NAMES.items():
        found |= {mine + name.removeprefix(its): value for name, value in state.items() if name.startswith(its)}
    for name, part in model.backbone.body.named_modules():
        if hasattr(part, "running_var"):
            own = f"map.body.trunk.{name}"
            found[f"{own}.num_batches_tracked"] = torch.tensor(0)
            if part.eps != EPS:  # that of its published weights is 0; what is divided by goes into the weights
                found[f"{own}.weight"] = part.weight * (part.running_var + part.eps).rsqrt()
                found[f"{own}.running_var"] = torch.full_like(part.running_var, 1 - EPS)
    for kind in ("weight", "bias"):
        found[f"head.deltas.{kind}"] = found[f"head.deltas.{kind}"][4:]  # the first four are the background's
        if f"masks.masks.{kind}" in found:
            found[f"masks.masks.{kind}"] = found[f"masks.masks.{kind}"][1:]  # so is the first
    weights = torch.tensor(model.roi_heads.box_coder.weights)
    if model.roi_heads.has_mask():
        found["masks.scale"] = torch.ones(())
    scales = {f"{member}.scale": torch.ones(()) for member in ("proposals", "fc", "head")}
    return {**found, **scales, "head.mean": torch.zeros(4), "head.std": 1 / weights}


def exported(pipeline: Pipeline) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The detector of torchvision that detects as a pipeline does: its name, its state, and its arguments.

    UserError if a stage is one that torchvision has not, or is set as it cannot be.
    """
    import torch

    _refuse_others(pipeline)
    maps, rpn, nms = pipeline["map"], pipeline["proposals"], pipeline["suppression"]
    masks = "masks" in (step.name for step in pipeline)
    trainings = [pipeline.method(name).refs()["weights"].step for name in ("head", *(["masks"] if masks else []))]
    state = {name.removeprefix("net_."): torch.as_tensor(value)
             for training in trainings for name, value in pipeline[training].state().items()
             if name.startswith("net_.")}  # fmt: skip
    std, mean = state["head.std"], state["head.mean"]
    weight, bias = state["head.deltas.weight"].unflatten(0, (-1, 4)), state["head.deltas.bias"].unflatten(0, (-1, 4))
    by = std * torch.tensor([10.0, 10.0, 5.0, 5.0])  # theirs are divided by that
    weight, bias = weight * state["head.scale"] * by[:, None], bias * by + mean / std * by
    state["head.deltas.weight"] = torch.cat([torch.zeros_like(weight[:1]), weight]).flatten(0, 1)
    state["head.deltas.bias"] = torch.cat([torch.zeros_like(bias[:1]), bias]).flatten(0, 1)
    state["head.scores.weight"] = state["head.scores.weight"] * state["head.scale"]
    state["fc.layers.0.weight"] = state["fc.layers.0.weight"] * state["fc.scale"]
    state["proposals.conv.weight"] = state["proposals.conv.weight"] * state.get("proposals.scale", 1.0)
    for kind in ("weight", "bias") if masks else ():
        own = state[f"masks.masks.{kind}"]
        state[f"masks.masks.{kind}"] = torch.cat([torch.zeros_like(own[:1]), own])
    if masks:
        state["masks.convs.0.weight"] = state["masks.convs.0.weight"] * state["masks.scale"]
    found: dict[str, Any] = {}
    for mine, its in NAMES.items():
        found |= {its + name.removeprefix(mine): value for name, value in state.items() if name.startswith(mine)}
    arguments = {
        "num_classes": len(state["head.scores.bias"]), "min_size": maps.size, "max_size": maps.longest,
        "rpn_pre_nms_top_n_test": rpn.pre_nms, "rpn_post_nms_top_n_test": rpn.top, "rpn_nms_thresh": rpn.nms,
        "box_score_thresh": nms.min_score or 0.0, "box_nms_thresh": nms.threshold,
        "box_detections_per_img": nms.top_per_image,
    }  # fmt: skip
    return MASK if masks else FASTER, {name: value.contiguous() for name, value in found.items()}, arguments


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write a state as torchvision's users read it, whole or not at all. UserError if the file is of another kind."""
    import torch
    from safetensors.torch import save

    if path.suffix not in (".pth", ".pt", ".safetensors"):
        raise UserError(f"{path} is no .pth, .pt or .safetensors file")
    with files.renamed(path) as part:
        if path.suffix == ".safetensors":
            part.write_bytes(save(dict(state)))
        else:
            torch.save(dict(state), part)


def _refuse_others(pipeline: Pipeline) -> None:
    """UserError if the pipeline is another detector than torchvision's."""
    wanted: Mapping[str, type] = {"map": FPN, "proposals": RPN, "features": RoIAlign, "fc": NewFCLayers,
                                  "head": SoftmaxHead, "suppression": PerClassNMS}  # fmt: skip
    names = [step.name for step in pipeline]
    for name, kind in wanted.items():
        if name not in names or type(pipeline[name]) is not kind:
            raise UserError(f"torchvision's detector has {kind.__name__} for {name}; {pipeline.name} has not")
    for step, param, value in (
        ("map", "backbone", "resnet50"), ("map", "lowest", 2), ("map", "highest", 6), ("map", "channels", 256),
        ("proposals", "anchor_style", "torchvision"), ("proposals", "score", "sigmoid"),
        ("proposals", "side_per_map", True), ("proposals", "maps", level_names(2, 6)), ("proposals", "classify", True),
        ("proposals", "regress", True), ("proposals", "min_side", 1e-3), ("features", "maps", level_names(2, 5)),
        ("suppression", "deltas", True),
        ("proposals", "sides", (32.0, 64.0, 128.0, 256.0, 512.0)), ("proposals", "ratios", (0.5, 1.0, 2.0)),
        ("features", "aligned", False), ("features", "reduce", "average"), ("features", "sampling", 2),
        ("features", "grid", 7),
        ("fc", "widths", (1024, 1024)), ("fc", "svd", ()), ("head", "outputs", ("scores", "deltas")),
        ("suppression", "top_per_class", None),
    ):  # fmt: skip
        given = pipeline[step].get_params()[param]
        if (tuple(given) if isinstance(value, tuple) else given) != value:
            raise UserError(f"torchvision's detector has {value!r} for {step}__{param}; here it is {given!r}")
    if "masks" in names:
        _refuse_other_masks(pipeline)
    if pipeline["proposals"].nms is None:
        raise UserError("torchvision's detector suppresses proposals; here proposals__nms is None")


def _refuse_other_masks(pipeline: Pipeline) -> None:
    """UserError if the mask branch is another than torchvision's."""
    if "mask_features" not in (step.name for step in pipeline):
        raise UserError(f"torchvision's detector has RoIAlign for mask_features; {pipeline.name} has not")
    head, pooler = pipeline.method("masks"), pipeline.method("mask_features")
    if not (isinstance(head, MaskHead) and isinstance(pooler, RoIAlign)):
        raise UserError("torchvision's detector has MaskHead for masks, on RoIAlign")
    for name, stage, param, value in (
        ("masks", head, "convs", CONVS), ("masks", head, "width", 256), ("masks", head, "scores", "sigmoid"),
        ("masks", head, "agnostic", False), ("mask_features", pooler, "grid", 14),
        ("mask_features", pooler, "sampling", 2), ("mask_features", pooler, "aligned", False),
        ("mask_features", pooler, "reduce", "average"), ("mask_features", pooler, "maps", level_names(2, 5)),
    ):  # fmt: skip
        given = stage.get_params()[param]
        if (tuple(given) if isinstance(value, tuple) else given) != value:
            raise UserError(f"torchvision's detector has {value!r} for {name}__{param}; here it is {given!r}")


def _check(model: Any) -> None:
    """UserError if a part of the model is one that no stage here has."""
    heads, rpn = model.roi_heads, model.rpn
    sizes, ratios = rpn.anchor_generator.sizes, rpn.anchor_generator.aspect_ratios
    first = heads.box_roi_pool
    said = {
        "transform.image_mean": (tuple(model.transform.image_mean), IMAGENET[0]),
        "transform.image_std": (tuple(model.transform.image_std), IMAGENET[1]),
        "transform.size_divisible": (model.transform.size_divisible, 32),
        "transform.fixed_size": (model.transform.fixed_size, None),
        "rpn.score_thresh": (rpn.score_thresh, 0.0),
        "the sizes of anchors on each level": ({len(size) for size in sizes}, {1}),
        "the ratios of anchors on each level": (len(set(ratios)), 1),
        "the convolutions of rpn.head": (len(rpn.head.conv), 1),
        "roi_heads.box_roi_pool.canonical_scale": (first.canonical_scale, 224),
        "roi_heads.box_roi_pool.canonical_level": (first.canonical_level, 4),
        "roi_heads.box_head": (type(heads.box_head).__name__, "TwoMLPHead"),
    }
    _refuse_unlike(said)


def _refuse_unlike(said: Mapping[str, tuple[Any, Any]]) -> None:
    """UserError if a part, by its name, is not the one that is known here."""
    for what, (value, wanted) in said.items():
        if value != wanted:
            raise UserError(f"the detector has {value} for {what}; only {wanted} is known here")
