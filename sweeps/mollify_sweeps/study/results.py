"""What a sweep's study says, read once: its trials, the ones that are compared, what mattered."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mollify_sweeps.study.description import description_of

MIN_FOR_IMPORTANCE = 10  # completed trials; with fewer, the ranking of the parameters is noise
REFERENCES = {"paper": "the paper's default schedule", "plain": "plain training"}


class Results:
    """What a sweep's study says, read once.

    Attributes:
        sweep: what the study says of its sweep.
        metric: name of the first objective; the best trial is the best on this one.
        trials: all trials, by number.
        completed: the completed ones, the best on the first objective first.
        front: numbers of the trials that no other beats on all objectives, when there are several.
        compared: "best", "paper" and "plain" -> completed trial, as far as they exist.

    Raises:
        ConfigError: the study is not a sweep's.
        DataError: what it says of its sweep is damaged.
    """

    def __init__(self, study: optuna.Study) -> None:
        self.sweep = description_of(study)
        self.metric: str = self.sweep.objectives[0]
        self.trials = study.get_trials(deepcopy=False)
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        self.completed = sorted(done, key=lambda trial: (trial.values[0], trial.number))
        self.front = {trial.number for trial in study.best_trials} if len(self.sweep.objectives) > 1 else set()
        found = {"best": self.completed[0]} if done else {}
        found |= {t.user_attrs["reference"]: t for t in done if "reference" in t.user_attrs}
        self.compared = {name: found[name] for name in ("best", *REFERENCES) if name in found}

    def searched(self, trial: FrozenTrial) -> dict[str, Any]:
        """The searched parameters as the trial trained with them.

        A reference may lie outside of the searched ranges; its recipe then differs from the parameters in the study.
        """
        known = {**trial.params, **settings_of(trial)}
        return {name: known[name] for name in self.sweep.space if name in known}

    @cached_property
    def importances(self) -> dict[str, float]:
        """Searched parameter -> share of the variance it explains, the largest first; empty when that cannot be told.

        fANOVA (Hutter et al. 2014) on the ranks of the first objective, so that a few diverged trials do not decide.
        """
        trials = [trial for trial in self.completed if self.searched(trial) == trial.params]
        if len(trials) < MIN_FOR_IMPORTANCE or trials[0].values[0] == trials[-1].values[0]:
            return {}
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            ranked = optuna.create_study(directions=["minimize"] * len(trials[0].values))
            ranked.add_trials(trials)  # numbered anew, by rank
            return optuna.importance.get_param_importances(
                ranked,
                evaluator=optuna.importance.FanovaImportanceEvaluator(n_trees=32, seed=0),
                params=list(self.sweep.space),
                target=lambda trial: float(trial.number),
            )
        except (ValueError, RuntimeError):  # no parameter varies, or the ranges changed on the way
            return {}
        finally:
            optuna.logging.set_verbosity(verbosity)


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """The settings of a trial's recipe, addressed by their own names as in `Recipe.with_`."""
    flat: dict[str, Any] = {}
    for key, value in trial.user_attrs.get("recipe", {}).items():
        flat |= value if isinstance(value, dict) else {key: value}
    flat.pop("format", None)
    return flat
