"""Soft crop and noise in boxes, image by image in the cache, on one thread.

Results equal those of `mollify_core.augment.soft` bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mollify_core.compiled import kernel

_ZERO, _WHITE = np.float32(0), np.float32(255)


def shift(images: Tensor, offset: Tensor) -> Tensor:
    """Each image as seen through a frame that is moved by `offset` (2, batch) int64 pixels; black elsewhere."""
    out = torch.zeros(images.shape, dtype=torch.uint8)
    _shift(*(t.contiguous().numpy() for t in (images, offset, out)))
    return out


def noise(images: Tensor, box: Tensor, deviation: Tensor | None, values: Tensor) -> Tensor:
    """Copies with `values` in a box of each row: instead of what is there, or added with a deviation.

    Args:
        images: (batch, channels, height, width) uint8.
        box: (4, batch) int64 top, left, bottom and right, the last two exclusive.
        deviation: (batch,) of white; None puts the values there.
        values: float32 in units of white, row after row, channel after channel.
    """
    out = images.clone(memory_format=torch.contiguous_format)
    level = torch.full((len(images),), -1.0) if deviation is None else (255 * deviation).float()
    _noise(*(t.contiguous().numpy() for t in (out, box, level, values)))
    return out


@kernel("void(uint8[:,:,:,::1], int64[:,::1], uint8[:,:,:,::1])")
def _shift(images, offset, out):
    rows, channels, height, width = images.shape
    for i in range(rows):
        down, right = offset[0, i], offset[1, i]
        left, end = max(0, -right), min(width, width - right)
        for c in range(channels):
            for y in range(max(0, -down), min(height, height - down)):
                for x in range(left, end):
                    out[i, c, y, x] = images[i, c, y + down, x + right]


@kernel("void(uint8[:,:,:,::1], int64[:,::1], float32[::1], float32[::1])")
def _noise(images, box, level, values):
    k = 0
    for i in range(len(images)):
        for c in range(images.shape[1]):
            for y in range(box[0, i], box[2, i]):
                for x in range(box[1, i], box[3, i]):
                    if level[i] < _ZERO:
                        value = np.rint(_WHITE * values[k])
                    else:
                        value = np.rint(np.float32(images[i, c, y, x]) + values[k] * level[i])
                    images[i, c, y, x] = np.uint8(min(max(value, _ZERO), _WHITE))
                    k += 1
