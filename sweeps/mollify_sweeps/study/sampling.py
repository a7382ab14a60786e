"""A trial's parameters: drawn from (seed, trial number) and the study alone, so that a restart changes nothing."""

from __future__ import annotations

import itertools
from typing import Any

import optuna
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mollify_core.errors import ConfigError, nearest
from mollify_core.rng import derive
from mollify_sweeps.study.ledger import FROM, NUMBER, Ledger
from mollify_sweeps.study.methods import Search
from mollify_sweeps.study.setup import Setup


def enqueue(ledger: Ledger, setup: Setup) -> None:
    """Puts the first trials of each method into its study; the first ones of all get the first numbers."""
    numbers = itertools.count()
    for search in setup.searches:
        study = ledger.studies[search.name]
        known = {trial.user_attrs.get("reference") for trial in study.get_trials(deepcopy=False)}
        for reference in search.references:
            attrs: dict[str, Any] = {"reference": reference.name, "settings": reference.settings}
            if search.name:
                attrs[NUMBER] = next(numbers)
            if reference.name not in known:
                study.enqueue_trial(reference.params, user_attrs=attrs)
    numbers = itertools.count(len(ledger.get_trials()))
    for turn in range(max(len(search.tried) for search in setup.searches)):
        for search in setup.searches:
            study = ledger.studies[search.name]
            known = {trial.user_attrs.get(FROM) for trial in study.get_trials(deepcopy=False)}
            for source, params in search.tried[turn : turn + 1]:
                if source not in known:
                    study.enqueue_trial(params, user_attrs={FROM: source, NUMBER: next(numbers)})


def ask(study: optuna.Study, setup: Setup, search: Search) -> optuna.Trial:
    """The next trial of a method's study, with its parameters; those that wait come first."""
    trials = study.get_trials(deepcopy=False)
    number = min((t.number for t in trials if t.state == TrialState.WAITING), default=len(trials))
    study.sampler = _sampler(setup, search, number)
    return study.ask(fixed_distributions=search.space.searched)


def reopen(study: optuna.Study, trial_id: int, setup: Setup, search: Search) -> optuna.Trial:
    """The trial object of a trial that is RUNNING already, with the parameters that it has, or was about to get."""
    frozen = study._storage.get_trial(trial_id)
    if "recipe" not in frozen.user_attrs:
        # A sampler's draws depend on how many came before: all are drawn again. Those that are stored stay.
        study.sampler = _sampler(setup, search, frozen.number)
        trial = optuna.Trial(study, trial_id)
        trial._cached_frozen_trial.params.clear()
        trial._cached_frozen_trial.distributions.clear()
        for name, distribution in search.space.searched.items():
            trial._suggest(name, distribution)
    # Building a Trial makes the sampler think; one that has all its parameters must not disturb a sampler's state.
    study.sampler = optuna.samplers.RandomSampler()
    return optuna.Trial(study, trial_id)


def _sampler(setup: Setup, search: Search, number: int) -> optuna.samplers.BaseSampler:
    name = setup.description.sampler
    # The points of a grid are numbered by its sampler's seed: another one a trial would visit some twice, others never.
    of_trial: tuple[int | str, ...] = () if name == "grid" else (number,)
    key = (search.name, *of_trial) if search.name else of_trial
    seed = derive(setup.description.seed, "sampler", *key) % 2**32
    searched = search.space.searched
    return make_sampler(name, seed, searched, search.space.grid(setup.grid_points), 5 if search.name else 6)


SAMPLERS = ("tpe", "random", "gp", "cmaes", "nsga2", "grid")


class _GridSampler(optuna.samplers.GridSampler):
    """Optuna's, without its call to `study.stop` at the end of the grid, which only `optimize` understands."""

    def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
        """The driver counts the points of the grid itself."""


class _TPESampler(optuna.samplers.TPESampler):
    """Optuna's, which would look through all trials for what they have in common: ours have all that is searched."""

    def __init__(self, searched: dict[str, BaseDistribution], **options: Any) -> None:
        super().__init__(**options)
        self._searched = {name: searched[name] for name in sorted(searched) if not searched[name].single()}

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return self._searched


class _CmaEsSampler(optuna.samplers.CmaEsSampler):
    """Optuna's, which keeps its optimiser pickled in the study: here nothing of a study is ever unpickled.

    The optimiser is a function of what it was told, generation by generation, so it is told all of that again. Its own
    draws do not enter it: Optuna seeds them anew for every trial.
    """

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        self._asked = search_space, study.direction
        return super().sample_relative(study, trial, search_space)

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        searched, direction = self._asked
        # As Optuna encodes parameters for an optimiser of continuous spaces.
        encoding = _SearchSpaceTransform(searched, transform_step=True, transform_0_1=True)
        before = self._cma_rng.rng.get_state()
        optimiser = self._init_optimizer(encoding, direction)
        if any(t.system_attrs.get(self._attr_key_generation, 0) for t in completed_trials):
            self._cma_rng.rng.set_state(before)  # Optuna, which keeps one, would not have made another
        sign = 1 if direction == StudyDirection.MINIMIZE else -1
        while True:
            told = self._get_solution_trials(completed_trials, optimiser.generation)[: optimiser.population_size]
            if len(told) < optimiser.population_size:
                return optimiser  # Optuna has nothing left to tell it, and so nothing to keep
            optimiser.tell([(encoding.transform(t.params), sign * (t.value or 0.0)) for t in told])


def make_sampler(
    name: str, seed: int, searched: dict[str, BaseDistribution], grid: dict[str, list[Any]], startup: int
) -> optuna.samplers.BaseSampler:
    """A fresh Optuna sampler. All keep their state in the study, so a new one, seeded by trial, goes on exactly.

    Args:
        name: one of `SAMPLERS`.
        seed: of its draws.
        searched: the distribution of every setting; all trials of a study have the same.
        grid: the values of every setting in a grid search.
        startup: trials before a sampler that learns begins to propose. Few: a method has a dozen or two in all.
    """
    s = optuna.samplers
    match name:
        case "tpe":
            return _TPESampler(searched, seed=seed, n_startup_trials=startup, multivariate=True, constant_liar=True)
        case "random":
            return s.RandomSampler(seed=seed)
        case "gp":
            return s.GPSampler(seed=seed, n_startup_trials=startup, deterministic_objective=False)
        case "cmaes":
            return _CmaEsSampler(seed=seed, n_startup_trials=startup)
        case "nsga2":
            return s.NSGAIISampler(seed=seed, population_size=16)
        case "grid":
            return _GridSampler(grid, seed=seed)
    raise ConfigError(f"Unknown sampler {name!r}{nearest(name, SAMPLERS)}")
