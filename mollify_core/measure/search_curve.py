"""The best value that a search expects after k trials: whether a method was better, or only tried more often.

Source: Dodge et al., "Show Your Work: Improved Reporting of Experimental Results", EMNLP 2019; here in the unbiased
form of Tang et al., "Showing Your Work Doesn't Always Work", ACL 2020: over all subsets of k of the n trials, drawn
without replacement. It is exact for random search; of a sampler that learns (TPE) it describes only, since its trials
are not interchangeable. The band, too, is over subsets of these trials: towards k = n it closes, which says nothing of
how another search would have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mollify_core.errors import DataError
from mollify_core.measure.statistics import LEVEL


@dataclass(frozen=True)
class SearchCurve:
    """The least value among k of n trials, for k = 1 to n; less is better. All (n,) float64.

    Attributes:
        mean: over all subsets of k trials.
        low, high: its 5 and 95 % quantiles: the least value that at least that share of the subsets does not exceed.
    """

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def expected_best(finished: Sequence[float], pruned: int = 0) -> SearchCurve:
    """The curve of a search.

    A pruned trial has no final value. It counts as the worst of the finished: it was stopped for being worse than
    others, so that the curve is, if anything, too kind to a search that pruned much. Subsets of pruned trials alone
    have that value too.

    Args:
        finished: values of the finished trials, at least one; failed trials are left out.
        pruned: number of pruned trials.

    Raises:
        DataError: no trial finished, or one without a finite value, or `pruned` is negative.
    """
    values = np.sort(np.asarray(finished, dtype=np.float64))
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise DataError(f"Expected finite values of one or more finished trials, but got {list(finished)}")
    if pruned < 0:
        raise DataError(f"Expected a number of pruned trials, but got {pruned}")
    values = np.concatenate([values, np.full(pruned, values[-1])])
    n = len(values)
    k, rank = np.arange(1, n + 1)[:, None], np.arange(n + 1)
    # above[k, j]: the share of subsets of k trials without the j best ones, C(n - j, k) / C(n, k)
    above = np.cumprod(np.maximum(n - rank - (k - 1), 0) / (n - (k - 1)), axis=0)
    least = above[:, :-1] - above[:, 1:]  # the share in which the trial of this rank is the best
    low, high = (values[(1 - above[:, 1:] >= share - 1e-12).argmax(axis=1)] for share in (LEVEL, 1 - LEVEL))
    return SearchCurve(least @ values, low, high)
