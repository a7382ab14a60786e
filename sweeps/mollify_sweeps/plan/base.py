"""The recipe that the trials of a sweep vary: what the user says of it, over a file's or a preset's, over defaults."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from mollify_core.classifier import keep_weights
from mollify_core.datasets import DatasetSpec
from mollify_core.errors import ConfigError
from mollify_core.networks import libraries, own, weights
from mollify_core.presets import preset
from mollify_core.recipe import Recipe, parse_setting
from mollify_sweeps.plan.options import RecipeOptions, Search
from mollify_sweeps.study.budget import UNBOUNDED

_ELSEWHERE = {"dataset": "--dataset", "image_size": "--image-size", "background": "--background"}  # than --set
# Where a search starts, by data set: what a person would pick for a first sweep on the hardware that suits the set.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {"network": "resnet20", "epochs": 12, "batch_size": 32, "lr": 0.05, "trials": 10},
}
_OTHER = {"network": "presnet18", "epochs": 30, "batch_size": 128, "trials": 60}
# What a search sets otherwise than version 0.1 did. Half of the validation images only judge. Of digits, which are too
# easy for any method to matter, few are fitted, by a small network: a task that a laptop answers in minutes.
_SEARCH: dict[str, Any] = {"judging_fraction": 0.5}
_SEARCHES: dict[str, dict[str, Any]] = {
    "digits": {**_SEARCH, "network": "resnet8", "epochs": 8, "validation_fraction": 0.3, "train_fraction": 0.3},
}


def base_recipe(options: Search) -> tuple[Recipe, int, DatasetSpec]:
    """The recipe that trials vary, the number of trials, and what the data set is."""
    if options.recipe and options.preset:
        raise ConfigError("Expected --recipe or --preset, but got both")
    recipe = Recipe.from_file(options.recipe) if options.recipe else Recipe()
    training = options.training
    size = recipe.data.image_size if training.image_size is None else training.image_size
    background = recipe.data.background if training.background is None else training.background
    spec = options.running.data.spec(options.dataset, size, background)
    defaults = dict(_DEFAULTS.get(spec.name, _OTHER))
    default_trials = defaults.pop("trials")
    trials = (default_trials if options.budget is None else UNBOUNDED) if options.trials is None else options.trials
    if not options.recipe:
        recipe = recipe.with_(
            dataset=spec.name, augment=spec.augment, validation_fraction=spec.validation_fraction, **defaults
        )
    elif recipe.data.dataset != spec.name:
        raise ConfigError(
            f"Recipe {options.recipe!r} is for {recipe.data.dataset!r}, but got --dataset {options.dataset}"
        )
    recipe = recipe.with_(image_size=size, background=background)
    if options.preset:
        recipe = recipe.with_(preset(options.preset))
    if options.seed is not None:
        recipe = recipe.with_(seed=options.seed)
    settings = said(training, _ELSEWHERE)
    return started(recipe.with_(settings), spec, settings), trials, spec


def with_defaults(options: Search, base: Recipe) -> Recipe:
    """The recipe that the trials of a search vary; what the user has said stays as it is."""
    names = said(options.training, _ELSEWHERE).keys()
    known = _SEARCH if options.recipe or options.preset else _SEARCHES.get(base.data.dataset, _SEARCH)
    return base.with_({name: value for name, value in known.items() if name not in names})


def said(training: RecipeOptions, elsewhere: dict[str, str]) -> dict[str, Any]:
    """The settings that the user gives, by options of their own or by --set; a network of one's own may be run then.

    Args:
        training: the options.
        elsewhere: setting -> the option that gives it instead of --set.
    """
    settings: dict[str, Any] = training.given("network", "network_kwargs", "weights", "epochs", "batch_size")
    settings |= training.given("train_fraction") | _set(training.settings, elsewhere)
    if own.is_own(network := settings.get("network", "")):
        settings |= own.named(network)
    elif network:
        settings["network_sha256"] = ""
    return settings


def started(recipe: Recipe, spec: DatasetSpec, settings: Collection[str]) -> Recipe:
    """The recipe with the weights from which its network starts, as its user names them.

    Args:
        recipe: says "default", or the name of a file.
        spec: of the data.
        settings: names of those that the user gave.
    """
    model = recipe.model
    if "weights" not in settings:  # of a recipe's file, which says their sha256
        return recipe
    recipe = recipe.with_(keep_weights(model.weights, recipe, spec.classes, spec.image_shape))
    scaling = libraries.scaling_of(model.network) if model.weights == weights.DEFAULT else None
    return recipe.with_(scaling=scaling) if scaling and "scaling" not in settings else recipe


def _set(items: Sequence[str], elsewhere: dict[str, str]) -> dict[str, Any]:
    """The settings that `--set NAME=VALUE` gives."""
    settings = {}
    for item in items:
        name, equals, text = item.partition("=")
        if not equals:
            raise ConfigError(f"Expected --set NAME=VALUE, but got {item!r}")
        if name in elsewhere:
            raise ConfigError(f"Expected {elsewhere[name]}, but got --set {name}=…")
        settings[name] = parse_setting(name, text)
    return settings
