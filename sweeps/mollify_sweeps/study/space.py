"""What can be searched: names, ranges and scales; and the two reference trials of every sweep.

A searched parameter is a setting of the recipe, addressed by its own name. At their defaults the settings equal the
paper's (Heinonen et al., AISTATS 2025), so the paper's schedule is one point of the space, and so is plain training.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mollify_core.errors import ConfigError, MollifyError, nearest
from mollify_core.presets import PLAIN
from mollify_core.recipe import Mollify, Recipe, Soft, section_of


@dataclass(frozen=True)
class Space:
    """The search space of a sweep.

    Attributes:
        searched: parameter -> Optuna distribution.
        fixed: settings that the space file pins, already applied to the base recipe.
    """

    searched: dict[str, BaseDistribution]
    fixed: dict[str, Any]

    def describe(self) -> dict[str, dict[str, Any]]:
        """Plain containers for sweep.json: {low, high, log} or {choices} for each searched parameter."""
        result: dict[str, dict[str, Any]] = {}
        for name, d in self.searched.items():
            if isinstance(d, CategoricalDistribution):
                result[name] = {"choices": list(d.choices)}
            elif isinstance(d, FloatDistribution | IntDistribution):
                result[name] = {"low": d.low, "high": d.high, "log": d.log}
        return result

    def grid(self, points: int) -> dict[str, list[Any]]:
        """Values for a grid search: all choices, or `points` values evenly spread (on the range's own scale)."""
        values: dict[str, list[Any]] = {}
        for name, d in self.searched.items():
            if isinstance(d, CategoricalDistribution):
                values[name] = list(d.choices)
            elif isinstance(d, FloatDistribution | IntDistribution):
                low, high = (math.log(d.low), math.log(d.high)) if d.log else (d.low, d.high)
                steps = [low + (high - low) * i / max(1, points - 1) for i in range(points)]
                exact = [min(max(math.exp(v) if d.log else v, d.low), d.high) for v in steps]
                values[name] = sorted({round(v) for v in exact}) if isinstance(d, IntDistribution) else exact
        return values

    def points(self, points: int) -> int:
        """How many points such a grid has."""
        return math.prod(len(values) for values in self.grid(points).values())


def default_ranges(side: int) -> dict[str, BaseDistribution]:
    """The built-in ranges for images of `side` pixels."""
    return {
        "max_noise": FloatDistribution(0.25, 1.0),
        "max_blur": FloatDistribution(0.5, float(side), log=True),
        "smoothing": FloatDistribution(0.0, 1.0),
        "noise_power": FloatDistribution(0.25, 8.0, log=True),
        "blur_power": FloatDistribution(0.25, 8.0, log=True),
        "beta_b": FloatDistribution(1.0, 12.0, log=True),
        "p_clean": FloatDistribution(0.1, 1.0),
        "noise_share": FloatDistribution(0.0, 1.0),
        "fixed_epsilon": FloatDistribution(0.01, 0.4, log=True),
        "p_undistorted": FloatDistribution(0.0, 0.9),
        "max_epsilon": FloatDistribution(0.1, 0.9),
        "epsilon_power": FloatDistribution(0.25, 8.0, log=True),
        "crop_deviation": FloatDistribution(0.05, 0.5),
        **{f"{name}_power": FloatDistribution(0.5, 8.0, log=True) for name in ("crop", "patch", "trivialaugment")},
        "erasing_power": FloatDistribution(0.25, 4.0, log=True),
        "erasing_probability": FloatDistribution(0.1, 1.0),
        "erasing_area": FloatDistribution(0.1, 0.8),
        "patch_side": FloatDistribution(0.2, 1.0),
        "patch_deviation": FloatDistribution(0.1, 1.0),
        "lr": FloatDistribution(0.003, 0.3, log=True),
        "weight_decay": FloatDistribution(5e-5, 5e-3, log=True),
    }


_LATER = ("fixed_epsilon", "p_undistorted", "max_epsilon", "epsilon_power", *Soft.__dataclass_fields__)
"""What version 0.1 did not search."""


def load(path: str | Path | None, base: Recipe, side: int) -> Space:
    """The space in a YAML file, or the built-in one of version 0.1.

    The file lists the parameters of the sweep, one a line; what it does not list keeps the base recipe's value::

        max_noise: search                 # the built-in range
        lr: {low: 0.01, high: 0.2, log: true}
        beta_b: [1, 2, 4, 9]              # one of these
        blur_power: 0.86                  # fixed

    Raises:
        ConfigError: the file cannot be read, or names an unknown setting, or a value is out of the setting's range.
    """
    ranges = default_ranges(side)
    if path is None:
        return Space({name: d for name, d in ranges.items() if name not in _LATER}, {})
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"Cannot read space file {str(path)!r}: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(f"Expected space file {str(path)!r} to be a mapping of settings to ranges, but got {tree!r}")
    searched: dict[str, BaseDistribution] = {}
    fixed: dict[str, Any] = {}
    for name, value in tree.items():
        try:
            if section_of(str(name)) == "data" or name in ("seed", "epochs", "network"):
                raise ConfigError(
                    f"Setting {name!r} is the same for all trials of a sweep; give it on the command line"
                )
            distribution = _distribution(name, value, base, ranges)
        except MollifyError as error:
            raise ConfigError(f"Space file {str(path)!r}: {error}") from None
        if distribution is None:
            fixed[name] = value
        else:
            searched[name] = distribution
    if not searched:
        raise ConfigError(f"Expected space file {str(path)!r} to search at least one setting, but it fixes all of them")
    return Space(searched, fixed)


def _distribution(name: str, value: Any, base: Recipe, ranges: dict[str, BaseDistribution]) -> BaseDistribution | None:
    """The distribution that one line of a space file means; None when it fixes the setting."""
    if value == "search":
        if name not in ranges:
            raise ConfigError(f"{name!r} has no built-in range; give low and high, or a list")
        return ranges[name]
    if isinstance(value, list):
        if not value:
            raise ConfigError(f"Expected choices for {name!r}, but got an empty list")
        for choice in value:
            base.with_({name: choice})
        return CategoricalDistribution(value)
    if not isinstance(value, dict):
        base.with_({name: value})
        return None
    for key in value:
        if key not in ("low", "high", "log"):
            raise ConfigError(
                f"Unknown key {key!r} in the range of {name!r}{nearest(str(key), ('low', 'high', 'log'))}"
            )
    default = ranges.get(name)
    merged = {k: getattr(default, k) for k in ("low", "high", "log")} if default is not None else {"log": False}
    merged |= value
    if "low" not in merged or "high" not in merged:
        raise ConfigError(f"Expected low and high for {name!r}, but got {value}")
    for end in ("low", "high"):
        base.with_({name: merged[end]})
    if not merged["low"] < merged["high"]:
        raise ConfigError(f"Expected low < high for {name!r}, but got {merged['low']} and {merged['high']}")
    if merged["log"] and merged["low"] <= 0:
        raise ConfigError(f"Expected a positive low for {name!r} on a log scale, but got {merged['low']}")
    kind = IntDistribution if isinstance(base.get(name), int) else FloatDistribution
    return kind(merged["low"], merged["high"], log=bool(merged["log"]))


def varied(base: Recipe, searched: Collection[str]) -> Recipe:
    """The base recipe as the trials of a sweep vary it: nothing that they draw may be overridden.

    Plain training is mollification of no image (see `Recipe.hash`). So a base recipe that trains plainly becomes that
    where `p_clean` is searched; recipes of format 1 said both alike.
    """
    mollified = base.with_(method="mollification", label="coupled")
    return mollified if "p_clean" in searched and mollified.hash == base.hash else base


@dataclass(frozen=True)
class Reference:
    """A trial that is run whatever the search finds.

    Attributes:
        name: no other of its study has it.
        params: values of the searched parameters.
        settings: settings of the recipe that are not searched.
    """

    name: str
    params: dict[str, Any]
    settings: dict[str, Any]


def references(space: Space, base: Recipe, side: int) -> tuple[Reference, Reference]:
    """Of version 0.1: trial 0, the paper's default schedule, and trial 1, plain training without mollification.

    Both use the base recipe's optimisation, which was not searched for them.
    """
    paper = {name: getattr(Mollify(), name) for name in Mollify.__dataclass_fields__}
    paper |= {"method": "mollification", "label": "coupled"}
    plain = {**paper, **PLAIN, "p_clean": 1.0}  # samplers see `p_clean`: it is searched where the method mostly is not
    made = [reference(*one, space, base, side) for one in (("paper", paper), ("plain", plain))]
    return made[0], made[1]


def reference(name: str, settings: dict[str, Any], space: Space, base: Recipe, side: int) -> Reference:
    """A trial with these settings, and those of the base for the rest.

    A value outside a narrowed range, or not among the choices, is a setting of that trial only.
    """
    recipe, params, rest = base.with_(settings), {}, dict(settings)
    for key, distribution in space.searched.items():
        value = recipe.get(key)
        if key == "max_blur" and value is None:
            value = float(side)
        if _contains(distribution, value):
            params[key] = value
            rest.pop(key, None)
        else:
            params[key] = _closest(distribution, value)
            rest[key] = value
    return Reference(name, params, rest)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return distribution._contains(distribution.to_internal_repr(value))


def _closest(distribution: BaseDistribution, value: Any) -> Any:
    """The nearest value inside a range: what the sampler is told of a reference that lies outside of it."""
    if isinstance(distribution, CategoricalDistribution):
        numbers = [c for c in distribution.choices if isinstance(c, int | float) and isinstance(value, int | float)]
        return min(numbers, key=lambda c: abs(c - value)) if numbers else distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return min(max(value, distribution.low), distribution.high)
