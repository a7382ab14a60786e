"""Normalised mutual information of two images, from the histogram of their co-located pixels.

Source: Bonilla Salvador (2025), whose released code computes it image by image. It measures how well the grey levels of
one image predict those of the other; it knows nothing of classes, and is not differentiable.

On a CPU with numba a compiled kernel does the same, see `mollify_core.compiled`. It sums exactly where the form below
rounds to float32, so a run with it and one without may differ in the last bits of every NMI (2e-6).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from mollify_core import compiled
from mollify_core.errors import ConfigError, DataError

CHUNK = 32
"""Images whose histograms are built at once on a CPU, so that they stay in its cache."""
ROUNDING = 2.0**-18
"""Differences below this are rounding: a blur or a mosaic moves areas that it leaves as they are by up to 2.5e-6. Grey
levels k / 255 can lie on edges of bins (85, 170 and 255 where there are 63), so that half of such an area would fall
into the bin below. Any level that is not on an edge is at least 1 / (255 x 256) = 15e-6 away from one."""


class Edges(NamedTuple):
    """Where bins begin.

    Attributes:
        top: the last bin.
        scale: the bin of a value v is floor(scale v). The number of bins up to 1, or one last bit more where that puts
            an edge below itself: means of blocks lie on edges too, and in float32 1 / 41 x 41 is less than 1.
        grey, step: every step-th edge is a grey level, `grey` of them up to 1.
        rounding: see `ROUNDING`.
    """

    top: float
    scale: float
    grey: float
    step: float
    rounding: float = ROUNDING

    @classmethod
    @functools.cache
    def make(cls, bins: int, levels: int) -> Edges:
        """Those of `bins` bins, `levels` of which lie below 1."""
        grey, scale = math.gcd(levels, 255), torch.tensor(float(levels))
        edge = torch.arange(levels + 1)
        if (edge / levels * scale < edge).any():
            scale.nextafter_(torch.tensor(math.inf))
        return cls(bins - 1, scale.item(), grey, levels // grey)


def normalized_mutual_information(
    x: Tensor,
    y: Tensor,
    bins: int = 64,
    *,
    use_all_bins: bool = False,
    constants_match: bool = True,
    corrected: bool = False,
) -> Tensor:
    """NMI = 2 I(x, y) / (H(x) + H(y)) of each pair of images, the mean over channels, in [0, 1].

    Args:
        x, y: (batch, channels, height, width) float32 images, the original and what was made of it; values outside
            [0, 1] count as 0 or 1. A pixel of `y` that differs from that of `x` by less than `ROUNDING` is in its bin,
            and one of `x` that lies so little below a grey level k / 255 is in the bin of that level.
        bins: grey levels, 2 to 256. Fewer bins make chance agreement smaller.
        use_all_bins: the published bin of a value is floor((bins - 1) x), which leaves the last one to x = 1 alone;
            true makes it min(floor(bins x), bins - 1).
        constants_match: two channels that each fill one bin have no entropy and NMI 0 as published; true makes it 1
            where it is the same bin, so that identical images have NMI 1.
        corrected: true subtracts chance: 1 - (1 - NMI) / (1 - floor), not below 0, where the floor of a pair is its NMI
            after the pixels of `y` are shuffled. This is the adjusted mutual information (Vinh et al. 2010) with one
            draw of the permutation, always the same, in place of the expectation over all of them.

    Returns:
        (batch,) float32, without gradient.

    Raises:
        ConfigError: `bins` is out of range.
        DataError: the images have other shapes or types than said.
    """
    if not 2 <= bins <= 256:
        raise ConfigError(f"Expected `bins` to be from 2 to 256, but got {bins!r}")
    if x.ndim != 4 or x.shape != y.shape or not x.dtype == y.dtype == torch.float32:
        raise DataError(
            "Expected two batches of float32 images of the same shape (batch, channels, height, width), but got "
            f"{x.dtype} of shape {tuple(x.shape)} and {y.dtype} of shape {tuple(y.shape)}"
        )
    batch, channels, height, width = x.shape
    x, y = x.detach(), y.detach()
    edges = Edges.make(bins, bins if use_all_bins else bins - 1)
    shuffle = _permutation(height * width, x.device) if corrected else None
    if compiled.takes(x, y):
        from mollify_core.compiled.nmi import channel_nmi

        nmi = channel_nmi(x, y, bins, edges, constants_match, shuffle)
    else:
        nmi = _plain_nmi(x, y, bins, edges, constants_match, shuffle)
    nmi = nmi.unflatten(1, (batch, channels)).mean(2)
    if corrected:  # a floor near 1, where the correction has no meaning, takes images of a few pixels
        return (1 - (1 - nmi[0]) / (1 - nmi[1]).clamp_(min=0.01)).clamp_(0, 1)
    return nmi[0].clamp_(0, 1)


def _plain_nmi(x: Tensor, y: Tensor, bins: int, edges: Edges, constants_match: bool, shuffle: Tensor | None) -> Tensor:
    """(1 or 2, batch * channels): NMI of each pair of channels, after that with the pixels of y shuffled."""
    batch, channels, height, width = x.shape
    rows = (min(CHUNK, batch) if x.device.type == "cpu" else batch) * channels
    counts, ones = x.new_empty(rows, bins * bins), x.new_ones(rows, height * width)
    parts = []
    for a, b in zip(*(z.flatten(2).flatten(0, 1).split(max(1, rows)) for z in (x, y)), strict=True):
        a, b = _bins(a, b, edges)
        parts.append(_channel_nmi(a, b, counts[: len(a)], ones[: len(a)], constants_match, shuffle))
    return torch.cat(parts, 1)


def _bins(x: Tensor, y: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """The bin of each pixel, a whole number; see `normalized_mutual_information`."""
    level = torch.add(x, edges.rounding).mul_(edges.grey).floor_().mul_(edges.step)
    a = torch.maximum(torch.mul(x, edges.scale).floor_(), level)
    b = torch.where((x - y).abs_() < edges.rounding, a, torch.mul(y, edges.scale).floor_())
    return a.clamp_(0, edges.top), b.clamp_(0, edges.top)


def _channel_nmi(
    a: Tensor, b: Tensor, counts: Tensor, ones: Tensor, constants_match: bool, shuffle: Tensor | None
) -> Tensor:
    """(1 or 2, rows): NMI of the binned pixels a, b (rows, pixels); after that with the pixels of b shuffled.

    `counts` (rows, bins^2) is overwritten, `ones` has the shape of a; both are allocated once for all chunks.
    """
    bins = math.isqrt(counts.shape[1])
    joint = []
    for paired in [b] if shuffle is None else [b, b.index_select(1, shuffle)]:
        cell = torch.add(paired, a, alpha=bins).long()
        counts.zero_().scatter_add_(1, cell, ones)
        joint.append(_pixel_entropy(counts.gather(1, cell)))
    table = counts.view(-1, bins, bins)  # shuffling keeps the marginals
    single = _entropy(torch.cat([table.sum(2), table.sum(1)], 1), a.shape[1])
    same = (a[:, 0] == b[:, 0]).float() if constants_match else torch.zeros_like(single)
    return torch.where(single > 0, 2 - 2 * torch.stack(joint) / single, same)


def _entropy(counts: Tensor, pixels: int) -> Tensor:
    """(rows,) bits: the entropy of histograms of `pixels` counts; the sum for histograms side by side."""
    p = counts.div_(pixels)
    return -(p * p.clamp(min=1e-9).log2_()).sum(1)


def _pixel_entropy(counts: Tensor) -> Tensor:
    """(rows,) bits: the entropy of a histogram, given for every pixel the count of its own cell (rows, pixels).

    The mean of -log2 p over pixels needs no visit to empty cells. Probabilities are multiplied before the logarithm,
    which costs more, as long as their product stays in the range of float32: 8 at a time at 32 px.
    """
    pixels = counts.shape[1]
    p, bits = counts.div_(pixels), pixels.bit_length()
    while 2 * bits <= 126 and p.shape[1] % 2 == 0:
        half = p.shape[1] // 2
        p, bits = p[:, :half] * p[:, half:], 2 * bits
    return -p.log2_().sum(1) / pixels


@functools.lru_cache(maxsize=16)
def _permutation(pixels: int, device: torch.device) -> Tensor:
    """(pixels,) int64: one fixed permutation."""
    return torch.randperm(pixels, generator=torch.Generator().manual_seed(0)).to(device)
