"""Information matching: a distorted image keeps as much of its label as it shares information with the clean image.

Source: Bonilla Salvador (2025).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mollify_core.effect import without_effect
from mollify_core.errors import ConfigError
from mollify_core.matching.nmi import normalized_mutual_information
from mollify_core.recipe import Recipe
from mollify_core.settings import Matching


def coupled(clean: Tensor, degraded: Tensor, rows: int, classes: int, config: Matching) -> Tensor:
    """The strength of labels that follow what a degradation left of their images, whichever degradation it was.

    Args:
        clean, degraded: (n, channels, height, width) float32 images in [0, 1]: the degraded rows of a batch, which come
            first, before and after.
        rows: in the batch, at least n; those that follow are clean, with epsilon 0.
        classes: number of classes C.
        config: how a label follows its image.

    Returns:
        (rows,) label strengths for `mollify_core.labels.smoothed_cross_entropy`.

    Raises:
        ConfigError: `config` allows a true class less mass than the others get, see `strength`.
    """
    nmi = normalized_mutual_information(
        clean,
        degraded,
        config.bins,
        use_all_bins=config.use_all_bins,
        constants_match=config.constants_match,
        corrected=config.corrected,
    )
    return strength(F.pad(epsilon(nmi, config), (0, rows - len(clean))), classes, config)


def epsilon(nmi: Tensor, config: Matching) -> Tensor:
    """epsilon = min(max_epsilon, epsilon_scale (1 - NMI)^epsilon_power), elementwise over NMI in [0, 1]."""
    return (config.epsilon_scale * (1 - nmi).pow(config.epsilon_power)).clamp_(max=config.max_epsilon)


def strength(eps: Tensor, classes: int, config: Matching, largest: str = "max_epsilon") -> Tensor:
    """The label strength g, of targets 1 - g + g / C for the true class and g / C for the others, that spreads epsilon.

    Over all classes g = epsilon. Over the others g = epsilon C / (C - 1), since then g / C = epsilon / (C - 1) and
    1 - g (C - 1) / C = 1 - epsilon.

    Args:
        eps: (batch,) epsilon.
        classes: number of classes C, at least 2.
        config: names the spread.
        largest: the setting that bounds epsilon, "max_epsilon" or "fixed_epsilon".

    Raises:
        ConfigError: spread over the others, the largest epsilon would leave the true class less than each of them, or
            there are no others.
    """
    if config.spread == "all":
        return eps
    _check_spread(classes, config, largest)
    return eps * (classes / (classes - 1))


def check_strength(recipe: Recipe, classes: int) -> None:
    """Raises a ConfigError where training a recipe would, see `strength`."""
    for largest in ("max_epsilon", "fixed_epsilon"):
        if recipe.matching.spread == "others" and largest not in without_effect(recipe):
            _check_spread(classes, recipe.matching, largest)


def _check_spread(classes: int, config: Matching, largest: str) -> None:
    if classes < 2:
        raise ConfigError(f"Expected at least two classes with spread 'others', but got {classes}")
    if getattr(config, largest) > 1 - 1 / classes:
        raise ConfigError(
            f"Expected `{largest}` to be at most 1 - 1 / C = {1 - 1 / classes:g} with spread 'others' and {classes} "
            f"classes, but got {getattr(config, largest)!r}"
        )
