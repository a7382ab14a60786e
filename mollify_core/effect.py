"""Which settings of a recipe have no effect on what it trains, whatever their values: what nobody need search or read.

A setting counts as without effect where the other settings of the recipe switch it off, as `max_blur` where nothing is
blurred, not where its own value does.
"""

from __future__ import annotations

import dataclasses

from mollify_core.augment.names import softens
from mollify_core.recipe import Matching, Mollify, Recipe, Soft

_LOSS = {"label_mode", "loss", "repeat"}  # of the section `Mollify`, but of every method
_DISTORTION = {"p_undistorted", "blur_sigma", "blur_kernel", "patch_size", "mosaic_power"}
_INFORMATION = {field.name for field in dataclasses.fields(Matching)} - _DISTORTION - {"fixed_epsilon"}
_SCHEDULE = {field.name for field in dataclasses.fields(Mollify)} - _LOSS


def without_effect(recipe: Recipe) -> frozenset[str]:
    """The settings that change nothing in training, each by its own name."""
    method, mollify = recipe.method, recipe.mollify
    degraded = {"mollification": 1 - mollify.p_clean, "matching": 1 - recipe.matching.p_undistorted}
    follows = recipe.label in ("coupled", "uncoupled")
    softened = follows and degraded.get(method, 0.0) > 0
    idle = _of_augmentation(recipe, follows)
    if method == "mollification":
        if degraded[method] == 0:
            idle |= _SCHEDULE - {"p_clean"}
        idle |= _of_schedule(mollify, softened)
        if mollify.smoothing == 0:
            softened = False
    else:
        idle |= _SCHEDULE
    if method != "matching":
        idle |= _DISTORTION
    elif degraded[method] == 0:
        idle |= _DISTORTION - {"p_undistorted"}
    if not (softened and (method == "matching" or mollify.label_source == "nmi")):
        idle |= _INFORMATION - ({"spread"} if recipe.label == "fixed" else set())
    if recipe.label != "fixed":
        idle.add("fixed_epsilon")
    by_augmentation = follows and softens(recipe.augmentations)
    if not (softened or by_augmentation or recipe.label == "fixed" or recipe.optim.label_smoothing):
        idle.add("reweight")
    if recipe.optim.optimizer != "sgd":
        idle |= {"momentum", "nesterov"}
    return frozenset(idle)


_STRENGTHS = {
    "soft-crop": {"crop_deviation"},
    **{name: {"erasing_probability", "erasing_area"} for name in ("soft-erasing", "erasing")},
    **{name: {"patch_side", "patch_deviation"} for name in ("soft-noise", "patch_noise")},
}
_CONFIDENCES = {
    "soft-crop": {"crop_power", "min_confidence"},
    "soft-erasing": {"erasing_power", "min_confidence"},
    "soft-noise": {"patch_power", "min_confidence"},
    "soft-trivialaugment": {"trivialaugment_power", "min_confidence", "confidence_table"},
}


def _of_augmentation(recipe: Recipe, follows: bool) -> set[str]:
    """Of the settings of soft augmentations, those without effect; labels may follow them or not."""
    busy: set[str] = set()
    for name in recipe.augmentations:
        busy |= _STRENGTHS.get(name, set())
        busy |= _CONFIDENCES.get(name, set()) if follows else set()
    return set(Soft.__dataclass_fields__) - busy - {"reweight"}


def _of_schedule(mollify: Mollify, softened: bool) -> set[str]:
    """Of the schedule's settings, those without effect on images that it degrades, and on their labels."""
    idle: set[str] = set()
    noised = mollify.noise_share + mollify.both_share > 0
    blurred = mollify.noise_share + mollify.pure_share < 1
    if not noised:
        idle |= {"max_noise", "noise_power"}
    if not blurred:
        idle |= {"min_blur", "max_blur", "blur_power"}
    if not noised and not blurred:
        idle |= {"beta_a", "beta_b"}
    if not softened:
        idle |= {"smoothing", "label_source"}
    if not softened or mollify.smoothing == 0 or mollify.label_source == "nmi":
        idle |= {"noise_power", "blur_power"}
    if softened and mollify.smoothing == 0:
        idle.add("label_source")
    return idle
