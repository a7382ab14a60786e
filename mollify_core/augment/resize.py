"""Random resized crop of a batch: a rectangle of each row, enlarged to the full size.

A crop is never larger than the image, so resizing only enlarges, where antialiased bilinear interpolation is plain
bilinear interpolation: two taps a direction.
"""

from __future__ import annotations

import torch
from torch import Tensor

AREA = (0.08, 1.0)
"""Range of the crop's share of the image area."""
ASPECT = (3 / 4, 4 / 3)
"""Range of the crop's width over height, uniform in its logarithm."""
TRIES = 10
"""Rectangles drawn before one that does not fit is replaced by the largest central one of an allowed aspect."""
_UNITS = 1 << 14  # weights are whole multiples of 1 / _UNITS
_PIECE = 1 << 17  # pixels that a CPU resizes at a time, so that what it needs stays in its cache


def draw_boxes(batch: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(4, batch) int64: top, left, height and width in pixels of random rectangles inside the image.

    Source: the crop of Inception training (Szegedy et al. 2015, section 6), with torchvision's fallback.

    Args:
        batch: number of rows.
        height, width: image size in pixels.
        generator: a CPU generator.
    """
    area, aspect, y, x = torch.rand(4, TRIES, batch, dtype=torch.float64, generator=generator)
    area = height * width * (AREA[0] + (AREA[1] - AREA[0]) * area)
    aspect = ASPECT[0] * (ASPECT[1] / ASPECT[0]) ** aspect
    tall, wide = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (tall > 0) & (tall <= height) & (wide > 0) & (wide <= width)
    first = fits.int().argmax(0, keepdim=True)
    tall, wide, y, x = (value.gather(0, first)[0] for value in (tall, wide, y, x))
    box = torch.stack([(y * (height - tall + 1)).floor(), (x * (width - wide + 1)).floor(), tall, wide]).long()
    most = min(height, round(width / ASPECT[0])), min(width, round(height * ASPECT[1]))
    central = torch.tensor([(height - most[0]) // 2, (width - most[1]) // 2, *most])
    return torch.where(fits.any(0), box, central[:, None])


def resized_crop(images: Tensor, box: Tensor) -> Tensor:
    """Cuts a rectangle out of each row and enlarges it to the full size by bilinear interpolation.

    The weights are rounded to multiples of 2^-14 and each direction (columns first) to whole grey levels, as
    PyTorch's own uint8 interpolation on a CPU does.

    Args:
        images: (batch, channels, height, width) uint8.
        box: (4, batch) int64: top, left, height and width of the rectangles, inside the image.
    """
    pieces = 1 if images.is_cuda else 1 + images[:, 0].numel() // _PIECE
    parts = zip(images.tensor_split(pieces), box.tensor_split(pieces, dim=1), strict=True)
    return torch.cat([_resized_crop(*part) for part in parts])


def _resized_crop(images: Tensor, box: Tensor) -> Tensor:
    batch, channels, height, width = images.shape
    top, left, tall, wide = box
    lower, upper, weight = (value[:, None, None] for value in _taps(left, wide, width))
    lower, upper = (images.gather(3, tap.expand(images.shape)) for tap in (lower, upper))
    images = _interpolate(lower, upper, weight)
    lower, upper, weight = (value[:, None, :, None] for value in _taps(top, tall, height))
    first = torch.arange(batch * channels, device=images.device).view(batch, channels, 1, 1) * height
    rows = images.view(-1, width)
    lower, upper = (rows.index_select(0, (first + tap).flatten()).view_as(images) for tap in (lower, upper))
    return _interpolate(lower, upper, weight)


def _taps(start: Tensor, length: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """(batch, size) each: the two source pixels of every output pixel, and the weight of the second in [0, 1]."""
    position = (torch.arange(size, device=start.device) + 0.5) * (length[:, None].double() / size) - 0.5
    lower = position.floor()
    weight = ((position - lower) * _UNITS).add_(0.5).floor_().div_(_UNITS).float()
    lower = lower.long()
    return start[:, None] + lower.clamp(min=0), start[:, None] + (lower + 1).minimum(length[:, None] - 1), weight


def _interpolate(lower: Tensor, upper: Tensor, weight: Tensor) -> Tensor:
    """uint8 mean of two uint8 images, rounded half up; float32 holds all of it exactly."""
    return torch.lerp(lower.float(), upper.float(), weight).add_(0.5).to(torch.uint8)
