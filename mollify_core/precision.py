"""Mixed precision: bf16 where the device has units for it, float32 elsewhere.

A CPU without such units computes bf16 in software, six times slower than float32 and no better.
"""

from __future__ import annotations

import functools
import platform

import torch


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
