"""The expected best of k trials against all subsets, one by one."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from mollify_core.errors import DataError
from mollify_core.measure.search_curve import expected_best


@pytest.mark.parametrize("pruned", [0, 3])
def test_it_is_the_mean_and_the_quantiles_over_all_subsets(pruned: int) -> None:
    finished = [0.5, 0.2, 0.9, 0.2, 0.7, 0.4]
    found, trials = expected_best(finished, pruned), [*finished, *[0.9] * pruned]
    assert len(found.mean) == len(trials)
    for k in range(1, len(trials) + 1):
        best = np.array([min(subset) for subset in combinations(trials, k)])
        assert found.mean[k - 1] == pytest.approx(best.mean())
        for end, share in ((found.low, 0.05), (found.high, 0.95)):
            assert end[k - 1] == np.quantile(best, share, method="inverted_cdf")


def test_one_trial_is_the_mean_and_all_are_the_best_and_more_are_never_worse() -> None:
    finished = np.random.default_rng(0).normal(size=400)
    found = expected_best([*finished])
    assert found.mean[0] == pytest.approx(finished.mean())
    assert found.mean[-1] == pytest.approx(finished.min())
    assert found.low[-1] == found.high[-1] == finished.min()
    assert (np.diff(found.mean) <= 1e-12).all()
    assert (found.low <= found.high).all()


@pytest.mark.parametrize(
    ("finished", "pruned", "says"), [([], 2, "one or more"), ([math.nan], 0, "finite"), ([1.0], -1, "-1")]
)
def test_what_is_no_search_is_one_sentence(finished: list[float], pruned: int, says: str) -> None:
    with pytest.raises(DataError, match=says):
        expected_best(finished, pruned)
