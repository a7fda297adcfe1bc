"""Faster and Mask R-CNN here and torchvision's own: the same net, weights, data and schedule; AP and speed.

    python benchmarks/torchvision_faster.py --data SPEC --test SPEC [--weights FILE] [--backbone squeezenet1_1]
        [--steps 600] [--seeds 0 1] [--scale 600] [--precision float32] [--threads 2]
    python benchmarks/torchvision_faster.py --speed --data SPEC ...
    python benchmarks/torchvision_faster.py --masks ...

One map, RoIAlign 7 x 7 of 2 x 2 points, two new layers of 1024, anchors of torchvision, 2 images a step with 64 RoIs
each, 2000 proposals in training (of 6000) and 300 at use. torchvision's model is its FasterRCNN class in its own
training forward; both have the same rates and batches, flip as often, and start from the same tensors. --speed: a few
steps of both and a pass over test images, interleaved in one process; prints medians and ratios. torchvision's model
then takes its steps as in torchvision's own scripts, with torch.optim.SGD as it is by default; with --fused by this
project's loop. Else both learn by that, seed by seed, and it prints AP of each, and the paired bootstrap of their
difference.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from copy import deepcopy
from statistics import median
from typing import Any

import numpy as np
import torch
from rcnn.pipeline import measure
from rcnn.pipeline.pipeline import Pipeline
from rcnn.pipeline.recipes import faster, mask
from rcnn.pipeline.results import coco_results
from rcnn.pipeline.run import Run
from rcnn.stages.datasets.spec import open_dataset
from rcnn.stages.features.roi_align import RoIAlign
from rcnn.stages.masks import decode, encode
from rcnn.stages.nets.backbones import convolutional, load
from rcnn.stages.nets.layers import FCStack
from rcnn.stages.nets.precision import low_precision
from rcnn.stages.nets.rois import mirror
from rcnn.stages.nets.sgd import batch_of, sgd
from rcnn.stages.record import Record, RecordList
from rcnn.stages.stage import NoCheckpoint
from torch import nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

SIDES, RATIOS = (64.0, 128.0, 256.0), (0.5, 1.0, 2.0)


class Watch(NoCheckpoint):
    """Notes when each step was over."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def progress(self, done: int, total: int, text: str = "") -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


# -- the two sides -----------------------------------------------------------------------------------------


def ours(args: argparse.Namespace, seed: int, steps: int) -> Pipeline:
    recipe = mask if args.masks else faster
    pipeline = recipe(args.backbone, args.weights, scale=args.scale, longest=args.longest, sides=SIDES, ratios=RATIOS)
    pipeline.swap("features", RoIAlign(7, aligned=False))
    if args.masks:
        pipeline.set_params(mask_features__aligned=False, masks__precision=args.precision)
    same = {
        "training__images": 2, "training__rois": 128, "training__steps": steps, "training__lr": args.lr,
        "training__drop_every": max(2 * steps // 3, 1), "training__precision": args.precision,
        "map__precision": args.precision, "map__frozen": (), "proposals__precision": args.precision,
        "proposals__anchor_style": "torchvision", "proposals__score": "sigmoid", "proposals__cross_border": True,
        "proposals__normalise": "sampled", "proposals__balance": 1.0, "proposals__beta": 1 / 9,
        "proposals__width": 512, "proposals__pre_nms": 6000, "proposals__train_pre_nms": 6000,
        "proposals__min_side": 1e-3, "proposals__train_min_side": 1e-3, "fc__precision": args.precision,
        "head__beta": 1 / 9,
        "suppression__threshold": 0.5, "suppression__top_per_class": None, "suppression__top_per_image": 100,
    }  # fmt: skip
    seeds = {f"{step.name}__random_state": seed for step in pipeline if "random_state" in step.stage.param_names()}
    return pipeline.set_params(**{**seeds, **same})


class Net(nn.Module):
    """The convolutions as torchvision takes them."""

    def __init__(self, backbone: str, weights: Any):
        super().__init__()
        self.body = convolutional(load(backbone, weights, 0, ("pool5",)))
        self.out_channels = self.body.channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body.trunk(x)


class Head(nn.Module):
    """Their box head: the same layers as here."""

    def __init__(self, channels: int):
        super().__init__()
        self.stack = FCStack(channels * 49, (1024, 1024))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stack(x.flatten(1))


def theirs(args: argparse.Namespace, classes: int) -> Any:
    net = Net(args.backbone, args.weights)
    masks: dict[str, Any] = {
        "mask_roi_pool": MultiScaleRoIAlign(["0"], 14, 2),
        "mask_head": ScaledHeads(net.out_channels, (256,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(256, 256, classes + 1),
    }
    return (MaskRCNN if args.masks else FasterRCNN)(
        net, **(masks if args.masks else {}), min_size=args.scale, max_size=args.longest,
        rpn_anchor_generator=AnchorGenerator((SIDES,), (RATIOS,)),
        rpn_pre_nms_top_n_train=6000, rpn_pre_nms_top_n_test=6000, rpn_post_nms_top_n_train=2000,
        rpn_post_nms_top_n_test=300, box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2), box_head=Head(net.out_channels),
        box_predictor=Predictor(classes), box_batch_size_per_image=64, image_mean=net.body.mean, image_std=net.body.std,
    )  # fmt: skip


class ScaledHeads(MaskRCNNHeads):
    """Its mask head, behind the factor that ours has."""

    def __init__(self, *given: Any):
        super().__init__(*given)
        self.scale: Any
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = super().forward(x * self.scale)
        return made


class Predictor(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.scores, self.deltas = nn.Linear(1024, classes + 1), nn.Linear(1024, 4 * (classes + 1))
        self.scale: Any
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scores(x * self.scale), self.deltas(x * self.scale)


def start_alike(model: Any, net: Any) -> None:
    """Give torchvision's model the tensors that ours starts from; net: the modules of our members."""
    with torch.no_grad():
        head, rpn, fc = net["head"], net["proposals"], net["fc"]
        model.backbone.body.load_state_dict(net["map"].state_dict())
        model.rpn.head.conv[0][0].load_state_dict(rpn.conv.state_dict())
        model.rpn.head.cls_logits.load_state_dict(rpn.scores.state_dict())
        model.rpn.head.bbox_pred.load_state_dict(rpn.deltas.state_dict())
        model.roi_heads.box_head.stack.load_state_dict(fc.state_dict())
        predictor = model.roi_heads.box_predictor
        predictor.scores.load_state_dict(head.scores.state_dict())
        predictor.scale.copy_(head.scale)
        by = (head.std * torch.tensor([10.0, 10.0, 5.0, 5.0])).repeat(len(head.deltas.weight) // 4)
        predictor.deltas.weight[4:] = head.deltas.weight * by[:, None]
        predictor.deltas.bias[4:] = head.deltas.bias * by
        if "masks" in net:
            mine, heads = net["masks"], model.roi_heads
            heads.mask_head.scale.copy_(mine.scale)
            for i, layer in enumerate(mine.convs):
                heads.mask_head[i][0].load_state_dict(layer.state_dict())
            heads.mask_predictor.conv5_mask.load_state_dict(mine.up.state_dict())
            heads.mask_predictor.mask_fcn_logits.weight[1:] = mine.masks.weight
            heads.mask_predictor.mask_fcn_logits.bias[1:] = mine.masks.bias


def train_theirs(model: Any, data: Any, args: argparse.Namespace, seed: int, steps: int, watch: NoCheckpoint) -> None:
    model.to(args.device, memory_format=torch.channels_last if args.channels_last else torch.contiguous_format)

    def loss(step: int, generator: Any) -> Iterator[Any]:
        model.train()
        images, targets = [], []
        for i in batch_of(step, 2, len(data), seed).tolist():
            record, flip = data[i], bool(torch.rand((), generator=generator) < 0.5)
            image = np.asarray(record["image"])
            boxes = mirror(record["truth_boxes"], image.shape[1]) if flip else record["truth_boxes"]
            image = np.ascontiguousarray(image[:, ::-1]) if flip else image
            images.append((torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255).to(args.device))
            targets.append({"boxes": torch.from_numpy(boxes).to(args.device),
                            "labels": torch.from_numpy(record["truth_labels"]).to(args.device)})  # fmt: skip
            if args.masks:
                bitmaps = np.stack([decode(rle)[:, :: -1 if flip else 1] for rle in record["truth_masks"]])
                targets[-1]["masks"] = torch.from_numpy(bitmaps.astype(np.uint8)).to(args.device)
        with low_precision(args.device, args.precision):
            yield torch.stack(list(model(images, targets).values()))

    if args.speed and not args.fused:
        by_its_own_scripts(model, loss, args.lr, steps, watch)
    else:
        sgd(model, loss, watch, steps=steps, lr=args.lr, drop_every=max(2 * steps // 3, 1), bias_rate=2.0,
            losses=4 + args.masks, random_state=seed)  # fmt: skip
    model.eval()


def by_its_own_scripts(model: Any, loss: Any, lr: float, steps: int, watch: NoCheckpoint) -> None:
    """Steps as in torchvision's references/detection: torch's SGD as it is by default."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser, generator = torch.optim.SGD(learning, lr, 0.9, weight_decay=5e-4), torch.Generator()
    for step in range(steps):
        (losses,) = loss(step, generator)
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
        watch.progress(step + 1, steps)


def detect_theirs(model: Any, data: Any, args: argparse.Namespace) -> dict[str, measure.Detections]:
    """Detections of each image; with masks in the place of boxes under the key (id, "masks")."""
    found = {}
    for record in data:
        image = (torch.from_numpy(np.array(record["image"])).permute(2, 0, 1).float() / 255).to(args.device)
        with torch.no_grad(), low_precision(args.device, args.precision):
            (one,) = model([image])
        boxes, scores, labels = (one[name].float().cpu().numpy() for name in ("boxes", "scores", "labels"))
        found[record.id] = measure.Detections(boxes, scores, labels.astype(np.int64))
        if args.masks:
            rles = np.empty(len(boxes), object)
            rles[:] = [encode((bitmap[0] > 0.5).cpu().numpy()) for bitmap in one["masks"]]
            found[record.id, "masks"] = found[record.id]._replace(boxes=rles)
    return found


# -- what is compared --------------------------------------------------------------------------------------


def both(args: argparse.Namespace, data: Any, seed: int, steps: int) -> tuple[Any, Any, list[float], list[float]]:
    """Both trained: ours as a Run, theirs as a model, and when each step was over. Odd seeds train theirs first."""
    ran, watches = Run(ours(args, seed, steps), cache=None, device=args.device, progress=False), (Watch(), Watch())
    stage, model = ran.pipeline.stage("training"), theirs(args, len(data.classes))
    start_alike(model, begun(args, data, seed))

    def here() -> None:
        stage.fit(data, watches[0])

    def there() -> None:
        train_theirs(model, data, args, seed, steps, watches[1])

    for watch, train in list(zip(watches, (here, there), strict=True))[:: -1 if seed % 2 else 1]:
        watch.times[:] = [time.perf_counter()]
        train()
    ran.pipeline.classes, ran.pipeline.keys = tuple(data.classes), {"training": f"benchmark {seed}"}
    return ran, model, list(np.diff(watches[0].times)), list(np.diff(watches[1].times))


def begun(args: argparse.Namespace, data: Any, seed: int) -> dict[str, Any]:
    """The modules of our members as training begins."""
    stage = Run(ours(args, seed, 1), cache=None, device=args.device, progress=False).pipeline.stage("training")
    made: dict[str, Any] = {}
    plain = stage._modules

    def modules(*given: Any) -> Any:
        net = plain(*given)
        made.update({name: deepcopy(part).cpu() for name, part in net.items()})
        return net

    stage._modules = modules
    stage.fit(data)
    return made


def in_memory(records: Any, count: int | None = None) -> RecordList:
    """The records with their images decoded."""
    names = ("image", "size", "truth_boxes", "truth_labels", "truth_difficult", "truth_crowd")
    names = (*names, *(("truth_masks", "truth_areas") if "truth_masks" in records[0] else ()))
    some = [records[i] for i in range(min(len(records), count or len(records)))]
    return RecordList([Record(r.id, {name: r[name] for name in names}) for r in some], records.classes)


def speed(args: argparse.Namespace, data: Any, test: Any) -> None:
    steps: dict[str, list[float]] = {"ours": [], "torchvision": []}
    use: dict[str, list[float]] = {"ours": [], "torchvision": []}
    for turn in range(args.rounds):
        ran, model, mine, its = both(args, data, turn, 8)
        steps["ours"] += mine[3:]
        steps["torchvision"] += its[3:]
        for record in test:
            start = time.perf_counter()
            one = ran.one(record)
            if args.masks:
                coco_results(one, 0, data.classes)  # pasted, as torchvision's are
            between = time.perf_counter()
            detect_theirs(model, [record], args)
            use["ours"].append(between - start)
            use["torchvision"].append(time.perf_counter() - between)
    for what, taken in (("a step of training", steps), ("an image in use", use)):
        mine, its = (np.array(taken[side]) for side in ("ours", "torchvision"))
        print(f"{what}: {median(mine):.3f} s, torchvision {median(its):.3f} s, {median(its / mine):.2f} times as fast")


def accuracy(args: argparse.Namespace, data: Any, test: Any) -> None:
    truths = {"boxes": measure.read_truths(test), "masks": measure.read_mask_truths(test) if args.masks else None}
    for seed in args.seeds:
        ran, model, mine, its = both(args, data, seed, args.steps)
        ours = measure.scored(ran.over(test, ran.pipeline.outputs), test)
        found = detect_theirs(model, test, args)
        its_boxes = {record.id: found[record.id] for record in test}
        sides = {"boxes": (ours.results, its_boxes, 0.5)}
        if args.masks:
            its_masks = {record.id: found[record.id, "masks"] for record in test}
            sides["masks"] = (ours.masks, its_masks, measure.COCO_IOUS)
        print(f"seed {seed}: trained in {sum(mine):.0f} s, torchvision {sum(its):.0f} s", flush=True)
        for what, (here, there, iou) in sides.items():
            for name, results in (("ours", here), ("torchvision", there)):
                ap = measure.mean_ap(measure.voc_ap(results, truths[what]))
                coco = measure.coco_ap(results, truths[what], len(test.classes))[0]["coco_ap"]
                print(f"seed {seed}, {what}, {name}: VOC area AP {ap:.3f}, COCO AP {coco:.3f}", flush=True)
            against = measure.bootstrap(there, here, truths[what], iou=iou)
            said = f"{against['difference']:+.3f}, 95 %: {against['low']:+.3f} to {against['high']:+.3f}"
            print(f"seed {seed}, {what}: {said}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--test", required=True)
    parser.add_argument("--weights", default=None)
    parser.add_argument("--backbone", default="squeezenet1_1")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--scale", type=int, default=600)
    parser.add_argument("--longest", type=int, default=1000)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--channels-last", action="store_true", help="of torchvision's model; ours always is")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--fused", action="store_true", help="--speed: torchvision's model learns by our SGD")
    parser.add_argument("--masks", action="store_true", help="Mask R-CNN, on data with annotated masks")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    data = in_memory(open_dataset(args.data), 12 if args.speed else None)
    test = in_memory(open_dataset(args.test), 8 if args.speed else None)
    (speed if args.speed else accuracy)(args, data, test)


if __name__ == "__main__":
    main()
