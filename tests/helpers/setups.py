"""What the study of a sweep needs to know, for tests that make one without a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from curves import curve
from mollify_core.recipe import Recipe
from mollify_sweeps.study import methods, space
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.ledger import Ledger
from mollify_sweeps.study.methods import Search
from mollify_sweeps.study.setup import Setup
from mollify_sweeps.study.study import SweepStudy


def described(base: Recipe = Recipe(), **changes: Any) -> Description:  # noqa: B008
    """A sweep's description, with whatever else it shall say."""
    known: dict[str, Any] = {
        "name": "s",
        "fingerprint": "f",
        "objectives": ("corrupted_nll",),
        "base_recipe": base.to_dict(),
        "space": {},
        "sampler": "tpe",
        "pruner": "hyperband",
        "seed": 0,
        "dataset": base.data.dataset,
        "network": base.model.network,
    }
    return Description(**{**known, **changes})


def make_setup(
    folder: Path, base: Recipe, trials: int, *, searched: space.Space | None = None, **changes: Any
) -> Setup:
    """A search over a base recipe (the built-in space unless given), whose study is `study.sqlite` in a folder.

    Args:
        folder: of the sweep.
        base: the base recipe.
        trials: in all.
        searched: what is searched.
        changes: of the description.
    """
    searched = searched or space.load(None, base, 32)
    location = Location.of_file(folder / "study.sqlite")
    where = {"storage": str(folder), "study_url": location.url}
    description = described(base, **{"space": searched.describe(), **where, **changes})
    single = Search("", {}, searched, space.references(searched, base, 32))
    return Setup(location, description, base, (single,), trials)


def fair_setup(folder: Path, base: Recipe, trials: int, *names: str, shares: dict[str, float], **changes: Any) -> Setup:
    """A search of several methods; arguments as of `make_setup`."""
    location = Location.of_file(folder / "study.sqlite")
    searches = methods.searches(names, shares, base, methods.built_in(names, base, 32), 32)
    found = {s.name: {"settings": s.settings, "space": list(s.space.searched)} for s in searches}
    ranges = {key: value for s in searches for key, value in s.space.describe().items()}
    where = {"storage": str(folder), "study_url": location.url, "pruner": "halving"}
    description = described(base, **{"space": ranges, "methods": found, **where, **changes})
    return Setup(location, description, base, searches, trials)


def study_of(setup: Setup) -> Ledger:
    """What is there of its studies."""
    study = setup.location.load(setup.name)
    assert study is not None
    return study


def told(setup: Setup) -> list[tuple]:
    """What the study says of every trial, less what measures time."""
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in study_of(setup).trials]


def run_trials(study: SweepStudy, call: Callable = lambda method, *args: method(*args)) -> None:
    """Runs the trials that are left, one after the other; `call` makes every call that changes the study."""
    epochs = study._setup.base.optim.epochs
    while (assignment := call(study.next)) is not None:
        number, recipe = assignment["number"], assignment["recipe"]
        begin = study.begin(number)
        epoch, go_on = len(begin["values"]), begin["go_on"]
        while go_on and epoch < epochs:
            go_on, _ = call(study.report, number, epoch, {"corrupted_nll": curve(recipe, epoch), "seconds": 1.0})
            epoch += 1
        if go_on:
            call(study.complete, number, {"a": 1, "b": 2}, {"corrupted_nll": curve(recipe, epochs - 1)})
        else:
            call(study.prune, number, {"a": 1, "b": 2})
