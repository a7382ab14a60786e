"""Mixed precision: bf16 where the device has units for it, float32 elsewhere; and what is always float32.

A CPU without units for bf16 computes it in software, six times slower than float32 and no better.

PyTorch has settings, of the whole process, that let float32 products and convolutions be rounded to TF32 or bf16; for
convolutions on a GPU that is its default. What is float32 here is float32: the settings are other ones while it
computes, and as they were after that.
"""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor

from mollify_core.errors import DataError

P = ParamSpec("P")
_BACKENDS: Any = torch.backends  # its stubs lack some of these
_PRODUCTS = (_BACKENDS.cuda.matmul, _BACKENDS.mkldnn.matmul)
_PLACES = (_BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn, _BACKENDS.mkldnn.conv, *_PRODUCTS)


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The context in which a network computes with the setting `precision` on a device, within that of `arithmetic`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=used(precision, device) == "bf16")


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """The context of forward and backward passes with the setting `precision`: "float32" is no TF32."""
    with _exact(_PLACES) if used(precision, device) == "float32" else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _exact(places: tuple[Any, ...]) -> Iterator[None]:
    """Float32 without rounding to less in `places`; code that is being compiled keeps the setting that it meets."""
    if torch.compiler.is_compiling() or all(place.fp32_precision in ("ieee", "none") for place in places):
        yield
        return
    found = [place.fp32_precision for place in _PLACES]
    # The older names of these settings go along: PyTorch's compiler reads them, and refuses a mixture of the two.
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    for place in _PLACES:
        place.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision({"tf32": "high", "bf16": "medium"}.get(found[-1], "highest"))
        torch.backends.cudnn.allow_tf32 = found[0] == "tf32"
        for place, value in zip(_PLACES, found, strict=True):
            place.fp32_precision = value


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
        with torch.autocast(x.device.type, enabled=False), _exact(_PRODUCTS):
            return degrade(x, *args, **options)

    return checked
