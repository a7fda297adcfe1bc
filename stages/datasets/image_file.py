"""An image file as H W 3 uint8 RGB, through Pillow."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...errors import UserError
from ..record import Lazy

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
ORIENTATION = 0x0112  # the EXIF tag
TURNED = (5, 6, 7, 8)  # its values that exchange height and width
SIDE = 32  # of a thumbnail, pixels
SIXTEEN = (";16B", ";16L", ";16N")  # what Pillow calls 16 bits a channel in a file (BGR;16 is 16 a pixel)


class Verdict(NamedTuple):
    """What an image file is.

    fault: why it cannot be read to its last byte; "" if it can. size: height and width, as stored.
    mode: the channels, as Pillow names them. bits: of a channel. orientation: EXIF's, 1 for upright.
    hash: of its bytes; "" if the system did not give them, so that nothing is known of the image.
    thumbnail: SIDE SIDE uint8, grey.
    """

    fault: str
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    bits: int = 0
    orientation: int = 1
    hash: str = ""
    thumbnail: Any = np.zeros((0, 0), np.uint8)


def read_image(path: str | Path, upright: bool = False) -> Any:
    """The image, H W 3 uint8 RGB.

    Grey, palette and CMYK become RGB, 16 bits the upper 8 of them, transparency is laid on white; of an
    animation, the first frame.
    upright: turn the picture as its EXIF orientation says. Off, because boxes of VOC and COCO are in stored
        pixels.
    UserError, naming the file, if it is missing, unreadable, cut short or of 32 bits a channel.
    """
    return _opened(path, lambda image: np.asarray(_rgb(_turned(image) if upright else image)))  # H W 3


def read_indices(path: str | Path) -> Any:
    """The palette's indices, or grey values, H W uint8, as VOC's masks are kept. UserError if it has other pixels."""
    return _opened(path, partial(_indices, path))


def _indices(path: str | Path, image: Any) -> Any:
    if image.mode not in ("P", "L"):
        raise UserError(f"{path} has neither a palette nor grey values: its pixels are {image.mode}")
    return np.asarray(image)  # H W


def image_size(path: str | Path, upright: bool = False) -> Any:
    """Height and width, int64, from the file's header alone. UserError as read_image."""
    return _opened(path, partial(_size, upright=upright))


def image_fields(path: str | Path, upright: bool = False) -> dict[str, Lazy]:
    """The fields `image` and `size` of an image file, read when asked for; they follow from its bytes."""
    identity = partial(_identity, path, upright)
    return {
        "image": Lazy(partial(read_image, path, upright), identity),
        "size": Lazy(partial(image_size, path, upright), identity),
    }


def examine(path: str | Path) -> Verdict:
    """What an image file is, judged by reading all of it."""
    from PIL import Image

    try:
        data = Path(path).read_bytes()
    except OSError as error:
        return Verdict(_reason(error))
    try:
        with Image.open(io.BytesIO(data)) as image:
            return _verdict(image, _hash(data))
    except _faults() as error:
        return Verdict(_reason(error), hash=_hash(data))


def _verdict(image: Any, hash: str) -> Verdict:
    mode, bits = image.mode, _bits(image)  # both change when it is read
    grey = _rgb(image).convert("L").resize((SIDE, SIDE))
    return Verdict("", (image.height, image.width), mode, bits, _orientation(image), hash, np.asarray(grey))


def _bits(image: Any) -> int:
    if image.mode == "1":
        return 1
    wide = image.mode.startswith("I") or any(str(tile[3]).find(end) >= 0 for tile in image.tile for end in SIXTEEN)
    return 16 if wide else 8  # what has 32 is not read at all


def _orientation(image: Any) -> int:
    try:
        said = image.getexif().get(ORIENTATION, 1)
    except _faults():  # EXIF gone wrong says nothing, and the image is none the worse
        return 1
    return said if said in range(1, 9) else 1


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _identity(path: str | Path, upright: bool) -> bytes:
    try:
        return Path(path).read_bytes() + (b"upright" if upright else b"stored")
    except OSError as error:
        raise UserError(f"the image {path} cannot be read: {error}") from None


def _opened(path: str | Path, use: Callable[[Any], Any]) -> Any:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return use(image)
    except _faults() as error:
        raise UserError(f"the image {path} cannot be read: {error}") from None


def _faults() -> tuple[type[Exception], ...]:
    """What Pillow raises for a file that is not what it should be."""
    from PIL import Image

    return OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its own words name an object in memory
        return "it is no image that Pillow knows"
    return getattr(error, "strerror", None) or str(error)


def _size(image: Any, upright: bool) -> Any:
    width, height = image.size
    if upright and image.getexif().get(ORIENTATION) in TURNED:
        height, width = width, height
    return np.array([height, width], np.int64)


def _turned(image: Any) -> Any:
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _rgb(image: Any) -> Any:
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM", None)):
        image = Image.fromarray((np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("it has 32 bits a channel, and no range that white could be taken from")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
