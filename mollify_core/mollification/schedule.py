"""The mollification schedule: time t in [0, 1] -> noise level, blur scale and label strength; roles and times.

Source: Heinonen et al., "Robust Classification by Coupling Data Mollification with Label Smoothing",
AISTATS 2025, with the constants of its released code. All functions are elementwise over tensors of times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mollify_core.recipe import Mollify
from mollify_core.rng import beta_times

LABEL_FLOOR = 0.3
"""Blur scale in pixels at which a label is still hard: the paper's scale at t = 0."""


def noise_level(t: Tensor, max_noise: float = 1.0) -> Tensor:
    """Standard deviation sigma of the noise at time t, in [0, max_noise]: max_noise * sin(pi t / 2).

    The image keeps alpha = sqrt(1 - sigma^2) (variance preserving), which at max_noise = 1 is cos(pi t / 2).
    """
    return max_noise * torch.sin(t * (math.pi / 2))


def blur_scale(t: Tensor, min_blur: float, max_blur: float) -> Tensor:
    """Blur scale s in pixels at time t: log-linear from min_blur (t = 0) to max_blur (t = 1).

    The heat equation runs for the dissipation time s^2 / 2, which equals a Gaussian of standard deviation s.
    """
    return torch.exp(math.log(min_blur) * (1 - t) + math.log(max_blur) * t)


def noise_strength(level: Tensor, power: float = 1.0) -> Tensor:
    """Label strength of a noisy image: sigma^(2 k_n), which equals (1 + SNR)^(-k_n). In [0, 1]."""
    return level.pow(2 * power)


def blur_strength(scale: Tensor, side: int, power: float = 1.0) -> Tensor:
    """Label strength of a blurred image: (log(s / 0.3) / log(side / 0.3))^k_b, in [0, 1].

    It follows the blur that was really applied; with the paper's ends (0.3 px, the image side) it is t^k_b.
    """
    return (torch.log(scale / LABEL_FLOOR) / math.log(side / LABEL_FLOOR)).clamp(0, 1).pow(power)


@dataclass(frozen=True)
class Draw:
    """The degradations of one batch, as contiguous segments: noise, blur then noise, blur, pure noise, clean.

    Segments instead of a mask need no gather and no device synchronisation. The law is that of independent roles
    whenever the rows of the batch are exchangeable, i.e. come from a shuffled order.

    Attributes:
        noise: (n,) noise level sigma of rows 0 .. n-1.
        blur: (b,) blur scale in pixels of rows start .. start+b-1; the rows before n among them are blurred first.
        start: first blurred row.
        pure: rows after the blurred ones that become pure noise.
        strength: (batch,) label strength of every row, 0 for clean rows.
    """

    noise: Tensor
    blur: Tensor
    start: int
    pure: int
    strength: Tensor

    @property
    def degraded(self) -> int:
        """Number of rows that are not clean; they come first."""
        return self.start + len(self.blur) + self.pure


def draw(batch: int, side: int, config: Mollify, generator: torch.Generator) -> Draw:
    """Roles and times of a batch of exchangeable rows, drawn from a CPU generator.

    Args:
        batch: number of rows.
        side: image side in pixels.
        config: the schedule; each row is clean with probability p_clean, else it has each other role by its share.
        generator: a CPU generator, so that the segment sizes need no synchronisation.
    """
    shares = torch.tensor([config.noise_share, config.both_share, 1.0, config.pure_share], dtype=torch.float64)
    shares[2] -= shares[0] + shares[1] + shares[3]  # what is left is blurred
    bounds = (shares.cumsum(0) * (1 - config.p_clean)).float()
    role = torch.bucketize(torch.rand(batch, generator=generator), bounds, right=True)
    noise, both, blur, pure, _ = role.bincount(minlength=5).tolist()
    t = beta_times(noise + both + blur, config.beta_a, config.beta_b, generator)
    level = noise_level(t[: noise + both], config.max_noise)
    scale = blur_scale(t[noise:], config.min_blur, side if config.max_blur is None else config.max_blur)
    # A label is smoothed by each degradation of its image in turn: what is kept of it is the product.
    kept = torch.ones(batch)
    kept[: noise + both] *= 1 - noise_strength(level, config.noise_power)
    kept[noise : noise + both + blur] *= 1 - blur_strength(scale, side, config.blur_power)
    kept[noise + both + blur :][:pure] = 0
    return Draw(level, scale, noise, pure, (1 - kept).mul_(config.smoothing))
