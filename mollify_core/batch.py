"""From a batch of augmented images to what the network sees and is asked for: mixing, degradation, label strength.

One contract for all that takes something of an image: it gives `(images, kept)`, and `kept` (batch,) in [1 / C, 1] is
the confidence that the true class out of C still deserves. Soft augmentations know it from their own strength
(`mollify_core.augment.soft`); supervised mollification, which degrades the normalised image, from its schedule (or, by
option, from the information that is left); information matching, which distorts the image in [0, 1], measures the
information. The confidences of all that an image went through multiply, and never fall below chance. What becomes of
the label is one rule: by its strength g = (1 - kept) C / (C - 1), see `mollify_core.labels`. Where images are mixed,
each label is softened by what its own image had lost before, and they are mixed then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mollify_core import labels, rng
from mollify_core.augment.mix import draw_mix, mix_batch
from mollify_core.augment.names import BATCH_AUGMENTATIONS, SOFT, softens
from mollify_core.errors import ConfigError
from mollify_core.matching import distortions
from mollify_core.matching.strength import coupled, strength
from mollify_core.mollification import schedule
from mollify_core.mollification.degrade import mollify_
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe

Degraded = tuple[Tensor, Callable[[], Tensor]]
"""Network input, and what computes the (batch,) float64 confidences that are left: measuring them may cost more."""


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


def make_batch(
    images: Tensor,
    label: Tensor,
    classes: int,
    recipe: Recipe,
    normalise: Normalise,
    *key: int,
    kept: Tensor | None = None,
    uncoupled: float | None = None,
) -> Batch:
    """Mixes, repeats and degrades a batch of augmented images, and sets the strength of its labels.

    Args:
        images: (rows, channels, height, width) uint8, in shuffled order.
        label: (rows,) int64.
        classes: number of classes.
        recipe: what to do.
        normalise: network input from images.
        key: of the randomness: (seed, epoch, step, rank).
        kept: (rows,) float64 confidences that the augmentation left, see `mollify_core.augment.augment`; None is 1.
        uncoupled: strength in [0, 1] of every label where the recipe's are uncoupled, see `mollify_core.amount`.

    Returns:
        `recipe.mollify.repeat` times as many rows.

    Raises:
        ConfigError: an epsilon is too large for its spread; or labels are uncoupled, and their strength is not given.
    """
    device, coupled_label = images.device, recipe.label == "coupled"
    soft = lost = None
    if kept is not None and coupled_label and softens(recipe.augmentations):
        lost = labels.strength(kept.to(device, non_blocking=True), classes)
    for name in BATCH_AUGMENTATIONS:
        if name in recipe.data.augment:
            height, width = images.shape[2:]
            mix = draw_mix(name, height, width, rng.generator(*key, "mix"))
            images, soft, mixed = mix_batch(images.float() / 255, label, classes, mix, lost)
            lost = None if lost is None else mixed
    if soft is not None or recipe.mollify.repeat > 1:
        # Segments of the rows get a role, so rows must be exchangeable: neither copies of an image nor neighbours that
        # share one by mixing may stand side by side.
        rows = torch.randperm(len(images) * recipe.mollify.repeat, generator=rng.generator(*key, "repeat"))
        rows = (rows % len(images)).to(device, non_blocking=True)
        images, label = images[rows], label[rows]
        soft, lost = (None if column is None else column[rows] for column in (soft, lost))
    x, left = _METHODS[recipe.method](images, classes, recipe, normalise, key)
    if coupled_label:
        before = 1.0 if lost is None else labels.confidence(lost, classes)
        g = labels.strength(before * left(), classes)
    else:
        g = _constant(len(x), device, classes, recipe, uncoupled)
    baseline = recipe.optim.label_smoothing
    if baseline and recipe.mollify.label_mode == "ls":  # smoothing twice is smoothing once; for the others see `losses`
        g = 1 - (1 - g) * (1 - baseline)
    return Batch(x, label, soft, g)


def _constant(rows: int, device: torch.device, classes: int, recipe: Recipe, uncoupled: float | None) -> Tensor:
    """(rows,) strengths of labels that are not coupled to their images: the same for each."""
    if recipe.label == "fixed":
        eps = torch.full((rows,), recipe.matching.fixed_epsilon, device=device)
        return strength(eps, classes, recipe.matching, "fixed_epsilon")
    if recipe.label == "hard":
        return torch.zeros(rows, device=device)
    if uncoupled is None:
        raise ConfigError("Expected the strength of uncoupled labels, but got none")
    return torch.full((rows,), uncoupled, device=device)


def _leave(images: Tensor, classes: int, recipe: Recipe, normalise: Normalise, key: tuple[int, ...]) -> Degraded:
    return normalise(images), lambda: torch.ones(len(images), dtype=torch.float64, device=images.device)


def _mollify(images: Tensor, classes: int, recipe: Recipe, normalise: Normalise, key: tuple[int, ...]) -> Degraded:
    clean = normalise(images)
    drawn = schedule.draw(len(clean), clean.shape[-1], recipe.mollify, rng.generator(*key, "mollify"))
    noise = rng.generator(*key, "noise", device=clean.device)
    if recipe.mollify.label_source == "schedule":
        strengths = drawn.strength.to(clean.device, non_blocking=True)
        return mollify_(clean, drawn, noise), lambda: labels.confidence(strengths, classes)
    x, n = mollify_(clean.clone(), drawn, noise), drawn.degraded

    def by_information() -> Tensor:
        pair = normalise.undo(clean[:n]), normalise.undo(x[:n])
        return labels.confidence(recipe.mollify.smoothing * coupled(*pair, len(x), classes, recipe.matching), classes)

    return x, by_information


def _match(images: Tensor, classes: int, recipe: Recipe, normalise: Normalise, key: tuple[int, ...]) -> Degraded:
    config = recipe.matching
    unit = images.float() / 255 if images.dtype == torch.uint8 else images
    drawn = distortions.draw(len(unit), rng.generator(*key, "distort"), p_clean=config.p_undistorted)
    noise = rng.generator(*key, "noise", device=unit.device)
    constants = distortions.Distortions(config.blur_sigma, config.blur_kernel, config.patch_size, config.mosaic_power)
    distorted, n = distortions.distort_segments(unit, drawn, constants, noise), len(drawn.d)
    return normalise(distorted), lambda: labels.confidence(
        coupled(unit[:n], distorted[:n], len(unit), classes, config), classes
    )


_METHODS = {"none": _leave, "mollification": _mollify, "matching": _match, **dict.fromkeys(SOFT, _leave)}


def times(rows: int, side: int, recipe: Recipe, *key: int) -> list[float]:
    """Mollification times, or strengths of distortions, that `make_batch` drew for a batch: drawn once more.

    Args:
        rows: of the batch, copies counted.
        side: of its images in pixels.
        recipe, key: as there.
    """
    if _METHODS[recipe.method] is _leave:
        return []
    if recipe.method == "matching":
        drawn = distortions.draw(rows, rng.generator(*key, "distort"), p_clean=recipe.matching.p_undistorted)
        return drawn.d.tolist()
    config = recipe.mollify
    mollified = schedule.draw(rows, side, config, rng.generator(*key, "mollify"))
    generator = rng.generator(*key, "mollify")
    torch.rand(rows, generator=generator)  # the roles
    return rng.beta_times(mollified.start + len(mollified.blur), config.beta_a, config.beta_b, generator).tolist()


def losses(logits: Tensor, batch: Batch, classes: int, recipe: Recipe) -> Tensor:
    """(batch,) losses of the network's outputs, weighted by confidence where the recipe says so."""
    mode, name = recipe.mollify.label_mode, recipe.mollify.loss
    if batch.soft is None and (mode, name) == ("ls", "ce"):
        each = labels.smoothed_cross_entropy(logits, batch.labels, batch.strength)
    else:
        soft = labels.one_hot(batch.labels, classes) if batch.soft is None else batch.soft
        if mode != "ls" and recipe.optim.label_smoothing:
            soft = labels.smooth(soft, torch.full_like(batch.strength, recipe.optim.label_smoothing))
        each = labels.loss(name, mode, logits, labels.soften(soft, batch.strength, mode))
    return each * labels.confidence(batch.strength, classes).float() if recipe.soft.reweight else each
