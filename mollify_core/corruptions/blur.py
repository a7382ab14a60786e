"""Corruptions of group "blur", and Gaussian blur.

Images are (n <= CHUNK, channels, height, width) uint8; results are new tensors of their shape.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mollify_core.corruptions import draws, linear
from mollify_core.corruptions.linear import Matrices, filter_images, quantise

SMEAR_MARGIN = 0.5 / 257
"""ImageMagick 6 rounds to 16 bits and then truncates to 8."""


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Convolves with a Gaussian of `sigma` pixels that ends at 4 sigma; the border is repeated.

    Equals the published algorithm, but for values that are whole but for rounding errors: here they stay whole.
    """
    height, width = images.shape[2:]
    return filter_images(_gaussian(height, width, sigma), images)


def defocus_blur(images: Tensor, radius: float, alias_blur: float) -> Tensor:
    """Correlates with a disk of `radius` pixels whose edge is softened by a 3x3 Gaussian; the border is mirrored.

    The published algorithm. Up to 4 % of values (where the disk is a plain mean of pixels) are whole but for rounding
    errors and differ by one level: here they stay whole.
    """
    height, width = images.shape[2:]
    return filter_images(_defocus(height, width, radius, alias_blur), images)


def glass_blur(images: Tensor, generator: torch.Generator, sigma: float, reach: float, passes: float) -> Tensor:
    """Blurs by a Gaussian of `sigma` pixels, shuffles close pixels `passes` times, and blurs again.

    The published algorithm with other draws; up to 1 % of values differ by one level. The shuffle goes backwards over
    the rows from reach + 1 to height - reach and over the same columns. Each pixel takes the value of one that is from
    -reach to reach - 1 pixels off on both axes. (The published program is written as an exchange, but copies: its
    second half reads what the first has written.) A pixel that came before hands on what it took; these chains are
    followed for all pixels at once, each step doubling their length.
    """
    height, width = images.shape[2:]
    matrices = _gaussian(height, width, sigma)
    pixels = filter_images(matrices, images)
    source = _shuffle(len(images), height, width, int(reach), int(passes), generator)
    taken = pixels.flatten(2).gather(2, source.unsqueeze(1).expand(-1, images.shape[1], -1))
    return filter_images(matrices, taken.view_as(images))


def motion_blur(images: Tensor, generator: torch.Generator, radius: float, sigma: float) -> Tensor:
    """Smears along a line at an angle uniform in [-45, 45] degrees, see `smear`.

    The published algorithm with other draws.
    """
    angle = draws.uniform(len(images), (), generator) * 90 - 45
    return quantise(smear(images.float(), radius, sigma, angle), SMEAR_MARGIN)


def zoom_blur(images: Tensor, largest: float) -> Tensor:
    """The mean of an image and of its middle magnified by 1, 1.01, ... up to `largest`.

    The published algorithm in float64 instead of float32: up to 0.4 % of values differ by one level.
    """
    height, width = images.shape[2:]
    return filter_images(_zooms(height, width, largest), images)


def smear(x: Tensor, radius: float, sigma: float, angle: Tensor) -> Tensor:
    """A one-sided Gaussian blur along a line, as ImageMagick's motion blur: the border is repeated.

    Tap i of 0 .. 2 radius has weight exp(-i^2 / (2 sigma^2)), normalised, and reads the pixel i steps along the line,
    rounded to whole pixels (halves down). Images sorted by angle read the same pixel in runs, which are added at once.

    Args:
        x: (n, channels, height, width) float32.
        radius: whole pixels.
        sigma: pixels, positive.
        angle: (n,) float64 degrees, clockwise from the right.

    Returns:
        A new tensor of the shape of `x`.
    """
    steps = torch.arange(2 * int(radius) + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (steps / sigma).square())
    weights = weights / weights.sum()
    steps, weights = steps[weights > 1e-7], weights[weights > 1e-7]  # the others: below 0.001 levels
    order = angle.argsort()
    line = torch.stack([angle.deg2rad().sin(), angle.deg2rad().cos()])[:, order]
    shifts = torch.ceil(steps[:, None, None] * line - 0.5).int()  # (taps, 2, n): down, right
    low, high = shifts.amin((0, 2)).clamp(max=0).tolist(), shifts.amax((0, 2)).clamp(min=0).tolist()
    padded = F.pad(x[order], (-low[1], high[1], -low[0], high[0]), mode="replicate")
    changes = (shifts[..., 1:] != shifts[..., :-1]).any(1).numpy()
    total = torch.zeros_like(x)
    height, width = x.shape[2:]
    for weight, shift, change in zip(weights.tolist(), shifts.numpy(), changes, strict=True):
        ends = [0, *(np.flatnonzero(change) + 1).tolist(), len(x)]
        for start, end in itertools.pairwise(ends):
            top, left = int(shift[0, start]) - low[0], int(shift[1, start]) - low[1]
            total[start:end].add_(padded[start:end, :, top : top + height, left : left + width], alpha=weight)
    return torch.empty_like(x).index_copy_(0, order, total)


def _shuffle(n: int, height: int, width: int, reach: int, passes: int, generator: torch.Generator) -> Tensor:
    """(n, height * width) int64: the pixel whose value each pixel has in the end, see `glass_blur`."""
    at = torch.arange(height * width, dtype=torch.int32).view(height, width)
    visited = torch.zeros(height, width, dtype=torch.bool)
    visited[reach + 1 : height - reach + 1, reach + 1 : width - reach + 1] = True
    total = at.long().view(1, -1).expand(n, -1)
    for _ in range(passes):
        drawn = draws.bits(n, (height, width), generator)
        down, right = ((drawn >> shift & 2 * reach - 1) - reach for shift in (0, 8))  # 2 reach is 2 or 4
        offset = (down * width + right) * visited
        source = (at + offset).flatten(1).long()
        pending = (offset > 0).flatten(1)  # taken from one that came before
        while pending.any():
            onward = source.gather(1, source)
            source, pending = torch.where(pending, onward, source), pending & pending.gather(1, source)
        total = total.gather(1, source)
    return total


@functools.lru_cache(maxsize=16)
def _defocus(height: int, width: int, radius: float, alias_blur: float) -> Matrices:
    offsets = np.arange(-int(radius) - 1, int(radius) + 2)
    disk = offsets[:, None] ** 2 + offsets**2 <= radius**2
    near = np.abs(offsets[:, None] - offsets)
    soften = np.exp(-0.5 * (near / alias_blur) ** 2) * (near <= 1)
    kernel = soften @ disk @ soften
    return linear.convolution(kernel / kernel.sum(), height, width)


@functools.lru_cache(maxsize=16)
def _gaussian(height: int, width: int, sigma: float) -> Matrices:
    return linear.separable(linear.gaussian(height, sigma), linear.gaussian(width, sigma))


@functools.lru_cache(maxsize=16)
def _zooms(height: int, width: int, largest: float) -> Matrices:
    factors = np.arange(1, largest, 0.01)
    (identity,) = linear.convolution(np.ones((1, 1)), height, width)
    total = identity
    for factor in factors:
        along, down = linear.separable(linear.zoom(height, factor), linear.zoom(width, factor))
        total = total + down @ along
    return (total / (len(factors) + 1),)
