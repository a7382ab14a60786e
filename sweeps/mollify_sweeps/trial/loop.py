"""One trial in one process of Ray Train, whoever started it."""

from __future__ import annotations

from typing import Any

import ray.train
import torch

from mollify_core.recipe import Recipe
from mollify_core.worker import Worker
from mollify_sweeps.storage.store import Store, trial_folder
from mollify_sweeps.trial import feed, preemption
from mollify_sweeps.trial.trial import Trial, TrialSetup


def device(setup: TrialSetup) -> torch.device:
    """Where this process trains: Ray has chosen its GPU, if it is to have one."""
    return torch.device("cuda", torch.cuda.current_device()) if setup.gpus else torch.device("cpu")


def train(assignment: dict[str, Any], setup: TrialSetup, worker: Worker, study: Any) -> None:
    """Trains an assigned recipe to its end, or until it is pruned or stopped.

    Args:
        assignment: "number" and "recipe", see `SweepStudy.next`.
        setup: what all trials have in common.
        worker: this process among its peers.
        study: a `StudyClient`.
    """
    torch.set_num_threads(setup.cpus)
    number = assignment["number"]
    store = Store(setup.storage, opened=False) / trial_folder(number)
    with preemption.Watch(study.stopping if worker.rank == 0 else None) as stop:
        trial = Trial(Recipe.from_json(assignment["recipe"]), number, setup, worker, study, store, stop)
        trial.train(lambda: feed.training_data(setup.feed, worker, ray.train.get_dataset_shard, setup.cpus))
