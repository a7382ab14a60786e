"""The four distortions of information matching, batched, each row with its own strength d in [0, 1].

Source: Bonilla Salvador, "Mutual Information-Guided Adaptive Label Smoothing for Robust Image Classification via
Degradative Augmentations" (2025), with the constants of its released code. All of them act on float images in [0, 1],
before normalisation: diffusion clips to [0, 1], and a dropped patch is black.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mollify_core import compiled
from mollify_core.errors import ConfigError, DataError, nearest
from mollify_core.precision import in_float32
from mollify_core.rng import beta_times
from mollify_core.settings import check_distortions

KINDS = ("diffusion", "blur", "dropout", "mosaic")
CLEAN = len(KINDS)
"""The kind of a row that is left as it is."""


@dataclass(frozen=True)
class Distortions:
    """What strength d = 1 means. The defaults are the paper's training constants.

    Attributes:
        blur_sigma: standard deviation of the Gaussian in pixels, less 0.01, at d = 1; positive.
        blur_kernel: largest kernel side in pixels, odd.
        patch_size: side of a dropped patch in pixels, at least 1.
        mosaic_power: the block side grows with d to this power; positive.
    """

    blur_sigma: float = 50.0
    blur_kernel: int = 51
    patch_size: int = 8
    mosaic_power: float = 2.0

    def __post_init__(self) -> None:
        check_distortions(self.blur_sigma, self.blur_kernel, self.patch_size, self.mosaic_power)

    @classmethod
    def evaluation(cls) -> Distortions:
        """The constants of the paper's evaluation script: a weaker blur and smaller patches."""
        return cls(blur_sigma=10.0, blur_kernel=11, patch_size=4)


@dataclass(frozen=True)
class Draw:
    """The distortions of one batch, as contiguous segments in the order of `KINDS`, then the clean rows.

    Attributes:
        counts: rows of each kind.
        d: (sum(counts),) strength of every distorted row, in [0, 1]; on the CPU.
    """

    counts: tuple[int, ...]
    d: Tensor


def draw(
    batch: int,
    generator: torch.Generator,
    shares: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    p_clean: float = 0.0,
    beta_a: float = 1.0,
    beta_b: float = 1.0,
) -> Draw:
    """Kinds and strengths of a batch of exchangeable rows (of a shuffled order), drawn from a CPU generator.

    Args:
        batch: number of rows.
        generator: a CPU generator, so that the segment sizes need no synchronisation.
        shares: relative frequency of each of `KINDS`, not negative.
        p_clean: probability that a row stays clean, in [0, 1].
        beta_a, beta_b: d ~ Beta(beta_a, beta_b), both positive; (1, 1) is the paper's uniform distribution.

    Raises:
        ConfigError: the shares or `p_clean` are not as said.
    """
    if len(shares) != len(KINDS) or min(shares) < 0 or not 0 < sum(shares) < math.inf:
        raise ConfigError(f"Expected `shares` to be {len(KINDS)} frequencies, not all of them 0, but got {shares!r}")
    if not 0 <= p_clean <= 1:
        raise ConfigError(f"Expected `p_clean` to be in [0, 1], but got {p_clean!r}")
    bounds = torch.tensor(shares, dtype=torch.float64).cumsum(0) * ((1 - p_clean) / sum(shares))
    kinds = torch.bucketize(torch.rand(batch, generator=generator, dtype=torch.float64), bounds, right=True)
    counts = kinds.bincount(minlength=len(KINDS) + 1)[:CLEAN].tolist()
    return Draw(tuple(counts), beta_times(sum(counts), beta_a, beta_b, generator))


def distort_segments(x: Tensor, draw: Draw, config: Distortions, generator: torch.Generator) -> Tensor:
    """Distorts a batch as drawn: contiguous segments need no gather and no synchronisation with the device.

    Args:
        x: (batch, channels, height, width) float32 images in [0, 1], in shuffled order.
        draw: what to do to which rows, see `draw`.
        config: what the strengths mean.
        generator: generator of noise and patches, on the device of `x`.

    Returns:
        A new tensor of the shape of `x`; clean rows are copied.

    Raises:
        DataError: `x` is no batch of float32 images.
    """
    _check_images(x)
    parts = list(x.split([*draw.counts, len(x) - sum(draw.counts)]))
    for k, d in enumerate(draw.d.split(draw.counts)):
        if len(d):
            parts[k] = _distort(KINDS[k], parts[k], d, config, generator)
    return torch.cat(parts)


def distort(x: Tensor, kind: str | Tensor, d: Tensor, config: Distortions, generator: torch.Generator) -> Tensor:
    """Distorts every row of a batch with its own kind and strength.

    Args:
        x: (batch, channels, height, width) float32 images in [0, 1].
        kind: one of `KINDS` for all rows, or (batch,) int64 indices into it, `CLEAN` for a row left as it is; on the
            CPU.
        d: (batch,) strengths in [0, 1], on the CPU.
        config: what the strengths mean.
        generator: generator of noise and patches, on the device of `x`. Random numbers are used kind by kind in the
            order of `KINDS`, so a mixed batch equals one call per kind in this order.

    Returns:
        A new tensor of the shape of `x`.

    Raises:
        ConfigError: there is no distortion of this name.
        DataError: `x` is no batch of float32 images, or `kind` or `d` does not fit it or leaves its range.
    """
    _check_images(x)
    _check_rows("d", d, len(x), 1)
    if isinstance(kind, str):
        if kind not in KINDS:
            raise ConfigError(f"Unknown distortion {kind!r}{nearest(kind, KINDS)}")
        return _distort(kind, x, d, config, generator)
    _check_rows("kind", kind, len(x), CLEAN)
    order = kind.argsort(stable=True)
    counts = tuple(kind.bincount(minlength=CLEAN + 1)[:CLEAN].tolist())
    rows = order.to(x.device)
    distorted = distort_segments(x[rows], Draw(counts, d[order[: sum(counts)]]), config, generator)
    return torch.empty_like(x).index_copy_(0, rows, distorted)


@in_float32
def diffuse(x: Tensor, d: Tensor, eps: Tensor) -> Tensor:
    """The forward process of DDPM (Ho et al. 2020) in [-1, 1], mapped back and clipped to [0, 1].

    Step i = min(floor(999 d), 999) of 1000 with linear betas 1e-4 .. 0.02; step 0 returns the image.

    Args:
        x: (batch, channels, height, width) float32 images in [0, 1].
        d: (batch,) strengths in [0, 1].
        eps: standard normal noise, of the shape of `x`.

    Returns:
        A new tensor of the shape of `x`.
    """
    step = (d.double() * 999).long().clamp_(0, 999)
    scale, offset, noise = _diffusion_table()[:, step.cpu()].to(x.device, non_blocking=True).view(3, -1, 1, 1, 1)
    return torch.addcmul(offset, x, scale).addcmul_(eps, noise).clamp_(0, 1)


@in_float32
def gaussian_blur(x: Tensor, d: Tensor, max_sigma: float = 50.0, max_kernel: int = 51) -> Tensor:
    """Gaussian blur with sigma = max_sigma d + 0.01 pixels and reflected borders.

    The kernel has min(2 floor(4 sigma + 0.5) + 1, max_kernel) taps, so d = 0 is the identity. It is separable and
    applied as y = M_h x M_w^T with one banded matrix per row and axis.

    Args:
        x: (batch, channels, height, width) float32 images.
        d: (batch,) strengths in [0, 1].
        max_sigma: pixels, positive.
        max_kernel: taps, odd.

    Returns:
        A new tensor of the shape of `x`.
    """
    radius = max_kernel // 2
    sigma = (d.double() * max_sigma + 0.01).unsqueeze(1)
    offset = torch.arange(radius + 1, device=d.device)
    taps = torch.exp(-0.5 * (offset / sigma).square()) * (offset <= torch.floor(4 * sigma + 0.5))
    taps = (taps / (2 * taps.sum(1, keepdim=True) - 1)).float().to(x.device, non_blocking=True)
    height, width = x.shape[2:]
    rows = (taps @ _shifts(height, radius, x.device)).view(-1, height, height)
    columns = rows if width == height else (taps @ _shifts(width, radius, x.device)).view(-1, width, width)
    return _separable(x, rows, columns)


@in_float32
def drop_patches(x: Tensor, d: Tensor, rank: Tensor, size: int = 8) -> Tensor:
    """Blackens all but floor(P (1 - d)) of the P square patches.

    Args:
        x: (batch, channels, height, width) float32 images.
        d: (batch,) strengths in [0, 1].
        rank: (batch, P) int64 on the device of `x`, a permutation of 0 .. P-1 in each row: the rank of each patch, in
            row-major order. The patches of the lowest ranks are kept.
        size: patch side in pixels. Where it does not divide the image side, the last patches are smaller.

    Returns:
        A new tensor of the shape of `x`.
    """
    height, width = x.shape[2:]
    kept = (rank.shape[1] * (1 - d.double())).long().to(x.device, non_blocking=True)
    mask = (rank < kept.unsqueeze(1)).to(x.dtype).index_select(1, _patch_of_pixel(height, width, size, x.device))
    return x * mask.view(-1, 1, height, width)


def patch_count(height: int, width: int, size: int) -> int:
    """P, the number of patches of `size` pixels that cover an image."""
    return math.ceil(height / size) * math.ceil(width / size)


@in_float32
def mosaic(x: Tensor, d: Tensor, power: float = 2.0) -> Tensor:
    """Replaces each square block of pixels by its mean, channel by channel.

    Blocks have b = max(1, floor(max(height, width) (d + 0.001)^power)) pixels a side, from the top left on; the last
    ones are truncated. The sum over a block is separable: B_h x B_w^T with matrices B of 0 and 1.

    Args:
        x: (batch, channels, height, width) float32 images.
        d: (batch,) strengths in [0, 1].
        power: positive.

    Returns:
        A new tensor of the shape of `x`.
    """
    height, width = x.shape[2:]
    side = max(height, width)
    block = (side * (d.double() + 0.001).pow(power)).long().clamp_(1, side).to(x.device, non_blocking=True)
    if compiled.takes(x, block):
        from mollify_core.compiled import mosaic as kernel

        return kernel.mosaic(x, block)
    rows = _blocks(height, x.device).index_select(0, block.clamp(max=height))
    columns = rows if width == height else _blocks(width, x.device).index_select(0, block.clamp(max=width))
    # Sums of grey levels, divided at the end: whole numbers are summed exactly, and a mean may lie on an edge of a bin.
    pixels = (rows.sum(2).unsqueeze(2) * columns.sum(2).unsqueeze(1)).unsqueeze(1)
    means = _separable(x * 255, rows, columns).div_(255 * pixels)
    return torch.where((block > 1).view(-1, 1, 1, 1), means, x)


def _check_images(x: Tensor) -> None:
    if x.ndim != 4 or x.dtype != torch.float32:
        raise DataError(
            f"Expected images to be float32 of shape (batch, channels, height, width), but got {x.dtype} of shape "
            f"{tuple(x.shape)}"
        )


def _check_rows(name: str, values: Tensor, rows: int, high: int) -> None:
    if values.shape != (rows,):
        raise DataError(f"Expected `{name}` to hold one value for each of {rows} images, but got {tuple(values.shape)}")
    outside = values[~((values >= 0) & (values <= high))]
    if len(outside):
        raise DataError(f"Expected `{name}` to be in [0, {high}], but got {outside[0].item()!r}")


def _distort(kind: str, x: Tensor, d: Tensor, config: Distortions, generator: torch.Generator) -> Tensor:
    """One kind of distortion of all rows, with fresh random numbers."""
    if kind == "diffusion":
        eps = torch.empty(x.shape, dtype=x.dtype, device=x.device)  # contiguous: drawn 9 times faster than strided
        return diffuse(x, d, eps.normal_(generator=generator))
    if kind == "blur":
        return gaussian_blur(x, d, config.blur_sigma, config.blur_kernel)
    if kind == "dropout":
        count = patch_count(x.shape[2], x.shape[3], config.patch_size)
        rank = torch.rand(len(x), count, generator=generator, device=x.device).argsort(1)
        return drop_patches(x, d, rank, config.patch_size)
    return mosaic(x, d, config.mosaic_power)


def _separable(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows x columns^T for every image and channel of x, with rows (batch, H, H) and columns (batch, W, W)."""
    batch, channels, height, width = x.shape
    y = torch.bmm(x.reshape(batch, channels * height, width), columns.transpose(1, 2))
    return torch.matmul(rows.unsqueeze(1), y.view(x.shape))


@functools.cache
def _diffusion_table() -> Tensor:
    """(3, 1000) float32 on the CPU: step -> factor of the image, offset, factor of the noise, all in [0, 1] units."""
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    scale, noise = kept.sqrt(), (1 - kept).sqrt() / 2
    scale[0], noise[0] = 1, 0
    return torch.stack([scale, (1 - scale) / 2, noise]).float()


@functools.lru_cache(maxsize=16)
def _shifts(side: int, radius: int, device: torch.device) -> Tensor:
    """(radius + 1, side^2): row k is the matrix that adds the neighbours at distance k, reflected at the borders."""
    at = torch.arange(side)
    period = max(2 * side - 2, 1)
    basis = torch.zeros(radius + 1, side, side)
    for k in range(radius + 1):
        for shifted in {at + k, at - k} if k else {at}:
            folded = shifted.remainder(period)
            basis[k].index_put_((at, torch.minimum(folded, period - folded)), torch.ones(side), accumulate=True)
    return basis.view(radius + 1, -1).to(device)


@functools.lru_cache(maxsize=16)
def _blocks(side: int, device: torch.device) -> Tensor:
    """(side + 1, side, side): matrix b sums over blocks of b pixels, the last one truncated; b = 0 is unused."""
    block = torch.arange(side) // torch.arange(side + 1).clamp_(min=1).unsqueeze(1)
    return (block.unsqueeze(2) == block.unsqueeze(1)).float().to(device)


@functools.lru_cache(maxsize=16)
def _patch_of_pixel(height: int, width: int, size: int, device: torch.device) -> Tensor:
    """(height * width,) int64: the row-major index of the patch that each pixel lies in."""
    row, column = torch.arange(height) // size, torch.arange(width) // size
    return (row.unsqueeze(1) * math.ceil(width / size) + column).flatten().to(device)
