"""Drawn scenes: where shapes stand (`layout`), what is seen of them (`visible`), the picture (`paint`).

The three are apart so that truth is known without painting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .outlines import OUTLINES, blob, coverage, fitted, half

Rng = np.random.Generator
HALVES = ("disc", "ring", "cross")  # part of a square or an arrow may be a triangle, most of a star a star
TRIES = 12


@dataclass(frozen=True)
class Piece:
    """A shape in its place: its label (0: clutter), coverage (h w, 0..1) and upper left corner."""

    label: int
    alpha: Any
    x: int
    y: int

    @property
    def window(self) -> tuple[slice, slice]:
        h, w = self.alpha.shape
        return slice(self.y, self.y + h), slice(self.x, self.x + w)

    @property
    def box(self) -> tuple[int, int, int, int]:
        h, w = self.alpha.shape
        return self.x, self.y, self.x + w, self.y + h


def frame(rng: Rng, height: int, width: int, vary: float) -> tuple[int, int]:
    """Height and width of about the same area, the aspect changed by up to a factor exp(vary) either way."""
    aspect = width / height * np.exp(rng.uniform(-vary, vary))
    wide = round(float((height * width * aspect) ** 0.5))
    return round(height * width / wide), wide


def layout(
    rng: Rng,
    height: int,
    width: int,
    objects: Sequence[int],
    smallest: float,
    largest: float,
    occlusion: float,
) -> list[Piece]:
    """Shapes from back to front, each whole inside the image and none hidden by more than `occlusion`.

    objects: least and most of them; a shape that finds no place is not there.
    smallest: least side in pixels, and largest: greatest as a part of the image's shorter side; a side is the
        square root of the box's area, and log-uniform in between.
    """
    pieces: list[Piece] = []
    sides = smallest, largest * min(height, width)
    for _ in range(rng.integers(objects[0], objects[1] + 1)):
        label = int(rng.integers(1, len(OUTLINES) + 1))
        alpha = _shape(rng, list(OUTLINES)[label - 1], sides)
        for _ in range(TRIES):
            piece = _placed(rng, label, alpha, pieces, height, width)
            if piece is not None and _leaves_visible(pieces, piece, height, width, 1 - occlusion):
                pieces.append(piece)
                break
    return pieces or layout(rng, height, width, objects, smallest, largest, occlusion)


def visible(pieces: Sequence[Piece], height: int, width: int) -> list[Any]:
    """What is seen of each piece (H W bool): at least half of the pixel, and nothing in front."""
    free = np.ones((height, width), bool)
    seen = []
    for piece in reversed(pieces):
        mask = np.zeros((height, width), bool)
        mask[piece.window] = _solid(piece)
        seen.append(mask & free)
        free &= ~mask
    return seen[::-1]


def paint(
    rng: Rng, height: int, width: int, pieces: Sequence[Piece], clutter: float, noise: float, contrast: float
) -> tuple[Any, list[tuple[int, int, int, int]]]:
    """The picture (H W 3 uint8) of the pieces over a background with clutter, and the boxes of the clutter.

    clutter: how many things are behind the shapes, as a mean. noise: standard deviation of the sensor's noise
    at most, 0..1. contrast: least distance in colour, 0..1, between a shape and what is behind it.
    """
    canvas = _background(rng, height, width)
    canvas, boxes = _strokes(rng, canvas, rng.poisson(clutter * 0.6))
    for _ in range(rng.poisson(clutter * 0.4)):
        piece = _clutter_piece(rng, height, width)
        if piece is not None:
            boxes.append(piece.box)
            _fill(rng, canvas, piece, contrast)
    for piece in pieces:
        _fill(rng, canvas, piece, contrast)
    canvas *= _light(rng, height, width)
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(255 * noise * rng.uniform(0.3, 1))
    return canvas.clip(0, 255).astype(np.uint8), boxes


# -- layout ------------------------------------------------------------------------------------------------


def _shape(rng: Rng, name: str, sides: tuple[float, float]) -> Any:
    side = float(np.exp(rng.uniform(*np.log(sides))))
    stretch = float(np.exp(rng.uniform(-0.45, 0.45)))
    return coverage(fitted(OUTLINES[name](), side, stretch, rng.uniform(0, 2 * np.pi)))


def _placed(rng: Rng, label: int, alpha: Any, pieces: Sequence[Piece], height: int, width: int) -> Piece | None:
    h, w = alpha.shape
    if h > height or w > width:
        return None
    x, y = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    if pieces and rng.random() < 0.4:  # beside another, so that some hide some
        other = pieces[int(rng.integers(len(pieces)))]
        turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.3, 0.6)
        x = other.x + (other.alpha.shape[1] - w) / 2 + np.cos(turn) * far * (other.alpha.shape[1] + w) / 2
        y = other.y + (other.alpha.shape[0] - h) / 2 + np.sin(turn) * far * (other.alpha.shape[0] + h) / 2
    return Piece(label, alpha, int(np.clip(x, 0, width - w)), int(np.clip(y, 0, height - h)))


def _leaves_visible(pieces: Sequence[Piece], piece: Piece, height: int, width: int, least: float) -> bool:
    seen = visible([*pieces, piece], height, width)
    return all(mask.sum() >= least * _solid(p).sum() for p, mask in zip(pieces, seen))


def _solid(piece: Piece) -> Any:
    return piece.alpha >= 0.5


# -- paint -------------------------------------------------------------------------------------------------


def _background(rng: Rng, height: int, width: int) -> Any:
    a, b = rng.uniform(40, 215, (2, 3)).astype(np.float32)
    b = a + (b - a) * np.float32(rng.uniform(0.2, 0.6))
    coarse = _noise(rng, height, width, int(rng.integers(40, 120)))
    t = 0.65 * coarse + 0.35 * _noise(rng, height, width, int(rng.integers(4, 16)))
    if rng.random() < 0.4:
        t = 0.7 * t + 0.3 * _texture(rng, height, width)
    return a + (b - a) * t[..., None]  # H W 3


def _strokes(rng: Rng, canvas: Any, n: int) -> tuple[Any, list[tuple[int, int, int, int]]]:
    """Lines, curves and rows of signs on the canvas."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    boxes = []
    for _ in range(n):
        lines = (_line, _curve, _signs)[rng.integers(3)](rng, *canvas.shape[:2])
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        for points in lines:
            draw.line(points.ravel().tolist(), fill=colour, width=int(rng.integers(1, 4)), joint="curve")
        points = np.concatenate(lines)
        low, high = points.min(0).clip(0), np.minimum(points.max(0), canvas.shape[1::-1])
        if (high - low >= 4).all():
            boxes.append((int(low[0]), int(low[1]), int(high[0]), int(high[1])))
    return np.asarray(image).astype(np.float32), boxes


def _line(rng: Rng, height: int, width: int) -> list[Any]:
    return [rng.uniform(0, 1, (2, 2)) * (width, height)]


def _curve(rng: Rng, height: int, width: int) -> list[Any]:
    t = np.linspace(0, 1, 24)[:, None]
    p = rng.uniform(0, 1, 2) + rng.uniform(-0.3, 0.3, (3, 2))
    return [((1 - t) ** 2 * p[0] + 2 * t * (1 - t) * p[1] + t * t * p[2]) * (width, height)]


def _signs(rng: Rng, height: int, width: int) -> list[Any]:
    tall = rng.uniform(8, 26)
    start = rng.uniform(0, 0.8, 2) * (width, height)
    cells = start + np.arange(rng.integers(3, 9))[:, None] * (tall * 0.75, 0)  # n 2
    return [cell + rng.uniform(0, 1, (rng.integers(2, 5), 2)) * (tall * 0.55, tall) for cell in cells]


def _clutter_piece(rng: Rng, height: int, width: int) -> Piece | None:
    sides = 16.0, 0.5 * min(height, width)
    if rng.random() < 0.5:
        side = float(np.exp(rng.uniform(*np.log(sides))))
        alpha = coverage(fitted(blob(rng), side, 1.0, rng.uniform(0, 2 * np.pi)))
    else:
        alpha = half(_shape(rng, HALVES[rng.integers(len(HALVES))], sides), rng.uniform(0, 2 * np.pi))
        rows, columns = np.flatnonzero(alpha.any(1)), np.flatnonzero(alpha.any(0))
        alpha = alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _placed(rng, 0, alpha, (), height, width)


def _fill(rng: Rng, canvas: Any, piece: Piece, contrast: float) -> None:
    """Paint a piece on the canvas in two colours of one texture, away from the colour behind it."""
    under = canvas[piece.window]  # h w 3
    alpha = piece.alpha[..., None]  # h w 1
    behind = (under * alpha).sum((0, 1)) / alpha.sum()
    a = _colour(rng, behind, contrast)
    b = _colour(rng, behind, contrast, a)
    colour = a + (b - a) * _texture(rng, *piece.alpha.shape)[..., None]
    under += alpha * (colour - under)


def _colour(rng: Rng, behind: Any, contrast: float, near: Any = None) -> Any:
    """A colour (near another) at least `contrast` away from the one behind, or the farthest of ten."""
    colours = rng.uniform(0, 255, (10, 3)).astype(np.float32)
    if near is not None:
        colours = near + (colours - near) * np.float32(rng.uniform(0.1, 0.6))
    far = np.linalg.norm(colours - behind, axis=1) / (255 * 3**0.5)
    return colours[np.argmax(far >= contrast) if (far >= contrast).any() else np.argmax(far)]


def _light(rng: Rng, height: int, width: int) -> Any:
    """Gain (H W 1): overall, and from one side to the other."""
    angle, slope, gain = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35), rng.uniform(0.75, 1.15)
    x = np.linspace(-1, 1, width, dtype=np.float32) * np.float32(np.cos(angle) * slope)
    y = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(np.sin(angle) * slope)
    return np.float32(gain) * (1 + x + y[:, None])[..., None]


def _noise(rng: Rng, height: int, width: int, cell: int) -> Any:
    """Smooth noise (H W, 0..1) with patches of about `cell` pixels."""
    from PIL import Image

    grid = rng.random((height // cell + 3, width // cell + 3), np.float32)
    image = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image).clip(0, 1)


def _texture(rng: Rng, height: int, width: int) -> Any:
    """One of six patterns, h w, 0..1."""
    kind, angle, period = rng.integers(6), rng.uniform(0, np.pi), rng.uniform(4, 14)
    if kind == 0:
        return np.full((height, width), 0.5, np.float32)
    if kind == 1:
        return _noise(rng, height, width, int(period))
    y = np.arange(height, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = x * c + y * s, y * c - x * s
    if kind == 2:
        return (u - u.min()) / max(float(np.ptp(u)), 1.0)
    u, v = (np.sin(w * np.float32(2 * np.pi / period)) for w in (u, v))
    wave = (u, u * v, u + v - 0.8)[kind - 3]  # stripes, checks, dots
    return (0.5 + 2 * wave).clip(0, 1)
