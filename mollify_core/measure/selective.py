"""Selective risk: how wrong a classifier is on the images that it is most confident of, the others being refused.

Ties: images of equal confidence share their mean error, which is the expectation over all orders among them. So
results do not depend on the order of images, and a constant confidence gives the error itself.

Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017; AURC: Geifman, Uziel
and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019, section 2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mollify_core.errors import DataError
from mollify_core.measure.metrics import check_confidence

PERCENT = 100
"""Points of a curve: 1 % .. 100 %."""


def aurc(confidence: Tensor, error: Tensor) -> float:
    """Area under the risk-coverage curve: the mean over k = 1 .. n of the error of the k most confident images.

    Args:
        confidence: (n,) in [0, 1].
        error: (n,) 0 or 1.

    Returns:
        A number in [0, 1], the smaller the better; 0 only without any error.

    Raises:
        DataError: there are no images, shapes differ, or a confidence is out of range.
    """
    return float(_risks(confidence, error).mean())


def risk_curve(confidence: Tensor, error: Tensor) -> Tensor:
    """(100,) float64: the error of the ceil(c n / 100) most confident of n images, at coverages of c = 1 .. 100 %.

    The last one is the error of all images. Arguments and errors as of `aurc`.
    """
    risks = _risks(confidence, error)
    return risks[ranks(len(risks)).to(risks.device)]


def ranks(count: int) -> Tensor:
    """(100,) int64: the last of the first ceil(p n / 100) of n places, counted from 0, for p = 1 .. 100."""
    return -(-torch.arange(1, PERCENT + 1) * count // PERCENT) - 1  # whole numbers: 0.95 * 20 is not 19 in floats


def _risks(confidence: Tensor, error: Tensor) -> Tensor:
    """(n,) float64: the error of the k most confident images, k = 1 .. n."""
    if confidence.ndim != 1 or not len(confidence) or confidence.shape != error.shape:
        raise DataError(
            "Expected confidence and error (n,) of at least one image, but got the shapes "
            f"{tuple(confidence.shape)} and {tuple(error.shape)}"
        )
    check_confidence(confidence)
    confidence, order = confidence.double().sort(descending=True)
    _, tie, ties = torch.unique_consecutive(confidence, return_inverse=True, return_counts=True)
    wrong = torch.zeros(len(ties), dtype=torch.float64, device=confidence.device)
    wrong.index_add_(0, tie, error.double()[order])
    # errors before a tie are counted exactly; within one they grow evenly
    place = torch.arange(1, len(order) + 1, dtype=torch.float64, device=confidence.device)
    before, start = wrong.cumsum(0) - wrong, (ties.cumsum(0) - ties).double()
    return (before[tie] + (place - start[tie]) * wrong[tie] / ties[tie]) / place
