"""What a contrast of recipes is worth when training seeds and images both vary.

Recipes (cells) are trained with the same seeds, so that a seed is a block: one order of images, one set of initial
weights. All are measured on the same images, which have chosen nothing. A contrast is a weighted sum of the cells'
means with weights that sum to 0: on less off, or the mean of two such differences (a crossed confirmation).

The seeds' variance is pooled over the cells, from what is left of the cell-by-seed means when cells and seeds are
taken out; the images' variance is that of the contrast's value per image. Their sum counts the interaction of both
twice, which is a little wide: the safe side. The interval is Student's with Satterthwaite's degrees of freedom
(Satterthwaite, Biometrics Bulletin 1946).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mollify_core.errors import DataError
from mollify_core.measure.statistics import LEVEL, Mean

CROSSED = (-0.5, 0.5, -0.5, 0.5)
"""Weights of the cells (off a, on a, off b, on b): what the method does, averaged over the other settings a and b."""


@dataclass(frozen=True)
class Contrast(Mean):
    """A contrast with its 95 % interval over seeds and images; without one where nothing varies.

    Attributes:
        count: number of seeds.
        images: number of images.
        p: two-sided, that the contrast is 0; NaN where nothing varies.
    """

    images: int
    p: float

    def word(self, margin: float) -> str:
        """What may be said of a contrast of errors or losses, less being better.

        Args:
            margin: the smallest difference that matters.

        Returns:
            "better" or "worse" where the interval lies on one side of 0, "no difference that matters" where it lies
            within the margin, else "cannot be told".
        """
        if self.high < 0:
            return "better"
        if self.low > 0:
            return "worse"
        inside = -margin <= self.low and self.high <= margin  # False of NaN
        return "no difference that matters" if inside else "cannot be told"


def contrast(values: np.ndarray, weights: Sequence[float]) -> Contrast:
    """The contrast of some cells.

    Args:
        values: (cells, seeds, images) float, with at least two of each; copies of an image under several corruptions
            are one image and averaged before.
        weights: (cells,) float, of sum 0.

    Raises:
        DataError: the values are of another shape, or not finite; or the weights are no contrast.
    """
    values, given = np.asarray(values, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if values.ndim != 3 or min(values.shape) < 2 or given.shape != values.shape[:1]:
        raise DataError(
            "Expected values (cells, seeds, images) of two or more each and a weight for each cell, but got shapes "
            f"{values.shape} and {given.shape}"
        )
    if not np.isfinite(values).all():
        raise DataError("Expected finite values of all cells, seeds and images, but got others")
    if abs(given.sum()) > 1e-9:
        raise DataError(f"Expected weights of sum 0, but got {list(weights)}")
    value, low, high, p = (float(number) for number in estimate(values, given))
    return Contrast(value, low, high, values.shape[1], values.shape[2], p)


def estimate(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(value, low, high, p) of one contrast in many experiments at once; unchecked.

    Args:
        values: (..., cells, seeds, images).
        weights: (cells,).
    """
    from scipy import stats  # slow to import

    cells, seeds, images = values.shape[-3:]
    means = values.mean(axis=-1)
    residual = means - means.mean(axis=-1, keepdims=True) - means.mean(axis=-2, keepdims=True)
    residual += means.mean(axis=(-2, -1), keepdims=True)
    free = (cells - 1) * (seeds - 1)
    of_seeds = (residual**2).sum(axis=(-2, -1)) / free / seeds * (weights**2).sum()
    per_image = np.einsum("c,...csi->...i", weights, values) / seeds
    of_images = per_image.var(axis=-1, ddof=1) / images
    variance, value = of_seeds + of_images, per_image.mean(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        degrees = variance**2 / (of_seeds**2 / free + of_images**2 / (images - 1))
        half = stats.t.ppf(1 - LEVEL / 2, degrees) * np.sqrt(variance)
        half = np.where(variance > 0, half, math.nan)
        p = 2 * stats.t.sf(np.abs(value) / np.sqrt(variance), degrees)
    return value, value - half, value + half, np.where(variance > 0, p, math.nan)
