"""What can be searched: names, ranges and scales; and the two reference trials of every sweep.

A searched parameter is a setting of the recipe, addressed by its own name. At their defaults the settings equal the
paper's (Heinonen et al., AISTATS 2025), so the paper's schedule is one point of the space, and so is plain training.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from mollify_core import documents
from mollify_core.effect import without_effect
from mollify_core.errors import ConfigError, DataError, MollifyError, nearest
from mollify_core.foreign import clean, shown
from mollify_core.presets import PLAIN
from mollify_core.recipe import Mollify, Recipe, Soft, section_of, typed


@dataclass(frozen=True)
class Space:
    """The search space of a sweep.

    Attributes:
        searched: parameter -> Optuna distribution.
        fixed: settings that the space file pins; see `applied`.
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
_MOST_CHOICES = 100  # of one setting


def load(path: str | Path | None, base: Recipe, side: int) -> Space:
    """The space in a YAML file, or the built-in one of version 0.1.

    The file lists the parameters of the sweep, one a line; what it does not list keeps the base recipe's value::

        max_noise: search                 # the built-in range
        lr: {low: 0.01, high: 0.2, log: true}
        beta_b: [1, 2, 4, 9]              # one of these
        blur_power: 0.86                  # fixed

    Raises:
        ConfigError: the file cannot be read, or names an unknown setting; or what it allows cannot be trained, see
            `check`.
    """
    ranges = default_ranges(side)
    if path is None:
        return Space({name: d for name, d in ranges.items() if name not in _LATER}, {})
    try:
        tree, lines = documents.located(path, "space file ")
    except DataError as error:
        raise ConfigError(str(error)) from None
    named = f"space file {shown(str(path), 200)}"
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(f"Expected {named} to be a mapping of settings to ranges, but got {shown(tree)}")
    searched: dict[str, BaseDistribution] = {}
    fixed: dict[str, Any] = {}
    for name, value in tree.items():
        try:
            if section_of(name) == "data" or name in ("seed", "epochs", "network"):
                raise ConfigError(
                    f"Setting {name!r} is the same for all trials of a sweep; give it on the command line"
                )
            distribution = _distribution(name, value, ranges)
            if isinstance(value, list):
                _once(name, value, lines)
        except MollifyError as error:
            raise ConfigError(f"S{named[1:]}, line {lines[name,]}: {error}") from None
        if distribution is None:
            fixed[name] = value
        else:
            searched[name] = distribution
    if not searched:
        raise ConfigError(f"Expected {named} to search at least one setting, but it fixes all of them")
    space = Space(searched, fixed)
    try:
        check(space, applied(space, base))
    except MollifyError as error:
        raise ConfigError(f"S{named[1:]}: {error}") from None
    return space


def _distribution(name: str, value: Any, ranges: dict[str, BaseDistribution]) -> BaseDistribution | None:
    """The distribution that one line of a space file means; None when it fixes the setting."""
    if value == "search":
        if name not in ranges:
            raise ConfigError(f"{name!r} has no built-in range; give low and high, or a list")
        return ranges[name]
    if isinstance(value, list):
        if not value:
            raise ConfigError(f"Expected choices for {name!r}, but got an empty list")
        if len(value) > _MOST_CHOICES:
            raise ConfigError(f"Expected at most {_MOST_CHOICES} choices for {name!r}, but got {len(value)}")
        for choice in value:
            typed(name, choice)
        return CategoricalDistribution(value)
    if not isinstance(value, dict):
        typed(name, value)
        return None
    for key in value:
        if key not in ("low", "high", "log"):
            raise ConfigError(
                f"Unknown key {shown(key)} in the range of {name!r}{nearest(str(key), ('low', 'high', 'log'))}"
            )
    default = ranges.get(name)
    merged = {k: getattr(default, k) for k in ("low", "high", "log")} if default is not None else {"log": False}
    merged |= value
    if "low" not in merged or "high" not in merged:
        raise ConfigError(f"Expected low and high for {name!r}, but got {shown(value)}")
    low, high = (typed(name, merged[end]) for end in ("low", "high"))
    if not _number(low) or not _number(high):
        raise ConfigError(f"Expected low and high for {name!r} to be numbers, but got {shown(low)} and {shown(high)}")
    if not low < high:
        raise ConfigError(f"Expected low < high for {name!r}, but got {low:g} and {high:g}")
    if not isinstance(merged["log"], bool):
        raise ConfigError(f"Expected log for {name!r} to be true or false, but got {shown(merged['log'])}")
    if merged["log"] and low <= 0:
        raise ConfigError(f"Expected a positive low for {name!r} on a log scale, but got {low:g}")
    return (IntDistribution if isinstance(low, int) else FloatDistribution)(low, high, log=merged["log"])


def _once(name: str, choices: list[Any], lines: dict[documents.Place, int]) -> None:
    """Raises a ConfigError where a choice stands twice, on which lines: it would be drawn twice as often."""
    known: list[Any] = []
    for i, choice in enumerate(choices):
        value = typed(name, choice)
        if value in known:
            where = sorted({lines[name, known.index(value)], lines[name, i]})
            on = f"lines {where[0]} and {where[1]}" if len(where) > 1 else f"line {where[0]}"
            raise ConfigError(f"Expected every choice for {name!r} once, but {shown(choice)} stands twice, on {on}")
        known.append(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---- what a space allows


def applied(space: Space, base: Recipe) -> Recipe:
    """The base recipe with what a space fixes.

    The base's own value of a searched setting may contradict what is fixed, though no trial trains with it, as a low
    `lr` does a fixed `final_lr`. Then all that is searched takes the value of its range that is nearest.

    Raises:
        ConfigError: a value is out of range, or what is fixed contradicts itself.
    """
    try:
        return base.with_(space.fixed)
    except ConfigError:
        return base.with_({**space.fixed, **_inside(space, base)})


def check(
    space: Space, base: Recipe, fits: Callable[[Recipe], None] = lambda recipe: None, who: str = "search"
) -> None:
    """Checks that whatever a search may draw can be trained, as far as the ends of its ranges show that.

    Args:
        space: what is searched.
        base: the recipe that it varies, with all that is fixed.
        fits: raises a ConfigError where a recipe does not go with data or workers.
        who: what searches, in words.

    Raises:
        ConfigError: some values cannot be trained, or do not go together; which, and why not.
    """
    for drawn, values in _extremes(space, base):
        try:
            fits(base.with_(values))
        except ConfigError as error:
            told = " with ".join(f"{name}={clean(value, 60)}" for name, value in drawn.items())
            raise ConfigError(f"{error}; the {who} may draw {told}" if drawn else str(error)) from None


def idle(space: Space, base: Recipe) -> list[str]:
    """What is searched without any effect on what is trained, whatever is drawn for the rest.

    Args:
        space, base: as of `check`.
    """
    left = set(space.searched)
    for _, values in _extremes(space, base):
        try:
            left &= without_effect(base.with_(values))
        except ConfigError:  # `check` tells of it
            continue
        if not left:
            break
    return [name for name in space.searched if name in left]


def _extremes(space: Space, base: Recipe) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(the ends of up to three ranges, values of all that is searched): the others are as near to the base as they can.

    A rule of recipes binds three settings at most, of one section where it is three, so these break all that can be.
    """
    rest = _inside(space, base)
    yield {}, rest
    for count in (1, 2, 3):
        for names in itertools.combinations(space.searched, count):
            if count == 3 and len({section_of(name) for name in names}) > 1:
                continue
            for values in itertools.product(*(_ends(space.searched[name], count) for name in names)):
                drawn = dict(zip(names, values, strict=True))
                yield drawn, rest | drawn


def _inside(space: Space, base: Recipe) -> dict[str, Any]:
    """The value of each searched setting that is nearest to the base's."""
    found = {}
    for name, distribution in space.searched.items():
        try:
            value = base.get(name)
        except ConfigError:  # `arm`, which cannot say what the base is
            value = None
        found[name] = value if _contains(distribution, value) else _closest(distribution, value)
    return found


def _ends(distribution: BaseDistribution, together: int) -> list[Any]:
    """What is tried of a distribution with as many others: a range's ends, of whole numbers the second too; choices."""
    if isinstance(distribution, CategoricalDistribution):
        numbers: list[Any] = [choice for choice in distribution.choices if _number(choice)]
        many = together > 1 and len(numbers) >= len(distribution.choices) - 1 and len(numbers) > 8  # one may be null
        rest = [choice for choice in distribution.choices if not _number(choice)]
        return [min(numbers), max(numbers), *rest] if many else list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    ends = [distribution.low, distribution.high]
    return sorted({*ends, distribution.low + 1}) if isinstance(distribution, IntDistribution) else ends


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


def nearest_inside(space: Space, recipe: Recipe, names: Collection[str]) -> dict[str, Any]:
    """The values that are nearest to a recipe's of those searched settings that are named."""
    return {name: value for name, value in _inside(space, recipe).items() if name in names}


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return any(
            choice == value and isinstance(choice, bool) == isinstance(value, bool) for choice in distribution.choices
        )
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    # Optuna's own test takes the logarithm of a value before it looks whether that is inside: of 0 there is none.
    return _number(value) and distribution.low <= value <= distribution.high


def _closest(distribution: BaseDistribution, value: Any) -> Any:
    """The nearest value inside a range: what the sampler is told of a reference that lies outside of it."""
    if isinstance(distribution, CategoricalDistribution):
        numbers = [choice for choice in distribution.choices if _number(choice) and _number(value)]
        return min(numbers, key=lambda choice: abs(choice - value)) if numbers else distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if value is None:  # no bound at all, as of `clip_norm`
        return distribution.high
    return min(max(value, distribution.low), distribution.high)
