"""What another sweep has found, tried first: its best recipes, as far as they lie in what is searched now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optuna.trial import FrozenTrial

from mollify_core.errors import ConfigError
from mollify_core.foreign import shown
from mollify_core.recipe import Recipe
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study.ledger import METHOD
from mollify_sweeps.study.methods import PLAIN, Search, of_recipe
from mollify_sweeps.study.reading import kept
from mollify_sweeps.study.results import Results
from mollify_sweeps.study.space import nearest_inside

MOST = 3
"""Recipes of each method: as many as a search of a dozen trials can spare."""


def first_tried(
    searches: Sequence[Search], where: str, metric: str, study_url: str | None = None
) -> tuple[Search, ...]:
    """The searches, each with the best recipes that its method had in another sweep, to be tried after its first trial.

    A method that the other sweep has not searched takes what all methods share, as the learning rate, from the best
    recipes of plain training there: else what that sweep knows would help some methods and not others.

    Args:
        searches: of the methods.
        where: the other sweep's folder, or s3://bucket/prefix/name.
        metric: the first objective of this sweep, by which the other's recipes are compared where it measured that.
        study_url: of the other's study, when that is a database with a password.

    Raises:
        ConfigError: no sweep is there, or none of its trials has completed.
        MollifyError: it cannot be read.
    """
    store = Store(where)
    with kept(store, study_url) as (description, reading):
        if description is None or reading.study is None:
            raise ConfigError(f"Expected --from to be the folder of a sweep, but found none in {shown(where, 200)}")
        completed = Results(reading.study).completed
        name = description.name
    if not completed:
        raise ConfigError(f"Expected --from to be a sweep with a completed trial, but {shown(where, 200)} has none")
    best: dict[str, list[tuple[float, FrozenTrial, Recipe]]] = {}
    for trial in completed:
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        method = trial.user_attrs.get(METHOD) or (PLAIN if recipe.mollify.p_clean == 1 else of_recipe(recipe))
        value = trial.user_attrs.get("metrics", {}).get(metric, trial.values[0])
        best.setdefault(method, []).append((value, trial, recipe))
    for found in best.values():
        found.sort(key=lambda one: (one[0], one[1].number))
    made = []
    for search in searches:
        known = [reference.params for reference in search.references]
        tried: list[tuple[str, dict]] = []
        for _, trial, recipe in best.get(search.name, best.get(PLAIN, [])):
            own = search.space.searched if search.name in best else _shared(searches, search)
            params = search.references[0].params | nearest_inside(search.space, recipe, own)
            if params not in known and len(tried) < MOST:
                known.append(params)
                tried.append((f"{name}, trial {trial.number}", params))
        made.append(replace(search, tried=tuple(tried)))
    return tuple(made)


def _shared(searches: Sequence[Search], search: Search) -> list[str]:
    """The settings of a search that all searches have."""
    return [name for name in search.space.searched if all(name in other.space.searched for other in searches)]
