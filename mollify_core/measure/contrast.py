"""What a contrast of recipes is worth when training seeds and images both vary.

Recipes (cells) are trained with the same seeds, so that a seed is a block: one order of images, one set of initial
weights. All are measured on the same images, which have chosen nothing. A contrast is a weighted sum of the cells'
means with weights that sum to 0: on less off, or the mean of two such differences (a crossed confirmation).

The seeds' variance is pooled over the cells, from what is left of the cell-by-seed means when cells and seeds are
taken out. Where all cells weigh alike that is right also of cells of unequal noise. Where some weigh nothing it need
not be: then the contrast's own variance over seeds is taken if it is the larger, with degrees of freedom of two cells
only. The images' variance is that of the contrast's value per image. Their sum counts the interaction of both twice,
which is a little wide: the safe side.

Images of one group (a patient, a video) are no independent evidence: where groups are known they take the images'
place (`statistics.by_group`).

The interval is Student's with Satterthwaite's degrees of freedom (Satterthwaite, Biometrics Bulletin 1946), times
f / (f + 2) and at least f, the seeds' own. Without that factor few seeds claim too much: a seed variance that comes out
small by chance also leaves the degrees of freedom to the images. tests/core/measure/test_rule.py simulates it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mollify_core.errors import DataError
from mollify_core.measure.statistics import LEVEL, Mean, by_group

CROSSED = (-0.5, 0.5, -0.5, 0.5)
"""Weights of the cells (off a, on a, off b, on b): what the method does, averaged over the other settings a and b."""


@dataclass(frozen=True)
class Contrast(Mean):
    """A contrast with its 95 % interval over seeds and images; without one where seeds do not vary.

    Attributes:
        count: number of seeds.
        images: number of images, or of groups of them where these are known.
        p: two-sided, that the contrast is 0; NaN where seeds do not vary.
        seed_variance: of the contrast from seed to seed.
        image_variance: of the contrast, averaged over seeds, from image to image.
        freedom: degrees of freedom of `seed_variance`.
    """

    images: int
    p: float
    seed_variance: float
    image_variance: float
    freedom: int


@dataclass(frozen=True)
class Cells:
    """All that a contrast needs to know of cells with the same seeds and images.

    Attributes:
        means: (cells, seeds) float, over images.
        covariance: (cells, cells) float, from image to image, of the cells' values averaged over seeds.
        images: number of images, or of groups of them where these are known; the covariance is then theirs.
    """

    means: np.ndarray
    covariance: np.ndarray
    images: int

    @classmethod
    def of(cls, values: np.ndarray, groups: np.ndarray | None = None) -> Cells:
        """Cells of a measure that has a value for each image: error, NLL, Brier score.

        Args:
            values: (cells, seeds, images) float, with at least two of each; copies of an image under several
                corruptions are one image and averaged before.
            groups: (images,) integers, two or more; images of one count as one.

        Raises:
            DataError: the values are of another shape, or not finite; or there are no two groups.
        """
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 3 or min(values.shape) < 2:
            raise DataError(f"Expected values (cells, seeds, images) of two or more each, but got {values.shape}")
        if not np.isfinite(values).all():
            raise DataError("Expected finite values of all cells, seeds and images, but got others")
        of_images = values.mean(axis=1)
        if groups is not None:
            of_images = by_group(of_images, groups)
        return cls(values.mean(axis=-1), np.cov(of_images), of_images.shape[-1])


def contrast(values: np.ndarray | Cells, weights: Sequence[float]) -> Contrast:
    """The contrast of some cells.

    Args:
        values: (cells, seeds, images) float as `Cells.of` takes them, or the cells themselves.
        weights: (cells,) float, of sum 0.

    Raises:
        DataError: the values are no cells, or the weights no contrast of them.
    """
    cells, given = as_cells(values), np.asarray(weights, dtype=np.float64)
    if given.shape != cells.means.shape[:1]:
        raise DataError(f"Expected a weight for each of {len(cells.means)} cells, but got {list(weights)}")
    if abs(given.sum()) > 1e-9 or not given.any():
        raise DataError(f"Expected weights of sum 0, not all of them 0, but got {list(weights)}")
    of_images = np.maximum(given @ cells.covariance @ given, 0.0)  # rounding may leave a little less than 0
    found = estimate(cells.means, of_images, cells.images, given)
    value, low, high, p, of_seeds = (float(number) for number in found)
    freedom = seed_variance(cells.means, given)[1]
    seeds = cells.means.shape[1]
    return Contrast(value, low, high, seeds, cells.images, p, of_seeds, float(of_images), freedom)


def as_cells(values: np.ndarray | Cells) -> Cells:
    """The cells of values per image, or the cells themselves."""
    return values if isinstance(values, Cells) else Cells.of(values)


def seed_variance(means: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, int]:
    """(variance of a contrast from seed to seed, its degrees of freedom) of many experiments at once; unchecked.

    Args:
        means: (..., cells, seeds).
        weights: (cells,).
    """
    cells, seeds = means.shape[-2:]
    residual = means - means.mean(axis=-1, keepdims=True)
    residual -= residual.mean(axis=-2, keepdims=True)
    pooled = (residual**2).sum(axis=(-2, -1)) / ((cells - 1) * (seeds - 1)) * (weights**2).sum()
    if np.ptp(np.abs(weights)) <= 1e-9:
        return pooled, (cells - 1) * (seeds - 1)
    own = np.einsum("c,...cs->...s", weights, means).var(axis=-1, ddof=1)
    return np.maximum(pooled, own), min(cells - 1, 2) * (seeds - 1)


def degrees(of_seeds: ArrayLike, freedom: ArrayLike, of_images: ArrayLike, images: ArrayLike) -> np.ndarray:
    """Degrees of freedom of a mean whose variance has a part of seeds and a part of images; broadcast.

    Args:
        of_seeds, of_images: variances of the mean.
        freedom: degrees of freedom of the seeds' part.
        images: number of images.
    """
    of_seeds, freedom, of_images, images = map(np.asarray, (of_seeds, freedom, of_images, images))
    satterthwaite = (of_seeds + of_images) ** 2 / (of_seeds**2 / freedom + of_images**2 / (images - 1))
    return np.maximum(satterthwaite * freedom / (freedom + 2), freedom)


def estimate(
    means: np.ndarray, of_images: np.ndarray, images: int, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(value, low, high, p, seed variance) of one contrast in many experiments at once; unchecked.

    Args:
        means: (..., cells, seeds).
        of_images: (...) variance of the contrast, averaged over seeds, from image to image.
        images: number of images.
        weights: (cells,).
    """
    from scipy import stats  # slow to import

    value, seeds = means.mean(axis=-1) @ weights, means.shape[-1]
    found, freedom = seed_variance(means, weights)
    variance = found / seeds + of_images / images
    # what rounding leaves is no variance: seeds that do not vary claim nothing
    varies = found > (1e-12 * np.abs(means).max(axis=(-2, -1))) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        free = degrees(found / seeds, freedom, of_images / images, images)
        half = np.where(varies, stats.t.ppf(1 - LEVEL / 2, free) * np.sqrt(variance), math.nan)
        p = np.where(varies, 2 * stats.t.sf(np.abs(value) / np.sqrt(variance), free), math.nan)
    return value, value - half, value + half, p, found
