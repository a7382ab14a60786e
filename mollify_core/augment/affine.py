"""Affine maps of a batch, one map per row: rotation, shear and translation share one gather.

Coordinates are computed operation by operation as torchvision's `affine` and `rotate` do, in float32 and without a
matrix product, so that rounding ties fall on the same side on every device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_ANGLE = 15.0
"""Largest angle of the random rotation, in degrees (Heinonen et al. 2025, released code)."""


def rotation(angle: Tensor) -> Tensor:
    """(batch, 2, 3) inverse maps of rotations about the centre by `angle` (batch,) degrees, counter-clockwise."""
    still = torch.zeros_like(angle)
    return inverse_map(angle, (still, still), (still, still), (1, 1))


def inverse_map(
    angle: Tensor, shear: tuple[Tensor, Tensor], shift: tuple[Tensor, Tensor], size: tuple[int, int]
) -> Tensor:
    """Where each output pixel comes from, for rows that are rotated, sheared or translated (one of them per row).

    Args:
        angle: (batch,) degrees about the image centre, counter-clockwise.
        shear: (batch,) horizontal and vertical shear, as tangents, about the top left corner.
        shift: (batch,) translation to the right and downwards, in pixels.
        size: height and width in pixels.

    Returns:
        (batch, 2, 3) float64 matrices: (x, y, 1) of an output pixel, in pixels from the centre -> (x, y) of its source.
    """
    radians = torch.deg2rad(angle.double())
    sine, cosine = radians.sin(), radians.cos()
    height, width = size
    x = torch.stack([cosine, shear[0] - sine, shear[0] * (height / 2) - shift[0]], dim=1)
    y = torch.stack([shear[1] + sine, cosine, shear[1] * (width / 2) - shift[1]], dim=1)
    return torch.stack([x, y], dim=1)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Rotates each row of the batch about its centre, nearest neighbour, black outside.

    Args:
        images: (batch, channels, height, width), any dtype.
        angle: (batch,) degrees, counter-clockwise.
    """
    return nearest(images, rotation(angle))


def nearest(images: Tensor, inverse: Tensor) -> Tensor:
    """Resamples each row by its inverse map with the nearest neighbour, black outside.

    Args:
        images: (batch, channels, height, width), any dtype.
        inverse: (batch, 2, 3) inverse maps, see `inverse_map`.
    """
    channels, height, width = images.shape[1:]
    x, y = _normalised(inverse, height, width)
    # A black frame of one pixel takes whatever falls outside.
    x = x.add_(1).mul_(width / 2).sub_(0.5).round_().clamp_(-1, width)
    y = y.add_(1).mul_(height / 2).sub_(0.5).round_().clamp_(-1, height)
    index = y.add_(1).mul_(width + 2).add_(x).add_(1).long().flatten(1)[:, None]
    return F.pad(images, [1] * 4).flatten(2).gather(2, index.expand(-1, channels, -1)).view_as(images)


def bilinear(images: Tensor, inverse: Tensor) -> Tensor:
    """Resamples each row by its inverse map with bilinear interpolation, black outside; rounds to uint8.

    Args:
        images: (batch, channels, height, width) uint8.
        inverse: (batch, 2, 3) inverse maps, see `inverse_map`.
    """
    grid = torch.stack(_normalised(inverse, *images.shape[2:]), dim=3)
    return F.grid_sample(images.float(), grid, "bilinear", "zeros", align_corners=False).round_().to(torch.uint8)


def _normalised(inverse: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Source coordinates x, y of every output pixel, (batch, height, width) each; the image spans [-1, 1]."""
    x = torch.linspace((1 - width) / 2, (width - 1) / 2, width, device=inverse.device)
    y = torch.linspace((1 - height) / 2, (height - 1) / 2, height, device=inverse.device)[:, None]

    def source(row: int, extent: int) -> Tensor:
        a, b, c = (inverse[:, row].float() / (extent / 2))[:, :, None, None].unbind(1)
        return (a * x + b * y).add_(c)

    return source(0, width), source(1, height)
