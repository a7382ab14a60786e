"""Randomness as a function of its purpose: every draw comes from a generator keyed by (seed, epoch, step, rank, ...).

Nothing depends on how many numbers were drawn before, so a resumed run equals an unbroken one. What is drawn on a CPU
is the same everywhere. What is drawn on a GPU (noise, dropped patches, dropout) is other numbers of the same law, and
depends on its model: PyTorch shares a tensor out among as many threads as the GPU runs at once.

A generator of a CPU is a Mersenne Twister, of which `manual_seed` takes 32 bits only: of the 100,000 steps of a long
training two would draw the same. So all of its 624 words come from the key.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_FIRST, _WORDS = (
    24,
    624,
)  # byte at which the words, of 8 bytes each, begin in the state of a CPU's generator; their number


def derive(*key: int | str) -> int:
    """A 63-bit seed from a key of integers and words, equal on every machine; unrelated for unequal keys."""
    return int.from_bytes(hashlib.blake2b(_bytes(key), digest_size=8).digest(), "big") >> 1


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device` that draws what belongs to a key."""
    import torch  # seeds alone are wanted where torch is not: importing it takes seconds

    return reseed(torch.Generator(device), *key)


def reseed(generator: torch.Generator, *key: int | str) -> torch.Generator:
    """The generator, which draws from now on what belongs to a key; takes about 15 microseconds on a CPU."""
    import numpy as np
    import torch

    generator.manual_seed(derive(*key))
    if generator.device.type == "cpu":
        state = generator.get_state().numpy()
        words = hashlib.shake_128(_bytes(key)).digest(4 * _WORDS)
        state[_FIRST : _FIRST + 8 * _WORDS].view(np.uint64)[:] = np.frombuffer(words, "<u4")
        generator.set_state(torch.from_numpy(state))
    return generator


def _bytes(key: tuple[int | str, ...]) -> bytes:
    return "\x1f".join(map(str, key)).encode()


def beta_times(n: int, a: float, b: float, generator: torch.Generator) -> Tensor:
    """(n,) float32 times t ~ Beta(a, b) on the generator's device."""
    import torch

    if a == 1:  # the inverse of the distribution function, about 30 times cheaper than the gamma sampler
        u = torch.rand(n, generator=generator, device=generator.device)
        return 1 - u.pow(1 / b)
    # A gamma variable of a small shape underflows: in logs it is one of shape + 1 times a power of a uniform one
    # (Marsaglia and Tsang 2000, section 6).
    shape = torch.tensor([[a], [b]], dtype=torch.float64, device=generator.device).clamp_(min=1e-100).expand(2, n)
    u = 1 - torch.rand(2, n, generator=generator, dtype=torch.float64, device=generator.device)
    x, y = torch._standard_gamma(shape + 1, generator=generator).log_() + u.log_() / shape
    return torch.sigmoid(x - y).float()
