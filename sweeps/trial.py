"""One trial: Tune's trainable -> Ray Train's TorchTrainer -> the training loop of `mollify_core.training`.

A trial of one worker runs the trainer in local mode, inside a Tune actor that the next trial uses again (a warm start
takes a fraction of a second); a trial of several workers pays for a worker group. Both run the same `train_loop`.

A trial leaves its loop by itself, also when it is pruned, because a trial stopped from outside leaves its worker
group behind. Failures of a trial are told to the study and end it normally, so that its actor can be used again.
"""

from __future__ import annotations

import io
import json
import tempfile
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import ray.train
import ray.train.torch
import torch

from mollify_core import checkpoint
from mollify_core.errors import NonFiniteLossError, first_line
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.worker import Worker
from sweeps import feed
from sweeps.store import Store, retry, trial_folder

NAMESPACE = "mollify"
KEEP = 2  # checkpoints of a running trial: the newest, and the one before should it be damaged
_GROUP_RESTARTS = 3


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep have in common.

    Attributes:
        storage: URI of the sweep's folder.
        study: name of the study's actor.
        objectives: metrics that are reported, in the order of the study's directions.
        workers: processes per trial.
        cpus, gpus: per worker; `cpus` is also the number of torch threads.
        feed: what goes with the data sets.
        provenance: goes into every checkpoint (versions, commit, verified or not).
    """

    storage: str
    study: str
    objectives: tuple[str, ...]
    workers: int
    cpus: int
    gpus: float
    feed: feed.FeedInfo
    provenance: dict[str, Any]


def run_trial(assignment: dict[str, Any], *, setup: TrialSetup, datasets: dict[str, Any]) -> dict[str, Any]:
    """Tune's trainable: trains the assigned recipe to its end, or until it is pruned."""
    local = setup.workers == 1
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        train_loop_config={"assignment": assignment, "setup": setup},
        datasets=datasets,
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),  # the shards are made already, one a worker
        scaling_config=ray.train.ScalingConfig(
            num_workers=0 if local else setup.workers,
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
    study = ray.get_actor(setup.study, NAMESPACE)
    try:
        trainer.fit()
    except Exception as error:  # a worker group that could not be kept alive; a lost study ends the sweep instead
        ray.get(study.lost.remote(assignment["number"], first_line(error)))
    return {"number": assignment["number"]}


def _resources(setup: TrialSetup) -> dict[str, float]:
    return {"CPU": setup.cpus, **({"GPU": setup.gpus} if setup.gpus else {})}


def train_loop(config: dict[str, Any]) -> None:
    """Runs in every worker of a trial (in the trial's own process when there is one worker)."""
    setup: TrialSetup = config["setup"]
    number = config["assignment"]["number"]
    device = torch.device("cuda", torch.cuda.current_device()) if setup.gpus else torch.device("cpu")
    worker = Worker(device=device)
    if setup.workers > 1:  # in local mode there is no group, and Ray refuses to be asked about it
        context = ray.train.get_context()
        worker = Worker(context.get_world_rank(), context.get_world_size(), device)
    torch.set_num_threads(setup.cpus)
    study = ray.get_actor(setup.study, NAMESPACE)
    store = Store(setup.storage) / trial_folder(number)
    try:
        _train(Recipe.from_dict(config["assignment"]["recipe"]), number, setup, worker, study, store)
    except ray.exceptions.RayError:  # the sweep itself is ending
        raise
    except Exception as error:
        kind, message = classify(error)
        if kind == "bug":
            text = traceback.format_exc().encode()
            retry(lambda: store.write("error.txt", text))
            message += f" (traceback: {store.uri}/error.txt)"
        ray.get(study.fail.remote(number, kind, message))
        if worker.world > 1:  # the others wait for this worker: the group must come down
            raise


def classify(error: Exception) -> tuple[str, str]:
    """(kind, one line) of a trial's failure: nan, oom or bug."""
    if isinstance(error, NonFiniteLossError):
        return "nan", first_line(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "oom", first_line(error)
    return "bug", f"{type(error).__name__}: {first_line(error)}"


def _train(recipe: Recipe, number: int, setup: TrialSetup, worker: Worker, study: Any, store: Store) -> None:
    begin = ray.get(study.begin.remote(number))
    if begin["finished"]:
        return
    data = feed.training_data(setup.feed, worker, ray.train.get_dataset_shard)
    state = _newest_checkpoint(worker, store, lambda text: ray.get(study.notice.remote(f"trial {number}: {text}")))
    training = Training(recipe, data, worker, state)
    if worker.rank == 0:
        study.ready.remote(number)
    writer = Writer(store, setup.provenance, active=worker.rank == 0)
    writer.start(recipe, training.epoch)
    go_on = begin["go_on"] or training.epoch < begin["epochs"]
    epochs = training.run() if go_on else iter(())
    for epoch in epochs:
        writer.epoch(training, epoch.metrics)
        if worker.rank == 0:
            values = [epoch.metrics[name] for name in setup.objectives]
            go_on = ray.get(study.report.remote(number, epoch.index, values, epoch.metrics))
        go_on = worker.agree(go_on)
        if not go_on:
            break
    metrics, per_image = training.final() if go_on else ({}, {})
    if go_on:
        writer.values(per_image)
    writer.close()  # the study must never name a checkpoint that is not there
    if worker.rank == 0:
        path = f"{store.uri}/checkpoints/{checkpoint.name(training.epoch)}"
        attrs = {"folder": store.uri, "checkpoint": path, "threads": setup.cpus, "device": worker.device.type}
        if go_on:
            values = [metrics[name] for name in setup.objectives]
            ray.get(study.complete.remote(number, values, attrs, metrics))
        else:
            ray.get(study.prune.remote(number, attrs))


def _newest_checkpoint(worker: Worker, store: Store, notice: Callable[[str], None]) -> checkpoint.Checkpoint | None:
    """The same checkpoint on every worker: rank 0 finds the newest good one, the others load it too."""
    folder = f"{store.root}/checkpoints"
    state = retry(lambda: checkpoint.load_newest(store.fs, folder, notice)) if worker.rank == 0 else None
    epoch = int(worker.sum(torch.tensor(float(state.epoch if state else 0))).item())
    if worker.rank == 0 or not epoch:
        return state
    return retry(lambda: checkpoint.load(store.fs, f"{folder}/{checkpoint.name(epoch)}"))


class Writer:
    """Writes a trial's files in a thread of its own, in order, so that training never waits for the storage."""

    def __init__(self, store: Store, provenance: dict[str, Any], *, active: bool) -> None:
        self._store, self._provenance, self._active = store, provenance, active
        self._thread = ThreadPoolExecutor(1)
        self._pending: list[Future] = []
        self._lines: list[str] = []

    def start(self, recipe: Recipe, epochs_done: int) -> None:
        """Writes the recipe, and takes up the metrics of the epochs that a checkpoint stands behind."""
        if not self._active:
            return
        text = retry(lambda: self._store.read("metrics.jsonl")) or b""
        for line in text.decode(errors="replace").splitlines():
            try:
                if json.loads(line)["epoch"] == len(self._lines) < epochs_done:
                    self._lines.append(line)
            except (ValueError, KeyError, TypeError):
                continue  # a half-written line: its epoch is trained again
        self._submit(lambda: self._store.write("recipe.json", recipe.to_json().encode()))

    def epoch(self, training: Training, metrics: dict[str, float]) -> None:
        """Queues the checkpoint and the metrics of the epoch that has just ended."""
        if not self._active:
            return
        state = training.state(**self._provenance)
        self._lines.append(json.dumps({"epoch": state.epoch - 1, **metrics}))
        text = ("\n".join(self._lines) + "\n").encode()
        self._submit(lambda: self._save(state, text))

    def values(self, per_image: dict[str, np.ndarray]) -> None:
        """Queues the per-image validation values of a finished trial."""
        if not self._active:
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **per_image)  # type: ignore[arg-type]
        self._submit(lambda: self._store.write("validation.npz", buffer.getvalue()))

    def close(self) -> None:
        """Waits until everything is written; raises what went wrong."""
        for future in self._pending:
            future.result()
        self._thread.shutdown()

    def _save(self, state: checkpoint.Checkpoint, metrics: bytes) -> None:
        folder = f"{self._store.root}/checkpoints"
        checkpoint.save(self._store.fs, folder, state)
        self._store.write("metrics.jsonl", metrics)
        for old in checkpoint.epochs(self._store.fs, folder)[:-KEEP]:
            checkpoint.remove(self._store.fs, f"{folder}/{checkpoint.name(old)}")

    def _submit(self, action: Callable[[], None]) -> None:
        if self._pending and self._pending[0].done():
            self._pending.pop(0).result()  # a storage that fails for good ends the trial here
        self._pending.append(self._thread.submit(lambda: retry(action)))
