"""Tune's trainable -> Ray Train's TorchTrainer -> `Trial`.

A trial of one worker runs the trainer in local mode, inside a Tune actor that the next trial uses again (a warm start
takes a fraction of a second); a trial of several workers pays for a worker group. Both run the same `train_loop`.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray import tune

from mollify_core.errors import first_line
from mollify_core.recipe import Recipe
from mollify_core.worker import Worker
from mollify_sweeps.storage.store import Store, trial_folder
from mollify_sweeps.study.client import StudyClient, sweep_of
from mollify_sweeps.trial import feed, preemption
from mollify_sweeps.trial.trial import Trial, TrialSetup

_GROUP_RESTARTS = 3


class TrialActor(tune.Trainable):
    """Tune's trainable. A class, since its trials then run in the main thread, the only one that may hear signals."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], setup: TrialSetup, datasets: dict[str, Any]
    ) -> None:
        self._setup, self._datasets = setup, datasets
        if setup.workers.alone:
            preemption.listen()

    def step(self) -> dict[str, Any]:
        """Trains the assigned recipe to its end, or until it is pruned or stopped."""
        number, study = self.config["number"], StudyClient(self._setup.study)
        title = f"ray::{sweep_of(self._setup.study)}/{number:05d}"  # as Ray's dashboard and `ps` show it
        ray._raylet.setproctitle(title)  # type: ignore[attr-defined]
        while True:
            group = study.holds(number)
            if group is not None:  # of a process that died: Ray would keep its place until the sweep ends
                ray.util.remove_placement_group(group)
            _run(self.config, self._setup, self._datasets)
            if preemption.ends():
                sys.exit(0)  # Tune starts another process, and the trial goes on in it
            if self._setup.workers.alone or study.stopping() or study.begin(number)["finished"]:
                return {"number": number, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True


def _run(assignment: dict[str, Any], setup: TrialSetup, datasets: dict[str, Any]) -> None:
    study = StudyClient(setup.study)
    # What Ray keeps of a worker group goes into a folder that no other sweep, and no other user, can foresee.
    with tempfile.TemporaryDirectory(prefix="mollify-group-") as folder:
        trainer = _trainer(assignment, setup, datasets, folder)
        try:
            trainer.fit()
        except Exception as error:  # a worker group that could not be kept alive; a lost study ends the sweep instead
            study.lost(assignment["number"], first_line(error), stays=not setup.workers.alone)


def _trainer(
    assignment: dict[str, Any], setup: TrialSetup, datasets: dict[str, Any], folder: str
) -> ray.train.torch.TorchTrainer:
    local, workers = setup.workers.alone, setup.workers
    return ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"assignment": assignment, "setup": setup},
        datasets=datasets,
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),  # workers share each step's images out
        scaling_config=ray.train.ScalingConfig(
            num_workers=0 if local else tuple(workers) if workers.elastic else workers.most,  # type: ignore[arg-type]
            use_gpu=setup.gpus > 0,
            resources_per_worker=None if local else _resources(setup),
        ),
        run_config=ray.train.RunConfig(
            name=f"trial-{assignment['number']:05d}",
            storage_path=folder,
            failure_config=ray.train.FailureConfig(max_failures=0 if local else _GROUP_RESTARTS),
        )
        if not local
        else None,
    )


def _resources(setup: TrialSetup) -> dict[str, float]:
    return {"CPU": setup.cpus, **({"GPU": setup.gpus} if setup.gpus else {})}


def train_loop(config: dict[str, Any]) -> None:
    """Runs in every worker of a trial (in the trial's own process when there is one worker)."""
    setup: TrialSetup = config["setup"]
    number = config["assignment"]["number"]
    device = torch.device("cuda", torch.cuda.current_device()) if setup.gpus else torch.device("cpu")
    worker = Worker(device=device)
    if not setup.workers.alone:  # in local mode there is no group, and Ray refuses to be asked about it
        context = ray.train.get_context()
        worker = Worker(context.get_world_rank(), context.get_world_size(), device)
        preemption.listen()
        if worker.rank == 0:
            StudyClient(setup.study).holds(number, ray.util.get_current_placement_group())
    torch.set_num_threads(setup.cpus)
    study = StudyClient(setup.study)
    store = Store(setup.storage, opened=False) / trial_folder(number)
    recipe = Recipe.from_json(config["assignment"]["recipe"])
    with preemption.Watch(study.stopping if worker.rank == 0 else None) as stop:
        trial = Trial(recipe, number, setup, worker, study, store, stop)
        trial.train(lambda: feed.training_data(setup.feed, worker, ray.train.get_dataset_shard))
