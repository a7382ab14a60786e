"""Kernels that numba compiles for CPUs, each in place of a plain PyTorch function that defines its result.

numba is optional and imported at the first call that could use it; that call takes up to a second. Kernels run on the
calling thread without Python's lock. Their machine code is kept in `__pycache__` beside their source or, where that
cannot be written, in numba's user-wide cache (NUMBA_CACHE_DIR overrides both); it is compiled anew, in about ten
seconds, when the file, the processor or numba changes. A kernel calls only functions of its own file: numba notices
no change in others.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from torch import Tensor


def available() -> bool:
    """Whether numba can be imported and the environment variable MOLLIFY_COMPILED is not "0"."""
    return os.environ.get("MOLLIFY_COMPILED") != "0" and _version() is not None


def describe() -> str:
    """Which numba compiles the kernels, as in "numba 0.68.1", or "off": it can change the last digits of a result."""
    return f"numba {_version()}" if available() else "off"


def takes(*tensors: Tensor) -> bool:
    """Whether a kernel may take these tensors: equally many rows, on the CPU, not empty, no gradient; and `available`.

    numba is imported only for tensors that pass.
    """
    return (
        all(t.device.type == "cpu" and t.numel() and not t.requires_grad for t in tensors)
        and len({len(t) for t in tensors}) == 1
        and available()
    )


def kernel(*signatures: str) -> Callable[[Callable[..., None]], Any]:
    """Compiles a function for these argument types when it is defined, or loads what was compiled before."""
    import numba

    def compiled(function: Callable[..., None]) -> Any:
        try:
            return numba.njit(list(signatures), nogil=True, cache=True)(function)
        except RuntimeError:  # no folder can be written: each process compiles for itself
            return numba.njit(list(signatures), nogil=True)(function)

    return compiled


@functools.cache
def _version() -> str | None:
    """The version of numba; None where it is missing, does not suit the installed NumPy, or is told not to compile."""
    if os.environ.get("NUMBA_DISABLE_JIT", "0") != "0":
        return None
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")  # its OpenMP layer would change torch's thread count
    try:
        import numba
    except ImportError:
        return None
    return numba.__version__
