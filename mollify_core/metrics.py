"""Metrics of a classifier, pooled over images: error, top-5 error, NLL, Brier score, expected calibration error.

Split in two, so that batches, workers and whole sets share one arithmetic: `per_image` turns logits into a few
numbers an image; `Metrics` sums those. Calibration bins are pooled over all images: a mean of per-batch ECEs, as in
the papers' code, is biased strongly upwards.
"""

from __future__ import annotations

import torch
from torch import Tensor

COLUMNS = ("nll", "error", "top5_error", "brier", "confidence")
ECE_BINS = 15


def per_image(logits: Tensor, labels: Tensor) -> Tensor:
    """(n, 5) float32, columns `COLUMNS`, from logits (n, classes) and class indices (n,).

    nll is in nats; error and top5_error are 0 or 1 (top-5 of fewer than five classes is 0); brier is the squared
    distance of the probabilities to the one-hot label, in [0, 2]; confidence is the largest probability.
    """
    logits = logits.float()
    log_f = torch.log_softmax(logits, dim=1)
    f = log_f.exp()
    picked = log_f.gather(1, labels[:, None]).squeeze(1)
    confidence, guess = f.max(dim=1)
    top = logits.topk(min(5, logits.shape[1]), dim=1).indices
    brier = f.square().sum(dim=1) - 2 * picked.exp() + 1
    hit = (top == labels[:, None]).any(dim=1)
    return torch.stack([-picked, (guess != labels).float(), (~hit).float(), brier, confidence], dim=1)


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
        self._bins = torch.zeros(bins, 3, dtype=torch.float64)  # images, errors, confidence

    def update(self, values: Tensor) -> Metrics:
        """Adds images: `values` is (n, 5) as `per_image` gives it."""
        values = values.detach().to("cpu", torch.float64)
        error, confidence = values[:, 1], values[:, 4]
        self.count += len(values)
        self._sums += values.sum(dim=0)
        index = (confidence * len(self._bins)).long().clamp_(max=len(self._bins) - 1)
        self._bins.index_add_(0, index, torch.stack([torch.ones_like(error), error, confidence], dim=1))
        return self

    def compute(self) -> dict[str, float]:
        """Means over all images: nll, error, top5_error, brier, confidence; and ece, in [0, 1].

        Raises:
            ValueError: no image has been seen.
        """
        if not self.count:
            raise ValueError("Expected at least one image, but the metrics have seen none")
        means = dict(zip(COLUMNS, (self._sums / self.count).tolist(), strict=True))
        images, errors, confidence = self._bins.unbind(dim=1)
        means["ece"] = float((images - errors - confidence).abs().sum() / self.count)
        return means
