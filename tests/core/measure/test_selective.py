"""Risk and coverage: against their definition, image by image, and random orders of equal confidences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mollify_core.errors import ConfigError, DataError
from mollify_core.measure.selective import COVERAGES, aurc, risk_at, risk_coverage

SCORES = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 0.9, 1.0]), st.booleans()), min_size=1, max_size=30)


def by_definition(confidence: list[float], correct: list[bool], k: int) -> float:
    """The mean error of the k surest, over all orders of equal ones."""
    last = sorted(confidence, reverse=True)[k - 1]
    above = [not c for s, c in zip(confidence, correct, strict=True) if s > last]
    equal = [not c for s, c in zip(confidence, correct, strict=True) if s == last]
    return (sum(above) + (k - len(above)) * sum(equal) / len(equal)) / k


@settings(deadline=None)
@given(SCORES)
def test_it_is_the_definition(scores: list[tuple[float, bool]]) -> None:
    confidence, correct = ([s[i] for s in scores] for i in (0, 1))
    risks = risk_coverage(torch.tensor(confidence), torch.tensor(correct))
    expected = [by_definition(confidence, correct, k) for k in range(1, len(scores) + 1)]
    assert risks.tolist() == pytest.approx(expected)
    assert aurc(risks) == pytest.approx(sum(expected) / len(expected))
    assert risk_at(risks, 1.0) == pytest.approx(1 - sum(correct) / len(correct)), "all images: the error"
    for coverage in COVERAGES:
        assert risk_at(risks, coverage) == pytest.approx(expected[math.ceil(round(coverage * len(scores), 9)) - 1])


@settings(deadline=None)
@given(SCORES, st.randoms())
def test_no_order_of_the_images_matters(scores: list[tuple[float, bool]], random: object) -> None:
    shuffled = list(scores)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    curves = [risk_coverage(*(torch.tensor([s[i] for s in part]) for i in (0, 1))) for part in (scores, shuffled)]
    torch.testing.assert_close(*curves)


def test_an_order_by_correctness_is_best_and_its_reverse_worst() -> None:
    correct = torch.rand(200, generator=torch.Generator().manual_seed(0)) < 0.7
    confidence = torch.rand(200, generator=torch.Generator().manual_seed(1))
    best, random, worst = (aurc(risk_coverage(s, correct)) for s in (correct.double(), confidence, -correct.double()))
    assert best < random < worst
    error = 1 - correct.double().mean().item()
    assert aurc(risk_coverage(torch.full((200,), 0.5), correct)) == pytest.approx(error), "it knows nothing"
    assert risk_at(risk_coverage(correct.double(), correct), 0.5) == 0


def test_what_is_no_confidence_is_refused() -> None:
    with pytest.raises(DataError, match="one image at least"):
        risk_coverage(torch.empty(0), torch.empty(0))
    with pytest.raises(DataError, match="none of them NaN"):
        risk_coverage(torch.tensor([math.nan]), torch.tensor([1]))
    with pytest.raises(ConfigError, match=r"coverage to be in \(0, 1\], but got 0"):
        risk_at(torch.ones(3), 0)
