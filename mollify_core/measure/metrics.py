"""Metrics of a classifier, pooled over images: error, top-5 error, NLL, Brier score, expected calibration error.

Split in two, so that batches, workers and whole sets share one arithmetic: `per_image` turns logits into a few
numbers an image; `Metrics` sums those. Calibration bins are pooled over all images: a mean of per-batch ECEs, as in
the papers' code, is biased strongly upwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mollify_core.errors import DataError

COLUMNS = ("nll", "error", "top5_error", "brier", "confidence")
ECE_BINS = 15


def per_image(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, 5) float32, columns `COLUMNS`, from logits (n, classes) and class indices (n,); see `per_prediction`."""
    return per_prediction(torch.log_softmax(logits.float(), dim=1), labels)


def per_prediction(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """(n, 5), columns `COLUMNS`, from normalised log-probabilities (n, classes) and class indices (n,).

    nll is in nats; error and top5_error are 0 or 1 (top-5 of fewer than five classes is 0; see `rank` for ties); brier
    is the squared distance of the probabilities to the one-hot label, in [0, 2]; confidence is the largest probability.
    """
    picked = log_probabilities.gather(1, labels[:, None]).squeeze(1)
    brier = log_probabilities.exp().square_().sum(dim=1) - 2 * picked.exp() + 1
    place = rank(log_probabilities, labels)
    confidence = log_probabilities.amax(dim=1).exp()
    return torch.stack([-picked, (place > 0).to(picked), (place >= 5).to(picked), brier, confidence], dim=1)


def rank(scores: Tensor, labels: Tensor) -> Tensor:
    """(n,) int32: how many classes come before the labelled one, by scores (n, classes), equal scores in class order.

    0 is the label that `argmax` finds. Networks in bfloat16 often give several classes the same score.
    """
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1], device=scores.device) < labels[:, None]
    return ((scores > own) | ((scores == own) & before)).sum(dim=1, dtype=torch.int32)


def class_weights(labels: Tensor, classes: int = 0) -> Tensor:
    """(classes,) float64: with them, images of each class that occurs weigh equally much together, 1 in the mean."""
    counts = labels.bincount(minlength=classes).double()
    return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts), 0.0)


def balanced(labels: Tensor) -> Tensor:
    """(n,) float64, on the CPU: the weights of `class_weights`, an image each."""
    labels = labels.cpu()
    return class_weights(labels)[labels]


def check_confidence(confidence: Tensor) -> None:
    """Raises a DataError unless all are in [0, 1]: NaN has no bin. Rounding may leave a little more than 1."""
    bad = confidence[~((confidence >= 0) & (confidence < 1.001))]
    if len(bad):
        raise DataError(f"Expected confidences in [0, 1], but got {float(bad[0])}")


def bin_index(confidence: Tensor, bins: int) -> Tensor:
    """(n,) int64: the equal-width bin on [0, 1], closed on the left, of each confidence; exactly 1 gives `bins`."""
    return (confidence.double() * bins).long().clamp_(max=bins)


def bin_sums(index: Tensor, bins: int, confidence: Tensor, correct: Tensor) -> Tensor:
    """(bins, 3) float64: number of images, of correct ones, and sum of confidences in each bin.

    Args:
        index: (n,) int64 bin of each image, in [0, bins).
        bins: how many there are.
        confidence, correct: (n,); `correct` is 0 or 1 (or a share).

    Raises:
        DataError: a confidence is NaN or outside [0, 1], see `check_confidence`.
    """
    check_confidence(confidence)
    values = torch.stack([torch.ones_like(confidence), correct.to(confidence), confidence], dim=1).double()
    return values.new_zeros(bins, 3).index_add_(0, index, values)


class Metrics:
    """Sums over images; `compute` gives the means and the pooled ECE.

    ECE uses `bins` equal bins on [0, 1], closed on the left, and weights each by its share of the images:
    sum_b n_b / n * |accuracy_b - confidence_b| (L1). A confidence of exactly 1 falls in the last bin.
    """

    def __init__(self, bins: int = ECE_BINS) -> None:
        if bins < 1:
            raise ValueError(f"Expected `bins` to be a positive integer, but got {bins}")
        self.count = 0
        self._sums = torch.zeros(len(COLUMNS), dtype=torch.float64)
        self._bins = torch.zeros(bins, 3, dtype=torch.float64)

    def update(self, values: Tensor) -> Metrics:
        """Adds images: `values` is (n, 5) as `per_image` gives it.

        Raises:
            DataError: a confidence is NaN.
        """
        values = values.detach().to("cpu", torch.float64)
        error, confidence = values[:, 1], values[:, 4]
        bins = len(self._bins)
        self._bins += bin_sums(bin_index(confidence, bins).clamp_(max=bins - 1), bins, confidence, 1 - error)
        self.count += len(values)
        self._sums += values.sum(dim=0)
        return self

    def compute(self) -> dict[str, float]:
        """Means over all images: nll, error, top5_error, brier, confidence; and ece, in [0, 1].

        Raises:
            ValueError: no image has been seen.
        """
        if not self.count:
            raise ValueError("Expected at least one image, but the metrics have seen none")
        means = dict(zip(COLUMNS, (self._sums / self.count).tolist(), strict=True))
        means["ece"] = weighted_gap(self._bins)
        return means


def weighted_gap(sums: Tensor) -> float:
    """ECE from the sums of `bin_sums`: sum_b n_b / n * |accuracy_b - confidence_b|."""
    images, correct, confidence = sums.unbind(dim=1)
    return float((correct - confidence).abs().sum() / images.sum())
