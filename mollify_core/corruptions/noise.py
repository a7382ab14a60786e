"""Corruptions of group "noise", and speckle noise: every value of an image gets its own random number.

Each has the distribution of the published arrays, with other draws. Images are (n <= CHUNK, channels, height, width)
uint8; results are new tensors of their shape.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from scipy.special import gammaln
from torch import Tensor

from mollify_core.corruptions import draws

LEVELS = 256


def gaussian_noise(images: Tensor, generator: torch.Generator, scale: float) -> Tensor:
    """Adds normal noise of standard deviation `scale`, relative to white; clips, then truncates to whole levels."""
    noise = draws.normal(len(images), tuple(images.shape[1:]), generator)
    return images.float().add_(noise, alpha=255 * scale).clamp_(0, 255).to(torch.uint8)


def speckle_noise(images: Tensor, generator: torch.Generator, scale: float) -> Tensor:
    """Multiplies each value by 1 + scale * eps, eps ~ N(0, 1); clips, then truncates to whole levels."""
    noise = draws.normal(len(images), tuple(images.shape[1:]), generator)
    pixels = images.float()
    return pixels.addcmul_(pixels, noise, value=scale).clamp_(0, 255).to(torch.uint8)


def shot_noise(images: Tensor, generator: torch.Generator, photons: float) -> Tensor:
    """Counts photons: a value v in [0, 1] becomes Poisson(photons * v) / photons, clipped, truncated to whole levels.

    Since there are only 256 levels, before and after, each is drawn from a table instead (`_alias_table`): 31 random
    bits choose one of 256 columns and compare with its threshold. Probabilities are exact to 2**-31.
    """
    random = draws.bits(len(images), tuple(images.shape[1:]), generator)
    column = random & (LEVELS - 1)
    cell = _alias_table(photons).index_select(0, (images.int() * LEVELS + column).view(-1)).view_as(random)
    return torch.where(random >> 8 < cell >> 8, column, cell & (LEVELS - 1)).to(torch.uint8)


def impulse_noise(images: Tensor, generator: torch.Generator, amount: float) -> Tensor:
    """Replaces values, each with probability `amount`, by black or white, as likely one as the other."""
    random = draws.bits(len(images), tuple(images.shape[1:]), generator)
    half = round(amount / 2 * 2**31)
    return images.masked_fill(random < half, 0).masked_fill_(random >= 2**31 - half, 255)


@functools.lru_cache(maxsize=16)
def _alias_table(photons: float) -> Tensor:
    """(256 * 256,) int32: for each level, 256 columns of a threshold out of 2**23 and, below it, 8 bits of alias.

    Source: the alias method (Walker 1977). A uniformly chosen column keeps its own level with the probability of its
    threshold and takes the alias else.
    """
    counts = np.arange(int(photons))
    mean = np.arange(1, LEVELS)[:, None] / 255 * photons
    share = np.zeros((LEVELS, LEVELS))  # level before, level after
    share[0, 0] = 1
    for count, probability in enumerate(np.exp(counts * np.log(mean) - mean - gammaln(counts + 1)).T):
        share[1:, int(count / photons * 255)] += probability
    share[1:, 255] = 1 - share[1:, :255].sum(1)
    left = share * LEVELS  # what of each column's level is not placed yet, in columns
    threshold, alias = np.zeros((LEVELS, LEVELS)), np.zeros((LEVELS, LEVELS), np.int64)
    rows, open_ = np.arange(LEVELS), np.ones((LEVELS, LEVELS), bool)
    for _ in range(LEVELS):  # the emptiest column is filled up by the fullest, in all levels at once
        low = np.where(open_, left, np.inf).argmin(1)
        high = np.where(open_, left, -np.inf).argmax(1)
        threshold[rows, low], alias[rows, low] = left[rows, low], high
        left[rows, high] -= 1 - left[rows, low]
        open_[rows, low] = False
    whole = np.rint(threshold.clip(0, 1) * 2**23).astype(np.int64).clip(max=2**23 - 1)
    return torch.from_numpy((whole << 8 | alias).astype(np.int32).reshape(-1))
