"""Selective risk against its definition, image by image and order by order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mollify_core.errors import DataError
from mollify_core.measure.selective import aurc, risk_curve

COARSE = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=60)


def tensors(pairs: list[tuple[int, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    confidence, wrong = zip(*pairs, strict=True)
    return torch.tensor(confidence) / 4, torch.tensor(wrong).double()


def brute(confidence: np.ndarray, wrong: np.ndarray) -> float:
    """The definition, without ties: for each image as threshold, the error of all at least as confident."""
    return float(np.mean([wrong[confidence >= threshold].mean() for threshold in confidence]))


def test_aurc_is_its_definition_where_no_confidences_are_equal() -> None:
    generator = np.random.default_rng(0)
    for count in (1, 2, 7, 300):
        confidence, wrong = generator.permutation(count) / count, generator.integers(0, 2, count)
        got = aurc(torch.from_numpy(confidence), torch.from_numpy(wrong))
        assert got == pytest.approx(brute(confidence, wrong), abs=1e-12)
        curve = risk_curve(torch.from_numpy(confidence), torch.from_numpy(wrong))
        for percent in (1, 80, 90, 95, 100):
            most = wrong[np.argsort(-confidence)][: -(-percent * count // 100)]
            assert curve[percent - 1] == pytest.approx(most.mean(), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_ties_are_the_mean_over_all_orders_among_them(pairs: list[tuple[int, bool]]) -> None:
    sorted_ = [sorted(order, key=lambda pair: -pair[0]) for order in itertools.permutations(pairs)]
    risks = [[np.mean([wrong for _, wrong in order[:k]]) for k in range(1, len(pairs) + 1)] for order in sorted_]
    assert aurc(*tensors(pairs)) == pytest.approx(np.mean(risks), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(COARSE, st.randoms(use_true_random=False))
def test_order_does_not_matter_bounds_hold_and_the_last_risk_is_the_error(pairs, random) -> None:
    confidence, wrong = tensors(pairs)
    area, curve = aurc(confidence, wrong), risk_curve(confidence, wrong)
    assert 0 <= area <= 1
    assert curve.min() >= 0
    assert curve.max() <= 1 + 1e-12
    assert float(curve[-1]) == pytest.approx(float(wrong.mean()), abs=1e-12)
    shuffled = random.sample(pairs, len(pairs))
    assert aurc(*tensors(shuffled)) == pytest.approx(area, abs=1e-12)
    assert aurc(confidence.square(), wrong) == pytest.approx(area, abs=1e-12)  # only the order of scores counts
    oracle, worst = 1 - wrong, wrong
    assert aurc(oracle, wrong) - 1e-12 <= area <= aurc(worst, wrong) + 1e-12
    assert (risk_curve(oracle, wrong).diff() >= -1e-12).all()


def test_a_constant_confidence_gives_the_error_and_whole_percent_are_whole_images() -> None:
    wrong = torch.tensor([0.0, 1, 0, 1, 1])
    assert aurc(torch.full((5,), 0.3), wrong) == pytest.approx(0.6)
    confidence, wrong = torch.arange(20, 0, -1) / 20, torch.zeros(20)
    wrong[19] = 1
    assert float(risk_curve(confidence, wrong)[94]) == 0  # 95 % of 20 images are 19


@pytest.mark.parametrize(
    ("confidence", "wrong"),
    [([], []), ([0.5, 0.5], [1.0]), ([float("nan")], [1.0]), ([1.5], [0.0]), ([[0.5]], [[0.0]])],
)
def test_what_is_no_confidence_is_refused(confidence: list, wrong: list) -> None:
    with pytest.raises(DataError, match="Expected confidence"):
        aurc(torch.tensor(confidence), torch.tensor(wrong))
