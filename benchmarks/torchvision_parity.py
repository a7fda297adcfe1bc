"""A detector of torchvision and its import here: how far their boxes and scores lie apart.

    python benchmarks/torchvision_parity.py --data SPEC [--images 20] [--size 800] [--masks]

torchvision's fasterrcnn_resnet50_fpn, or with --masks maskrcnn_resnet50_fpn, with random weights, its predictors scaled
so that regions differ and score, in float32, one image at a time. The partner of a detection of torchvision is the
nearest of ours of its class whose score is within 1e-4, and its box within 1e-3 px or 1e-4 of the image's side. Prints
for each image its shape, the number of detections, how many have no partner, and the largest differences of those that
have; then the same for a batch of four images of one size, and both sides' seconds. Masks are compared as the heads
give them, before they are pasted.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from rcnn.pipeline.run import Run
from rcnn.pipeline.torchvision_detectors import imported
from rcnn.stages.datasets.spec import open_dataset
from torchvision.models.detection import fasterrcnn_resnet50_fpn, maskrcnn_resnet50_fpn


def random_model(size: int, masks: bool) -> Any:
    torch.manual_seed(0)
    make = maskrcnn_resnet50_fpn if masks else fasterrcnn_resnet50_fpn
    model = make(weights=None, weights_backbone=None, num_classes=81, min_size=size,
                 max_size=size * 1333 // 800).eval()  # fmt: skip
    with torch.no_grad():
        for part in model.modules():
            if hasattr(part, "running_var"):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(0.4, 0.6)
                part.bias.normal_(0, 0.05)
        model.rpn.head.cls_logits.weight.mul_(10)
        model.rpn.head.bbox_pred.weight.mul_(10)
        model.roi_heads.box_predictor.cls_score.weight.mul_(200)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(10)
        if masks:
            model.roi_heads.mask_predictor.mask_fcn_logits.weight.mul_(20)
    return model


def apart(ours: Any, theirs: Any, side: int) -> tuple[int, float, float, float]:
    """How many of theirs have no partner; the largest difference of boxes, scores and masks of those that have."""
    left = set(range(len(ours["det_boxes"])))
    boxes, scores, masks = [0.0], [0.0], [0.0]
    found = [theirs[name].numpy() for name in ("boxes", "scores", "labels")]
    for n, (box, score, label) in enumerate(zip(*found, strict=True)):
        same = [i for i in left if ours["det_labels"][i] == label and abs(ours["det_scores"][i] - score) < 1e-4]
        away = {i: float(np.abs(ours["det_boxes"][i] - box).max()) for i in same}
        near = min(away, key=away.__getitem__, default=-1)
        if near < 0 or away[near] >= max(1e-3, 1e-4 * side):
            continue
        left.remove(near)
        boxes.append(float(np.abs(ours["det_boxes"][near] - box).max()))
        scores.append(float(abs(ours["det_scores"][near] - score)))
        if "grids" in theirs:
            masks.append(float(np.abs(ours["det_masks"][near] - theirs["grids"][n, 0].numpy()).max()))
    return len(theirs["boxes"]) + 1 - len(boxes), max(boxes), max(scores), max(masks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--size", type=int, default=800)
    parser.add_argument("--masks", action="store_true")
    args = parser.parse_args()
    data = open_dataset(args.data)
    model, taken = random_model(args.size, args.masks), {"torchvision": 0.0, "here": 0.0}
    worst, grids = [0, 0.0, 0.0, 0.0], []
    model.roi_heads.register_forward_hook(lambda *made: grids.append([one.get("masks") for one in made[2][0]]))

    def theirs(images: list[Any]) -> list[Any]:
        start = time.perf_counter()
        with torch.no_grad():
            found = model([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in images])
        taken["torchvision"] += time.perf_counter() - start
        return [one | ({"grids": grid} if args.masks else {}) for one, grid in zip(found, grids[-1], strict=True)]

    with Run(imported(model), cache=None, progress=False) as run:

        def compare(images: list[Any], name: str) -> None:
            for image, found in zip(images, theirs(images), strict=True):
                start = time.perf_counter()
                ours = run.one(image)
                taken["here"] += time.perf_counter() - start
                without, *most = apart(ours, found, max(image.shape))
                worst[:] = worst[0] + without, *map(max, worst[1:], most)
                box, score, grid = most
                said = f"{len(found['boxes'])} detections, {without} without a partner"
                print(f"{name} {image.shape[1]} x {image.shape[0]}: {said}, boxes within {box:.1e} px, scores within "
                      f"{score:.1e}, masks within {grid:.1e}", flush=True)  # fmt: skip

        for i in np.linspace(0, len(data) - 1, args.images).astype(int):
            compare([np.asarray(data[i]["image"])], data[i].id)
        first = np.asarray(data[0]["image"])
        compare([first, first[::-1].copy(), first[:, ::-1].copy(), 255 - first], "one of a batch of four,")
    print(f"in all: {worst[0]} without a partner, boxes within {worst[1]:.1e} px, scores within {worst[2]:.1e}, "
          f"masks within {worst[3]:.1e}; torchvision {taken['torchvision']:.1f} s, "
          f"here {taken['here']:.1f} s")  # fmt: skip


if __name__ == "__main__":
    main()
