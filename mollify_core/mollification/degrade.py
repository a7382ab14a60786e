"""Degradations of a normalised batch, each row with its own strength: Gaussian noise and heat-equation blur.

Source: Heinonen et al., AISTATS 2025. Both run in float32, outside any autocast.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from mollify_core.mollification.schedule import Draw
from mollify_core.precision import in_float32


@in_float32
def noise(x: Tensor, level: Tensor, eps: Tensor) -> Tensor:
    """Variance-preserving noise: sqrt(1 - sigma^2) x + sigma eps.

    Args:
        x: (batch, channels, height, width) float32 images.
        level: (batch,) noise level sigma in [0, 1].
        eps: standard normal noise, of the shape of `x`.

    Returns:
        A new tensor of the shape of `x`; rows with sigma = 0 are unchanged.
    """
    sigma = level.view(-1, 1, 1, 1)
    return torch.addcmul((1 - sigma * sigma).clamp_(min=0).sqrt_() * x, sigma, eps)


@in_float32
def heat_blur(x: Tensor, scale: Tensor) -> Tensor:
    """Heat-equation blur with reflecting borders, run for the dissipation time scale^2 / 2.

    In the cosine basis each frequency (k, l) is multiplied by exp(-((pi k / h)^2 + (pi l / w)^2) scale^2 / 2). The
    kernel is separable, so it is applied as y = M_h x M_w with one symmetric matrix per row and axis.

    Args:
        x: (batch, channels, height, width) float32 images.
        scale: (batch,) blur scale in pixels, the standard deviation of the equivalent Gaussian; 0 is the identity.

    Returns:
        A new tensor of the shape of `x`.
    """
    batch, channels, height, width = x.shape
    half = scale.square() / 2
    rows = _heat_matrices(half, height)
    columns = rows if height == width else _heat_matrices(half, width)
    y = torch.bmm(x.reshape(batch, channels * height, width), columns)
    return torch.matmul(rows.unsqueeze(1), y.view(batch, channels, height, width))


def _heat_matrices(tau: Tensor, side: int) -> Tensor:
    """(batch, side, side): C^T diag(exp(-(pi k / side)^2 tau)) C for each time tau, with C the orthonormal DCT-II."""
    frequency, outer = _cosine_basis(side, tau.device)
    gain = torch.exp(-frequency * tau[:, None])
    return (gain @ outer).view(-1, side, side)


@functools.lru_cache(maxsize=16)
def _cosine_basis(side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """((side,) squared frequencies, (side, side^2) outer products of the orthonormal DCT-II's rows), float32."""
    k = torch.arange(side, dtype=torch.float64)
    basis = math.sqrt(2 / side) * torch.cos(math.pi * k[:, None] * (2 * k[None, :] + 1) / (2 * side))
    basis[0] /= math.sqrt(2)
    outer = (basis[:, :, None] * basis[:, None, :]).reshape(side, side * side)
    return (math.pi * k / side).square().float().to(device), outer.float().to(device)


@in_float32
def mollify_(x: Tensor, draw: Draw, generator: torch.Generator) -> Tensor:
    """Degrades a batch in place as drawn, segment by segment.

    Args:
        x: (batch, channels, height, width) float32 normalised images, contiguous; overwritten.
        draw: what to do to which rows, see `mollify_core.mollification.schedule.draw`.
        generator: generator of the noise, on the device of `x`.

    Returns:
        `x`.
    """
    noisy, blurred = slice(0, len(draw.noise)), slice(draw.start, draw.start + len(draw.blur))
    if len(draw.blur):
        x[blurred] = heat_blur(x[blurred], draw.blur.to(x.device, non_blocking=True))
    if len(draw.noise):
        eps = torch.empty_like(x[noisy]).normal_(generator=generator)
        sigma = draw.noise.to(x.device, non_blocking=True).view(-1, 1, 1, 1)
        x[noisy].mul_((1 - sigma * sigma).clamp_(min=0).sqrt_()).addcmul_(eps, sigma)
    if draw.pure:
        x[blurred.stop : blurred.stop + draw.pure].normal_(generator=generator)
    return x
