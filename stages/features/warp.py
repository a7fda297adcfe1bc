"""Warped crops through a convolutional net (Girshick et al. 2014, R-CNN, section 2.1 and appendix A)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..nets.frozen import STORAGE, Frozen
from ..nets.precision import PRECISIONS
from ..record import Record
from ..stage import Ref


def windows(boxes: Any, size: Sequence[int], side: int, padding: int = 16, mode: str = "warp") -> np.ndarray:
    """What each crop takes from the image and where it lies in the crop, as R-CNN's released code.

    All in whole pixels.

    boxes: R 4, pixels, half-open.
    size: height and width of the image.
    side: of the crop, pixels.
    padding: context on every side of the box, in pixels of the crop.
    mode: "warp" (anisotropic) or "square" (the tightest square around the box).

    Returns R 8 int64: x0, y0, x1, y1 in the image, half-open and inside it; x, y, width, height in the crop,
    width or height 0 where nothing of the image is in it. Around a box they are larger than exact scaling by
    up to one pixel, since the original rounds both ends of a 1-based inclusive window.
    """
    lo, hi = _context(np.asarray(boxes, np.float64).reshape(-1, 4), side, padding, mode)  # R 2, R 2
    limit = np.array([size[1], size[0]])
    scale = side / np.maximum(hi - lo, 1)  # R 2
    first, last = np.clip(lo, 0, limit), np.clip(hi, 0, limit)
    start = _round(np.maximum(-lo, 0) * scale)
    length = np.clip(np.minimum(_round(np.maximum(last - first, 0) * scale), side - start), 0, None)
    return np.concatenate([first, last, np.minimum(start, side), length], 1).astype(np.int64)  # R 8


def _context(boxes: np.ndarray, side: int, padding: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """The unclipped windows (R 2 and R 2, half-open): scaled about the centre to leave `padding`."""
    if padding == 0 and mode == "warp":
        return _round(boxes[:, :2] + 1) - 1, _round(boxes[:, 2:])
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    centre = boxes[:, :2] + 1 + half  # 1-based, and half a pixel right of it, as in the released code
    if mode == "square":
        half = np.repeat(half.max(1, keepdims=True), 2, 1)
    half = half * (side / (side - 2 * padding))
    return _round(centre - half) - 1, _round(centre + half)


def _round(x: np.ndarray) -> np.ndarray:
    """To the nearest whole number, halves away from zero, as MATLAB."""
    whole = np.trunc(x)
    return whole + np.sign(x) * (np.abs(x - whole) >= 0.5)


def normalised(image: Any, mean: Sequence[float], std: Sequence[float], device: Any = "cpu") -> Any:
    """The image (H W 3, uint8) as float32 (x / 255 - mean) / std on the device, to which it goes as bytes."""
    import torch

    pixels = torch.tensor(np.asarray(image), device=device).float()
    factor, shift = (torch.tensor(v, device=device) for v in (std, mean))
    return (pixels / 255 - shift) / factor  # H W 3


def warp(image: Any, places: np.ndarray, side: int, dtype: Any = None) -> Any:
    """Crops, N 3 side side in channels_last, of a normalised image (H W 3, float32) on the image's device.

    places: N 8, of `windows`. Bilinear between pixel centres; the edge of the clipped window is replicated;
    what is off the image is 0, the mean. dtype: float32 by default.

    On a CPU OpenCV's resize, crop by crop, where it can be imported: 0.05 ms a crop of 224 pixels, where
    torch's interpolate took 0.17 and grid_sample 0.40 (2 cores). Elsewhere all crops at once in torch.
    """
    import torch

    dtype = dtype or torch.float32
    each = image.device.type == "cpu" and _cv2() is not None
    crops = _warp_each(image, places, side, dtype) if each else _warp_all(image, places, side).to(dtype)
    return crops.permute(0, 3, 1, 2)  # N S S 3 -> N 3 S S, channels_last


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _warp_each(image: Any, places: np.ndarray, side: int, dtype: Any) -> Any:
    import torch

    resize, source = _cv2().resize, image.numpy()
    crops = torch.empty(len(places), side, side, 3, dtype=dtype)
    crop = np.empty((side, side, 3), np.float32)  # one, so that it stays in the processor's cache
    for k, (x0, y0, x1, y1, x, y, w, h) in enumerate(places.tolist()):
        if (w, h) != (side, side):
            crop.fill(0)
        if w and h:
            resize(source[y0:y1, x0:x1], (w, h), dst=crop[y : y + h, x : x + w])  # bilinear by default
        crops[k] = torch.from_numpy(crop)
    return crops


def _warp_all(image: Any, places: np.ndarray, side: int) -> Any:
    import torch

    at = torch.as_tensor(places, device=image.device)
    xa, xb, wx, in_x = _taps(at[:, 0], at[:, 2], at[:, 4], at[:, 6], side, image.shape[1])  # N S each
    ya, yb, wy, in_y = _taps(at[:, 1], at[:, 3], at[:, 5], at[:, 7], side, image.shape[0])
    wx, wy, inside = wx[:, None, :, None], wy[:, :, None, None], (in_y[:, :, None] & in_x[:, None])[..., None]
    upper = torch.lerp(image[ya[:, :, None], xa[:, None]], image[ya[:, :, None], xb[:, None]], wx)  # N S S 3
    lower = torch.lerp(image[yb[:, :, None], xa[:, None]], image[yb[:, :, None], xb[:, None]], wx)
    return torch.where(inside, torch.lerp(upper, lower, wy), 0)


def _taps(first: Any, last: Any, start: Any, length: Any, side: int, limit: int) -> tuple[Any, Any, Any, Any]:
    """Along one axis: the two pixels (N S) around each pixel of a crop, its place, and if it has any."""
    import torch

    u = torch.arange(side, device=first.device) - start[:, None]  # N S
    taken, length = (last - first).clamp(min=1)[:, None], length[:, None]
    place = (u + 0.5) * (taken.double() / length.clamp(min=1)) - 0.5
    place = torch.minimum(place.clamp(min=0), taken - 1.0)
    a = place.long()
    b = torch.minimum(a + 1, taken - 1)
    lo = first[:, None]
    inside = (u >= 0) & (u < length)
    return (lo + a).clamp(max=limit - 1), (lo + b).clamp(max=limit - 1), (place - a).float(), inside


class WarpedCNN(Frozen):
    """Features of each box from its own crop, warped to the size that a net takes (R-CNN, section 2.1).

    backbone, weights, random_state, pool: as nets.backbones.load takes them; weights may be a Ref.
    layers: of the backbone, all from one forward.
    mode, padding, size: of the crop, as `windows` takes them; size None is the backbone's own.
    storage: "float16" or "float32", the features' type.
    precision: "bfloat16" or "float32", that of the net; "auto" is bfloat16 where the device computes in it.
    batch: crops in a forward, all of one image; None is 16 on a CPU (of 16, 32 and 64 the fastest in five
        nets of six), 256 on a GPU.

    Reads image and boxes, writes features.LAYER (R F), on the device. UserError if a
    feature overflows the storage.
    """

    needs = ("image", "boxes")

    def __init__(self, backbone: str = "alexnet", weights: str | Ref | None = None,
                 layers: Sequence[str] = ("pool5",), mode: str = "warp", padding: int = 16,
                 size: int | None = None, pool: int = 6, storage: str = "float16", precision: str = "auto",
                 batch: int | None = None, device: str = "auto", random_state: int = 0):  # fmt: skip
        self.backbone = backbone
        self.weights = weights
        self.layers = layers  # the released code caches pool5
        self.mode = mode  # warp: appendix A
        self.padding = padding  # 16: appendix A
        self.size = size
        self.pool = pool
        self.storage = storage
        self.precision = precision
        self.batch = batch
        self.device = device
        self.random_state = random_state

    def validate(self) -> None:
        from ..nets.backbones import check, layers_of, refuse_layers

        check(self.backbone)
        refuse_layers(self.backbone, self.layers, layers_of(self.backbone))
        choices = {"mode": ("warp", "square"), "storage": STORAGE, "precision": PRECISIONS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it is one of {', '.join(known)}")
        for name, least in {"padding": 0, "pool": 1, "batch": 1}.items():
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it is at least {least}")
        if self._side() <= 2 * self.padding:
            raise ValueError(f"size {self._side()} leaves nothing of the box inside 2 x padding {self.padding}")

    def __call__(self, records: Sequence[Record]) -> list[dict[str, Any]]:
        net = self.net()
        return [self._features(net, record) for record in records]

    def _side(self) -> int:
        from ..nets.backbones import input_size

        return self.size or input_size(self.backbone)

    def _features(self, net: Any, record: Record) -> dict[str, Any]:
        import torch

        param = next(net.parameters())
        boxes, image = _on_host(record["boxes"]), record["image"]
        found = {layer: torch.empty(len(boxes), net.lengths[layer], dtype=getattr(torch, self.storage),
                                    device=param.device) for layer in self.layers}  # fmt: skip
        if len(boxes):
            places = windows(boxes, image.shape[:2], self._side(), self.padding, self.mode)  # R 8
            self._forward(net, normalised(image, net.mean, net.std, param.device), places, param.dtype, found)
        return {f"features.{layer}": self.finite(values, layer, record.id) for layer, values in found.items()}

    def _forward(self, net: Any, image: Any, places: np.ndarray, dtype: Any, found: dict[str, Any]) -> None:
        import torch

        step = self.batch or (16 if image.device.type == "cpu" else 256)
        for i in range(0, len(places), step):
            crops = warp(image, places[i : i + step], self._side(), dtype)  # N 3 S S
            with torch.no_grad():
                for layer, features in net(crops, self.layers).items():
                    found[layer][i : i + step] = features  # N F


def _on_host(boxes: Any) -> np.ndarray:
    return boxes.cpu().numpy() if hasattr(boxes, "cpu") else np.asarray(boxes)
