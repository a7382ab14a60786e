"""Which recipes a confirmation trains: what tells a method from the other settings that two searches found.

The best recipe of plain training has the other settings a, the best one with a method b. Each is trained with the
settings of either, so that four cells tell the method's part from the other settings' part. At b three more cells tell
the parts of the method: degraded images, soft labels, both with the label knowing of the image or not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from mollify_core.recipe import Recipe
from mollify_sweeps.plan.options import Confirm
from mollify_sweeps.plan.runs import SEED, Run
from mollify_sweeps.study.ledger import Ledger
from mollify_sweeps.study.methods import METHODS, OWN, PLAIN
from mollify_sweeps.study.results import Results

UNCOUPLED = ", uncoupled"  # behind a recipe's name: the same with labels that know nothing of their images


@dataclass(frozen=True)
class Cells:
    """The runs that tell what one method does.

    Attributes:
        words: what the method is called in a sentence.
        plain, best: numbers of the two trials that are crossed.
        crossed: names of the runs off a, on a, off b, on b; off and on alone where both have the same other settings.
        parts: names of the runs neither, image, label, both uncoupled, both coupled, at b; empty where not asked for.
    """

    words: str
    plain: int
    best: int
    crossed: tuple[str, ...]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a confirmation trains.

    Attributes:
        runs: the recipes, each to be trained with several seeds.
        cells: of each method that has a completed trial.
    """

    runs: tuple[Run, ...]
    cells: tuple[Cells, ...]


def plan(results: Results, base: Recipe, confirm: Confirm, mean_strength: Callable[[Recipe], float]) -> Plan:
    """What a confirmation of a search trains.

    Args:
        results: of the search.
        base: the recipe that its trials vary.
        confirm: what is asked for.
        mean_strength: the mean strength of a recipe's coupled labels, for the cell of clean images with soft labels.
    """
    runs: dict[str, Recipe] = {}
    cells = []
    shared = [name for name in results.sweep.space if name not in OWN]
    for words, plain, best in _pairs(results):
        a, b = recipe_of(plain), recipe_of(best)
        off, on = _name(plain), _name(best)
        without = f"{on}, without the method"
        runs[off] = a
        if all(a.get(name) == b.get(name) for name in shared):
            crossed: tuple[str, ...] = (off, on)
            neither = off
        else:
            exchanged = f"{off}, with the method of {best.number}"
            runs[exchanged] = _exchange(b, a, shared)
            runs[without] = _exchange(a, b, shared)
            crossed, neither = (off, exchanged, without, on), without
        runs[on] = b
        parts: tuple[str, ...] = ()
        if confirm.parts and b.label == "coupled" and b.method != "none":
            soft = {"label": "fixed", "fixed_epsilon": mean_strength(b), "spread": "all"}
            made = {
                f"{on}, images only": b.with_(label="hard"),
                f"{on}, labels only": runs[neither].with_(soft),
                f"{on}{UNCOUPLED}": b.with_(label="uncoupled"),
            }
            runs |= made
            parts = (neither, *made, on)
        cells.append(Cells(words, plain.number, best.number, crossed, parts))
    for trial in _best(results, confirm.best or 0):
        runs.setdefault(_name(trial), recipe_of(trial))
    return Plan(tuple(Run(name, _settings(base, recipe)) for name, recipe in runs.items()), tuple(cells))


def kept(results: Results, confirming: Ledger) -> Plan:
    """What a kept confirmation of a search trains, or has trained.

    Args:
        results: of the search.
        confirming: the confirming sweep's.
    """
    names = [trial.user_attrs["reference"].rpartition(SEED)[0] for trial in confirming.get_trials()]
    parts = any(name.endswith(UNCOUPLED) for name in names)
    base = Recipe.from_dict(results.sweep.base_recipe)
    found = plan(results, base, Confirm(0, parts=parts), lambda recipe: 0.0)  # only the names are of use
    runs = {run.name: run for run in (*found.runs, *(Run(name, {}) for name in names))}
    return Plan(tuple(runs.values()), found.cells)


def most(confirm: Confirm, methods: Sequence[str]) -> int:
    """How many recipes a confirmation of these methods trains at most."""
    others = max(1, len(methods) - 1)
    return 1 + others * (6 if confirm.parts else 3) + (confirm.best or 0) * max(1, len(methods))


def recipe_of(trial: FrozenTrial) -> Recipe:
    """What a trial trained."""
    return Recipe.from_dict(trial.user_attrs["recipe"])


def _pairs(results: Results) -> list[tuple[str, FrozenTrial, FrozenTrial]]:
    """(method in words, trial of plain training, best trial of the method) of each method that has both."""
    plain = results.compared.get("plain")
    if plain is None:
        return []
    if results.fair:
        best = {name: trials[0] for name in results.sweep.methods if (trials := results.of_method(name))}
        return [(METHODS[name].words, plain, trial) for name, trial in best.items() if name != PLAIN]
    first = results.compared["best"]
    return [] if first.number == plain.number else [("the method", plain, first)]


def _best(results: Results, count: int) -> list[FrozenTrial]:
    """The best trials of each method."""
    if not results.fair:
        return results.completed[:count]
    return [trial for name in results.sweep.methods for trial in results.of_method(name)[:count]]


def _name(trial: FrozenTrial) -> str:
    return f"trial {trial.number}"


def _exchange(recipe: Recipe, other: Recipe, names: Sequence[str]) -> Recipe:
    """A recipe with some settings of another one."""
    return recipe.with_({name: other.get(name) for name in names})


def _settings(base: Recipe, recipe: Recipe) -> dict[str, Any]:
    """What a recipe sets otherwise than the base."""
    return {name: recipe.get(name) for name in {**base.changed(), **recipe.changed()} if name != "seed"}
