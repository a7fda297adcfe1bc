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
        raw = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part  # names of files
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
    return digest(json.dumps(_plain(value), sort_keys=True, separators=(",", ":")))


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


def inputs_key(digests: Mapping[str, str]) -> str:
    """Of what something is made from: a hash for each field, whatever their order."""
    return digest(*(part for name in sorted(digests) for part in (name, digests[name])))


def _plain(value: Any) -> Any:
    """The value in JSON's terms, so that equal values have one form: 1.0 is 1, a tuple a list."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, (np.ndarray, bytes)):
        return digest_value(value) if isinstance(value, np.ndarray) else digest(value)
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} {value!r} cannot be part of a key; parameters are plain values")
