"""torchvision's Faster and Mask R-CNN as RUNs, and the other way: the same detections from the same weights."""

from __future__ import annotations

import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rcnn.errors import UserError
from rcnn.pipeline import cli, saved
from rcnn.pipeline.recipes import faster, mask
from rcnn.pipeline.run import Run
from rcnn.pipeline.torchvision_detectors import class_names, detector_of, exported, imported, ours, write
from rcnn.stages.datasets.coco import COCO
from rcnn.stages.masks import encode
from rcnn.stages.nets import rois
from rcnn.stages.proposals import rpn
from rcnn.stages.record import Record, RecordList
from rcnn.stages.stage import Ref
from torchvision.models import get_model
from torchvision.models.detection import FasterRCNN, MaskRCNN, fasterrcnn_resnet50_fpn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

# Ours -> torchvision's
LOSSES = {"proposals.class": "loss_objectness", "proposals.box": "loss_rpn_box_reg", "head.class": "loss_classifier",
          "head.box": "loss_box_reg", "masks.mask": "loss_mask"}  # fmt: skip
BOX, SCORE = 1e-3, 1e-4  # pixels at images of about 1000 (1e-4 of their size, at least), and of probabilities


def spread(model: Any) -> Any:
    """A model with random weights that tell regions apart: norms as after training, predictors scaled."""
    torch.manual_seed(0)
    with torch.no_grad():
        for part in model.modules():
            if hasattr(part, "running_var"):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(0.4, 0.6)
                part.bias.normal_(0, 0.05)
        heads = model.roi_heads.box_predictor
        for part, by in ((model.rpn.head.cls_logits, 10), (model.rpn.head.bbox_pred, 10), (heads.cls_score, 200),
                         (heads.bbox_pred, 10)):  # fmt: skip
            part.weight.mul_(by)
        if model.roi_heads.has_mask():
            model.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(20)
    return model.eval()


def small(**params: Any) -> Any:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d)
    return spread(FasterRCNN(backbone, 5, min_size=160, max_size=250, rpn_post_nms_top_n_test=200, **params))


def small_masks(**params: Any) -> Any:
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=torch.nn.BatchNorm2d)
    return spread(MaskRCNN(backbone, 5, min_size=160, max_size=250, rpn_post_nms_top_n_test=200, **params))


def found_by(model: Any, images: list[Any]) -> list[dict[str, Any]]:
    """What a model finds; masks as its head gives them, before they are pasted."""
    grids: list[Any] = []
    hook = model.roi_heads.register_forward_hook(lambda *made: grids.extend(one.get("masks") for one in made[2][0]))
    with torch.no_grad():
        tensors = [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images]
        results = [{name: value.numpy() for name, value in found.items()} for found in model(tensors)]
    hook.remove()
    return [{**one, **({"masks": grid[:, 0].numpy()} if grid is not None else {})} for one, grid in zip(results, grids)]


def agree(ours: Any, theirs: dict[str, Any], size: int) -> None:
    """Each of theirs has one of ours of its class, score and place."""
    assert len(ours["det_boxes"]) == len(theirs["boxes"]) >= 20
    left = list(range(len(ours["det_boxes"])))
    assert ("masks" in theirs) == ("det_masks" in ours)
    for i_theirs, (box, score, label) in enumerate(
        zip(theirs["boxes"], theirs["scores"], theirs["labels"], strict=True)
    ):
        near = [i for i in left if ours["det_labels"][i] == label and abs(ours["det_scores"][i] - score) < SCORE]
        match = next((i for i in near if np.abs(ours["det_boxes"][i] - box).max() < max(BOX, 1e-4 * size)), None)
        assert match is not None
        left.remove(match)
        if "masks" in theirs:
            np.testing.assert_allclose(ours["det_masks"][match], theirs["masks"][i_theirs], atol=1e-3)


@pytest.fixture(scope="module")
def images() -> list[Any]:
    rng = np.random.default_rng(0)
    sizes = [(120, 200), (200, 120), (160, 160), (90, 400), (333, 241)]
    return [np.kron(rng.integers(0, 255, (h // 8 + 1, w // 8 + 1, 3)), np.ones((8, 8, 1)))[:h, :w].astype(np.uint8)
            for h, w in sizes]  # fmt: skip


def test_a_run_detects_as_torchvision(images: list[Any], tmp_path: Path) -> None:
    model = small()
    saved.save(imported(model, "resnet18", ["a", "b", "c", "d"]), tmp_path / "run")
    pipeline = saved.load(tmp_path / "run")
    with Run(pipeline, cache=None, device="cpu", progress=False) as run:
        for image in images:
            (theirs,) = found_by(model, [image])
            agree(run.one(image), theirs, max(image.shape))


def test_so_does_one_with_masks(images: list[Any], tmp_path: Path) -> None:
    model = small_masks()
    saved.save(imported(model, "resnet18", ["a", "b", "c", "d"]), tmp_path / "run")
    pipeline = saved.load(tmp_path / "run")
    assert pipeline.name == "mask"
    with Run(pipeline, cache=None, device="cpu", progress=False) as run:
        spreads = []
        for image in images:
            (theirs,) = found_by(model, [image])
            agree(run.one(image), theirs, max(image.shape))
            spreads.append(theirs["masks"].std())
    assert min(spreads) > 0.02  # they tell something


def test_so_does_one_of_a_batch_of_equal_images(images: list[Any]) -> None:
    model, batch = small(), [images[2], images[2][::-1].copy(), images[2][:, ::-1].copy(), 255 - images[2]]
    with Run(imported(model, "resnet18"), cache=None, device="cpu", progress=False) as run:
        for image, theirs in zip(batch, found_by(model, batch), strict=True):
            agree(run.one(image), theirs, 160)


@pytest.mark.realdata
@pytest.mark.parametrize("make", [small, small_masks])
def test_on_real_images_of_all_shapes(make: Callable[..., Any], data_root: Path) -> None:
    data = COCO(data_root / "data/coco-mini/annotations/instances_val2017.json")
    model = make(box_score_thresh=0.3)
    some = [data[i] for i in np.linspace(0, len(data) - 1, 20).astype(int)]
    with Run(imported(model, "resnet18"), cache=None, device="cpu", progress=False) as run:
        for record in some:
            (theirs,) = found_by(model, [record["image"]])
            agree(run.one(record), theirs, max(record["image"].shape))


# -- a step of training ------------------------------------------------------------------------------------


class First:
    """A sampler that takes the first ones, where torchvision's takes any."""

    def __init__(self, of: Any):
        self.count, self.most = of.batch_size_per_image, round(of.batch_size_per_image * of.positive_fraction)

    def __call__(self, matched: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        taken: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
        for one in matched:
            positive = torch.where(one >= 1)[0][: self.most]
            negative = torch.where(one == 0)[0][: self.count - len(positive)]
            for found, chosen in zip(taken, (positive, negative), strict=True):
                found.append(torch.zeros_like(one, dtype=torch.uint8).index_fill(0, chosen, 1))
        return taken


def first_ones(positive: Any, negative: Any, count: int, share: float, generator: Any) -> Any:
    few = positive[: round(count * share)]
    return np.concatenate([few, negative[: count - len(few)]])


@pytest.mark.parametrize("make", [small, small_masks])
def test_a_step_of_training_has_torchvisions_losses_and_gradients(
    make: Callable[[], Any], images: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image needs neither padding nor another size; both sides sample the same anchors and regions."""
    image = np.ascontiguousarray(images[2])  # 160 x 160, a multiple of the 32 that torchvision pads to
    boxes = np.array([[10, 20, 70, 90], [60, 40, 150, 150]], np.float32)
    bitmaps = np.zeros((2, 160, 160), np.uint8)
    for bitmap, (x0, y0, x1, y1) in zip(bitmaps, boxes.astype(int), strict=True):
        bitmap[y0:y1, x0:x1] = 1
    labels = np.array([2, 4])
    model = make()
    pipeline = imported(model, "resnet18", ["a", "b", "c", "d"])
    record = Record("a", {
        "image": image, "size": np.array([160, 160]), "truth_boxes": boxes, "truth_labels": labels,
        "truth_difficult": np.zeros(2, bool), "truth_crowd": np.zeros(2, bool),
        "truth_masks": np.array([encode(bitmap) for bitmap in bitmaps], object),
    })  # fmt: skip
    for module in (rois, rpn):
        monkeypatch.setattr(module, "draw", first_ones)
    for part in (model.rpn, model.roi_heads):
        part.fg_bg_sampler = First(part.fg_bg_sampler)
    monkeypatch.setattr(type(model.roi_heads), "add_gt_proposals",  # ours has them first
                        lambda _self, found, truth: [torch.cat([a, b]) for a, b in zip(truth, found)])  # fmt: skip

    model.train().backbone.eval()  # batch norms stay as they are
    tensors = [torch.from_numpy(image).permute(2, 0, 1).float() / 255]
    target = {"boxes": torch.from_numpy(boxes), "labels": torch.from_numpy(labels), "masks": torch.from_numpy(bitmaps)}
    theirs = model(tensors, [target])
    masks = "loss_mask" in theirs
    sum(loss for name, loss in theirs.items() if name != "loss_mask").backward()  # targets of masks are cut otherwise

    state = pipeline.stage("training").state()
    fit = pipeline.stage("training").clone()
    fit.set_params(weights=Ref("before"), images=1, rois=512, flip=False, device="cpu", by=list(LOSSES)[:4])
    fit.set_params(steps=1, lr=1.0, momentum=0.0, decay=0.0)
    fit.bind("weights", lambda: state, "")
    fit.fit(RecordList([record], "abcd"))
    for name, loss in zip(fit.losses, fit.history_[0], strict=True):
        assert loss == pytest.approx(theirs[LOSSES[name]].item(), rel=0.05 if name == "masks.mask" else 1e-4)

    gradients = deepcopy(model)
    for mine, its in zip(gradients.parameters(), model.parameters(), strict=True):
        mine.data = its.grad if its.grad is not None else torch.zeros_like(its)
    learned = ("proposals.", "fc.layers.", "head.", "map.fpn.", "map.body.trunk.layer4.1.conv2")
    moved, compared = fit.state(), 0
    for name, gradient in ours(gradients).items():
        if name.startswith(learned) and name.endswith(("weight", "bias")):
            step = (state[f"net_.{name}"] - moved[f"net_.{name}"]) / (2 if name.endswith("bias") else 1)
            assert float((step - gradient).norm()) <= 1e-3 * float(gradient.norm()), name
            compared += 1
    assert compared == 31
    assert masks == ("masks.mask" in fit.losses)


def trained(change: Callable[[dict[str, Any]], None]) -> Any:
    """A pipeline of ours that torchvision's detector can hold, its state changed."""
    pipeline = imported(detector(), "resnet50")
    state = pipeline["training"].state()
    change(state)
    pipeline["training"].load_state(state)
    return pipeline


def detector(kind: str = "fasterrcnn_resnet50_fpn") -> Any:
    torch.manual_seed(0)
    params = {"num_classes": 4, "min_size": 128, "max_size": 200, "rpn_post_nms_top_n_test": 200}
    return spread(get_model(kind, weights=None, weights_backbone=None, **params))


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of torchvision's weights becomes a RUN, and the RUN the same file."""
    from safetensors.torch import load_file, save_file

    def rcnn(*words: str) -> tuple[int | str | None, str]:
        monkeypatch.setattr(sys, "argv", ["rcnn", *words])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        told = capsys.readouterr()
        return stop.value.code or 0, told.out + told.err

    monkeypatch.chdir(tmp_path)
    model = detector()
    save_file(model.state_dict(), "given.safetensors")
    kind = "torchvision:fasterrcnn_resnet50_fpn"
    code, said = rcnn("import", kind, "--weights", "given.safetensors", "--classes", "cat,dog,emu", "--out", "run")
    assert code == 0
    assert "3 classes" in said
    code, said = rcnn("export", "run", "--out", "back.safetensors")
    assert code == 0
    assert "num_classes=4" in said
    back = load_file("back.safetensors")
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            own = value.clone()
            if "bbox_pred" in name and name.startswith("roi_heads"):
                own[:4] = 0  # the background's, which nothing reads
            torch.testing.assert_close(back[name], own)
    for words, why in (
        (("import", kind, "--weights", "nothing.pth", "--out", "a"), "nothing.pth"),
        (("import", kind, "--weights", "given.safetensors", "--classes", "cat", "--out", "b"), "1 classes are named"),
        (("import", "torchvision:ssd", "--weights", "given.safetensors", "--out", "c"), "is no detector that is known"),
        (
            ("import", "fasterrcnn_resnet50_fpn", "--weights", "given.safetensors", "--out", "d"),
            "write torchvision:NAME",
        ),
        (("export", "run", "--out", "back.bin"), "is no .pth, .pt or .safetensors file"),
    ):
        code, said = rcnn(*words)
        assert code == 2
        assert why in said


def test_what_is_exported_detects_as_the_pipeline(images: list[Any], tmp_path: Path) -> None:
    """Scales of features, and mean and deviation of deltas, go into the weights."""

    def learn(state: dict[str, Any]) -> None:
        state["net_.proposals.scale"] = torch.tensor(1.2)
        state["net_.fc.scale"] = torch.tensor(1.5)
        state["net_.head.scale"] = torch.tensor(0.7)
        state["net_.head.mean"] = torch.tensor([0.02, -0.01, 0.1, 0.05])
        state["net_.head.std"] = torch.tensor([0.1, 0.2, 0.15, 0.3])

    pipeline = trained(learn)
    name, state, arguments = exported(pipeline)
    assert name == "fasterrcnn_resnet50_fpn"
    write(state, tmp_path / "model.safetensors")
    from safetensors.torch import load_file

    model = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, **arguments)
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    with Run(pipeline, cache=None, device="cpu", progress=False) as run:
        for image in images[:2]:
            (theirs,) = found_by(model.eval(), [image])
            agree(run.one(image), theirs, max(image.shape))


@pytest.mark.parametrize("kind", ["fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn"])
def test_there_and_back_are_the_same_tensors(kind: str, tmp_path: Path) -> None:
    model = detector(kind)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    name, state, arguments = exported(imported(detector_of(kind, str(tmp_path / "model.pth"))))
    assert name == kind
    assert arguments["num_classes"] == 4
    own = model.state_dict()
    assert set(state) == set(own)
    for name, value in own.items():
        first = {"roi_heads.box_predictor.bbox_pred": 4, "roi_heads.mask_predictor.mask_fcn_logits": 1}
        part = slice(first.get(name.rpartition(".")[0]), None)  # of the background nothing is kept
        torch.testing.assert_close(
            state[name][part] if value.ndim else state[name], value[part] if value.ndim else value
        )


def test_norms_without_eps_are_kept() -> None:
    """torchvision sets the eps of its published weights to 0; dead channels have nearly no variance."""
    from torchvision.models.detection._utils import overwrite_eps

    torch.manual_seed(0)
    model = FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 3).eval()
    norm = model.backbone.body.bn1
    norm.running_var.uniform_(0.5, 1.5)
    norm.running_var[:8] = 1e-12
    norm.running_mean.normal_()
    overwrite_eps(model, 0.0)
    pipeline = imported(model, "resnet18")
    net = pipeline["map"]._load(pipeline["training"].state_for("map"))
    maps = torch.rand(1, 64, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(net.body.trunk.bn1(maps), norm(maps), rtol=1e-4, atol=1e-3)


def test_names_of_classes() -> None:
    """COCO's 80 classes have numbers up to 90, and a RUN knows those classes alone."""
    names, numbers, labels = class_names(90, ())
    assert (names[0], names[79], len(set(names))) == ("person", "toothbrush", 80)
    assert (numbers[:3], numbers[-1]) == ((1, 2, 3), 90)
    assert labels == numbers
    assert class_names(2, ["x", "y"]) == (("x", "y"), (), ())
    assert class_names(2, ()).names == ("class 1", "class 2")
    with pytest.raises(UserError, match="3 classes are named, and the weights are of 2"):
        class_names(2, ["a", "b", "c"])


def test_labels_without_a_class_are_not_told(images: list[Any]) -> None:
    model = small()
    pipeline = imported(model, "resnet18")
    every, some = (pipeline, imported(model, "resnet18").set_params(head__kept=(2, 4)))
    some.keys, some.classes = every.keys, ("b", "d")
    some["training"].load_state(every["training"].state())
    with Run(every, cache=None, device="cpu", progress=False) as run:
        whole = run.one(images[0], ["scores", "deltas"])
    with Run(some, cache=None, device="cpu", progress=False) as run:
        part = run.one(images[0], ["scores", "deltas"])
    for name in ("scores", "deltas"):
        torch.testing.assert_close(part[name], whole[name][:, [1, 3]], rtol=0, atol=0)


def test_what_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'retinanet' is no detector that is known"):
        detector_of("retinanet", "DEFAULT")
    with pytest.raises(UserError, match=r"neither a \.safetensors, \.pth or \.pt file nor a name"):
        detector_of("fasterrcnn_resnet50_fpn", "COCO_V7")
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth is not of fasterrcnn_resnet50_fpn: it has no"):
        detector_of("fasterrcnn_resnet50_fpn", str(tmp_path / "other.pth"))
    torch.save({"roi_heads.box_predictor.cls_score.bias": torch.zeros(3)}, tmp_path / "part.pth")
    with pytest.raises(UserError, match=r"part\.pth is not of fasterrcnn_resnet50_fpn: Missing key"):
        detector_of("fasterrcnn_resnet50_fpn", str(tmp_path / "part.pth"))
    model = small()
    model.rpn.score_thresh = 0.5
    with pytest.raises(UserError, match=r"has 0\.5 for rpn\.score_thresh; only 0\.0 is known here"):
        imported(model, "resnet18")


def test_what_torchvision_has_not_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torchvision's detector has FPN for map; faster has not"):
        exported(faster("resnet50", None))
    pipeline = faster("resnet50", None, fpn=True)
    with pytest.raises(UserError, match="has 'torchvision' for proposals__anchor_style; here it is 'paper'"):
        exported(pipeline)
    with_masks = imported(detector("maskrcnn_resnet50_fpn"))
    with_masks.set_params(masks__scores="softmax")
    with pytest.raises(UserError, match="has 'sigmoid' for masks__scores; here it is 'softmax'"):
        exported(with_masks)
    with pytest.raises(UserError, match=r"model\.bin is no \.pth, \.pt or \.safetensors file"):
        write({}, tmp_path / "model.bin")
    (tmp_path / "file").touch()
    for name in ("model.pth", "model.safetensors"):
        with pytest.raises(UserError, match=f"cannot write .*{name}"):
            write({"a": torch.zeros(1)}, tmp_path / "file" / name)


def test_a_branch_that_learned_by_itself_is_exported() -> None:
    """Its tensors are those of its own training."""
    together = imported(detector("maskrcnn_resnet50_fpn"))
    state = together["training"].state()
    apart = mask("resnet50", None, fpn=True, apart=True, scale=128, longest=200).set_params(
        proposals__anchor_style="torchvision", features__aligned=False, mask_features__aligned=False,
        suppression__top_per_class=None,
    )  # fmt: skip
    apart["training"].load_state({name: value for name, value in state.items() if not name.startswith("net_.masks")})
    apart["mask_training"].load_state(state)
    (name, mine, _), (_, whole, _) = exported(apart), exported(together)
    assert name == "maskrcnn_resnet50_fpn"
    assert set(mine) == set(whole)
    for key, value in whole.items():
        torch.testing.assert_close(mine[key], value, rtol=0, atol=0)
