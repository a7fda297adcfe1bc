"""Backbones against torchvision's own forward, and the weights they take and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from rcnn.errors import UserError
from rcnn.stages.nets import backbones
from rcnn.stages.nets.backbones import check, input_size, layers_of, load
from rcnn.stages.nets.precision import precision_of
from safetensors.torch import save_file

POOLED_BY_MEAN = {"squeezenet1_1": "features", "mnasnet0_5": "layers", "shufflenet_v2_x0_5": "conv5"}


def torchvision_net(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(5)
    return torchvision.models.get_model_builder(name)(**options).eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "squeezenet1_1", "mobilenet_v2",
                                  "mobilenet_v3_large", "densenet121", "convnext_tiny", "efficientnet_b0",
                                  "regnet_y_400mf", "shufflenet_v2_x0_5",
                                  "mnasnet0_5", "googlenet", "swin_t"])  # fmt: skip
def test_the_map_and_its_layers_are_those_of_the_whole_net(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the whole net hands to its global pooling is what the trunk gives."""
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    model, seen = torchvision_net(name, **options), []
    pool = torch.nn.functional.adaptive_avg_pool2d
    x = torch.randn(2, 3, 96, 64)
    if name in POOLED_BY_MEAN:
        last = model.get_submodule(POOLED_BY_MEAN[name])
        last.register_forward_hook(lambda module, inputs, output: seen.append(output.clone()))
    with torch.no_grad():
        with monkeypatch.context() as patch:
            if name not in POOLED_BY_MEAN:
                spy = lambda maps, size: seen.append(maps.clone()) or pool(maps, size)  # noqa: E731
                patch.setattr(torch.nn.functional, "adaptive_avg_pool2d", spy)
            model(x)
        net = load(name, model.state_dict(), pool=2)
        found, maps = net(x, ["gap", "pool5"]), net.trunk(x)
    torch.testing.assert_close(maps, seen[-1])  # those before it are of squeeze-and-excitation
    assert maps.shape[:2] == (2, net.channels)
    torch.testing.assert_close(found["gap"], maps.mean((2, 3)))
    torch.testing.assert_close(found["pool5"], pool(maps, 2).reshape(2, -1))
    assert {layer: f.shape[1] for layer, f in found.items()} == net.lengths
    assert net.stride == (16 if name.startswith("squeezenet") else 32)


def test_alexnet_as_caffe_names_it() -> None:
    model = torchvision_net("alexnet")
    net = load("alexnet", model.state_dict())
    assert (net.layers, net.channels, net.stride, net.input_size) == (("pool5", "fc6", "fc7"), 256, 32, 227)
    for side in (224, 227):  # both end in 6 x 6
        x = torch.randn(1, 3, side, side)
        with torch.no_grad():
            maps = model.features(x)
            found = net(x, ["fc7", "pool5"])
            expected = model.classifier[:6](maps.flatten(1))
        assert maps.shape == (1, 256, 6, 6)
        assert torch.equal(found["pool5"], maps.flatten(1))
        torch.testing.assert_close(found["fc7"], expected)
        assert found["fc7"].min() == 0
    assert list(found) == ["fc7", "pool5"]


def test_vgg16_as_caffe_names_it() -> None:
    with torch.device("meta"):
        model = torchvision.models.vgg16()
    weights = {k: torch.zeros(()).expand(v.shape) for k, v in model.state_dict().items() if "classifier" not in k}
    net = load("vgg16", weights, layers=["pool5"])
    assert (net.layers, net.lengths) == (("pool5",), {"pool5": 25088})  # fc6 is not even held
    assert (net.channels, net.stride, net.input_size) == (512, 32, 224)
    with pytest.raises(ValueError, match="'fc6'"):
        net(torch.zeros(1, 3, 224, 224), ["fc6"])
    seeded = {k: torch.randn(v.shape) * (2 / max(1, v[0].numel())) ** 0.5 for k, v in weights.items()}
    net = load("vgg16", seeded, layers=["pool5"])
    model.load_state_dict(seeded, assign=True, strict=False)
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(net(x, ["pool5"])["pool5"], model.features(x).flatten(1))


@pytest.mark.parametrize("name", ["alexnet", "shapenet"])
def test_no_more_is_computed_than_asked(name: str) -> None:
    net, used = load(name), []
    for layer, part in net.head.items():
        part.register_forward_hook(lambda *_, layer=layer: used.append(layer))
    net.trunk.register_forward_hook(lambda *_: used.append("trunk"))
    x = torch.zeros(1, 3, 64, 64)
    net(x, ["pool5"])
    assert used == ["trunk"]
    if name == "alexnet":
        net(x, ["fc6"])
        net(x, ["fc7", "fc6"])
        assert used == ["trunk", "trunk", "fc6", "trunk", "fc6", "fc7"]


def test_later_layers_from_an_earlier_one() -> None:
    net = load("alexnet")
    with torch.no_grad():
        whole = net(torch.randn(3, 3, 227, 227), ["pool5", "fc6", "fc7"])
        later = net.from_layer("pool5", whole["pool5"], ["fc7", "fc6"])
        assert torch.equal(later["fc7"], whole["fc7"])
        assert torch.equal(later["fc6"], whole["fc6"])
        assert torch.equal(net.from_layer("fc6", whole["fc6"], ["fc7"])["fc7"], whole["fc7"])
    for source, layer in (("fc6", "pool5"), ("pool5", "gap"), ("fc8", "fc7")):
        with pytest.raises(ValueError, match="no layer"):
            net.from_layer(source, whole["pool5"], [layer])
    with pytest.raises(ValueError, match="'gap'"):
        load("shapenet").from_layer("pool5", torch.zeros(1, 4608), ["gap"])


def test_shapenet() -> None:
    net = load("shapenet")
    assert (net.input_size, net.stride, net.layers) == (64, 8, ("pool5", "gap"))
    assert net.trunk(torch.zeros(1, 3, 64, 64)).shape == (1, net.channels, 8, 8)


def test_random_weights_follow_from_the_seed_and_disturb_nothing() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, same, other = (load("shapenet", random_state=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_batch_norms_stay_frozen() -> None:
    net = load("resnet18").train()
    norm = net.trunk.bn1
    before = norm.running_mean.clone()
    net(torch.randn(2, 3, 64, 64), ["gap"])
    assert torch.equal(norm.running_mean, before)
    assert net.training


# -- weights -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def squeezenet() -> torch.nn.Module:
    return torchvision_net("squeezenet1_1")


@pytest.mark.parametrize("kind", ["whole.safetensors", "trunk.safetensors", "whole.pth", "trunk.pt", "checkpoint.pth"])
def test_files(squeezenet: torch.nn.Module, tmp_path: Path, kind: str) -> None:
    part = squeezenet.features if kind.startswith("trunk") else squeezenet
    state, path = part.state_dict(), tmp_path / kind
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind.startswith("checkpoint") else state, path)
    net = load("squeezenet1_1", path)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.trunk(x), squeezenet.features(x))
    assert all(p.requires_grad for p in net.parameters())


def test_a_classifier_of_other_classes_is_no_matter() -> None:
    state = torchvision_net("resnet18", num_classes=7).state_dict()
    assert load("resnet18", state).layers == ("pool5", "gap")


def test_the_head_may_miss_only_where_it_is_not_asked() -> None:
    state = {k: v for k, v in torchvision_net("alexnet").state_dict().items() if k.startswith("features")}
    assert load("alexnet", state, layers=["pool5"]).layers == ("pool5",)
    with pytest.raises(UserError, match=r"lacks head\.fc6\.weight, head\.fc6\.bias"):
        load("alexnet", state, layers=["fc6"])


def test_a_state_is_copied_and_may_be_numpy_or_half(squeezenet: torch.nn.Module) -> None:
    state = {k: v.half().numpy() for k, v in squeezenet.state_dict().items()}
    net = load("squeezenet1_1", state)
    before = state["features.0.weight"].copy()
    with torch.no_grad():
        for p in net.parameters():
            assert p.dtype == torch.float32
            p.zero_()
    assert np.array_equal(state["features.0.weight"], before)


def test_a_stages_state() -> None:
    own = load("shapenet", random_state=4)
    state = {f"net_.backbone.{k}": v for k, v in own.state_dict().items()}
    state |= {"net_.classifier.weight": torch.zeros(3, 128), "history_": np.zeros(5)}
    loaded = load("shapenet", state).state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in own.state_dict().items())


def test_wrong_weights_are_told_in_a_sentence(squeezenet: torch.nn.Module, tmp_path: Path) -> None:
    state, path = squeezenet.state_dict(), tmp_path / "net.safetensors"
    save_file(state, path)
    with pytest.raises(UserError, match=r"net\.safetensors is not of resnet18: it has features\.0\.bias.* and 47 more"):
        load("resnet18", path)
    save_file({k: v for k, v in state.items() if k != "features.3.squeeze.bias"}, path)
    with pytest.raises(UserError, match=r"net\.safetensors.*lacks trunk\.features\.3\.squeeze\.bias"):
        load("squeezenet1_1", path)
    with pytest.raises(UserError, match=r"features\.0\.weight \(1, 3, 3, 3\) for \(64, 3, 3, 3\)"):
        load("squeezenet1_1", {**state, "features.0.weight": torch.zeros(1, 3, 3, 3)})
    with pytest.raises(UserError, match=r"there is no weights file .*absent\.pth"):
        load("squeezenet1_1", tmp_path / "absent.pth")
    for name in ("torn.pth", "torn.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(UserError, match=f"{name} cannot be read"):
            load("squeezenet1_1", tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"list\.pth holds no state"):
        load("squeezenet1_1", tmp_path / "list.pth")
    with pytest.raises(UserError, match=r"'IMAGENET1K_V9' are neither .*IMAGENET1K_V1"):
        load("squeezenet1_1", "IMAGENET1K_V9")


def test_torchvisions_names(squeezenet: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict",
                        lambda self, **_: asked.append(self.name) or squeezenet.state_dict())  # fmt: skip
    net = load("squeezenet1_1", "DEFAULT")
    assert asked == ["IMAGENET1K_V1"]
    assert torch.equal(net.trunk.features[0].weight, squeezenet.features[0].weight)

    def no_network(self: object, **_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models.SqueezeNet1_1_Weights, "get_state_dict", no_network)
    with pytest.raises(UserError, match="IMAGENET1K_V1 of squeezenet1_1 cannot be downloaded: no route"):
        load("squeezenet1_1", "IMAGENET1K_V1")


# -- names -------------------------------------------------------------------------------------------------


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"no backbone 'resnet5'; near it are .*resnet50"):
        check("resnet5")
    with pytest.raises(ValueError, match="'vit_b_16' gives no convolutional map"):
        check("vit_b_16")
    with pytest.raises(ValueError, match="no backbone 'qqqqqq'"):
        load("qqqqqq")


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg19_bn", "resnet152", "wide_resnet50_2",
                                  "convnext_large", "regnet_x_800mf", "densenet201", "inception_v3",
                                  "efficientnet_v2_s"])  # fmt: skip
def test_known_names(name: str) -> None:
    check(name)
    channels, stride = backbones._geometry(name)
    assert stride == 32
    assert channels >= 256
    assert input_size(name) in (224, 227, 299)
    assert layers_of(name)[0] == "pool5"


def test_timm() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t").eval()
    net = load("timm:resnet10t", model.state_dict())
    assert (net.stride, net.layers, net.mean) == (32, ("pool5", "gap"), model.pretrained_cfg["mean"])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net.trunk(x), model.forward_features(x))
    with pytest.raises(ValueError, match="near it are timm:resnet10t"):
        check("timm:resnet10")
    with pytest.raises(ValueError, match="gives no convolutional map"):
        load("timm:vit_tiny_patch16_224")


def test_precision() -> None:
    assert precision_of("float32", "cpu") == "float32"
    assert precision_of("auto", "cpu") in ("float32", "bfloat16")


# -- real weights ------------------------------------------------------------------------------------------


@pytest.mark.realdata
def test_real_squeezenet(data_root: Path) -> None:
    net = load("squeezenet1_1", data_root / "weights" / "squeezenet1_1-imagenet-features.safetensors")
    assert net.trunk.features[0].weight.std() > 5  # folded, as its notes say


@pytest.mark.realdata
def test_real_mobilenet_knows_what_it_sees(data_root: Path) -> None:
    """The trunk under the file's own classifier names large objects of COCO whose class ImageNet has too."""
    from safetensors.torch import load_file

    path = data_root / "weights" / "mobilenet_v2-imagenet.safetensors"
    net, state = load("mobilenet_v2", path), load_file(path)
    names = (data_root / "weights" / "imagenet1000_labels.txt").read_text().splitlines()
    crops, wanted = objects_of(data_root / "data" / "coco-mini", {"zebra", "banana", "pizza", "broccoli", "laptop"})
    with torch.no_grad():
        gap = net(net.normalise(crops), ["gap"])["gap"]
        top5 = (gap @ state["classifier.1.weight"].T + state["classifier.1.bias"]).topk(5).indices
    hits = [any(word in names[i] for i in told) for word, told in zip(wanted, top5.tolist())]
    assert len(hits) >= 5
    assert np.mean(hits) > 0.5


def objects_of(root: Path, words: set[str]) -> tuple[torch.Tensor, list[str]]:
    """Objects of at least 100 x 100 pixels, cut out and resized to 224 (N 3 S S, bytes), and their classes."""
    from PIL import Image

    crops, wanted = [], []
    for file in sorted((root / "annotations").glob("*.json")):
        told = json.loads(file.read_text())
        classes = {c["id"]: c["name"] for c in told["categories"]}
        files = {i["id"]: i["file_name"] for i in told["images"]}
        for one in told["annotations"]:
            x, y, w, h = one["bbox"]
            if classes[one["category_id"]] in words and min(w, h) >= 100 and not one["iscrowd"]:
                image = Image.open(next(root.glob(f"*/{files[one['image_id']]}"))).convert("RGB")
                crops.append(torch.tensor(np.asarray(image.crop((x, y, x + w, y + h)).resize((224, 224)))))
                wanted.append(classes[one["category_id"]])
    return torch.stack(crops[:40]).permute(0, 3, 1, 2), wanted[:40]
