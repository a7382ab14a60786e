"""AugMix: a convex mixture of an image and of three randomly composed chains of operations on it.

Source: Hendrycks et al., ICLR 2020 (arXiv 1912.02781), section 3, without the Jensen-Shannon consistency loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mollify_core.augment import affine
from mollify_core.augment.operations import CODE
from mollify_core.augment.policies import Steps, apply_steps, magnitudes, with_random_sign

WIDTH = 3
"""Chains per image."""
DEPTH = 3
"""Largest number of operations in a chain."""
SEVERITY = 3
"""Lowest magnitude bins, out of 10, that are drawn from."""

CORRUPTION_LIKE = ("Brightness", "Color", "Contrast", "Sharpness")
"""Operations that resemble corruptions of CIFAR-C and ImageNet-C; AugMix's authors leave them out."""


@dataclass(frozen=True)
class Mixture:
    """The chains of a batch and their weights.

    Attributes:
        steps: of WIDTH * batch rows, chain by chain: row c * batch + i is chain c of image i.
        weight: (1 + WIDTH, batch) float32, of the image itself and of its chains; each column sums to 1.
    """

    steps: Steps
    weight: Tensor


def draw_augmix(batch: int, height: int, width: int, generator: torch.Generator, all_ops: bool = True) -> Mixture:
    """Chains of 1 to 3 operations, severity 3; weights (m, (1 - m) w), m ~ Beta(1, 1) and w ~ Dirichlet(1, 1, 1).

    Args:
        batch: number of rows.
        height, width: image size in pixels.
        generator: a CPU generator.
        all_ops: whether `CORRUPTION_LIKE` operations take part, as in Heinonen et al. 2025; false as in AugMix.
    """
    excluded = {"Identity", "Invert", *(() if all_ops else CORRUPTION_LIKE)}
    codes = torch.tensor([code for name, code in CODE.items() if name not in excluded])
    shape = (DEPTH, WIDTH * batch)
    depth = torch.randint(1, DEPTH + 1, shape[1:], generator=generator)
    operation = codes[torch.randint(len(codes), shape, generator=generator)]
    operation = torch.where(torch.arange(DEPTH)[:, None] < depth, operation, CODE["Identity"])
    level = torch.randint(SEVERITY, shape, generator=generator)
    own = torch.rand(1, batch, generator=generator)
    chains = torch.empty(WIDTH, batch).exponential_(generator=generator)  # normalised: Dirichlet(1, 1, 1)
    weight = torch.cat([own, (1 - own) * chains / chains.sum(0)])
    return Mixture(with_random_sign(operation, _magnitudes(height, width)[operation, level], generator), weight)


def _magnitudes(height: int, width: int) -> Tensor:
    return magnitudes(10, shear=0.3, shift_x=width / 3, shift_y=height / 3, angle=30, strength=0.9, bits=(4, 0))


def apply_augmix(images: Tensor, drawn: Mixture) -> Tensor:
    """The mixture of each image (batch, channels, height, width) uint8 with its chains, truncated to uint8."""
    chains = apply_steps(images.repeat(WIDTH, 1, 1, 1), drawn.steps, affine.bilinear)
    own, *others = drawn.weight.to(images.device, non_blocking=True)[:, :, None, None, None]
    mixed = images.float().mul_(own)
    for weight, chain in zip(others, chains.view(WIDTH, *images.shape), strict=True):
        mixed.add_(chain.float().mul_(weight))
    return mixed.int().to(torch.uint8)
