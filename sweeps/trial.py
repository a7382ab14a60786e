"""One trial: Tune's trainable -> Ray Train's TorchTrainer -> the training loop of `mollify_core.training`.

A trial of one worker runs the trainer in local mode, inside a Tune actor that the next trial uses again (a warm start
takes a fraction of a second); a trial of several workers pays for a worker group. Both run the same `train_loop`.

A trial leaves its loop by itself, also when it is pruned or stopped from outside, because a trial that is torn out
leaves its worker group behind. Failures of a trial are told to the study and end it normally, so that its actor can be
used again.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import optuna
import ray
import ray.train
import ray.train.torch
import torch
from ray import tune

from mollify_core import checkpoint
from mollify_core.errors import MollifyError, NonFiniteLossError, Preempted, StorageError, first_line
from mollify_core.recipe import Recipe
from mollify_core.training import Stop, Training, TrainingData
from mollify_core.worker import Worker
from sweeps import feed, preemption
from sweeps.store import Store, trial_folder
from sweeps.workers import Workers
from sweeps.writer import Patience, Writer

NAMESPACE = "mollify"
_GROUP_RESTARTS = 3
_ASK_AGAIN = 2.0  # seconds after which a study that could not be written is asked again
_LEAVE = 30.0  # seconds that a trial which has to leave gives its storage


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep have in common.

    Attributes:
        storage: URI of the sweep's folder.
        study: name of the study's actor.
        objectives: metrics that are reported, in the order of the study's directions.
        workers: processes per trial, or their range.
        cpus, gpus: per worker; `cpus` is also the number of torch threads.
        feed: what goes with the data sets.
        provenance: goes into every checkpoint (versions, commit, verified or not).
    """

    storage: str
    study: str
    objectives: tuple[str, ...]
    workers: Workers
    cpus: int
    gpus: float
    feed: feed.FeedInfo
    provenance: dict[str, Any]


class StudyClient:
    """The methods of `SweepStudy`, called on its actor; again while the study's storage refuses."""

    def __init__(self, name: str) -> None:
        self._actor = ray.get_actor(name, NAMESPACE)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            while True:
                try:
                    return ray.get(getattr(self._actor, method).remote(*args, **kwargs))
                except optuna.exceptions.StorageInternalError:  # the actor has told the user
                    time.sleep(_ASK_AGAIN)

        return call


class TrialActor(tune.Trainable):
    """Tune's trainable. A class, since its trials then run in the main thread, the only one that may hear signals."""

    def setup(  # type: ignore[override]
        self, config: dict[str, Any], setup: TrialSetup, datasets: dict[str, Any]
    ) -> None:
        self._setup, self._datasets = setup, datasets
        os.umask(0o077)
        if setup.workers.alone:
            preemption.listen()

    def step(self) -> dict[str, Any]:
        """Trains the assigned recipe to its end, or until it is pruned or stopped."""
        number, study = self.config["number"], StudyClient(self._setup.study)
        title = f"ray::{self._setup.study.removeprefix('study-')}/{number:05d}"  # as Ray's dashboard and `ps` show it
        ray._raylet.setproctitle(title)  # type: ignore[attr-defined]
        while True:
            group = study.holds(number)
            if group is not None:  # of a process that died: Ray would keep its place until the sweep ends
                ray.util.remove_placement_group(group)
            _run(self.config, self._setup, self._datasets)
            if preemption.heard():
                sys.exit(0)  # Tune starts another process, and the trial goes on in it
            if self._setup.workers.alone or study.stopping() or study.begin(number)["finished"]:
                return {"number": number, "done": True}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True


def _run(assignment: dict[str, Any], setup: TrialSetup, datasets: dict[str, Any]) -> None:
    local, workers = setup.workers.alone, setup.workers
    trainer = ray.train.torch.TorchTrainer(
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
            storage_path=tempfile.gettempdir(),
            failure_config=ray.train.FailureConfig(max_failures=0 if local else _GROUP_RESTARTS),
        )
        if not local
        else None,
    )
    study = StudyClient(setup.study)
    try:
        trainer.fit()
    except Exception as error:  # a worker group that could not be kept alive; a lost study ends the sweep instead
        study.lost(assignment["number"], first_line(error), stays=True)


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
        os.umask(0o077)
        preemption.listen()
        if worker.rank == 0:
            StudyClient(setup.study).holds(number, ray.util.get_current_placement_group())
    torch.set_num_threads(setup.cpus)
    study = StudyClient(setup.study)
    store = Store(setup.storage) / trial_folder(number)
    recipe = Recipe.from_json(config["assignment"]["recipe"])
    with preemption.Watch(study.stopping if worker.rank == 0 else None) as stop:
        trial = Trial(recipe, number, setup, worker, study, store, stop)
        trial.train(lambda: feed.training_data(setup.feed, worker, ray.train.get_dataset_shard))


class GroupError(RuntimeError):
    """A worker group has to start again."""


@dataclass(frozen=True)
class Trial:
    """One trial in one of its workers.

    Attributes:
        recipe, number: what is trained, and under which number.
        setup: what all trials have in common.
        worker: this process among its peers.
        study: a `StudyClient`, or the `SweepStudy` itself.
        store: the trial's folder.
        stop: whether to leave at the next step.
    """

    recipe: Recipe
    number: int
    setup: TrialSetup
    worker: Worker
    study: Any
    store: Store
    stop: Stop

    def train(self, data: Callable[[], TrainingData]) -> None:
        """Trains to the end, until the pruner or `stop` ends it, or it fails; the study is told.

        After it ran out of memory it tries once more from the last checkpoint, with batches in two halves.

        Raises:
            GroupError: a worker group broke, or has to start again.
        """
        while (failure := self._attempt(data)) is not None:
            gc.collect()  # the attempt's network and its tensors are in no use any more
            if self.worker.device.type == "cuda":
                torch.cuda.empty_cache()
            kind, message, accumulate, attrs = failure
            again = kind == "oom" and self.study.out_of_memory(self.number, accumulate, message)
            if kind in ("nan", "bug"):
                self.study.fail(self.number, kind, message, attrs)
            if self.worker.world > 1:  # the others wait for this worker: the group must come down
                raise GroupError(message)
            if not again:
                return

    def _attempt(self, data: Callable[[], TrainingData]) -> tuple[str, str, int, dict[str, Any]] | None:
        """None, or why it failed: (kind, message, accumulate, attributes for the study)."""
        number, study, first = self.number, self.study, self.worker.rank == 0
        begin = study.begin(number)
        if begin["finished"]:
            return None
        tell = functools.partial(study.storage, number)
        writer = Writer(self.store, self.setup.provenance, active=first, tell=tell)
        training = None
        try:
            images = data()
            state = self._newest_checkpoint(writer, len(begin["values"]), Patience(self.store.uri, tell))
            training = Training(self.recipe, images, self.worker, state, begin["accumulate"])
            if first:
                study.ready(number, self.worker.world)
            go_on = self._take_up(training, writer, begin)
            for epoch in training.run(self.stop) if go_on else ():
                metrics = epoch.metrics
                if first:  # before its checkpoint exists: the study is never behind one
                    values = [metrics[name] for name in self.setup.objectives]
                    go_on, metrics = study.report(number, epoch.index, values, metrics)
                writer.epoch(training, metrics)
                go_on = self.worker.agree(go_on)
                if not go_on:
                    break
            self._end(training, writer, go_on)
        except Preempted:
            if training is not None and training.progress is not None:
                writer.state(training)
            writer.leave(_LEAVE)
            if first:
                study.leave(number, *((training.epoch, training.state().step) if training is not None else (0, 0)))
        except ray.exceptions.RayError:  # the sweep itself is ending
            writer.leave(0)
            raise
        except Exception as error:
            kind, message = classify(error)
            if self.worker.world > 1 and _peer_lost(error):
                kind = "peer"
            elif kind == "bug" and not isinstance(error, MollifyError):
                message += self._keep(traceback.format_exc())
            with contextlib.suppress(Exception):  # the first failure counts
                writer.close(self.stop)
            return kind, message, begin["accumulate"], _attrs(error)
        return None

    def _take_up(self, training: Training, writer: Writer, begin: dict[str, Any]) -> bool:
        """Whether to train on after the checkpoint; tells the study what it does not know of the epochs before it.

        A study restored from a snapshot may be behind. What its trials trained meanwhile was told to go on.
        """
        known, done = len(begin["values"]), training.epoch
        if self.worker.rank:
            return self.worker.agree(False)
        names = self.setup.objectives
        Patience(self.store.uri)(
            lambda: writer.start(self.recipe, done, [dict(zip(names, v, strict=True)) for v in begin["values"]]),
            self.stop,
        )
        go_on = begin["go_on"] or done < known
        for metrics in writer.metrics()[known:done]:
            epoch = metrics.pop("epoch")
            went_on = epoch + 1 < done or training.progress is not None
            values = [metrics[name] for name in names]
            go_on, _ = self.study.report(self.number, epoch, values, metrics, went_on)
        return self.worker.agree(go_on)

    def _end(self, training: Training, writer: Writer, go_on: bool) -> None:
        """Measures a trial that was not pruned, waits for its files, and tells the study."""
        metrics, per_image = training.final() if go_on else ({}, {})
        if self.worker.rank:
            return
        if go_on:
            writer.values(per_image)
        self.study.note(self.number, "waits for its storage")
        writer.close(self.stop)
        path = f"{self.store.uri}/checkpoints/{checkpoint.name(training.epoch)}"
        attrs = {"folder": self.store.uri, "checkpoint": path}
        attrs |= {"threads": self.setup.cpus, "device": self.worker.device.type, "workers": self.worker.world}
        if go_on:
            values = [metrics[name] for name in self.setup.objectives]
            self.study.complete(self.number, values, attrs, metrics)
        else:
            self.study.prune(self.number, attrs)

    def _newest_checkpoint(self, writer: Writer, known: int, patience: Patience) -> checkpoint.Checkpoint | None:
        """The same checkpoint on every worker: rank 0 finds the newest good one, the others load it too.

        Args:
            writer: knows the metrics of the epochs so far.
            known: number of epochs that the study knows.
            patience: with the storage.
        """
        fs, folder = self.store.fs, f"{self.store.root}/checkpoints"
        state = None
        if self.worker.rank == 0:
            known = max(known, len(patience(writer.metrics, self.stop)))
            while True:
                state = patience(lambda: checkpoint.load_newest(fs, folder, self._notice), self.stop)
                if state is None:
                    break
                if Recipe.from_dict(state.meta["recipe"]) != self.recipe:
                    reason = "it is of another recipe"  # of a study that was lost
                elif state.epoch > known:
                    reason = f"what is known ends at epoch {known}"
                else:
                    break
                self._notice(f"Set aside the checkpoint of epoch {state.epoch}: {reason}")
                patience(lambda at=(state.epoch, state.step): checkpoint.set_aside(fs, folder, *at), self.stop)  # type: ignore[misc]
        at = [state.epoch, state.step] if state else [0, 0]
        epoch, step = map(int, self.worker.sum(torch.tensor(at, dtype=torch.float64)).tolist())
        if self.worker.rank == 0 or not epoch + step:
            return state
        return patience(lambda: checkpoint.load(fs, f"{folder}/{checkpoint.name(epoch, step)}"), self.stop)

    def _notice(self, text: str) -> None:
        self.study.notice(f"trial {self.number}: {text}")

    def _keep(self, text: str) -> str:
        """Puts a traceback into the trial's folder; says where it is."""
        try:
            Patience(self.store.uri)(lambda: self.store.write("error.txt", text.encode()), self.stop)
        except (StorageError, Preempted):
            return ""
        return f" (traceback: {self.store.uri}/error.txt)"


def classify(error: Exception) -> tuple[str, str]:
    """(kind, one line) of a trial's failure: nan, oom or bug."""
    if isinstance(error, NonFiniteLossError):
        return "nan", first_line(error)
    exhausted = ("can't allocate memory", "ALLOC_FAILED", "std::bad_alloc")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in exhausted):
        return "oom", first_line(error)
    return "bug", f"{type(error).__name__}: {first_line(error)}"


def _attrs(error: Exception) -> dict[str, Any]:
    if isinstance(error, NonFiniteLossError):
        return {"failure_epoch": error.epoch, "failure_step": error.step, "failure_times": list(error.times)}
    return {}


def _peer_lost(error: Exception) -> bool:
    """Whether another worker of the group is gone: then it is that one's failure, and the group starts again."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)
