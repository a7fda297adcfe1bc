"""The eight shapes as polygons, and polygons as antialiased coverage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Parts = list[tuple[Any, bool]]  # polygons (N 2), drawn in turn; True fills, False cuts out


def _circle(radius: float = 1.0, n: int = 48) -> Any:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return radius * np.stack([np.cos(t), np.sin(t)], 1)  # n 2


def disc() -> Parts:
    return [(_circle(), True)]


def ring() -> Parts:
    return [(_circle(), True), (_circle(0.55), False)]


def square() -> Parts:
    return [(np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float), True)]


def triangle() -> Parts:
    return [(_circle(n=3), True)]


def star() -> Parts:
    points = _circle(n=10)
    points[1::2] *= 0.42
    return [(points, True)]


def cross() -> Parts:
    a = 0.32  # half the width of an arm
    corner = np.array([(1, -a), (1, a), (a, a)], float)
    turn = np.array([(0, 1), (-1, 0)], float)  # a quarter
    return [(np.concatenate([corner @ np.linalg.matrix_power(turn, i) for i in range(4)]), True)]


def heart() -> Parts:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [(np.stack([16 * np.sin(t) ** 3, -y], 1) / 16, True)]


def arrow() -> Parts:
    half = [(1, 0), (0.1, -0.85), (0.1, -0.32), (-1, -0.32)]
    return [(np.array(half + [(x, -y) for x, y in half[:0:-1]], float), True)]


OUTLINES: dict[str, Callable[[], Parts]] = {
    f.__name__: f for f in (disc, ring, square, triangle, star, cross, heart, arrow)
}  # in the order of the labels 1..K


def blob(rng: np.random.Generator) -> Parts:
    """A flower of six to nine lobes or a wavy band: fewer lobes would be a heart, a cross or a star."""
    return _flower(rng) if rng.random() < 0.5 else _band(rng)


def _flower(rng: np.random.Generator) -> Parts:
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    lobes = rng.uniform(0.16, 0.28) * np.cos(rng.integers(6, 10) * t)
    radius = 1 + lobes + rng.uniform(0.05, 0.2) * np.cos(2 * t + rng.uniform(0, 2 * np.pi))
    return [(_circle(n=96) * radius[:, None], True)]


def _band(rng: np.random.Generator) -> Parts:
    t = np.linspace(-1, 1, 40)
    wave = rng.uniform(2.5, 5) * t + rng.uniform(0, 2 * np.pi)
    middle = np.stack([t, rng.uniform(0.25, 0.5) * np.sin(wave)], 1)  # 40 2
    along = np.gradient(middle, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], 1) / np.linalg.norm(along, axis=1, keepdims=True)
    across *= rng.uniform(0.1, 0.2)
    return [(np.concatenate([middle + across, (middle - across)[::-1]]), True)]


def fitted(parts: Parts, side: float, stretch: float, angle: float) -> Parts:
    """Parts stretched along x, turned by an angle (radians), and scaled so that their box, moved to the
    origin, has an area of side * side pixels."""
    c, s = np.cos(angle), np.sin(angle)
    matrix = np.diag([stretch**0.5, stretch**-0.5]) @ np.array([(c, s), (-s, c)])
    moved = [points @ matrix for points, _ in parts]
    low, high = moved[0].min(0), moved[0].max(0)
    scale = side / np.prod(high - low) ** 0.5
    return [((points - low) * scale, fill) for points, (_, fill) in zip(moved, parts)]


def coverage(parts: Parts) -> Any:
    """How much of each pixel (h w, float32, 0..1) the parts cover, their first one starting at the origin."""
    from PIL import Image, ImageDraw

    w, h = (int(v) for v in np.ceil(parts[0][0].max(0)))
    k = 4 if max(w, h) < 96 else 2  # samples a pixel along each axis: small shapes show their steps
    canvas = Image.new("L", (w * k, h * k))
    draw = ImageDraw.Draw(canvas)
    for points, fill in parts:
        draw.polygon(_flat(points * k), fill=255 if fill else 0)
    return np.asarray(canvas.reduce(k), np.float32) / 255  # h w


def half(alpha: Any, angle: float) -> Any:
    """Coverage with all beyond a line through the middle taken away."""
    h, w = alpha.shape
    y, x = np.mgrid[:h, :w]
    beyond = (x + 0.5 - w / 2) * np.cos(angle) + (y + 0.5 - h / 2) * np.sin(angle)
    return alpha * (0.5 - beyond).clip(0, 1).astype(np.float32)  # h w; as smooth as every other edge


def _flat(points: Any) -> Sequence[float]:
    return (points - 0.5).ravel().tolist()  # Pillow counts from the centre of a pixel
