"""Horizontal flip and random crop of a batch, by index arithmetic."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CROP_PADDING = 4
"""Black border in pixels on each side before the random crop (both papers)."""


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors rows of the batch left to right.

    Args:
        images: (batch, channels, height, width), any dtype.
        mirrored: (batch,) bool.
    """
    still = torch.zeros_like(mirrored, dtype=torch.int64)
    return crop(images, still, still, padding=0, mirrored=mirrored)


def crop(
    images: Tensor, top: Tensor, left: Tensor, padding: int = CROP_PADDING, mirrored: Tensor | None = None
) -> Tensor:
    """Crops of the original size out of images padded with black.

    Args:
        images: (batch, channels, height, width), any dtype.
        top, left: (batch,) int64 corner of the crop in the padded image, in [0, 2 * padding].
        padding: border on each side in pixels.
        mirrored: (batch,) bool, rows that are mirrored left to right before the crop, at no further cost.
    """
    channels, height, width = images.shape[1:]
    padded = F.pad(images, [padding] * 4)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = left[:, None] + torch.arange(width, device=images.device)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], padded.shape[3] - 1 - columns, columns)
    index = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).flatten(1)[:, None].expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view_as(images)
