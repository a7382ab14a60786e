"""Detection of foreign images against scikit-learn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from torchmetrics.functional.classification import binary_auroc

from mollify_core.errors import DataError
from mollify_core.measure.detection import auroc, false_positives

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=50)


def least(known: np.ndarray, foreign: np.ndarray, percent: int) -> float:
    """The lowest false positive rate on scikit-learn's ROC curve that keeps so many per cent of the known."""
    truth, scores = np.repeat([1, 0], [len(known), len(foreign)]), np.concatenate([known, foreign])
    fpr, tpr, _ = roc_curve(truth, scores, drop_intermediate=False)
    return float(fpr[np.round(tpr * len(known)) * 100 >= percent * len(known)].min())


@settings(max_examples=60, deadline=None)
@given(SCORES, SCORES)
def test_scikit_learn_and_torchmetrics_agree_with_ties(known: list[int], foreign: list[int]) -> None:
    one, two = np.array(known, dtype=float), np.array(foreign, dtype=float)
    truth = np.repeat([1, 0], [len(one), len(two)])
    scores = np.concatenate([one, two])
    got = auroc(torch.from_numpy(one), torch.from_numpy(two))
    assert got == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    probabilities = torch.from_numpy(scores).sigmoid()  # torchmetrics would do so itself to some
    assert got == pytest.approx(float(binary_auroc(probabilities, torch.from_numpy(truth))), abs=1e-6)
    rates = false_positives(torch.from_numpy(one), torch.from_numpy(two))
    for percent in (1, 50, 80, 95, 100):
        assert float(rates[percent - 1]) == pytest.approx(least(one, two, percent), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(SCORES, SCORES, st.randoms(use_true_random=False))
def test_bounds_symmetry_order_and_monotone_scores(known: list[int], foreign: list[int], random) -> None:
    one, two = torch.tensor(known), torch.tensor(foreign)
    area, rates = auroc(one, two), false_positives(one, two)
    assert 0 <= area <= 1
    assert auroc(two, one) == pytest.approx(1 - area, abs=1e-12)
    assert (rates.diff() >= 0).all()
    assert rates[0] >= 0
    assert rates[-1] <= 1
    assert auroc(torch.tensor(random.sample(known, len(known))), two) == area
    assert auroc(one.double().exp(), two.double().exp()) == area
    assert torch.equal(false_positives(one.double().exp(), two.double().exp()), rates)
    assert auroc(one, one) == 0.5
    assert auroc(one + 20, two) == 1
    assert not false_positives(one + 20, two).any()


@pytest.mark.parametrize("bad", [[], [float("nan")], [[1.0]]])
def test_what_are_no_scores_is_refused(bad: list) -> None:
    for sides in ((bad, [1.0]), ([1.0], bad)):
        with pytest.raises(DataError, match="Expected scores"):
            auroc(*map(torch.tensor, sides))
