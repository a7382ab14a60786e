"""Information matching: a distorted image keeps as much of its label as it shares information with the clean image.

Source: Bonilla Salvador (2025). Hard labels and fixed label smoothing, which the paper compares with, are two further
arms of one function; the three see the same images and differ in nothing but the label strength.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mollify_core.errors import ConfigError
from mollify_core.matching.distortions import Distortions, Draw, distort_segments
from mollify_core.matching.nmi import normalized_mutual_information
from mollify_core.settings import Matching


def match(
    x: Tensor, draw: Draw, classes: int, distortions: Distortions, config: Matching, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Distorts a batch and sets the strength of its labels.

    Args:
        x: (batch, channels, height, width) float32 images in [0, 1], augmented but not yet normalised, in shuffled
            order.
        draw: which rows are distorted, how and how much; see `mollify_core.matching.distortions.draw`.
        classes: number of classes C.
        distortions: what the strengths of the distortions mean.
        config: how a label follows its image; any arm but "off".
        generator: generator of noise and patches, on the device of `x`. Every arm uses it alike.

    Returns:
        The distorted images, a new tensor of the shape of `x`, and (batch,) label strengths for
        `mollify_core.labels.smoothed_cross_entropy`.

    Raises:
        ConfigError: `config` allows a true class less mass than the others get, see `strength`.
    """
    distorted = distort_segments(x, draw, distortions, generator)
    if config.arm == "matching":
        n = len(draw.d)  # clean rows follow, with epsilon 0
        nmi = normalized_mutual_information(
            x[:n],
            distorted[:n],
            config.bins,
            use_all_bins=config.use_all_bins,
            constants_match=config.constants_match,
            corrected=config.corrected,
        )
        eps = F.pad(epsilon(nmi, config), (0, len(x) - n))
    else:
        eps = torch.full((len(x),), config.fixed_epsilon if config.arm == "smoothing" else 0.0, device=x.device)
    return distorted, strength(eps, classes, config)


def epsilon(nmi: Tensor, config: Matching) -> Tensor:
    """epsilon = min(max_epsilon, epsilon_scale (1 - NMI)^epsilon_power), elementwise over NMI in [0, 1]."""
    return (config.epsilon_scale * (1 - nmi).pow(config.epsilon_power)).clamp_(max=config.max_epsilon)


def strength(eps: Tensor, classes: int, config: Matching) -> Tensor:
    """The label strength g, of targets 1 - g + g / C for the true class and g / C for the others, that spreads epsilon.

    Over all classes g = epsilon. Over the others g = epsilon C / (C - 1), since then g / C = epsilon / (C - 1) and
    1 - g (C - 1) / C = 1 - epsilon.

    Args:
        eps: (batch,) epsilon.
        classes: number of classes C, at least 2.
        config: names the spread.

    Raises:
        ConfigError: spread over the others, the largest epsilon would leave the true class less than each of them.
    """
    if config.spread == "all":
        return eps
    name = "fixed_epsilon" if config.arm == "smoothing" else "max_epsilon"
    if config.arm != "hard" and getattr(config, name) > 1 - 1 / classes:
        raise ConfigError(
            f"Expected `{name}` to be at most 1 - 1 / C = {1 - 1 / classes:g} with spread 'others' and {classes} "
            f"classes, but got {getattr(config, name)!r}"
        )
    return eps * (classes / (classes - 1))
