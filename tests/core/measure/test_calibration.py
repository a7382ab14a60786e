"""Calibration against the authors' vectors, torchmetrics, netcal, SciPy, and by hand."""

from __future__ import annotations

import math

import netcal.metrics
import netcal.scaling
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torchmetrics.functional.classification import multiclass_calibration_error

from mollify_core.errors import ConfigError, DataError
from mollify_core.measure import calibration
from mollify_core.measure.calibration import TEMPERATURES, fit_temperature, predictions, scaled
from mollify_core.measure.metrics import Metrics, per_image


def sample(n=2000, classes=10, sharpness=2.0, temperature=1.0, seed=0):
    """Log-probabilities of a classifier that is calibrated after division by `temperature`, and labels drawn so."""
    g = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(n, classes, generator=g, dtype=torch.float64)
    labels = torch.multinomial(torch.softmax(logits / temperature, 1), 1, generator=g).squeeze(1)
    return torch.log_softmax(logits, 1), labels


def golden_predictions(golden, name):
    prefix = f"{name}_ece" if name == "m" else name
    logits, labels = (torch.tensor(golden[f"{prefix}_{part}"]) for part in ("logits", "labels"))
    return predictions(torch.log_softmax(logits, 1), labels)


def test_golden(golden):
    first = golden_predictions(golden, "m")
    assert first[0][0] == 1  # the 16th bin is used
    assert calibration.ece(*first) == pytest.approx(golden["m_ece_pooled"], abs=1e-6)
    assert calibration.batch_mean_ece(*first) == pytest.approx(golden["m_ece_batches"].mean(), abs=1e-6)
    for confidence, correct, expected in zip(*(v.split(100) for v in first), golden["m_ece_batches"], strict=True):
        assert calibration.batch_mean_ece(confidence, correct) == pytest.approx(expected, abs=1e-6)
    second = golden_predictions(golden, "i")
    assert calibration.matching_ece(*second) == pytest.approx(golden["i_ece_seed"], abs=1e-6)
    assert calibration.ece(*second) == pytest.approx(golden["i_ece_pooled15"], abs=1e-6)
    assert calibration.ece(*second, 10) == pytest.approx(golden["i_ece_pooled10"], abs=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 200])
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_ece_against_torchmetrics_and_netcal(classes, bins):
    log_f, labels = sample(1000, classes, temperature=1.7)
    got = calibration.ece(*predictions(log_f, labels), bins)
    expected = multiclass_calibration_error(log_f.exp(), labels, num_classes=classes, n_bins=bins, norm="l1")
    assert got == pytest.approx(float(expected), abs=1e-6)
    f = log_f.exp().numpy()
    if classes > 2:  # netcal takes two classes for one probability
        assert got == pytest.approx(netcal.metrics.ECE(bins).measure(f, labels.numpy()), abs=1e-9)
        # Its adaptive bins are quantiles by interpolation: cuts may fall one image elsewhere.
        adaptive = netcal.metrics.ECE(bins, equal_intervals=False).measure(f, labels.numpy())
        assert calibration.adaptive_ece(*predictions(log_f, labels), bins) == pytest.approx(adaptive, abs=bins / 1000)


def test_ece_is_that_of_the_streaming_metrics():
    log_f, labels = sample(777, 12)
    log_f = log_f.float()
    streamed = Metrics().update(per_image(log_f, labels)).compute()
    confidence, correct = predictions(log_f, labels)
    assert calibration.ece(confidence, correct) == pytest.approx(streamed["ece"], abs=1e-7)
    diagram = calibration.reliability(confidence, correct)
    gaps = (diagram.accuracy - diagram.confidence).nan_to_num().abs()
    assert float((diagram.counts * gaps).sum() / 777) == pytest.approx(streamed["ece"], abs=1e-7)


def test_reliability_by_hand():
    confidence = torch.tensor([0.2, 0.25, 0.5, 0.5, 0.75, 1.0])
    correct = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0])
    counts, accuracy, sure = calibration.reliability(confidence, correct, 4)
    assert counts.tolist() == [1, 1, 2, 2]  # closed on the left, 1 in the last
    assert accuracy.tolist() == [0, 1, 0.5, 1]
    assert sure.tolist() == pytest.approx([0.2, 0.25, 0.5, 0.875])
    empty = calibration.reliability(confidence[:1], correct[:1], 4)
    assert empty.counts.tolist() == [1, 0, 0, 0]
    assert empty.accuracy.isnan().tolist() == [False, True, True, True]


def adaptive_by_numpy(confidence, correct, bins):
    """Without ties: sort, cut, compare."""
    order = np.argsort(confidence)
    parts = np.array_split(order, min(bins, len(order)))
    return sum(len(p) * abs(correct[p].mean() - confidence[p].mean()) for p in parts) / len(order)


@pytest.mark.parametrize("n", [1, 3, 14, 15, 16, 100, 1001])
def test_adaptive_ece_against_numpy(n):
    log_f, labels = sample(n)
    confidence, correct = predictions(log_f, labels)
    expected = adaptive_by_numpy(confidence.numpy(), correct.numpy(), 15)
    assert calibration.adaptive_ece(confidence, correct) == pytest.approx(expected, abs=1e-12)


def test_adaptive_ece_of_ties_by_hand():
    # All tied: every bin has the accuracy 1/2, whatever the order.
    confidence = torch.full((8,), 0.75)
    correct = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
    assert calibration.adaptive_ece(confidence, correct, 4) == pytest.approx(0.25)
    # Two bins (.5, .5 | .5, 1): the three tied images have accuracy 1/3 each.
    confidence = torch.tensor([0.5, 1.0, 0.5, 0.5])
    correct = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert calibration.adaptive_ece(confidence, correct, 2) == pytest.approx((abs(2 / 3 - 1) + abs(4 / 3 - 1.5)) / 4)


@given(
    st.lists(st.tuples(st.sampled_from([0.3, 0.5, 0.8, 0.95, 1.0]) | st.floats(0.1, 1), st.booleans()), min_size=1),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_pooled_errors_ignore_the_order_and_stay_in_range(pairs, random):
    shuffled = list(pairs)
    random.shuffle(shuffled)
    one, other = ([torch.tensor(v, dtype=torch.float64) for v in zip(*p, strict=True)] for p in (pairs, shuffled))
    overall = float((one[0] - one[1]).mean().abs())
    for error in (calibration.ece, calibration.adaptive_ece):
        assert error(*one) == pytest.approx(error(*other), abs=1e-12)
        assert overall - 1e-12 <= error(*one) <= 1  # bins can only add to the overall gap
        assert error(*one, 1) == pytest.approx(overall, abs=1e-12)
    for biased in (calibration.batch_mean_ece, calibration.matching_ece):
        assert 0 <= biased(*one) <= 1


def test_published_estimators_by_loops():
    """A short last batch, confidences on bin edges and exactly 1."""
    log_f, labels = sample(250, 6)
    confidence, correct = (v.float() for v in predictions(log_f, labels))
    confidence[:40:4], confidence[1:40:4] = 0.5, 1.0
    batches, pairs = [], []
    for c, r in zip(confidence.split(100), correct.split(100), strict=True):
        error = 0.0
        for k in range(16):
            chosen = (c >= k / 15) & (c < (k + 1) / 15) if k < 15 else c == 1
            error += abs(float((c[chosen] - r[chosen]).sum())) / len(c)
        batches.append(error)
        for k in range(10):
            chosen = (c > k / 10) & (c <= (k + 1) / 10)
            if chosen.any():
                pairs.append(abs(float(c[chosen].mean() - r[chosen].mean())))
    assert calibration.batch_mean_ece(confidence, correct) == pytest.approx(np.mean(batches), abs=1e-6)
    assert calibration.matching_ece(confidence, correct) == pytest.approx(np.mean(pairs), abs=1e-6)


def test_published_estimators_are_biased():
    """Labels that are right with the probability of the confidence, 80 % of them."""
    g = torch.Generator().manual_seed(0)
    confidence = 1 - 0.9 * (1 - torch.rand(20_000, generator=g) ** (1 / 3.5))
    correct = (torch.rand(20_000, generator=g) < confidence).float()
    assert correct.mean() == pytest.approx(0.8, abs=0.02)
    assert calibration.ece(confidence, correct) < 0.015
    assert calibration.batch_mean_ece(confidence, correct) > 0.07
    assert calibration.matching_ece(confidence, correct) > 0.1


@pytest.mark.parametrize("temperature", [0.2, 1.0, 3.0, 20.0])
@pytest.mark.parametrize("classes", [2, 10, 300])
def test_temperature_against_scipy(temperature, classes):
    log_f, labels = sample(1500, classes, 3 * max(1, temperature), temperature)

    def nll(b):
        return float(torch.nn.functional.cross_entropy(log_f * b, labels))

    best = minimize_scalar(nll, bounds=(0.01, 100), method="bounded", options={"xatol": 1e-9})
    got = fit_temperature(log_f, labels)
    assert got == pytest.approx(1 / best.x, rel=1e-5)
    assert nll(1 / got) <= best.fun + 1e-12
    assert got == pytest.approx(temperature, rel=0.15)
    assert fit_temperature(log_f.float(), labels) == pytest.approx(got, rel=1e-4)
    after = scaled(log_f, got)
    assert float(-after.gather(1, labels[:, None]).mean()) == pytest.approx(best.fun, abs=1e-9)
    assert after.exp().sum(1) == pytest.approx(np.ones(1500))
    assert torch.equal(after.argmax(1), log_f.argmax(1))


def test_temperature_against_netcal():
    log_f, labels = sample(1500, 5, 4.0, 2.0)
    method = netcal.scaling.TemperatureScaling()
    method.fit(log_f.exp().numpy(), labels.numpy())
    after = method.transform(log_f.exp().numpy())
    assert scaled(log_f, fit_temperature(log_f, labels)).exp().numpy() == pytest.approx(after, abs=2e-3)


@given(st.integers(0, 10_000), st.floats(0.3, 3), st.floats(0.5, 2))
@settings(max_examples=30, deadline=None)
def test_temperature_is_equivariant(seed, sharpness, factor):
    """Log-probabilities divided by `factor` beforehand need a temperature `factor` times smaller."""
    log_f, labels = sample(60, 4, sharpness, seed=seed)
    one, other = fit_temperature(log_f, labels), fit_temperature(scaled(log_f, factor), labels)
    low, high = TEMPERATURES
    assert low <= one <= high
    if low * 2 < one < high / 2:
        assert other == pytest.approx(one / factor, rel=1e-6)


def test_temperature_edges():
    sure = torch.log_softmax(torch.tensor([[3.0, 0, 0], [0, 40, 0], [0, 0, 1000]]), 1)
    right, wrong = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    low, high = TEMPERATURES
    assert fit_temperature(sure, right) == low  # perfectly separable: no smallest NLL at a positive temperature
    assert fit_temperature(sure, wrong) == high
    assert fit_temperature(sure[:1], right[:1]) == low
    assert fit_temperature(sure[:1], wrong[:1]) == high
    assert fit_temperature(torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64)) == 1
    assert fit_temperature(torch.full((3, 4), -math.log(4)), right) == 1
    # One error of a thousand, at full confidence: finite, inside the range.
    logits = torch.tensor([10.0, 0.0]).repeat(1000, 1)
    labels = torch.zeros(1000, dtype=torch.int64)
    labels[7] = 1
    log_f = torch.log_softmax(logits, 1)
    assert fit_temperature(log_f, labels) == pytest.approx(10 / math.log(999), rel=1e-5)  # confidence becomes 0.999
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ConfigError, match="positive and finite"):
            scaled(log_f, bad)


def test_refusals():
    log_f, labels = sample(10, 3)
    assert set(labels.tolist()) == {0, 1, 2}
    with pytest.raises(DataError, match=r"from 0 to 2, but got torch.int64 from -1 to 1"):
        predictions(log_f, labels - 1)
    with pytest.raises(DataError, match=r"from 0 to 2, but got torch.int64 from 1 to 3"):
        fit_temperature(log_f, labels + 1)
    with pytest.raises(DataError, match="int64 labels"):
        predictions(log_f, labels.float())
    with pytest.raises(DataError, match=r"shapes \(10, 3\) and \(9,\)"):
        predictions(log_f, labels[1:])
    with pytest.raises(DataError, match="at least one image"):
        predictions(log_f[:0], labels[:0])
    for bad in (log_f * math.nan, log_f * math.inf, log_f + 5):
        with pytest.raises(DataError, match="at most 0"):
            predictions(bad, labels)
    for call in (calibration.ece, calibration.adaptive_ece, calibration.reliability):
        with pytest.raises(ConfigError, match="positive integer"):
            call(*predictions(log_f, labels), 0)


def drawn(images: int, surer: float, seed: int, less: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(confidence, correct) of a classifier that is `surer` than it should be; `less` of it is told by the images."""
    numbers = np.random.default_rng(seed)
    right = 0.1 + 0.9 / (1 + np.exp(-(2.5 - less + 1.3 * numbers.standard_normal(images))))
    correct = numbers.random(images) < right
    return torch.from_numpy(np.clip(right + surer, 0, 1)), torch.from_numpy(correct)


def test_debiased_square_is_the_formula() -> None:
    """By hand: eight images, two bins of four."""
    confidence, correct = drawn(8, 0.0, 1)
    gaps = (correct.double() - confidence)[confidence.argsort()].numpy().reshape(2, 4)
    expected = np.mean(gaps.mean(axis=1) ** 2 - gaps.var(axis=1, ddof=1) / 4)
    assert calibration.debiased_square(confidence, correct) == pytest.approx(expected, abs=1e-12)
    assert calibration.debiased_square(confidence[:1], correct[:1]) == 0
    assert calibration.debiased_square(torch.ones(9), torch.ones(9)) == 0
    assert calibration.debiased_square(torch.ones(9), torch.zeros(9)) == 1


@pytest.mark.parametrize("images", [16, 64, 321])
def test_debiased_square_is_right_in_the_mean_where_the_ece_is_not(images: int) -> None:
    draws = [drawn(images, 0.0, seed) for seed in range(400)]
    found = np.array([calibration.debiased_square(*draw) for draw in draws])
    assert abs(found.mean()) < 4 * found.std() / 400**0.5
    assert np.mean([calibration.ece(*draw) for draw in draws]) > 0.03
    over = np.array([calibration.debiased_square(*drawn(images, 0.05, seed)) for seed in range(400)])
    many = calibration.debiased_square(*drawn(2_000_000, 0.05, 0))
    assert abs(over.mean() - many) < 4 * over.std() / 400**0.5 + 1e-4


def test_few_images_rank_a_calibrated_model_before_a_surer_one() -> None:
    """An overconfident model of high confidence against a calibrated one of low: the ECE is sure of the wrong one."""
    wrong = {"ece": 0, "debiased": 0}
    for seed in range(50):
        calibrated = [drawn(321, 0.0, 20 * seed + cell, less=3) for cell in range(20)]
        surer = [drawn(321, 0.04, 20 * seed + cell) for cell in range(20)]
        for name, estimate in (("ece", calibration.ece), ("debiased", calibration.debiased_square)):
            wrong[name] += np.mean([estimate(*c) for c in surer]) < np.mean([estimate(*c) for c in calibrated])
    assert wrong["ece"] > 45
    assert wrong["debiased"] <= 5


@pytest.mark.parametrize("bad", [float("nan"), 1.5, -0.1])
def test_confidence_that_is_none_is_refused(bad: float) -> None:
    confidence, correct = torch.tensor([0.3, bad, 0.9]), torch.tensor([1.0, 0.0, 1.0])
    estimators = (calibration.ece, calibration.adaptive_ece, calibration.reliability, calibration.debiased_square)
    for estimate in (*estimators, calibration.batch_mean_ece, calibration.matching_ece):
        with pytest.raises(DataError, match=r"Expected confidences in \[0, 1\], but got"):
            estimate(confidence, correct)
    values = torch.stack([confidence] * 5, dim=1)
    with pytest.raises(DataError, match="Expected confidences"):
        Metrics().update(values)
