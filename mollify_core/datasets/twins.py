"""Images that are nearly the same: frames of one video, copies, one picture saved twice.

Where one of two is fitted and the other measures, the measure is too good.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mollify_core.datasets.load import MOST_TWINS

MOST_IMAGES = 200_000
"""Of more images nobody asks: every image is held against every other."""
_SIDE, _ALIKE = 8, 0.98  # of the thumbnails that are compared, and their correlation
# 95 % of the copies of 1,500 images of CIFAR-10, in JPEG quality 50 or by way of 24 pixels a side, are within these; 18
# pairs of 12,000 other images of it get here by their thumbnails.
_CORRELATION, _LEVELS = 0.95, 8.0  # of the grey images at least, and the mean difference in grey levels at most
_BLOCK = 2048


def twins(parts: Sequence[np.ndarray]) -> list[list[int]] | None:
    """Pairs [i, j], i < j, of images whose grey levels are nearly the same, pixel by pixel.

    Thumbnails are compared first; images of one colour have none. So copies are found, also compressed or scaled anew,
    but no crops.

    Args:
        parts: (n, channels, height, width) uint8 each, numbered one after the other.

    Returns:
        The pairs, sorted, at most `MOST_TWINS`; None where there are more than `MOST_IMAGES` images.
    """
    if sum(map(len, parts)) > MOST_IMAGES:
        return None
    thumbs = torch.cat([_thumbnails(part) for part in parts])
    starts = np.cumsum([0, *map(len, parts)])

    def image(row: int) -> np.ndarray:
        part = int(np.searchsorted(starts, row, side="right")) - 1
        return parts[part][row - starts[part]].mean(axis=0).ravel()

    found: list[list[int]] = []
    for start in range(0, len(thumbs), _BLOCK):
        alike = thumbs[start : start + _BLOCK] @ thumbs[start:].T > _ALIKE
        for a, b in alike.triu(1).nonzero().tolist():
            i, j = start + a, start + b
            one, other = image(i), image(j)
            if np.abs(one - other).mean() < _LEVELS and np.corrcoef(one, other)[0, 1] > _CORRELATION:
                found.append([i, j])
                if len(found) == MOST_TWINS:
                    return found
    return found


def _thumbnails(images: np.ndarray) -> Tensor:
    """(n, 64) float32 of length 1 and mean 0; 0 where an image is of one colour."""
    small = []
    for start in range(0, len(images), 1000):
        block = torch.from_numpy(np.ascontiguousarray(images[start : start + 1000])).float().mean(dim=1, keepdim=True)
        small.append(F.adaptive_avg_pool2d(block, _SIDE).flatten(1))
    thumbs = torch.cat(small)
    thumbs -= thumbs.mean(dim=1, keepdim=True)
    length = thumbs.norm(dim=1, keepdim=True)
    return torch.where(length > 1, thumbs / length, 0.0)
