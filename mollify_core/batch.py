"""From a batch of augmented images to what the network sees and is asked for: mixing, degradation, label strength.

Two methods, one function: supervised mollification degrades the normalised image and takes the label strength from the
schedule (or, by option, from the information that is left); information matching distorts the image in [0, 1] and takes
the strength from its arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mollify_core import labels, rng
from mollify_core.augment.mix import draw_mix, mix_batch
from mollify_core.augment.names import BATCH_AUGMENTATIONS
from mollify_core.matching import distortions
from mollify_core.matching.nmi import normalized_mutual_information
from mollify_core.matching.strength import epsilon, match
from mollify_core.matching.strength import strength as label_strength
from mollify_core.mollification import schedule
from mollify_core.mollification.degrade import mollify_
from mollify_core.normalise import Normalise
from mollify_core.recipe import Matching, Recipe


@dataclass(frozen=True)
class Batch:
    """A batch ready for the network.

    Attributes:
        x: (batch, channels, height, width) float32 network input.
        labels: (batch,) int64, of the image itself where images were mixed.
        soft: (batch, classes) labels before smoothing where images were mixed, else None.
        strength: (batch,) label strength in [0, 1], on the device.
    """

    x: Tensor
    labels: Tensor
    soft: Tensor | None
    strength: Tensor


def make_batch(images: Tensor, label: Tensor, classes: int, recipe: Recipe, normalise: Normalise, *key: int) -> Batch:
    """Mixes, repeats and degrades a batch of augmented images, and sets the strength of its labels.

    Args:
        images: (rows, channels, height, width) uint8, in shuffled order.
        label: (rows,) int64.
        classes: number of classes.
        recipe: what to do.
        normalise: network input from images.
        key: of the randomness: (seed, epoch, step, rank).

    Returns:
        `recipe.mollify.repeat` times as many rows.
    """
    device = images.device
    soft = None
    for name in BATCH_AUGMENTATIONS:
        if name in recipe.data.augment:
            height, width = images.shape[2:]
            mix = draw_mix(name, height, width, rng.generator(*key, "mix"))
            images, soft = mix_batch(images.float() / 255, label, classes, mix)
    if recipe.mollify.repeat > 1:
        # The copies of an image must be exchangeable too: the rows are shuffled, since segments of them get a role.
        rows = torch.randperm(len(images) * recipe.mollify.repeat, generator=rng.generator(*key, "repeat"))
        rows = (rows % len(images)).to(device, non_blocking=True)
        images, label, soft = images[rows], label[rows], None if soft is None else soft[rows]
    degrade = _mollify if recipe.matching.arm == "off" else _match
    x, strength = degrade(images, classes, recipe, normalise, key)
    baseline = recipe.optim.label_smoothing
    if baseline:
        strength = 1 - (1 - strength) * (1 - baseline)
    return Batch(x, label, soft, strength)


def _mollify(
    images: Tensor, classes: int, recipe: Recipe, normalise: Normalise, key: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    clean = normalise(images)
    drawn = schedule.draw(len(clean), clean.shape[-1], recipe.mollify, rng.generator(*key, "mollify"))
    noise = rng.generator(*key, "noise", device=clean.device)
    if recipe.mollify.label_source == "schedule":
        return mollify_(clean, drawn, noise), drawn.strength.to(clean.device, non_blocking=True)
    x = mollify_(clean.clone(), drawn, noise)
    n = drawn.degraded
    nmi = _nmi(normalise.undo(clean[:n]), normalise.undo(x[:n]), recipe.matching)
    eps = epsilon(nmi, recipe.matching)
    return x, recipe.mollify.smoothing * F.pad(label_strength(eps, classes, recipe.matching), (0, len(x) - n))


def _match(
    images: Tensor, classes: int, recipe: Recipe, normalise: Normalise, key: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    config = recipe.matching
    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    drawn = distortions.draw(len(unit), rng.generator(*key, "distort"), p_clean=config.p_undistorted)
    noise = rng.generator(*key, "noise", device=unit.device)
    constants = distortions.Distortions(config.blur_sigma, config.blur_kernel, config.patch_size, config.mosaic_power)
    distorted, strength = match(unit, drawn, classes, constants, config, noise)
    return normalise(distorted), strength


def _nmi(x: Tensor, y: Tensor, config: Matching) -> Tensor:
    return normalized_mutual_information(
        x,
        y,
        config.bins,
        use_all_bins=config.use_all_bins,
        constants_match=config.constants_match,
        corrected=config.corrected,
    )


def losses(logits: Tensor, batch: Batch, classes: int, recipe: Recipe) -> Tensor:
    """(batch,) losses of the network's outputs."""
    mode, name = recipe.mollify.label_mode, recipe.mollify.loss
    if batch.soft is None and (mode, name) == ("ls", "ce"):
        return labels.smoothed_cross_entropy(logits, batch.labels, batch.strength)
    soft = F.one_hot(batch.labels, classes).float() if batch.soft is None else batch.soft
    return labels.loss(name, mode, logits, labels.soften(soft, batch.strength, mode))
