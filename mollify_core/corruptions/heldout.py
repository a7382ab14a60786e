"""Held-out corruptions: what hyper-parameters may be tuned on.

CIFAR-C (Hendrycks and Dietterich, ICLR 2019, arXiv 1903.12261) measures robustness with fifteen corruptions and
provides further ones for validation. These are two of the latter, with CIFAR-C's strengths; none of the fifteen is
here, so that tuning never sees the benchmark.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from mollify_core.errors import ConfigError, DataError, nearest

SEVERITIES = (1, 2, 3, 4, 5)
STRENGTHS: dict[str, tuple[float, ...]] = {
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # standard deviation in pixels
    "speckle_noise": (0.06, 0.1, 0.12, 0.16, 0.2),  # standard deviation relative to the pixel's value
}
HELDOUT: tuple[str, ...] = tuple(STRENGTHS)
CHUNK = 256  # rows that share one random stream


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """Corrupted copies of images.

    Pixels are scaled to [0, 1], corrupted, clipped, scaled back and truncated, as CIFAR-C's published arrays are.
    Noise is a function of (seed, name, severity, row) and the image's shape only: the first k rows corrupted alone
    are the first k rows of the whole.

    Args:
        images: (n, channels, height, width) uint8, on the CPU.
        name: one of `HELDOUT`.
        severity: 1 to 5.
        seed: any integer; picks other noise.

    Returns:
        (n, channels, height, width) uint8.

    Raises:
        ConfigError: there is no such corruption or severity.
        DataError: `images` has another shape or type.
    """
    if name not in STRENGTHS:
        raise ConfigError(f"Unknown held-out corruption {name!r}{nearest(name, HELDOUT)}")
    if severity not in SEVERITIES:
        raise ConfigError(f"Expected the severity to be one of {SEVERITIES}, but got {severity!r}")
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise DataError(
            f"Expected images to be uint8 of shape (n, channels, height, width), but got {images.dtype} of shape "
            f"{tuple(images.shape)}"
        )
    strength = STRENGTHS[name][severity - 1]
    corrupted = torch.empty_like(images)
    for number, start in enumerate(range(0, len(images), CHUNK)):
        chunk = images[start : start + CHUNK]
        if name == "gaussian_blur":
            result = gaussian_blur(chunk, strength)
        else:
            stream = hashlib.sha256(f"{seed}/{name}/{severity}/{number}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(stream[:8], "little", signed=True))
            result = speckle_noise(chunk, strength, generator)
        corrupted[start : start + CHUNK] = result
    return corrupted


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Convolves images (n, C, H, W) uint8 with a Gaussian of `sigma` pixels; the border is replicated.

    The kernel ends at 4 sigma. In float64, and truncated with a margin far above its rounding error, so that an even
    surface keeps its value.
    """
    rows, columns = (_convolution(side, sigma) for side in images.shape[-2:])
    blurred = rows @ images.double() @ columns.T
    return (blurred + 1e-6).to(torch.uint8)


def speckle_noise(images: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Multiplies each pixel of images (n <= CHUNK, C, H, W) uint8 by 1 + scale * eps, eps ~ N(0, 1)."""
    noise = torch.randn((CHUNK, *images.shape[1:]), generator=generator)  # always a whole chunk: rows keep their noise
    pixels = images.float()
    return pixels.addcmul_(pixels, noise[: len(images)], value=scale).clamp_(0, 255).to(torch.uint8)


def _convolution(side: int, sigma: float) -> Tensor:
    """(side, side) float64 matrix that convolves a vector with the Gaussian, its ends replicated."""
    radius = int(4 * sigma + 0.5)
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    matrix = np.zeros((side, side))
    at = np.arange(side)[:, None]
    np.add.at(matrix, (at, np.clip(at + offsets, 0, side - 1)), kernel / kernel.sum())
    return torch.from_numpy(matrix)
