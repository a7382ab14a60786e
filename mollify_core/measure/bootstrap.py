"""Cells of the calibration error, which has no value per image: images are drawn again with replacement instead.

Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979. Seeds are not drawn again:
of three to nine of them a percentile interval is much too narrow, so their variance is taken as of every contrast.
"""

from __future__ import annotations

import numpy as np
import torch

from mollify_core.errors import DataError
from mollify_core.measure.contrast import Cells
from mollify_core.measure.metrics import ECE_BINS, bin_index

_AT_ONCE = 100  # draws; bounds the memory


def ece_cells(confidence: np.ndarray, correct: np.ndarray, generator: np.random.Generator, draws: int = 1000) -> Cells:
    """Cells of the pooled ECE (`metrics.Metrics`), for `contrast`, `crossed` and `parts`.

    The ECE is biased upwards by as much as images are few; all cells have the same images, and most of it cancels.

    Args:
        confidence: (cells, seeds, images) float in [0, 1].
        correct: (cells, seeds, images), 0 or 1.
        generator: draws the images, the same for all cells and seeds.
        draws: number of times that they are drawn.

    Raises:
        DataError: the two are of different or other shapes, or out of range.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 3 or min(sure.shape) < 2 or sure.shape != right.shape:
        raise DataError(
            "Expected confidence and correct (cells, seeds, images) of two or more each, but got shapes "
            f"{sure.shape} and {right.shape}"
        )
    if not all(((v >= 0) & (v <= 1)).all() for v in (sure, right)):
        raise DataError("Expected confidence and correct in [0, 1], but got others")
    images = sure.shape[-1]
    index = bin_index(torch.from_numpy(sure.reshape(-1)), ECE_BINS).clamp_(max=ECE_BINS - 1).numpy()
    gaps = np.zeros((images, *sure.shape[:2], ECE_BINS))
    place = np.moveaxis(index.reshape(sure.shape), -1, 0)[..., None]
    np.put_along_axis(gaps, place, np.moveaxis(right - sure, -1, 0)[..., None], axis=-1)
    flat = gaps.reshape(images, -1)

    def ece(counts: np.ndarray) -> np.ndarray:
        """(n, cells, seeds) of images (n, images) that count so often."""
        sums = (counts @ flat).reshape(len(counts), *sure.shape[:2], ECE_BINS)
        return np.asarray(np.abs(sums).sum(axis=-1) / images)

    again = [
        ece(generator.multinomial(images, np.full(images, 1 / images), size=min(_AT_ONCE, draws - start)))
        for start in range(0, draws, _AT_ONCE)
    ]
    covariance = np.cov(np.concatenate(again).mean(axis=2), rowvar=False) * images
    return Cells(ece(np.ones((1, images)))[0], covariance, images)
