"""How much coupled labels are softened in the mean: what an uncoupled label gets, whatever its image lost.

A model with uncoupled labels sees the same images as one with coupled labels, and its labels lose as much on the whole.
What differs is whether a label knows how much its own image lost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mollify_core import labels, rng
from mollify_core.augment import augment
from mollify_core.augment.names import SOFT, softens
from mollify_core.batch import make_batch
from mollify_core.mollification import schedule
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe

ROWS = 2**20
"""Draws of the schedule that are averaged: the mean is then wrong by less than 0.001."""
IMAGES = 4096
"""Degraded images that are averaged where the strength depends on them: wrong by about 0.005."""
_CHUNK = 128
_PIXELS = 2**26  # of blank images that soft augmentations are drawn for


@torch.no_grad()
def mean_strength(recipe: Recipe, images: Tensor, classes: int, normalise: Normalise) -> float:
    """The mean strength g that the labels of a recipe would get in training, were they coupled.

    It is the same each time and on every worker. `label_smoothing` is not in it: that comes on top of any label. So a
    recipe with the label "fixed", the spread "all" and this mean as `fixed_epsilon` softens as one that is uncoupled.

    Args:
        recipe: how images are augmented and degraded; its own label does not matter.
        images: (n, channels, height, width) uint8 images that it fits.
        classes: number of classes.
        normalise: network input from images.

    Returns:
        A number in [0, 1]; 0 for the method "none" without soft augmentations.

    Raises:
        ConfigError: the largest epsilon is too large for its spread, see `mollify_core.matching.strength`.
    """
    softened = softens(recipe.augmentations)
    by_schedule = recipe.method == "mollification" and recipe.mollify.label_source == "schedule"
    if by_schedule and not softened:
        drawn = schedule.draw(ROWS, images.shape[-1], recipe.mollify, rng.generator("mean strength"))
        return drawn.strength.mean(dtype=torch.float64).item()
    if by_schedule or recipe.method in ("none", *SOFT):  # what is in an image does not matter
        return _of_draws(recipe, images.shape[-1], classes, by_schedule) if softened else 0.0
    coupled = recipe.with_(label="coupled", label_smoothing=0.0, repeat=1)
    order = torch.randperm(len(images), generator=rng.generator(recipe.seed, "mean strength"))
    order = order.repeat(-(-IMAGES // len(order)))[:IMAGES].to(images.device)  # few images are degraded several times
    strengths = []
    for chunk, rows in enumerate(order.split(_CHUNK)):
        key = (rng.derive(recipe.seed, "mean strength"), chunk)
        generator = rng.generator(*key, "augment")
        augmented, kept = augment(images[rows], recipe.augmentations, generator, recipe.soft, classes)
        label = torch.zeros(len(rows), dtype=torch.int64, device=images.device)  # which it is does not matter
        strengths.append(make_batch(augmented, label, classes, coupled, normalise, *key, kept=kept).strength)
    return torch.cat(strengths).mean(dtype=torch.float64).item()


def _of_draws(recipe: Recipe, side: int, classes: int, by_schedule: bool) -> float:
    """The mean strength by soft augmentations and, where asked for, the schedule, of blank images."""
    rows = min(ROWS // 32, max(IMAGES, _PIXELS // side**2))
    blank = torch.zeros(rows, 1, 1, 1, dtype=torch.uint8).expand(-1, -1, side, side)
    kept = torch.cat(
        [
            augment(part, recipe.augmentations, rng.generator("mean strength", chunk), recipe.soft, classes)[1]
            for chunk, part in enumerate(blank.split(_CHUNK))
        ]
    )
    if by_schedule:
        drawn = schedule.draw(rows, side, recipe.mollify, rng.generator("mean strength"))
        kept = kept * labels.confidence(drawn.strength, classes)
    return labels.strength(kept, classes).mean(dtype=torch.float64).item()
