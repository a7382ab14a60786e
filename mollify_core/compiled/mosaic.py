"""Mosaic of a batch, each row with its own block size, on one thread: every pixel is read once and written once.

As in the plain form grey levels are summed, exactly where they are whole numbers; means of others may differ from its
in the last bits of float32.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from torch import Tensor

from mollify_core.compiled import kernel


def mosaic(x: Tensor, block: Tensor) -> Tensor:
    """Replaces square blocks by their means, channel by channel.

    Args:
        x: (batch, channels, height, width) float32 on the CPU.
        block: (batch,) int64 sides of the blocks in pixels, at least 1; the last ones in each direction are truncated.

    Returns:
        A new tensor of the shape of `x`.
    """
    out = torch.empty(x.shape)
    _mosaic(x.contiguous().numpy(), block.contiguous().numpy(), out.numpy())
    return out


@numba.njit
def _average(band, side, height):
    """Replaces the sums of the columns of a band by the means of its blocks."""
    for left in range(0, len(band), side):
        right = min(left + side, len(band))
        total = 0.0
        for j in range(left, right):
            total += band[j]
        for j in range(left, right):
            band[j] = total / (255 * height * (right - left))


@kernel("void(float32[:,:,:,::1], int64[::1], float32[:,:,:,::1])")
def _mosaic(x, block, out):
    batch, channels, height, width = x.shape
    band = np.empty(width)  # float64
    grey = np.float32(255)
    for n in range(batch):
        side = block[n]
        for c in range(channels):
            source, target = x[n, c], out[n, c]
            if side == 1:
                target[:] = source
                continue
            for top in range(0, height, side):
                bottom = min(top + side, height)
                band[:] = 0
                for i in range(top, bottom):
                    for j in range(width):
                        band[j] += source[i, j] * grey
                _average(band, side, bottom - top)
                for i in range(top, bottom):
                    for j in range(width):
                        target[i, j] = band[j]
