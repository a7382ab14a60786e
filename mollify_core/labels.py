"""Soft labels and their losses.

A label mode says what a label of strength g = 0 .. 1 becomes; a loss compares it with the network's outputs.
Source: Heinonen et al., AISTATS 2025, with the modes and losses of its released code.

| mode | target of a label y over C classes | outputs |
|---|---|---|
| ls | (1 - g) y + g / C: smoothing towards the uniform distribution | C |
| ld | (1 - g) y: tempering, the target sums to 1 - g | C |
| la | y, and g for an added sink class: the target sums to 1 + g | C + 1 |
| lm | (1 - g) y, and g for an added sink class | C + 1 |
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mollify_core.settings import SINK_MODES, check_mode_and_loss


def outputs(classes: int, mode: str) -> int:
    """How many outputs a network needs for a label mode: one more with a sink class, the last."""
    return classes + (mode in SINK_MODES)


def confidence(strength: Tensor, classes: int) -> Tensor:
    """(batch,) float64 mass that label smoothing of strength g leaves the true class: 1 - g (C - 1) / C."""
    return 1 - strength.double() * ((classes - 1) / classes)


def strength(kept: Tensor, classes: int) -> Tensor:
    """(batch,) float32 label strengths g in [0, 1] that leave the true class this confidence; 1 at chance and below.

    The inverse of `confidence`, to the last bit of float32 by way of float64.
    """
    return ((1 - kept.double()) * (classes / (classes - 1))).clamp_(0, 1).float()


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(batch, classes) float32 of (batch,) int64 class indices in [0, classes), at which nobody looks before."""
    return torch.zeros(len(labels), classes, device=labels.device).scatter_(1, labels.unsqueeze(1), 1.0)


def smooth(target: Tensor, strength: Tensor) -> Tensor:
    """Label smoothing towards the uniform distribution: (1 - g) y + g / C.

    Args:
        target: (batch, classes) one-hot or soft labels.
        strength: (batch,) g in [0, 1].
    """
    g = strength.unsqueeze(1)
    return (1 - g) * target + g / target.shape[1]


def soften(target: Tensor, strength: Tensor, mode: str) -> Tensor:
    """Targets of a label mode.

    Args:
        target: (batch, classes) one-hot or soft labels (MixUp, CutMix), without a sink column.
        strength: (batch,) g in [0, 1].
        mode: "ls", "ld", "la" or "lm".

    Returns:
        (batch, outputs(classes, mode)) float targets; the sink column is the last.
    """
    if mode == "ls":
        return smooth(target, strength)
    g = strength.unsqueeze(1)
    classes = target if mode == "la" else (1 - g) * target
    return torch.cat([classes, g], dim=1) if mode in SINK_MODES else classes


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, strength: Tensor) -> Tensor:
    """Cross-entropy with mode "ls" for integer labels, without building the dense target.

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


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(batch,) cross-entropy -sum_c y_c log f_c of logits (batch, outputs) against targets of the same shape."""
    return -(target * F.log_softmax(logits.float(), dim=1)).sum(dim=1)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(batch,) sigmoid cross-entropy against soft targets in [0, 1], averaged over the outputs."""
    return F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="none").mean(dim=1)


def normalised_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """(batch,) cross-entropy plus log Z, a proper likelihood over (class, smoothing level); for mode "ls" only.

    With log fbar = mean_c log f_c and d_c = log f_c - log fbar, Z = sum_c (fbar - f_c) / (log fbar - log f_c), the
    integral over g in [0, 1] of sum_c f_c^(1 - g) fbar^g. Each term is fbar expm1(d) / d, which stays exact where f_c
    is close to fbar (the released code divides 0 by 0 there). It can be negative.
    """
    log_f = F.log_softmax(logits.float(), dim=1)
    mean = log_f.mean(dim=1, keepdim=True)
    log_z = torch.logsumexp(mean + _log_expm1_over(log_f - mean), dim=1)
    return -(target * log_f).sum(dim=1) + log_z


def _log_expm1_over(d: Tensor) -> Tensor:
    """log(expm1(d) / d), about d / 2 + d^2 / 24 near 0, for any d without overflow; smooth to differentiate.

    Both sides of the sign are mapped to a = |d|: log(expm1(d) / d) = max(d, 0) + log((1 - exp(-a)) / a).
    """
    a = d.abs()
    near = a < 1e-2
    safe = torch.where(near, torch.ones_like(a), a)
    exact = torch.log(-torch.expm1(-safe) / safe)
    return d.clamp(min=0) + torch.where(near, -a / 2 + a * a / 24, exact)


def loss(name: str, mode: str, logits: Tensor, target: Tensor) -> Tensor:
    """(batch,) losses of logits (batch, outputs) against the targets of `soften`.

    Raises:
        ConfigError: the loss does not go with the label mode.
    """
    check_mode_and_loss(mode, name)
    functions = {"ce": soft_cross_entropy, "bce": binary_cross_entropy, "nce": normalised_cross_entropy}
    return functions[name](logits, target)


def log_probabilities(logits: Tensor, classes: int, name: str) -> Tensor:
    """(batch, classes) float32 log-probabilities of the classes, a sink left out and the rest renormalised.

    For "bce" they are normalised sigmoids, for the others softmax.
    """
    logits = logits.float()[:, :classes]
    return torch.log_softmax(F.logsigmoid(logits) if name == "bce" else logits, dim=1)


def sink_mass(logits: Tensor, name: str) -> Tensor:
    """(batch,) probability of the sink class, the last output: how degraded the network takes an image to be."""
    logits = logits.float()
    return torch.sigmoid(logits[:, -1]) if name == "bce" else torch.softmax(logits, dim=1)[:, -1]
