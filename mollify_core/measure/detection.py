"""Detection of images of another data set: can a score tell images like the training's from foreign ones?

Known images, those of the test set, are the positive class, and have the higher scores: the maximum softmax probability
(Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", ICLR 2017), or the
negative energy, logsumexp of the logits at temperature 1 (Liu et al., "Energy-based Out-of-distribution Detection",
NeurIPS 2020, eq. 4).
"""

from __future__ import annotations

import torch
from torch import Tensor

from mollify_core.errors import DataError
from mollify_core.measure.selective import ranks

SCORES = ("msp", "energy")
"""Maximum softmax probability and negative energy, rows of the scores that models are judged by."""


def auroc(known: Tensor, foreign: Tensor) -> float:
    """The probability that a known image has a higher score than a foreign one, ties counting one half; in [0, 1].

    Args:
        known: (n,) scores of known images.
        foreign: (m,) of foreign ones.

    Raises:
        DataError: there are no images on a side, shapes are wrong, or a score is NaN.
    """
    known, foreign = _checked(known, foreign)
    foreign = foreign.sort().values
    below, most = (torch.searchsorted(foreign, known, right=right) for right in (False, True))
    return float((below + most).double().mean() / (2 * len(foreign)))


def false_positives(known: Tensor, foreign: Tensor) -> Tensor:
    """(100,) float64, the ROC curve: share of foreign images taken for known ones, at true positive rates 1 .. 100 %.

    The threshold is the highest at which at least that share of the known images scores as high or higher; foreign
    images that equal it are false positives. Entry 94 is the FPR at 95 % TPR. Arguments and errors as of `auroc`.
    """
    known, foreign = _checked(known, foreign)
    thresholds = known.sort(descending=True).values[ranks(len(known)).to(known.device)]
    return 1 - torch.searchsorted(foreign.sort().values, thresholds).double() / len(foreign)


def _checked(known: Tensor, foreign: Tensor) -> tuple[Tensor, Tensor]:
    for scores in (known, foreign):
        if scores.ndim != 1 or not len(scores) or scores.isnan().any():
            raise DataError(
                f"Expected scores (n,) of at least one image, none NaN, but got the shape {tuple(scores.shape)}"
                + (" with NaN" if scores.isnan().any() else "")
            )
    return known.double().contiguous(), foreign.double().contiguous()
