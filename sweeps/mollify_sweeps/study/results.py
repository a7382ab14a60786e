"""What a sweep's study says, read once: its trials, the ones that are compared, what mattered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mollify_core.effect import without_effect
from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_sweeps.study.database import answers
from mollify_sweeps.study.description import description_of
from mollify_sweeps.study.ledger import METHOD, Ledger
from mollify_sweeps.study.methods import DEFAULT, METHODS, PLAIN

MIN_FOR_IMPORTANCE = 10  # completed trials; with fewer, the ranking of the parameters is noise
REFERENCES = {"paper": "the paper's default schedule", "plain": "plain training"}


@dataclass(frozen=True)
class Effort:
    """What one method was given.

    Attributes:
        counts: state of its trials, in small letters -> how many.
        epochs: trained in all of them.
    """

    counts: dict[str, int]
    epochs: int


class Results:
    """What a sweep's studies say, read once.

    Attributes:
        sweep: what the study says of its sweep.
        metric: name of the first objective; trials are the best on this one.
        trials: all trials, by number.
        completed: the completed ones, the best on the first objective first.
        front: numbers of the trials that no other beats on all objectives, when there are several.
        fair: whether all methods were searched alike; of a sweep of version 0.1 plain training was not.
        best: the best trial of all; None when none has completed.
        compared: name -> completed trial, as far as they exist. Where methods are searched: "best", the best that is no
            plain training; "plain", the best of plain training; "paper", the first trial of that best one's method;
            then the best of each further method by its name. In a sweep of version 0.1: "best" of all, "paper" and
            "plain", the last two with settings that were not searched.
        names: the same names -> what they stand for, in words.

    Raises:
        ConfigError: the study is not a sweep's.
        DataError: what it says of its sweep is damaged.
    """

    def __init__(self, study: Ledger | optuna.Study) -> None:
        ledger = Ledger.of(study)
        self.sweep = description_of(ledger)
        self.metric: str = self.sweep.objectives[0]
        self.trials = ledger.get_trials()
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        self.completed = sorted(done, key=lambda trial: (trial.values[0], trial.number))
        self.front = ledger.front if len(self.sweep.objectives) > 1 else set()
        self.fair = bool(self.sweep.methods)
        self.best = self.completed[0] if done else None
        self.compared, self.names = self._of_methods() if self.fair else self._of_references()

    def _of_references(self) -> tuple[dict[str, FrozenTrial], dict[str, str]]:
        found = {"best": self.best} if self.best else {}
        found |= {t.user_attrs["reference"]: t for t in self.completed if "reference" in t.user_attrs}
        names = {"best": "the best trial", **REFERENCES}
        return {name: found[name] for name in names if name in found}, names

    def _of_methods(self) -> tuple[dict[str, FrozenTrial], dict[str, str]]:
        best = {name: trials[0] for name in self.sweep.methods if (trials := self.of_method(name))}
        others = sorted((name for name in best if name != PLAIN), key=lambda name: best[name].values[0])
        found: dict[str, FrozenTrial] = {}
        names: dict[str, str] = {}
        if others:
            first = others[0]
            found["best"], names["best"] = best[first], f"the best recipe with {METHODS[first].words}"
        if PLAIN in best:
            found["plain"], names["plain"] = best[PLAIN], "the best recipe of plain training"
        if others:
            anchor = [t for t in self.of_method(first) if t.user_attrs.get("reference") == f"{first}{DEFAULT}"]
            found |= {"paper": anchor[0]} if anchor else {}
            names["paper"] = METHODS[first].default
        for name in others[1:]:
            found[name], names[name] = best[name], f"the best recipe with {METHODS[name].words}"
        return found, names

    @cached_property
    def leaders(self) -> dict[str, FrozenTrial]:
        """Objective -> the completed trial that is the best on it; empty where there is only one objective."""
        found = {}
        for i, metric in enumerate(self.sweep.objectives if self.front else ()):
            by_value = {
                (trial.values[i], trial.number): trial for trial in self.completed if trial.number in self.front
            }
            found[metric] = by_value[min(by_value)]
        return found

    def of_method(self, name: str) -> list[FrozenTrial]:
        """The completed trials of a method, the best first."""
        return [trial for trial in self.completed if trial.user_attrs.get(METHOD) == name]

    @property
    def anchors(self) -> tuple[FrozenTrial, ...]:
        """The first trial of plain training and that of the best method, of which nothing was chosen and which differ
        in the method alone; none where one of them has not completed.
        """
        plain = self.compared.get("plain")
        if self.fair:
            first = (t for t in self.of_method(PLAIN) if t.user_attrs.get("reference") == f"{PLAIN}{DEFAULT}")
            plain = next(first, None)
        paper = self.compared.get("paper")
        return () if plain is None or paper is None else (plain, paper)

    @cached_property
    def efforts(self) -> dict[str, Effort]:
        """Method -> what it was given."""
        made = {}
        for name in self.sweep.methods:
            trials = [trial for trial in self.trials if trial.user_attrs.get(METHOD) == name]
            counts = Counter(trial.state.name.lower() for trial in trials)
            made[name] = Effort(dict(counts), sum(len(answers(trial)) for trial in trials))
        return made

    def searched(self, trial: FrozenTrial) -> dict[str, Any]:
        """The searched parameters as the trial trained with them.

        A reference may lie outside of the searched ranges; its recipe then differs from the parameters in the study.
        """
        known = {**trial.params, **settings_of(trial)}
        names = self.sweep.methods[trial.user_attrs[METHOD]]["space"] if self.fair else self.sweep.space
        return {name: known[name] for name in names if name in known}

    def effective(self, trial: FrozenTrial) -> dict[str, Any]:
        """The same without those that have no effect on it, as a noise level has none on plain training."""
        try:
            idle = without_effect(Recipe.from_dict(trial.user_attrs.get("recipe")))
        except ConfigError:  # it has none, or a damaged one, which `check` tells
            idle = frozenset()
        return {name: value for name, value in self.searched(trial).items() if name not in idle}

    @cached_property
    def importances(self) -> dict[str, float]:
        """Searched parameter -> share of the variance it explains, the largest first; empty when that cannot be told.

        fANOVA (Hutter et al. 2014) on the ranks of the first objective, so that a few diverged trials do not decide. Of
        several methods it is that of the best one which is not plain training.
        """
        trials = [trial for trial in self.completed if self.searched(trial) == trial.params]
        if self.fair and "best" in self.compared:
            method = self.compared["best"].user_attrs[METHOD]
            trials = [trial for trial in trials if trial.user_attrs[METHOD] == method]
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
                params=list(trials[0].params),
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
