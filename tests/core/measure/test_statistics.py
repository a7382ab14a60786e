"""Means, intervals and corrected paired tests against SciPy, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mollify_core.measure import statistics


def test_the_interval_is_students():
    values = [0.31, 0.35, 0.28, 0.33]
    found = statistics.mean(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.value, found.low, found.high, found.count) == pytest.approx((np.mean(values), low, high, 4))


def test_one_seed_has_no_interval_and_none_is_an_error():
    found = statistics.mean([0.5])
    assert found.value == 0.5
    assert math.isnan(found.low)
    with pytest.raises(ValueError, match="at least one"):
        statistics.mean([])


def test_paired_differences_use_the_seeds_in_common():
    values = {"a": {1: 0.3, 2: 0.4, 3: 0.1}, "b": {2: 0.5, 3: 0.3, 4: 9.0}}
    found = statistics.compare(values, [("a", "b")])["a", "b"]
    assert found.mean.count == 2
    assert found.mean.value == pytest.approx(-0.15)
    assert found.p == pytest.approx(stats.ttest_rel([0.4, 0.1], [0.5, 0.3]).pvalue)
    assert found.corrected == pytest.approx(found.p)
    assert not found.told


def test_holm_multiplies_the_smallest_by_the_number_of_tests_and_never_decreases():
    rng = np.random.default_rng(0)
    base = rng.normal(size=8)
    values = {"base": dict(enumerate(base))}
    for name, shift in (("far", 1.0), ("near", 0.2), ("same", 0.0)):
        values[name] = dict(enumerate(base + shift + rng.normal(scale=0.2, size=8)))
    found = statistics.compare(values, [(name, "base") for name in ("near", "far", "same")])
    ordered = sorted(found.values(), key=lambda d: d.p)
    expected, highest = [], 0.0
    for rank, difference in enumerate(ordered):
        highest = max(highest, min(1.0, (3 - rank) * difference.p))
        expected.append(highest)
    assert [d.corrected for d in ordered] == pytest.approx(expected)
    assert found["far", "base"].told
    assert not found["same", "base"].told


def test_pairs_without_a_common_seed_are_left_out_and_do_not_count_for_the_correction():
    values = {"a": {1: 0.1, 2: 0.2}, "b": {1: 0.15, 2: 0.3}, "c": {9: 1.0}, "d": {1: 0.0}}
    found = statistics.compare(values, [("a", "b"), ("a", "c"), ("a", "d")])
    assert set(found) == {("a", "b"), ("a", "d")}
    assert math.isnan(found["a", "d"].p)
    assert found["a", "b"].corrected == pytest.approx(found["a", "b"].p)


def test_equal_results_are_not_told_apart():
    values = {"a": {1: 0.1, 2: 0.2, 3: 0.3}, "b": {1: 0.1, 2: 0.2, 3: 0.3}}
    assert not statistics.compare(values, [("a", "b")])["a", "b"].told


def test_without_variance_nothing_is_claimed():
    values = {"a": {1: 0.1, 2: 0.2}, "b": {1: 0.2, 2: 0.3}}
    found = statistics.compare(values, [("a", "b")])["a", "b"]
    assert found.mean.value == pytest.approx(-0.1)
    assert all(map(math.isnan, (found.p, found.corrected, found.mean.low, found.mean.high)))
    assert not found.told


def test_images_whose_differences_do_not_vary_claim_nothing():
    found = statistics.paired_interval(np.array([0.3, 0.5, 0.7]), np.array([0.1, 0.3, 0.5]))
    assert found.value == pytest.approx(0.2)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.spans_zero, "no interval tells nothing apart"
    assert not statistics.paired_interval(np.array([0.3, 0.5, 0.7]), np.array([0.1, 0.3, 0.4])).spans_zero
