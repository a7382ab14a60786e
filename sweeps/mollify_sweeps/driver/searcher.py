"""Tune's view of the study: a searcher that hands out what the study says, and tells it of processes that died."""

from __future__ import annotations

import json
from typing import Any

import ray
from optuna.exceptions import StorageInternalError
from ray.tune.search import Searcher

from mollify_sweeps.cluster.connection import NAMESPACE


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
        """Tells the study of a trial whose process died for good."""
        if error and trial_id in self._numbers:
            study = ray.get_actor(self._study, NAMESPACE)
            ray.get(study.lost.remote(self._numbers[trial_id], "its process died more often than it may be restarted"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
