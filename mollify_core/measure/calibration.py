"""Calibration: how far confidence is from accuracy, and the temperature that brings them together.

All estimators take the confidence of each image and whether it is classified correctly, as `predictions` gives them.
`debiased_square` is for choosing by: the others are biased, and bias decides where images are few.
`ece` and `adaptive_ece` pool all images. `batch_mean_ece` and `matching_ece` are the estimators of the papers' released
code: both average over batches of 100 images and are strongly biased upwards (a perfectly calibrated classifier of 80 %
accuracy scores 0.090 and 0.154); they are here only so that published numbers can be compared.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mollify_core.errors import ConfigError, DataError
from mollify_core.measure.metrics import ECE_BINS, bin_index, bin_sums, check_confidence, rank, weighted_gap

TEMPERATURES = (0.01, 100.0)
"""The range of fitted temperatures. Validation images that are all classified correctly have no best temperature above
0, images that are classified worse than by chance have no finite one."""
PUBLISHED_BATCH = 100


class Reliability(NamedTuple):
    """Equal-width confidence bins: all (bins,) float64.

    Attributes:
        counts: number of images.
        accuracy, confidence: their means, NaN in an empty bin.
    """

    counts: Tensor
    accuracy: Tensor
    confidence: Tensor


def check_predictions(log_probabilities: Tensor, labels: Tensor) -> None:
    """Raises a DataError unless these are log-probabilities (n, classes) of n >= 1 images and their class indices."""
    shape = tuple(log_probabilities.shape)
    if log_probabilities.ndim != 2 or 0 in shape or labels.shape != shape[:1]:
        raise DataError(
            "Expected log-probabilities (n, classes) and labels (n,) of at least one image, but got the shapes "
            f"{shape} and {tuple(labels.shape)}"
        )
    low, high = (v.item() for v in labels.aminmax())
    if labels.dtype != torch.int64 or low < 0 or high >= shape[1]:
        raise DataError(f"Expected int64 labels from 0 to {shape[1] - 1}, but got {labels.dtype} from {low} to {high}")
    low, high = (v.item() for v in log_probabilities.aminmax())
    if not (math.isfinite(low) and high < 1e-4):  # rounding may leave a little more than 0
        raise DataError(f"Expected finite log-probabilities, at most 0, but got {low:g} to {high:g}")


def predictions(log_probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(confidence, correct) of each image: the largest probability, and 1 where its class is the label, else 0.

    Args:
        log_probabilities: (n, classes) float32 or float64. The first of equally probable classes is the guess.
        labels: (n,) int64.

    Returns:
        Two tensors (n,) of the type and on the device of `log_probabilities`.

    Raises:
        DataError: the shapes do not fit, a label is out of range, or these are no log-probabilities.
    """
    check_predictions(log_probabilities, labels)
    confidence = log_probabilities.amax(dim=1).exp()
    return confidence, (rank(log_probabilities, labels) == 0).to(confidence)


def reliability(confidence: Tensor, correct: Tensor, bins: int = ECE_BINS) -> Reliability:
    """The reliability diagram: counts, accuracy and mean confidence of `bins` equal-width bins on [0, 1].

    Bins are closed on the left; a confidence of exactly 1 falls in the last one.
    """
    counts, right, sure = _equal_width(confidence, correct, bins).unbind(dim=1)
    return Reliability(counts, right / counts, sure / counts)


def ece(confidence: Tensor, correct: Tensor, bins: int = ECE_BINS) -> float:
    """Expected calibration error, pooled: sum_b n_b / n |accuracy_b - confidence_b| over the bins of `reliability`.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3. It equals `metrics.Metrics`.
    """
    return weighted_gap(_equal_width(confidence, correct, bins))


def adaptive_ece(confidence: Tensor, correct: Tensor, bins: int = ECE_BINS) -> float:
    """Expected calibration error over bins of equal mass instead of equal width.

    Images are sorted by confidence and cut into `bins` runs whose lengths differ by one at most, the first ones being
    the longer; fewer images than bins make one bin each. Images of equal confidence share their mean accuracy wherever
    a cut separates them, so the result does not depend on the order of images.

    Source: Nixon et al., "Measuring Calibration in Deep Learning", CVPR Workshops 2019 (adaptive binning), here for the
    most probable class and in the L1 norm of `ece`.
    """
    _check_bins(bins)
    check_confidence(confidence)
    confidence, order = confidence.double().sort()
    _, tie, ties = torch.unique_consecutive(confidence, return_inverse=True, return_counts=True)
    shared = confidence.new_zeros(len(ties)).index_add_(0, tie, correct.double()[order]) / ties
    gaps = (shared[tie] - confidence).tensor_split(min(bins, len(order)))
    return float(sum(gap.sum().abs() for gap in gaps) / len(order))


def debiased_square(confidence: Tensor, correct: Tensor) -> float:
    """The squared calibration error without the bias of few images: sum_b n_b / n (gap_b^2 - s_b^2 / n_b).

    The binned estimators above see a calibrated classifier's binomial noise as an error, the more the less sure it is:
    of few images they prefer a sure classifier to a calibrated one. Here gap_b is a bin's accuracy less its confidence,
    and s_b^2 the variance of that in it, whose subtraction makes the mean over samples that of infinitely many images.

    Bins are of equal mass, as many as the cube root of the number of images, at least one and of two images each.

    Source: Kumar, Liang and Ma, "Verified Uncertainty Calibration", NeurIPS 2019, section 4 (their variance is that of
    the label alone); Futami and Fujisawa, NeurIPS 2024, for the number of bins.

    Returns:
        A number below 1, which may be negative; 0 of fewer than two images, which say nothing.
    """
    check_confidence(confidence)
    images = len(confidence)
    if images < 2:
        return 0.0
    order = confidence.double().argsort(stable=True)
    gaps = (correct.double() - confidence.double())[order]
    bins = gaps.tensor_split(min(round(images ** (1 / 3)), images // 2))
    return sum(float(gap.sum().square() - gap.square().sum()) / (len(gap) - 1) for gap in bins) / images


def signed_root(square: float) -> float:
    """The root of a mean of debiased squares, with their sign: as large as an error, in the same order."""
    return math.copysign(math.sqrt(abs(square)), square)


def batch_mean_ece(confidence: Tensor, correct: Tensor) -> float:
    """BIASED: the ECE as mollification's released code reports it, the unweighted mean of the ECEs of batches of 100.

    Each batch has 15 equal-width bins, closed on the left, and a 16th for a confidence of exactly 1. The value depends
    on the order of images; the last batch may be smaller.

    Source: released code of Heinonen et al., AISTATS 2025.
    """
    sums = _batched(bin_index(confidence, ECE_BINS), ECE_BINS + 1, confidence, correct)
    images, right, sure = sums.unbind(dim=2)
    return float(((right - sure).abs().sum(dim=1) / images.sum(dim=1)).mean())


def matching_ece(confidence: Tensor, correct: Tensor) -> float:
    """BIASED: the ECE as information matching's released code reports it.

    The unweighted mean of |accuracy - confidence| over all non-empty pairs of a batch of 100 images and one of 10
    equal-width bins, open on the left and closed on the right. The value depends on the order of images.

    Source: released code of Bonilla Salvador, 2025.
    """
    edges = torch.linspace(0, 1, 11, dtype=confidence.dtype, device=confidence.device)[1:-1]
    sums = _batched(torch.bucketize(confidence, edges), 10, confidence, correct).flatten(0, 1)
    images, right, sure = sums[sums[:, 0] > 0].unbind(dim=1)
    return float(((right - sure).abs() / images).mean())


def fit_temperature(log_probabilities: Tensor, labels: Tensor) -> float:
    """The temperature T that minimises the NLL of softmax(log p / T), on images that were not trained on.

    The NLL is convex in b = 1 / T, with slope mean_i(E[z_i] - z_i,y) and curvature mean_i Var[z_i] of the
    log-probabilities z_i under softmax(b z_i): Newton's method in float64, with bisection of log b where a step leaves
    the bracket or does not at least halve.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    Args:
        log_probabilities: (n, classes) float32 or float64, before any scaling.
        labels: (n,) int64.

    Returns:
        T in `TEMPERATURES`: the lower end where a smaller one is always better (every image is classified correctly),
        the upper end where a larger one is (the labels are less likely than by chance). 1 where no temperature matters:
        one class, or uniform probabilities.

    Raises:
        DataError: see `predictions`.
    """
    check_predictions(log_probabilities, labels)
    z = log_probabilities.double()
    z = z - z.amax(dim=1, keepdim=True)
    if not z.any():
        return 1.0
    picked = z.gather(1, labels[:, None]).mean()

    def derivatives(b: float) -> tuple[float, float]:
        weighted = torch.softmax(b * z, dim=1).mul_(z)
        mean = weighted.sum(dim=1)
        variance = weighted.mul_(z).sum(dim=1) - mean.square()
        return float(mean.mean() - picked), float(variance.mean())

    low, high = 1 / TEMPERATURES[1], 1 / TEMPERATURES[0]
    if derivatives(high)[0] <= 0:
        return TEMPERATURES[0]
    if derivatives(low)[0] >= 0:
        return TEMPERATURES[1]
    b, step, last = 1.0, math.inf, math.inf
    while abs(step) > 1e-9 * b:
        slope, curvature = derivatives(b)
        low, high = (b, high) if slope < 0 else (low, b)
        last, step = step, -slope / curvature if curvature > 0 else math.inf
        if not low <= b + step <= high or abs(2 * step) > abs(last):
            step = math.sqrt(low * high) - b
        b += step
    return 1 / b


def scaled(log_probabilities: Tensor, temperature: float) -> Tensor:
    """Log-probabilities (n, classes) of softmax(log p / T); T = 1 returns the given ones.

    Raises:
        ConfigError: the temperature is not positive and finite.
    """
    if not 0 < temperature < math.inf:
        raise ConfigError(f"Expected the temperature to be positive and finite, but got {temperature!r}")
    return log_probabilities if temperature == 1 else torch.log_softmax(log_probabilities / temperature, dim=1)


def _check_bins(bins: int) -> None:
    if bins < 1:
        raise ConfigError(f"Expected `bins` to be a positive integer, but got {bins!r}")


def _equal_width(confidence: Tensor, correct: Tensor, bins: int) -> Tensor:
    _check_bins(bins)
    return bin_sums(bin_index(confidence, bins).clamp_(max=bins - 1), bins, confidence, correct)


def _batched(index: Tensor, bins: int, confidence: Tensor, correct: Tensor) -> Tensor:
    """(batches, bins, 3): the sums of `bin_sums` in each batch of 100 consecutive images."""
    batch = torch.arange(len(index), device=index.device) // PUBLISHED_BATCH
    batches = math.ceil(len(index) / PUBLISHED_BATCH)
    return bin_sums(batch * bins + index, batches * bins, confidence, correct).view(batches, bins, 3)
