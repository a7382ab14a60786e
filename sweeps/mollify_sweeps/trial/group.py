"""A worker group that trains one trial after another.

A group is seven processes or more, whose imports cost most of a minute of CPU time. So a TorchTrainer is fitted once
for as long as its group lasts, and its workers take trial after trial from a board that the study keeps. What breaks a
group (a lost worker, a device that failed) is Ray Train's to mend: new workers take up the trial that is on the board.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
import time
import uuid
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from mollify_core.errors import first_line
from mollify_core.worker import Worker
from mollify_sweeps.study.client import StudyClient
from mollify_sweeps.trial import preemption
from mollify_sweeps.trial.loop import device, train
from mollify_sweeps.trial.trial import TrialSetup

_RESTARTS = 3  # of a group that breaks
_LOOK = 0.05  # seconds between looks at the board
_LEAVE = 5.0  # seconds that a group has to end


class Group:
    """The workers of one trial at a time.

    Args:
        setup: what all trials have in common.
        datasets: Ray Data datasets "fit" and "validation".
    """

    def __init__(self, setup: TrialSetup, datasets: dict[str, Any]) -> None:
        self._study, self._name, self._turn = StudyClient(setup.study), uuid.uuid4().hex, 0
        self._broke: str | None = None
        self._thread = threading.Thread(target=self._fit, args=(setup, datasets), name="group", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it can train."""
        return self._thread.is_alive()

    def train(self, assignment: dict[str, Any]) -> str | None:
        """Has a trial trained, until every worker has left it or the group has ended; why it broke, if it did."""
        self._turn += 1
        board = self._study.board(self._name, turn=self._turn, assignment=assignment, workers=None)
        while self.alive and not _left(board, self._turn):
            time.sleep(_LOOK)
            board = self._study.board(self._name)
        return self._broke

    def close(self) -> None:
        """Ends it; what it held is free again."""
        with contextlib.suppress(Exception):  # the study is gone: so is all that it held
            self._study.board(self._name, closed=True)
            self._thread.join(_LEAVE)

    def _fit(self, setup: TrialSetup, datasets: dict[str, Any]) -> None:
        # What Ray keeps of a worker group goes into a folder that no other sweep, and no other user, can foresee.
        with tempfile.TemporaryDirectory(prefix="mollify-group-") as folder:
            try:
                _trainer(setup, datasets, self._name, folder).fit()
            except Exception as error:  # it could not be kept alive; a lost study ends the sweep instead
                self._broke = first_line(error)


def _left(board: dict[str, Any], turn: int) -> bool:
    """Whether every worker has left the trial of this turn."""
    return board["workers"] is not None and all(board.get(f"left {i}", 0) >= turn for i in range(board["workers"]))


def _trainer(setup: TrialSetup, datasets: dict[str, Any], name: str, folder: str) -> ray.train.torch.TorchTrainer:
    workers = setup.workers
    return ray.train.torch.TorchTrainer(
        _loop,
        train_loop_config={"setup": setup, "name": name},
        datasets=datasets,
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),  # workers share each step's images out
        scaling_config=ray.train.ScalingConfig(
            num_workers=tuple(workers) if workers.elastic else workers.most,  # type: ignore[arg-type]
            use_gpu=setup.gpus > 0,
            resources_per_worker={"CPU": setup.cpus, **({"GPU": setup.gpus} if setup.gpus else {})},
        ),
        run_config=ray.train.RunConfig(
            name=f"group-{name}",
            storage_path=folder,
            failure_config=ray.train.FailureConfig(max_failures=_RESTARTS),
        ),
    )


def _loop(config: dict[str, Any]) -> None:
    """Runs in every worker of a group."""
    setup, name = config["setup"], config["name"]
    context, study, turn = ray.train.get_context(), StudyClient(setup.study), 0
    worker = Worker(context.get_world_rank(), context.get_world_size(), device(setup))
    preemption.listen()
    while not (board := study.board(name)).get("closed"):
        if board["turn"] == turn:
            time.sleep(_LOOK)
            continue
        turn, assignment = board["turn"], board["assignment"]
        if worker.rank == 0:
            study.board(name, workers=worker.world)
            study.board(assignment["number"], placement=ray.util.get_current_placement_group())
        train(assignment, setup, worker, study)
        study.board(name, **{f"left {worker.rank}": turn})
        if worker.sum(torch.tensor(float(preemption.ends()))):
            return  # another group takes its place
