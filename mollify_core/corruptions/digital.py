"""Corruptions of group "digital", and saturation.

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


def contrast(images: Tensor, keep: float) -> Tensor:
    """Moves every channel towards its mean over the image, keeping the share `keep` of the distance.

    The published algorithm; means are sums of whole levels, so that an even surface keeps its value.
    """
    pixels = images.float()
    mean = pixels.mean((2, 3), keepdim=True)
    return quantise(pixels.mul_(keep).add_(mean.mul_(1 - keep)))


def saturate(images: Tensor, factor: float, add: float) -> Tensor:
    """Multiplies the saturation of hue, saturation and value, adds to it, and clips it.

    The published algorithm: with m and l the largest and smallest channel of a pixel and s' its new saturation, a
    channel x becomes m - s' m (m - x) / (m - l). A grey pixel has hue 0, so that added saturation makes it red; images
    of one channel stay. Values that are whole but for rounding errors stay whole here and differ by one level from the
    published ones in half of the cases: 1 % of values, at severity 3 9 % with CIFAR-C's strengths and 17 % with
    TinyImageNet-C's.
    """
    if images.shape[1] == 1:
        return images.clone()
    red, green, blue = images.split(1, dim=1)
    largest = torch.maximum(torch.maximum(red, green), blue).float()
    spread = largest - torch.minimum(torch.minimum(red, green), blue)
    even = spread == 0
    saturation = (spread / largest.clamp(min=1)).mul_(factor).add_(add).clamp_(0, 1)
    slope = saturation.mul_(largest).div_(spread.masked_fill_(even, 1))
    distance = largest - images
    if add > 0:
        distance[:, 1:] += even
    return quantise(torch.addcmul(largest, distance, slope, value=-1))


def elastic_transform(images: Tensor, generator: torch.Generator, reach: float, sigma: float, corners: float) -> Tensor:
    """Moves three points of an image at random and it with them (an affine map), then every pixel by a smooth field.

    The published algorithm with other draws, in float32 as there: 1 value in 1,000 differs by one level. Both
    resamplings are linear, the first with mirrored borders and positions rounded to 1/32 pixel, as OpenCV's of that
    time, the second with borders mirrored with their outermost pixels.

    Args:
        images: see above.
        generator: of points and fields.
        reach: of the field, whose uniform noise from [-1, 1) is smoothed and multiplied by this share of the side.
        sigma: of the Gaussian that smooths it, which ends at 3 sigma, as a share of the side; the shorter side counts.
        corners: how far the three points move on each axis, as a share of the side.
    """
    n, _, height, width = images.shape
    side = min(height, width)
    points = _points(height, width)
    moved = points + (draws.uniform(n, (3, 2), generator) * 2 - 1) * (corners * side)
    ones = torch.ones(n, 3, 1, dtype=torch.float64)
    inverse = torch.linalg.solve(torch.cat([moved, ones], 2), points.expand(n, 3, 2))  # (n, 3, 2): new point -> old
    columns, rows = torch.arange(width, dtype=torch.float64), torch.arange(height, dtype=torch.float64)
    at = columns[:, None] * inverse[:, None, None, 0] + rows[:, None, None] * inverse[:, None, None, 1]
    at = (at + inverse[:, None, None, 2]).mul_(32).round_().div_(32)  # (n, height, width, 2): across, down
    scale = torch.tensor([2 / (width - 1), 2 / (height - 1)])
    result = F.grid_sample(
        images.float(), (at.float() * scale).sub_(1), mode="bilinear", padding_mode="reflection", align_corners=True
    )
    if reach > 0:
        noise = draws.uniform(n, (2, height, width), generator, torch.float32) * 2 - 1
        field = linear.apply(_smooth(height, width, sigma * side), linear.to_columns(noise))
        shift = linear.from_columns(field, (n, 2, height, width)).movedim(1, 3) * (reach * side)
        shift[..., 0] += columns + 0.5
        shift[..., 1] += rows[:, None] + 0.5
        scale = torch.tensor([2 / width, 2 / height])
        result = F.grid_sample(
            result, (shift * scale).sub_(1), mode="bilinear", padding_mode="reflection", align_corners=False
        )
    return quantise(result)


def pixelate(images: Tensor, share: float) -> Tensor:
    """Makes an image smaller, to the whole part of `share` of its sides, and large again, by Pillow's box filter.

    Equals the published algorithm: Pillow rounds to whole levels after the width and after the height. Enlarging by
    a box filter repeats pixels, which may as well be done at once.
    """
    height, width = images.shape[2:]
    along, down = _boxes(height, width, share)
    columns = torch.from_numpy(along @ linear.to_columns(images)).add_(0.5).floor_()
    return linear.from_columns(quantise(torch.from_numpy(down @ columns.numpy()), 0.5), images.shape)


def jpeg_compression(images: Tensor, quality: float) -> Tensor:
    """Writes a JPEG file of `quality` in 1 .. 100, colours at half the resolution, and reads it.

    The published algorithm, by the same library (libjpeg-turbo) as Pillow brings, called by way of torchvision.
    """
    from torchvision.io import decode_jpeg, encode_jpeg  # takes a second to import

    return torch.stack([decode_jpeg(encode_jpeg(image, quality=int(quality))) for image in images])


def _points(height: int, width: int) -> Tensor:
    """(3, 2) float64: three points (across, down) around the middle."""
    x, y, reach = width // 2, height // 2, min(height, width) // 3
    return torch.tensor([(x + reach, y + reach), (x + reach, y - reach), (x - reach, y - reach)], dtype=torch.float64)


@functools.lru_cache(maxsize=16)
def _smooth(height: int, width: int, sigma: float) -> Matrices:
    rows, columns = (linear.gaussian(side, sigma, truncate=3, repeat_edge=False) for side in (height, width))
    return linear.separable(rows, columns, np.float32)


@functools.lru_cache(maxsize=16)
def _boxes(height: int, width: int, share: float) -> Matrices:
    rows, columns = (
        linear.box(int(side * share), side) @ linear.box(side, int(side * share)) for side in (height, width)
    )
    return linear.separable(rows, columns, np.float32)
