"""Mixed precision: bf16 where the device has units for it, float32 elsewhere; and what is always float32.

A CPU without units for bf16 computes it in software, six times slower than float32 and no better.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor

from mollify_core.errors import DataError

P = ParamSpec("P")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a network computes with the setting `precision` on a device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=used(precision, device) == "bf16")


def used(precision: str, device: torch.device) -> str:
    """The precision in which a device computes where a recipe says `precision`: "float32" or "bf16"."""
    return "bf16" if precision == "bf16" and _has_bf16(device.type) else "float32"


@functools.lru_cache
def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def in_float32(degrade: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """A degradation that computes in float32 whatever the caller's autocast says: in bf16 it would be wrong by 2e-2.

    It raises a DataError for images, its first argument, that are no float32.
    """

    @functools.wraps(degrade)
    def checked(x: Tensor, *args: P.args, **options: P.kwargs) -> Tensor:
        if x.dtype != torch.float32:
            raise DataError(f"Expected images to be float32, but got {x.dtype}")
        with torch.autocast(x.device.type, enabled=False):
            return degrade(x, *args, **options)

    return checked
