"""Corruptions of group "weather", but for frost: snow, fog and brightness.

Images are (n <= CHUNK, channels, height, width) uint8 of 1 or 3 channels; results are new tensors of their shape.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from mollify_core.corruptions import draws, linear
from mollify_core.corruptions.blur import SMEAR_MARGIN, smear
from mollify_core.corruptions.linear import Matrices, quantise

LUMA = (0.299, 0.587, 0.114)


def snow(
    images: Tensor,
    generator: torch.Generator,
    mean: float,
    deviation: float,
    magnify: float,
    threshold: float,
    radius: float,
    sigma: float,
    keep: float,
) -> Tensor:
    """Whitens an image and adds flakes: magnified noise above a threshold, smeared, and once more upside down.

    The published algorithm with other draws; 1 value in 5,000 differs by one level.

    Args:
        images: see above.
        generator: of flakes and angles.
        mean, deviation: of the normal noise, relative to white.
        magnify: of its middle, linearly interpolated.
        threshold: below it there is no flake.
        radius, sigma: of the smear in pixels, see `smear`; its angle is uniform in [-135, -45] degrees.
        keep: share of the image; the rest is the lighter of the image and 1.5 times its luma plus one half.
    """
    n, _, height, width = images.shape
    layer = draws.normal(n, (height, width), generator).mul(deviation).add_(mean)
    layer = linear.from_columns(
        linear.apply(_magnified(height, width, magnify), linear.to_columns(layer)), (n, 1, height, width)
    )
    flakes = quantise(torch.where(layer < threshold, 0, layer).mul_(255), 0).float()
    angle = draws.uniform(n, (), generator) * 90 - 135
    flakes = quantise(smear(flakes, radius, sigma, angle), SMEAR_MARGIN).float()
    pixels = images.float()
    light = torch.maximum(pixels, luma(pixels).mul_(1.5).add_(127.5))
    return quantise(pixels.mul_(keep).add_(light, alpha=1 - keep).add_(flakes + flakes.flip(2, 3)))


def fog(images: Tensor, generator: torch.Generator, amount: float, decay: float) -> Tensor:
    """Adds `amount` times a cloud from 0 to 1, then darkens so that the image's brightest value keeps its place.

    The published algorithm with other draws, in float32: 1 value in 5,000 differs by one level. The cloud's side is the
    next power of two of the image's.
    """
    n, _, height, width = images.shape
    side = 1 << (max(height, width) - 1).bit_length()
    cloud = plasma(draws.uniform(n, (side, side), generator, torch.float32), decay)[:, None, :height, :width]
    pixels = images.float()
    brightest = pixels.amax((1, 2, 3), keepdim=True)
    return quantise(pixels.add_(cloud, alpha=255 * amount).mul_(brightest / (brightest + 255 * amount)))


def brightness(images: Tensor, add: float) -> Tensor:
    """Adds to the value of hue, saturation and value, which is the largest channel, and clips it.

    The published algorithm: with hue and saturation kept, a channel x of a pixel whose largest is m becomes
    m' (1 - (m - x) / m), which is looked up. 1 value in 1,000 differs by one level.
    """
    index = images.amax(1, keepdim=True).int() * 256 + images
    return _brighter(add).index_select(0, index.view(-1)).view_as(images)


def luma(pixels: Tensor) -> Tensor:
    """(n, 1, height, width) float32: the brightness of pixels (n, 1 or 3, height, width)."""
    if pixels.shape[1] == 1:
        return pixels.clone()
    red, green, blue = pixels.split(1, dim=1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])


def plasma(uniform: Tensor, decay: float) -> Tensor:
    """Clouds by the diamond-square algorithm (Fournier et al. 1982) on a torus, scaled to [0, 1].

    Args:
        uniform: (n, side, side) float32 numbers from [0, 1), side a power of two; each point adds its own, times the
            square of `wibble`, to the mean of four points around it. The square is the published program's.
        decay: factor by which `wibble`, 100 at first, falls from one spacing of points to the next.

    Returns:
        (n, side, side) float32.
    """
    noise, points = uniform * 2 - 1, torch.zeros_like(uniform)
    step, wibble = uniform.shape[1], 100.0
    while step >= 2:
        half = step // 2
        corners = points[:, ::step, ::step]
        rows = corners + corners.roll(-1, 1)
        middle = (rows + rows.roll(-1, 2)).mul_(0.25).add_(noise[:, half::step, half::step], alpha=wibble**2)
        points[:, half::step, half::step] = middle
        above = middle + middle.roll(1, 1) + corners + corners.roll(-1, 2)
        points[:, ::step, half::step] = above.mul_(0.25).add_(noise[:, ::step, half::step], alpha=wibble**2)
        beside = middle + middle.roll(1, 2) + rows
        points[:, half::step, ::step] = beside.mul_(0.25).add_(noise[:, half::step, ::step], alpha=wibble**2)
        step, wibble = half, wibble / decay
    points -= points.amin((1, 2), keepdim=True)
    return points.div_(points.amax((1, 2), keepdim=True))


@functools.lru_cache(maxsize=16)
def _magnified(height: int, width: int, factor: float) -> Matrices:
    return linear.separable(linear.zoom(height, factor), linear.zoom(width, factor), np.float32)


@functools.lru_cache(maxsize=16)
def _brighter(add: float) -> Tensor:
    """(256 * 256,) uint8: largest channel, channel -> new channel."""
    largest, channel = np.arange(256)[:, None] / 255, np.arange(256) / 255
    lighter = np.clip(largest + add, 0, 1)
    kept = 1 - np.divide(largest - channel, largest, out=np.zeros((256, 256)), where=largest > 0)
    return torch.from_numpy(np.uint8(np.clip(lighter * kept, 0, 1) * 255).reshape(-1))
