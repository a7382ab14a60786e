"""Randomness as a function of its purpose: every draw comes from a generator keyed by (seed, epoch, step, rank, ...).

Nothing depends on how many numbers were drawn before, so a resumed run equals an unbroken one.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def derive(*key: int | str) -> int:
    """A 63-bit seed from a key of integers and words, equal on every machine; unrelated for unequal keys."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded by `derive(*key)`."""
    import torch  # seeds alone are wanted where torch is not: importing it takes seconds

    return torch.Generator(device).manual_seed(derive(*key))


def beta_times(n: int, a: float, b: float, generator: torch.Generator) -> Tensor:
    """(n,) float32 times t ~ Beta(a, b) on the generator's device."""
    import torch

    if a == 1:  # the inverse of the distribution function, about 30 times cheaper than the gamma sampler
        u = torch.rand(n, generator=generator, device=generator.device)
        return 1 - u.pow(1 / b)
    shape = torch.tensor([[a], [b]], device=generator.device).expand(2, n).contiguous()
    x, y = torch._standard_gamma(shape, generator=generator)
    return x / (x + y)
