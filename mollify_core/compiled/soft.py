"""Soft crop and noise in boxes, image by image in the cache, on one thread.

Results equal those of `mollify_core.augment.soft` bit for bit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mollify_core.compiled import kernel

_ZERO, _ONE, _WHITE = np.float32(0), np.float32(1), np.float32(255)


def shift(images: Tensor, offset: Tensor) -> Tensor:
    """Each image as seen through a frame that is moved by `offset` (2, batch) int64 pixels; black elsewhere."""
    out = torch.zeros(images.shape, dtype=torch.uint8)
    _shift(*(t.contiguous().numpy() for t in (images, offset, out)))
    return out


def noise(images: Tensor, box: Tensor, deviation: Tensor | None, seed: int, quantiles: Tensor) -> Tensor:
    """Copies with noise in a box of each row: instead of what is there, or added with a deviation.

    Args:
        images: (batch, channels, height, width) uint8.
        box: (4, batch) int64 top, left, bottom and right, the last two exclusive.
        deviation: (batch,) of white; None puts the noise there.
        seed: of the noise, which goes on row after row, channel after channel.
        quantiles: (65536,) float32 in units of white: what 16 random bits become.
    """
    out = images.clone(memory_format=torch.contiguous_format)
    level = torch.full((len(images),), -1.0) if deviation is None else (255 * deviation).float()
    _noise(*(t.contiguous().numpy() for t in (out, box, level, quantiles)), np.uint64(seed))
    return out


@kernel("void(uint8[:,:,:,::1], int64[:,::1], uint8[:,:,:,::1])")
def _shift(images, offset, out):
    rows, channels, height, width = images.shape
    source, target = images.reshape(-1), out.reshape(-1)
    for i in range(rows):
        down, right = offset[0, i], offset[1, i]
        count = np.uint64(max(0, width - abs(right)))
        for c in range(channels):
            for y in range(max(0, -down), min(height, height - down)):
                row = (i * channels + c) * height + y
                at = np.uint64(row * width + max(0, -right))  # unsigned: no look for indices from the end
                of = np.uint64((row + down) * width + max(0, right))
                for x in range(count):
                    target[at + x] = source[of + x]


@kernel("void(uint8[:,:,:,::1], int64[:,::1], float32[::1], float32[::1], uint64)")
def _noise(images, box, level, quantiles, state):
    k, word = 0, np.uint64(0)
    for i in range(len(images)):
        scale, keeps = (_WHITE, _ZERO) if level[i] < _ZERO else (level[i], _ONE)
        for c in range(images.shape[1]):
            for y in range(box[0, i], box[2, i]):
                for x in range(box[1, i], box[3, i]):
                    if k % 4 == 0:
                        state += np.uint64(0x9E3779B97F4A7C15)
                        word = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                        word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                        word ^= word >> np.uint64(31)
                    value = keeps * np.float32(images[i, c, y, x]) + quantiles[word & np.uint64(0xFFFF)] * scale
                    images[i, c, y, x] = np.uint8(np.int32(np.rint(min(max(value, _ZERO), _WHITE))))
                    word >>= np.uint64(16)
                    k += 1
