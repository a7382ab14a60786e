"""The methods that a search holds against each other: what makes a recipe one of them, and what is its own to search.

What no method has for its own, as the learning rate, is searched in all of them alike, over the same ranges.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution

from mollify_core.augment.names import BATCH_AUGMENTATIONS, POLICIES
from mollify_core.errors import ConfigError, nearest
from mollify_core.old_words import ALIAS
from mollify_core.recipe import Matching, Mollify, Recipe
from mollify_sweeps.study.space import Reference, Space, default_ranges, idle, reference

PLAIN = "plain"
DEFAULT = " default"  # behind the name of a method: its first trial, with settings that nothing has chosen
_MOLLIFY = tuple(name for name in Mollify.__dataclass_fields__ if name not in ("loss", "repeat"))
_MATCHING = tuple(name for name in Matching.__dataclass_fields__ if name != "fixed_epsilon")
_SCHEDULE = ("smoothing", "beta_b", "p_clean")


@dataclass(frozen=True)
class Method:
    """A way of training that a search may hold against others.

    Attributes:
        words: what it is called in a sentence.
        default: what its first trial is called in a sentence.
        settings: what makes a recipe one of it.
        own: other settings that only it, or its kind, has a use for.
        searched: those of them that are searched where no space file says otherwise.
        augmentation: is added to those of all methods.
    """

    words: str
    default: str
    settings: dict[str, Any] = field(default_factory=lambda: {"method": "none", "label": "hard"})
    own: tuple[str, ...] = ()
    searched: tuple[str, ...] = ()
    augmentation: str | None = None


def _mollification(words: str, fixed: dict[str, Any], *searched: str) -> Method:
    settings = {"method": "mollification", "label": "coupled", **fixed}
    own = tuple(name for name in _MOLLIFY if name not in fixed)
    return Method(words, f"{words}, the paper's default schedule", settings, own, (*searched, *_SCHEDULE))


def _soft(name: str, words: str, searched: str, *own: str) -> Method:
    settings = {"method": name, "label": "coupled"}
    mine = (searched, *own, "min_confidence", "reweight")
    return Method(words, f"{words}, the paper's settings", settings, mine, (searched, *own))


def _rival(name: str, words: str) -> Method:
    return Method(words, f"{words}, default settings", augmentation=name)


METHODS: dict[str, Method] = {
    PLAIN: Method("plain training", "plain training, default settings"),
    "smoothing": Method(
        "fixed label smoothing",
        "fixed label smoothing of 0.1",
        {"method": "none", "label": "fixed"},
        ("fixed_epsilon",),
        ("fixed_epsilon",),
    ),
    "mollification": _mollification(
        "mollification", {}, "max_noise", "max_blur", "noise_power", "blur_power", "noise_share"
    ),
    "noise": _mollification(
        "mollification by noise", {"noise_share": 1.0, "both_share": 0.0, "pure_share": 0.0}, "max_noise", "noise_power"
    ),
    "blur": _mollification(
        "mollification by blur", {"noise_share": 0.0, "both_share": 0.0, "pure_share": 0.0}, "max_blur", "blur_power"
    ),
    "matching": Method(
        "information matching",
        "information matching, the paper's settings",
        {"method": "matching", "label": "coupled"},
        _MATCHING,
        ("p_undistorted", "max_epsilon", "epsilon_power"),
    ),
    "soft-crop": _soft("soft-crop", "soft crop", "crop_power", "crop_deviation"),
    "soft-erasing": _soft("soft-erasing", "soft erasing", "erasing_power", "erasing_probability", "erasing_area"),
    "soft-noise": _soft("soft-noise", "soft patch noise", "patch_power", "patch_side", "patch_deviation"),
    "soft-trivialaugment": _soft("soft-trivialaugment", "soft TrivialAugment", "trivialaugment_power"),
    "trivialaugment": _rival("trivialaugment", "TrivialAugment"),
    "augmix": _rival("augmix", "AugMix"),
    "mixup": _rival("mixup", "MixUp"),
}
OWN = frozenset(name for method in METHODS.values() for name in (*method.own, *method.settings)) | {ALIAS}
"""Settings that are some method's own; all others are shared."""


@dataclass(frozen=True)
class Search:
    """The search of one method.

    Attributes:
        name: of the method; "" where a sweep has a single study.
        settings: what makes a recipe one of it.
        space: what is searched in it.
        references: trials that are run whatever the search finds, its first ones.
        share: of the trials, by weight.
        tried: what comes after the references: where it is from, in words, and its parameters.
    """

    name: str
    settings: dict[str, Any]
    space: Space
    references: tuple[Reference, ...]
    share: float = 1.0
    tried: tuple[tuple[str, dict[str, Any]], ...] = ()

    def most(self, sampler: str, grid_points: int) -> float:
        """How many trials there are to be made: no end of them, but of a grid, or where nothing is searched."""
        if not self.name or (self.space.searched and sampler != "grid"):
            return math.inf
        return len(self.references) + (self.space.points(grid_points) if self.space.searched else 0)


def turn(searches: Sequence[Search], begun: Counter[str], sampler: str, grid_points: int) -> Search | None:
    """The method whose turn it is, of those that have something left to try: a function of how many have begun."""
    several = [search for search in searches if begun[search.name] < search.most(sampler, grid_points)]
    return min(several, key=lambda search: (begun[search.name] + 1) / search.share, default=None)


def check(names: Sequence[str]) -> tuple[str, ...]:
    """`names` unchanged, plain training first.

    Raises:
        ConfigError: one is unknown or repeated, or there are not plain training and another one.
    """
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"Unknown method {name!r} in --methods{nearest(name, METHODS)}")
    if len(set(names)) < len(names) or PLAIN not in names or len(names) < 2:
        wanted = "plain, which the others are held against, and at least one other, each once"
        raise ConfigError(f"Expected --methods to name {wanted}, but got {','.join(names)}")
    return (PLAIN, *(name for name in names if name != PLAIN))


def of_recipe(recipe: Recipe) -> str:
    """The method that a search from this recipe holds against plain training where nothing else is said."""
    return {"none": "smoothing" if recipe.label == "fixed" else "mollification"}.get(recipe.method, recipe.method)


def built_in(names: Sequence[str], base: Recipe, side: int) -> Space:
    """What is searched where no space file says otherwise: shared settings, and those of these methods with an effect.

    Args:
        names: of the methods.
        base: what all trials vary; with the label "fixed", for one, there are no label powers to search.
        side: of the images, in pixels.
    """
    ranges, known = default_ranges(side), set()
    for name in names:
        own = Space({key: ranges[key] for key in METHODS[name].searched}, {})
        known |= own.searched.keys() - idle(own, base.with_(settings_of(name, base)))
    return Space({name: d for name, d in ranges.items() if name in known or name not in OWN}, {})


def searches(
    names: Sequence[str], shares: dict[str, float], base: Recipe, space: Space, side: int
) -> tuple[Search, ...]:
    """What is searched in each method.

    Args:
        names: of the methods.
        shares: weights of some of them; the others weigh 1.
        base: what all trials vary.
        space: what is searched in any of them.
        side: of the images, in pixels.

    Raises:
        ConfigError: the space names a setting that has no effect with any of the methods, or a method does not go with
            the base.
    """
    made: list[Search] = []
    useful: set[str] = set()
    for name in names:
        method = METHODS[name]
        settings = settings_of(name, base)
        own: dict[str, BaseDistribution] = {
            key: d for key, d in space.searched.items() if key in method.own or key not in OWN
        }
        without = idle(Space(own, {}), base.with_(settings))
        own = {key: d for key, d in own.items() if key not in without}
        useful |= own.keys()
        default = {key: Recipe().get(key) for key in method.own} | settings
        first = reference(f"{name}{DEFAULT}", default, Space(own, {}), base, side)
        made.append(Search(name, settings, Space(own, {}), (first,), shares.get(name, 1.0)))
    useless = [name for name in space.searched if name not in useful]
    if useless:
        raise ConfigError(
            f"Expected a space of settings that {' or '.join(names)} have a use for, but got {', '.join(useless)}, "
            "which would change nothing"
        )
    return tuple(made)


def settings_of(name: str, base: Recipe) -> dict[str, Any]:
    """What makes a recipe, made of a base, one of a method.

    Raises:
        ConfigError: the base has already what the method would add, or an augmentation that excludes it.
    """
    method = METHODS[name]
    settings = dict(method.settings)
    if settings["method"] == base.method != "none" and base.label != "hard":
        settings["label"] = base.label  # fixed or uncoupled, where the user has said so
    if method.augmentation is not None:
        alternatives = POLICIES if method.augmentation in POLICIES else BATCH_AUGMENTATIONS
        known = [one for one in base.data.augment if one in alternatives]
        if known:
            raise ConfigError(
                f"Expected augmentations without {' and '.join(known)} with --methods {name}, which adds "
                f"{method.augmentation} to what all methods have"
            )
        settings["augment"] = (*base.data.augment, method.augmentation)
    return settings
