"""Tune's trainable -> Ray Train's TorchTrainer -> `Trial`.

Its process is used again by the next trial. A trial of one worker runs a trainer of its own in it, in local mode;
trials of several workers take turns with a worker group beside it.
"""

from __future__ import annotations

import sys
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray import tune

from mollify_core.errors import first_line
from mollify_core.worker import Worker
from mollify_sweeps.study.client import StudyClient, sweep_of
from mollify_sweeps.trial import preemption
from mollify_sweeps.trial.group import Group
from mollify_sweeps.trial.loop import device, train
from mollify_sweeps.trial.trial import TrialSetup


class TrialActor(tune.Trainable):
    """Tune's trainable. A class, since its trials then run in the main thread, the only one that may hear signals."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], setup: TrialSetup, datasets: dict[str, Any]
    ) -> None:
        self._setup, self._datasets = setup, datasets
        self._group: Group | None = None
        if setup.workers.alone:
            preemption.listen()

    def step(self) -> dict[str, Any]:
        """Trains the assigned recipe to its end, or until it is pruned or stopped."""
        number, study = self.config["number"], StudyClient(self._setup.study)
        title = f"ray::{sweep_of(self._setup.study)}/{number:05d}"  # as Ray's dashboard and `ps` show it
        ray._raylet.setproctitle(title)  # type: ignore[attr-defined]
        while True:
            if self._setup.workers.alone:
                _run_here(self.config, self._setup, self._datasets)
            else:
                self._run_in_group(number, study)
            if preemption.ends():
                sys.exit(0)  # Tune starts another process, and the trial goes on in it
            if self._setup.workers.alone or study.stopping() or study.begin(number)["finished"]:
                return {"number": number, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def cleanup(self) -> None:
        if self._group is not None:
            self._group.close()

    def _run_in_group(self, number: int, study: StudyClient) -> None:
        fresh = self._group is None or not self._group.alive
        if self._group is None or fresh:
            placement = study.board(number).get("placement")
            if placement is not None:  # of a process that died: Ray would keep its place until the sweep ends
                ray.util.remove_placement_group(placement)
                study.board(number, placement=None)
            self._group = Group(self._setup, self._datasets)
        broke = self._group.train(self.config)
        if broke is not None and fresh:  # else this trial has not had all the restarts of a group
            study.lost(number, broke, stays=True)


def _run_here(assignment: dict[str, Any], setup: TrialSetup, datasets: dict[str, Any]) -> None:
    trainer = ray.train.torch.TorchTrainer(
        _loop,
        train_loop_config={"assignment": assignment, "setup": setup},
        datasets=datasets,
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
        scaling_config=ray.train.ScalingConfig(num_workers=0, use_gpu=setup.gpus > 0),
    )
    try:
        trainer.fit()
    except Exception as error:  # a lost study ends the sweep instead
        StudyClient(setup.study).lost(assignment["number"], first_line(error))


def _loop(config: dict[str, Any]) -> None:
    setup: TrialSetup = config["setup"]
    train(config["assignment"], setup, Worker(device=device(setup)), StudyClient(setup.study))
