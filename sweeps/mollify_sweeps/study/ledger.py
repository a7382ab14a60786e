"""The trials of a sweep in one ledger with numbers of its own, whichever of its studies they stand in.

A search has a study of each method, since a sampler or pruner takes all trials of its study for rivals: Optuna's
Hyperband counts them into its brackets, its grid visits its points among them. Their names are "<sweep>/<method>". A
sweep that searches nothing, and one of version 0.1, has a single study of its own name; trials have its numbers then.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

NUMBER, METHOD = "number", "method"  # attributes of a trial: its number in the sweep, and the method that it tries
FROM = "from"  # an attribute of one whose parameters another sweep has found: which, in words
STOPPED = "stopped"  # an attribute of a running one: true from when its driver was asked to stop until it goes on


def study_name(sweep: str, method: str) -> str:
    """The name of a method's study; "" is the method of a single one."""
    return f"{sweep}/{method}" if method else sweep


class Ledger:
    """All studies of one sweep.

    Args:
        name: of the sweep.
        studies: method -> its study, in the order of the methods; "" -> a single one.
    """

    def __init__(self, name: str, studies: Mapping[str, optuna.Study]) -> None:
        self.name, self.studies = name, dict(studies)
        self._first = next(iter(self.studies.values()))

    @classmethod
    def of(cls, study: Ledger | optuna.Study) -> Ledger:
        """The ledger of a single study."""
        return study if isinstance(study, Ledger) else cls(study.study_name, {"": study})

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What is said of the sweep as a whole: attributes of its first study."""
        return self._first.user_attrs

    def set_user_attr(self, key: str, value: Any) -> None:
        """Says something of the sweep as a whole."""
        self._first.set_user_attr(key, value)

    @property
    def directions(self) -> list[StudyDirection]:
        """Of the objectives."""
        return self._first.directions

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, by number."""
        return self.get_trials()

    @property
    def front(self) -> set[int]:
        """Numbers of the completed trials that no other beats on all objectives."""
        done = self.get_trials((TrialState.COMPLETE,))
        values = np.array([trial.values for trial in done]).reshape(len(done), len(self.directions))
        no_worse = (values[:, None] <= values).all(axis=-1)
        beaten = np.asarray((no_worse & ~no_worse.T).any(axis=0))
        return {trial.number for trial, worse in zip(done, beaten.tolist(), strict=True) if not worse}

    def get_trials(self, states: Sequence[TrialState] | None = None) -> list[FrozenTrial]:
        """The trials in some states, by number; with the attribute `METHOD` where there are several studies.

        They are only to be read: those of a single study are Optuna's own.
        """
        if "" in self.studies:
            trials = self._first.get_trials(deepcopy=False)
        else:
            found = [(trial, method) for method, of in self.studies.items() for trial in of.get_trials(deepcopy=False)]
            # One that a killed driver had no time to number is the newest.
            found.sort(key=lambda pair: pair[0].user_attrs.get(NUMBER, len(found)))
            trials = [_numbered(trial, method, number) for number, (trial, method) in enumerate(found)]
        return [trial for trial in trials if states is None or trial.state in states]


def _numbered(trial: FrozenTrial, method: str, number: int) -> FrozenTrial:
    numbered = copy.copy(trial)
    numbered.number = trial.user_attrs.get(NUMBER, number)
    numbered.user_attrs = {**trial.user_attrs, METHOD: method}
    return numbered
