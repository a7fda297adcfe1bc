"""Where a deep stage computes and in what number format."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from ...errors import UserError
from . import ranks

PRECISIONS = ("auto", "bfloat16", "float32")


def device_of(device: str) -> Any:
    """The torch device of a parameter `device`; "auto" is the GPU where there is one.

    UserError for a device that is none, or that is not there.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device {device!r} is none: say auto, cpu, cuda or cuda:N") from error
    if place.type not in ("cpu", "cuda"):
        raise UserError(f"device {device!r} is not used here: say auto, cpu, cuda or cuda:N")
    if place.type == "cuda" and place.index is None and ranks.count() > 1:
        place = torch.device("cuda", ranks.local())
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device {device!r} is not there: torch finds {torch.cuda.device_count()} GPUs")
    return place


def precision_of(precision: str, device: str) -> str:
    """The number format of a parameter `precision`; "auto" is bfloat16 where the device computes in it.

    On 2 cores with AMX, bfloat16 runs five torchvision nets 1.5 to 4.6 times as fast as float32.
    """
    if precision != "auto":
        return precision
    import torch

    place = device_of(device).type
    pays = torch.cuda.is_bf16_supported(including_emulation=False) if place == "cuda" else (
        place == "cpu" and _cpu_has_bfloat16())  # fmt: skip
    return "bfloat16" if pays else "float32"


def check_precision(precision: str) -> None:
    """ValueError, naming it, for a parameter `precision` that is none."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it is one of {', '.join(PRECISIONS)}")


def low_precision(device: str, precision: str = "auto") -> Any:
    """A context in which nets in training compute in this number format; their weights stay float32."""
    import torch

    return torch.autocast(device_of(device).type, torch.bfloat16, enabled=precision_of(precision, device) == "bfloat16")


@cache
def _cpu_has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16; without that torch only emulates it, slower than float32."""
    info = Path("/proc/cpuinfo")  # torch has no public question for it; elsewhere than Linux float32 is safe
    return info.exists() and any(flag in info.read_text() for flag in ("avx512_bf16", "amx_bf16"))
