"""Soft labels and their losses.

Source: Heinonen et al., AISTATS 2025 (label mode "ls", cross-entropy).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def smooth(target: Tensor, strength: Tensor) -> Tensor:
    """Label smoothing towards the uniform distribution: (1 - g) y + g / C.

    Args:
        target: (batch, classes) one-hot or soft labels.
        strength: (batch,) g in [0, 1].
    """
    g = strength.unsqueeze(1)
    return (1 - g) * target + g / target.shape[1]


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(batch,) cross-entropy -sum_c y_c log f_c of logits (batch, classes) against soft labels of the same shape."""
    return -(target * F.log_softmax(logits.float(), dim=1)).sum(dim=1)


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, strength: Tensor) -> Tensor:
    """`soft_cross_entropy(logits, smooth(one_hot(labels), strength))` without building the dense target.

    Args:
        logits: (batch, classes).
        labels: (batch,) int64 class indices.
        strength: (batch,) g in [0, 1].

    Returns:
        (batch,) losses: -(1 - g) log f_y - g mean_c log f_c.
    """
    log_f = F.log_softmax(logits.float(), dim=1)
    picked = log_f.gather(1, labels.unsqueeze(1)).squeeze(1)
    return (strength - 1) * picked - strength * log_f.mean(dim=1)
