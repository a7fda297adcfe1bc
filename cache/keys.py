"""Hashes that name things: of bytes, of plain values, of arrays, of files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ..errors import UserError


def digest(*parts: str | bytes) -> str:
    """32 hex digits (xxh3, 128 bits) of the parts, each kept apart from the next."""
    h = xxhash.xxh3_128()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        h.update(len(raw).to_bytes(8, "little"))
        h.update(raw)
    return h.hexdigest()


def digest_value(value: Any) -> str:
    """Of an array by dtype, shape and bytes; of anything else by its canonical JSON."""
    if isinstance(value, np.ndarray):
        value = np.asarray(value, order="C")
        h = xxhash.xxh3_128(f"{value.dtype.str} {value.shape} ".encode())
        h.update(value.data if value.size else b"")
        return h.hexdigest()
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain))


def digest_state(state: Mapping[str, np.ndarray]) -> str:
    """Of named arrays, whatever their order."""
    return digest(*(part for name in sorted(state) for part in (name, digest_value(np.asarray(state[name])))))


def digest_file(path: str | Path) -> str:
    """Of a file's content. UserError if it cannot be read."""
    h = xxhash.xxh3_128()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                h.update(block)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    return h.hexdigest()


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return digest_value(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} {value!r} cannot be part of a key; parameters are plain values")
