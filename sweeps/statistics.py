"""What a few seeds allow to be said: means with intervals, and paired differences corrected for their number.

Trials of one seed share their initial weights and the order of their images, so recipes are compared seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.05


@dataclass(frozen=True)
class Mean:
    """A mean over seeds with its 95 % interval (Student's t); without one below two seeds.

    Attributes:
        value: the mean.
        low, high: ends of the interval; NaN where there is none.
        count: number of seeds.
    """

    value: float
    low: float
    high: float
    count: int


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
    """The mean of a number per seed.

    Raises:
        ValueError: there is no number.
    """
    if not len(values):
        raise ValueError("Expected a number for at least one seed, but got none")
    sample = np.asarray(values, dtype=np.float64)
    centre, count = float(sample.mean()), len(sample)
    if count < 2:
        return Mean(centre, math.nan, math.nan, count)
    from scipy import stats  # slow to import

    half = float(stats.t.ppf(1 - LEVEL / 2, count - 1) * sample.std(ddof=1) / math.sqrt(count))
    return Mean(centre, centre - half, centre + half, count)


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
    corrected = _holm(raw)
    return {pair: Difference(means[pair], raw[pair], corrected[pair]) for pair in means}


def _paired_t(differences: Sequence[float]) -> float:
    """p of Student's t test that the mean difference is 0; NaN below two, 1 or 0 where all are equal."""
    if len(differences) < 2:
        return math.nan
    if len(set(differences)) == 1:
        return 1.0 if differences[0] == 0 else 0.0
    from scipy import stats

    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _holm(p: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    """Holm's step-down correction; NaN stays NaN and does not count."""
    tested = sorted((pair for pair in p if not math.isnan(p[pair])), key=lambda pair: p[pair])
    result, highest = dict.fromkeys(p, math.nan), 0.0
    for rank, pair in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - rank) * p[pair]))
        result[pair] = highest
    return result
