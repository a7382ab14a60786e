"""A trial's parameters: drawn from (seed, trial number) and the study alone, so that a restart changes nothing."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from mollify_core.rng import derive
from sweeps.space import make_sampler
from sweeps.study_setup import Setup


def ask(study: optuna.Study, trials: Sequence[FrozenTrial], setup: Setup) -> optuna.Trial:
    """The next trial after `trials`, all that the study has, with its parameters; those that wait come first."""
    number = min((t.number for t in trials if t.state == TrialState.WAITING), default=len(trials))
    study.sampler = _sampler(setup, number)
    return study.ask(fixed_distributions=setup.space.searched)


def reopen(study: optuna.Study, frozen: FrozenTrial, setup: Setup) -> optuna.Trial:
    """The trial object of a trial that is RUNNING already, with the parameters that it has, or was about to get."""
    if "recipe" not in frozen.user_attrs:
        # A sampler's draws depend on how many came before: all are drawn again. Those that are stored stay.
        study.sampler = _sampler(setup, frozen.number)
        trial = optuna.Trial(study, frozen._trial_id)
        trial._cached_frozen_trial.params.clear()
        trial._cached_frozen_trial.distributions.clear()
        for name, distribution in setup.space.searched.items():
            trial._suggest(name, distribution)
    # Building a Trial makes the sampler think; one that has all its parameters must not disturb a sampler's state.
    study.sampler = optuna.samplers.RandomSampler()
    return optuna.Trial(study, frozen._trial_id)


def _sampler(setup: Setup, number: int) -> optuna.samplers.BaseSampler:
    name = setup.sweep["sampler"]
    # The points of a grid are numbered by its sampler's seed: another one a trial would visit some twice, others never.
    of_trial = () if name == "grid" else (number,)
    seed = derive(setup.sweep["seed"], "sampler", *of_trial) % 2**32
    return make_sampler(name, seed, setup.space.searched, setup.space.grid(setup.grid_points))
