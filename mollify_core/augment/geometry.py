"""Horizontal flip and random crop of a batch, by index arithmetic on uint8 images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CROP_PADDING = 4
"""Black border in pixels on each side before the random crop (both papers)."""


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirrors rows left to right.

    Args:
        images: (batch, channels, height, width), any dtype.
        mirrored: (batch,) bool.
    """
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def crop(images: Tensor, top: Tensor, left: Tensor, padding: int = CROP_PADDING) -> Tensor:
    """Crops of the original size out of images padded with black.

    Args:
        images: (batch, channels, height, width), any dtype.
        top, left: (batch,) int64 corner of the crop in the padded image, in [0, 2 * padding].
        padding: border on each side in pixels.
    """
    batch, channels, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    rows = (top[:, None] + torch.arange(height, device=images.device)) * padded.shape[3]
    columns = left[:, None] + torch.arange(width, device=images.device)
    index = (rows[:, :, None] + columns[:, None, :]).view(batch, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view_as(images)


def augment(images: Tensor, names: Sequence[str], generator: torch.Generator) -> Tensor:
    """Random augmentation of a uint8 batch: `names` out of "flip" (probability 1/2) and "crop", in that order.

    Args:
        images: (batch, channels, height, width) uint8.
        names: augmentations to apply, see `mollify_core.recipe.AUGMENTATIONS`.
        generator: a CPU generator: the few parameters are drawn there, so every device sees the same ones.
    """
    batch = len(images)
    if "flip" in names:
        mirrored = torch.rand(batch, generator=generator) < 0.5
        images = flip(images, mirrored.to(images.device, non_blocking=True))
    if "crop" in names:
        corner = torch.randint(0, 2 * CROP_PADDING + 1, (2, batch), generator=generator)
        top, left = corner.to(images.device, non_blocking=True)
        images = crop(images, top, left)
    return images
