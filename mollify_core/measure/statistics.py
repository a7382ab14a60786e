"""What a few seeds, or many images, allow to be said: means with intervals, and paired differences.

Trials of one seed share their initial weights and the order of their images, so recipes are compared seed by seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from mollify_core.errors import DataError

LEVEL = 0.05
_Name = TypeVar("_Name")


@dataclass(frozen=True)
class Mean:
    """A mean with its 95 % interval.

    Attributes:
        value: the mean.
        low, high: ends of the interval; NaN where there is none.
        count: number of seeds, or of images or groups of them.
    """

    value: float
    low: float
    high: float
    count: int

    @property
    def spans_zero(self) -> bool:
        """Whether the interval holds 0, or there is none: as a difference it tells nothing apart."""
        return not (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Difference:
    """A recipe minus the one it is compared with, over the seeds that both have.

    Attributes:
        mean: of the differences, with its interval, which is not corrected.
        p: of the paired t test, two-sided; NaN below two seeds.
        corrected: the same after Holm's correction for all comparisons made together.
    """

    mean: Mean
    p: float
    corrected: float

    @property
    def told(self) -> bool:
        """Whether the data tell the two apart: the corrected p is below 5 %."""
        return self.corrected < LEVEL


def mean(values: Sequence[float]) -> Mean:
    """The mean of a number per seed, its interval by Student's t; without one below two seeds or without variance.

    Raises:
        ValueError: there is no number.
    """
    if not len(values):
        raise ValueError("Expected a number for at least one seed, but got none")
    sample = np.asarray(values, dtype=np.float64)
    centre, count = float(sample.mean()), len(sample)
    if not _vary(sample):
        return Mean(centre, math.nan, math.nan, count)
    from scipy import stats  # slow to import

    half = float(stats.t.ppf(1 - LEVEL / 2, count - 1) * sample.std(ddof=1) / math.sqrt(count))
    return Mean(centre, centre - half, centre + half, count)


def paired_interval(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None = None) -> Mean:
    """Mean of first - second over images, and its 95 % interval by the normal approximation of paired differences.

    There is no interval where they do not vary: they then say nothing of other images.

    Args:
        first, second: (images,) float, image by image; at least two.
        groups: (images,) integers, two or more; images of one count as one.

    Raises:
        DataError: they do not have the same images, or there are no two groups.
    """
    if first.shape != second.shape or first.ndim != 1 or first.size < 2:
        raise DataError(
            f"Expected per-image values of the same images, but got shapes {first.shape} and {second.shape}"
        )
    difference = first.astype(np.float64) - second
    if groups is not None:
        difference = by_group(difference, groups)
    mean = float(difference.mean())
    if not _vary(difference):
        return Mean(mean, math.nan, math.nan, difference.size)
    half = statistics.NormalDist().inv_cdf(0.975) * difference.std(ddof=1) / math.sqrt(difference.size)
    return Mean(mean, mean - float(half), mean + float(half), difference.size)


def by_group(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(..., G): numbers whose mean is that of (..., images) values, and whose variance / G is that of this mean.

    It is the variance between groups, of the sums of what images differ from the mean, times G / (G - 1).
    Source: Liang and Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 1986.

    Args:
        values: of each image.
        groups: (images,) integers, of G different values.

    Raises:
        DataError: there are fewer than two groups, or not one for each image.
    """
    of, count = numbered(groups, values.shape[-1])
    centre = values.mean(axis=-1, keepdims=True)
    sums = np.zeros((count, *values.shape[:-1]))
    np.add.at(sums, of, np.moveaxis(values - centre, -1, 0))
    return centre + np.moveaxis(sums, 0, -1) * (count / values.shape[-1])


def numbered(groups: np.ndarray, images: int) -> tuple[np.ndarray, int]:
    """((images,) numbers of groups from 0 on, how many groups there are); raises as `by_group` does."""
    if np.shape(groups) != (images,):
        raise DataError(f"Expected a group for each of {images} images, but got shape {np.shape(groups)}")
    names, of = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise DataError(f"Expected images of two or more groups, but got {len(names)}")
    return of, len(names)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent images.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def compare(
    values: Mapping[str, Mapping[int, float]], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Difference]:
    """Paired differences first - second for each pair of recipes.

    Args:
        values: recipe -> seed -> its number.
        pairs: which to compare; Holm's correction (Holm 1979) is over all of them that have two seeds in common.

    Returns:
        The pairs that have a seed in common.
    """
    means: dict[tuple[str, str], Mean] = {}
    raw: dict[tuple[str, str], float] = {}
    for pair in pairs:
        first, second = (values[name] for name in pair)
        common = sorted(first.keys() & second.keys())
        if common:
            differences = [first[seed] - second[seed] for seed in common]
            means[pair] = mean(differences)
            raw[pair] = _paired_t(differences)
    corrected = holm(raw)
    return {pair: Difference(means[pair], raw[pair], corrected[pair]) for pair in means}


def holm(p: Mapping[_Name, float]) -> dict[_Name, float]:
    """Holm's step-down correction (Holm 1979) for all claims made together; NaN stays NaN and does not count."""
    tested = sorted((name for name in p if not math.isnan(p[name])), key=lambda name: p[name])
    result, highest = dict.fromkeys(p, math.nan), 0.0
    for rank, name in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p[name]))
        result[name] = highest
    return result


def _vary(values: Sequence[float] | np.ndarray) -> bool:
    """Whether there are two values that differ by more than rounding."""
    return len(values) > 1 and float(np.ptp(values)) > 1e-12 * float(np.abs(values).max())


def _paired_t(differences: Sequence[float]) -> float:
    """p of Student's t test that the mean difference is 0; NaN below two, or without variance: then no claim."""
    if not _vary(differences):
        return math.nan
    from scipy import stats

    return float(stats.ttest_1samp(differences, 0.0).pvalue)
