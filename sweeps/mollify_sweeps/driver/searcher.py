"""Tune's view of the study: a searcher that hands out what the study says, and tells it of processes that died."""

from __future__ import annotations

import json
from typing import Any

import ray
from optuna.exceptions import StorageInternalError
from ray.tune.search import Searcher

from mollify_sweeps.cluster.connection import NAMESPACE
from mollify_sweeps.study.client import StudyClient


class StudySearcher(Searcher):
    """Asks the study's actor for trials. It keeps no state: the study is the truth, and Tune's is never restored."""

    def __init__(self, study: str) -> None:
        super().__init__()
        self._study = study
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """What is to be run; None, after which Tune asks again, while nothing is or the study cannot be written."""
        study: Any = ray.get_actor(self._study, NAMESPACE)
        try:
            assignment: Any = ray.get(study.next.remote())
        except StorageInternalError:
            return None
        if assignment is None:
            return Searcher.FINISHED
        if assignment["number"] is None:
            return None
        self._numbers[trial_id] = assignment["number"]
        # As text: Tune keeps every number of a configuration, and its averages, for every trial.
        return {"number": assignment["number"], "recipe": json.dumps(assignment["recipe"])}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        """Tells the study of a trial whose process has ended and not said how: nothing may wait for what is gone.

        The study knows the end of all others, and may have handed the trial out again already.
        """
        number = self._numbers.pop(trial_id, None)
        if number is None or number in self._numbers.values():
            return
        how = "died more often than it may be restarted" if error else "ended without a word of it"
        StudyClient(self._study).lost(number, f"its process {how}")

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
