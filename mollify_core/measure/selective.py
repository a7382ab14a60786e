"""Selective classification: how wrong a classifier is on the images of which it is most sure.

Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017; the area under the
curve as in Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mollify_core.errors import ConfigError, DataError

COVERAGES = tuple(k / 20 for k in range(1, 21))
"""Of the curve that is kept: 5 % to all images."""


def risk_coverage(confidence: Tensor, correct: Tensor) -> Tensor:
    """(n,) float64: the share of errors among the k images of highest confidence, k = 1 … n.

    Images of equal confidence come in no order: each counts as the mean of them all, which is what a random order gives
    on average.

    Args:
        confidence: (n,) the largest probability of each image.
        correct: (n,) 1 where the likeliest class is the true one, else 0.

    Raises:
        DataError: there is no image, or a confidence is NaN.
    """
    if not len(confidence) or confidence.isnan().any():
        raise DataError("Expected the confidences of one image at least, none of them NaN")
    _, group, counts = torch.unique(-confidence.double(), return_inverse=True, return_counts=True)  # ascending
    wrong = torch.zeros(len(counts), dtype=torch.float64).index_add_(0, group.cpu(), 1 - correct.double().cpu())
    errors = (wrong / counts.cpu()).repeat_interleave(counts.cpu())
    return errors.cumsum(0) / torch.arange(1, len(errors) + 1)


def aurc(risks: Tensor) -> float:
    """The area under a curve of `risk_coverage`: its mean, in [0, 1]; 0 where nothing is wrong. Lower is better."""
    return risks.mean().item()


def risk_at(risks: Tensor, coverage: float) -> float:
    """The share of errors where the least sure images are left to somebody else.

    Args:
        risks: a curve of `risk_coverage`.
        coverage: share of the images that are kept, in (0, 1]; at least so many are.
    """
    if not 0 < coverage <= 1:
        raise ConfigError(f"Expected the coverage to be in (0, 1], but got {coverage!r}")
    return risks[math.ceil(round(coverage * len(risks), 9)) - 1].item()
