"""The corruption `spatter`: drops of water that shine at their rims, or of mud.

Images are (n <= CHUNK, channels, height, width) uint8 of 1 or 3 channels; results are new tensors of their shape.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mollify_core.corruptions import draws, linear
from mollify_core.corruptions.linear import Matrices, quantise
from mollify_core.corruptions.weather import luma

WATER, MUD = (175.0, 238.0, 238.0), (63.0, 42.0, 20.0)
LOW, HIGH = 50, 150  # thresholds of the gradient at an edge
FARTHEST = 20  # pixels; distances end there
TANGENT = 13573 / 2**15  # of 22.5 degrees
ONE, DIAGONAL, KNIGHT = 10_000, 14_000, 21_969  # the steps of the chamfer, in units of 1e-4 pixels
EMBOSS = {(-1, -1): -2, (-1, 0): -1, (0, -1): -1, (0, 0): 1, (0, 1): 1, (1, 0): 1, (1, 1): 2}  # (down, right): weight


def spatter(
    images: Tensor,
    generator: torch.Generator,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    last: float,
    mud: float,
) -> Tensor:
    """Lays drops over an image: smoothed noise above a threshold.

    The published algorithm with other draws, in float32 as there. Where there is no drop at all, the published program
    divides by zero and its image is black; here it is left as it is.

    Args:
        images: see above.
        generator: of the drops.
        mean, deviation: of the normal noise, relative to white.
        sigma: of the Gaussian that smooths it, in pixels.
        threshold: below it there is no drop.
        last: largest opacity of water; for mud, the sigma in pixels that smooths its mask.
        mud: 1 for mud, 0 for water.
    """
    n, channels, height, width = images.shape
    noise = draws.normal(n, (height, width), generator).mul(deviation).add_(mean)
    columns = torch.from_numpy(linear.apply(_gaussian(height, width, sigma), linear.to_columns(noise)))
    if mud:
        mask = linear.apply(_gaussian(height, width, last), (columns > threshold).float().numpy())
        opacity = linear.from_columns(mask, (n, 1, height, width))
        opacity = torch.where(opacity < 0.8, 0, opacity)
        return quantise(images * (1 - opacity) + opacity * _colour(MUD, channels))
    levels = torch.where(columns < threshold, 0, columns).mul_(255).int().to(torch.uint8)  # 256 is 0, as published
    drops = linear.from_columns(levels, (n, height, width))
    opacity = drops * shine(drops)
    opacity *= last / opacity.amax((1, 2), keepdim=True).clamp(min=1)
    return quantise(opacity.unsqueeze(1) * _colour(WATER, channels) + images)


def shine(drops: Tensor) -> Tensor:
    """How bright water is, by the distance from the rims of the drops: equalised, embossed and smoothed.

    Args:
        drops: (n, height, width) uint8.

    Returns:
        (n, height, width) float32 whole numbers in [0, 255].
    """
    mean = _box_sum(edge_distance(edges(drops))).div_(9 * ONE).floor_()
    embossed = _correlate(_equalise(mean), EMBOSS).clamp_(0, 255)
    return _box_sum(embossed).div_(9).round_()


def edges(images: Tensor) -> Tensor:
    """Canny's edges (Canny 1986) as OpenCV finds them: 3x3 Sobel gradients, |x| + |y|, thresholds 50 and 150.

    Args:
        images: (n, height, width) uint8.

    Returns:
        (n, height, width) bool.
    """
    height, width = images.shape[1:]
    smooth, slope = {-1: 1, 0: 2, 1: 1}, {-1: -1, 1: 1}
    pixels = images.float()  # all values below are whole, and exact
    right = _correlate(pixels, {(y, x): a * b for y, a in smooth.items() for x, b in slope.items()}, "replicate")
    down = _correlate(pixels, {(y, x): a * b for y, a in slope.items() for x, b in smooth.items()}, "replicate")
    falling = right * down > 0  # the gradient points down right, or up left
    across, along = right.abs_(), down.abs_()
    size = across + along
    padded = F.pad(size, (1, 1, 1, 1))

    def larger(y: int, x: int, add: int) -> Tensor:
        """The larger one of two opposite neighbours, the first plus `add`."""
        first, second = (padded[:, 1 + i : 1 + i + height, 1 + j : 1 + j + width] for i, j in ((y, x), (-y, -x)))
        return torch.maximum(first + add, second)

    diagonal = torch.where(falling, larger(-1, -1, 0), larger(-1, 1, 0)).add_(1)
    least = torch.where(along > across * (2 + TANGENT), larger(-1, 0, 1), diagonal)
    least = torch.where(along < across * TANGENT, larger(0, -1, 1), least)
    ridge = size >= least
    candidates, found = ridge & (size > LOW), ridge & (size > HIGH)
    count = -1
    while count != (count := int(found.sum())):  # candidates that touch an edge are edges too
        for axis in (1, 2):
            length = found.shape[axis] - 1
            grown = found.clone()
            grown.narrow(axis, 1, length).logical_or_(found.narrow(axis, 0, length))
            grown.narrow(axis, 0, length).logical_or_(found.narrow(axis, 1, length))
            found = grown
        found &= candidates
    return found


def edge_distance(marked: Tensor) -> Tensor:
    """The 5x5 chamfer distance (Borgefors 1986) of each pixel from the nearest marked one, at most `FARTHEST`.

    A shortest path may take all its steps along the row first, and after that goes either down or up. So distances in
    the rows come first, by steps that double, and then each row hears from the two before it, down and up again.

    Args:
        marked: (n, height, width) bool.

    Returns:
        (n, height, width) float32 whole numbers in units of 1e-4 pixels.
    """
    n, height, width = marked.shape
    padded = torch.full((height + 4, n, width + 4), 2.0 * FARTHEST * ONE)  # two pixels on each side that are far
    rows = padded[2:-2, :, 2:-2].masked_fill_(marked.movedim(1, 0), 0)
    step = 1
    while step < min(FARTHEST, width):
        for ahead, behind in ((slice(step, None), slice(None, -step)), (slice(None, -step), slice(step, None))):
            rows[..., ahead] = torch.minimum(rows[..., ahead], rows[..., behind] + step * ONE)
        step *= 2
    for order, back in ((range(2, height + 2), -1), (range(height + 1, 1, -1), 1)):
        for y in order:
            row, near, far = rows[y - 2], padded[y + back], padded[y + 2 * back]
            knights = torch.minimum(near[:, :-4], near[:, 4:])
            knights = torch.minimum(knights, torch.minimum(far[:, 1:-3], far[:, 3:-1])).add_(KNIGHT)
            diagonals = torch.minimum(near[:, 1:-3], near[:, 3:-1]).add_(DIAGONAL)
            nearest = torch.minimum(torch.minimum(knights, diagonals), near[:, 2:-2] + ONE)
            torch.minimum(row, nearest, out=row)
    return rows.movedim(0, 1).clamp(max=FARTHEST * ONE)


def _equalise(levels: Tensor) -> Tensor:
    """Equalised histograms, as OpenCV's, of levels (n, height, width), whole numbers in [0, `FARTHEST`]; float32."""
    n, count = len(levels), FARTHEST + 1
    index = levels.int().flatten(1) + torch.arange(n, dtype=torch.int32).unsqueeze(1) * count
    upto = torch.bincount(index.view(-1), minlength=n * count).view(n, count).cumsum(1)
    pixels = index.shape[1]
    lowest = upto.masked_fill(upto == 0, pixels).amin(1, keepdim=True)  # how many have the lowest level
    above = (pixels - lowest).float()
    table = ((upto - lowest).clamp(min=0) * (255 / above.clamp(min=1))).round_()
    table = torch.where(above == 0, torch.arange(count), table)  # an even surface stays
    return table.view(-1).index_select(0, index.view(-1)).view_as(levels)


def _correlate(planes: Tensor, weights: dict[tuple[int, int], int], border: str = "reflect") -> Tensor:
    """Correlates float32 planes (n, height, width) with a 3x3 kernel given as (down, right): weight."""
    height, width = planes.shape[1:]
    around, total = F.pad(planes.unsqueeze(1), (1, 1, 1, 1), mode=border)[:, 0], torch.zeros_like(planes)
    for (y, x), weight in weights.items():
        total.add_(around[:, 1 + y : 1 + y + height, 1 + x : 1 + x + width], alpha=weight)
    return total


def _box_sum(planes: Tensor) -> Tensor:
    """The sum over 3x3 pixels of float32 planes (n, height, width), mirrored at their outermost pixels."""
    around = F.pad(planes.unsqueeze(1), (1, 1, 1, 1), mode="reflect")[:, 0]
    rows = around[:, :-2] + around[:, 1:-1] + around[:, 2:]
    return rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]


@functools.lru_cache(maxsize=16)
def _gaussian(height: int, width: int, sigma: float) -> Matrices:
    return linear.separable(linear.gaussian(height, sigma), linear.gaussian(width, sigma), np.float32)


def _colour(colour: tuple[float, float, float], channels: int) -> Tensor:
    """(channels, 1, 1) float32."""
    levels = torch.tensor(colour).view(3, 1, 1)
    return luma(levels.unsqueeze(0))[0] if channels == 1 else levels
