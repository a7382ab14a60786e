"""One trial in one of its workers: trains, reports each epoch to the study, keeps its files, and says why it failed.

A trial leaves its loop by itself, also when it is pruned or stopped from outside, because a trial that is torn out
leaves its worker group behind. Failures of a trial are told to the study and end it normally, so that its actor can be
used again.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import re
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from mollify_core import checkpoint, given, precision
from mollify_core.errors import ConfigError, MollifyError, NonFiniteLossError, Preempted, StorageError, first_line
from mollify_core.recipe import Recipe
from mollify_core.training import Stop, Training
from mollify_core.training_data import TrainingData
from mollify_core.worker import Worker
from mollify_sweeps.cluster.workers import Workers
from mollify_sweeps.storage.patience import Patience
from mollify_sweeps.storage.store import Store
from mollify_sweeps.trial import feed, preemption
from mollify_sweeps.trial.files import Writer

_LEAVE = 30.0  # seconds that a trial which has to leave gives its storage
# Not every allocation is PyTorch's own, which raises OutOfMemoryError: those of CUDA's contexts and graphs, of cuBLAS
# and of NCCL ("Failed to CUDA calloc async 4 bytes", "Cuda failure 2 'out of memory'") have words of their own.
_EXHAUSTED = re.compile(
    r"(CUDA|HIP) error: out of memory|(Cuda|HIP) failure.{0,9}out of memory|Failed to (CUDA|HIP) \w*alloc"
    r"|can't allocate memory|ALLOC_FAILED|std::bad_alloc",
    re.IGNORECASE,
)
_DEVICE = re.compile(r"(CUDA|HIP|cuDNN|CUDNN|cuBLAS|CUBLAS) error|CUDNN_STATUS|CUBLAS_STATUS|device-side assert")


@dataclass(frozen=True)
class TrialSetup:
    """What all trials of a sweep have in common.

    Attributes:
        storage: URI of the sweep's folder.
        study: name of the study's actor.
        objectives: metrics that are reported, in the order of the study's directions.
        workers: processes per trial, or their range.
        cpus, gpus: per worker; `cpus` is also the number of torch threads of a trial that begins.
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

        After it ran out of memory it tries once more from the last checkpoint, with batches in two halves; after an
        error of its device in another process. Where the storage refuses for good the sweep ends, not the trial.

        Raises:
            GroupError: a worker group broke, or has to start again.
        """
        while (failure := self._attempt(data)) is not None:
            gc.collect()  # the attempt's network and its tensors are in no use any more
            kind, message, begin, attrs = failure
            again = kind == "oom" and self.study.out_of_memory(self.number, begin["accumulate"], message)
            if kind == "device":  # whatever this process asks of its device now fails too
                self.study.device_error(self.number, begin["device_errors"], message)
                preemption.replace()
            elif kind == "storage":
                self.study.give_up(self.number, message)
            elif kind in ("nan", "settings", "bug"):
                self.study.fail(self.number, kind, message, attrs)
            if kind != "device" and self.worker.device.type == "cuda":
                torch.cuda.empty_cache()
            if self.worker.world > 1 and kind != "nan":  # the others wait for this worker: the group must come down
                raise GroupError(message)
            if not again:
                return

    def _attempt(self, data: Callable[[], TrainingData]) -> tuple[str, str, dict[str, Any], dict[str, Any]] | None:
        """None, or why it failed: (kind, message, with what it began, attributes for the study)."""
        number, study, first = self.number, self.study, self.worker.rank == 0
        begin = study.begin(number, self.setup.cpus)
        if begin["finished"]:
            return None
        torch.set_num_threads(begin["threads"])
        if first and begin["threads"] != self.setup.cpus:
            study.notice(f"trial {number} goes on with {begin['threads']} threads, as it began, not {self.setup.cpus}")
        tell = functools.partial(study.storage, number)
        writer = Writer(self.store, self.setup.provenance, active=first, tell=tell)
        training = None
        try:
            patience = self.store.patience(tell)
            patience(self.store.open, self.stop)
            for file in given.of(self.recipe.model).items():
                patience(functools.partial(self._fetch, *file), self.stop)
            images = data()
            state = self._newest_checkpoint(writer, len(begin["values"]), patience)
            training = Training(self.recipe, images, self.worker, state, begin["accumulate"])
            if first:
                study.ready(number, self.worker.world)
            go_on = self._take_up(training, writer, begin)
            for epoch in training.run(self.stop) if go_on else ():
                metrics = epoch.metrics
                if first:  # before its checkpoint exists: the study is never behind one
                    go_on, metrics = study.report(number, epoch.index, metrics)
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
                progress = training.progress if training is not None else None
                study.leave(number, training.epoch if training is not None else 0, progress.step if progress else 0)
        except ray.exceptions.RayError:  # the sweep itself is ending
            writer.leave(0)
            raise
        except Exception as error:
            kind, message = classify(error)
            if kind in ("bug", "device") and self.worker.world > 1 and _peer_lost(error):
                kind = "peer"
            elif kind in ("bug", "device") and not isinstance(error, MollifyError):
                message += self._keep(traceback.format_exc())
            with contextlib.suppress(Exception):  # the first failure counts
                writer.leave(0) if kind == "storage" else writer.close(self.stop)
            return kind, message, begin, _attrs(error)
        return None

    def _take_up(self, training: Training, writer: Writer, begin: dict[str, Any]) -> bool:
        """Whether to train on after the checkpoint; tells the study what it does not know of the epochs before it.

        A study restored from a snapshot may be behind. What its trials trained meanwhile was told to go on.
        """
        known, done = len(begin["values"]), training.epoch
        if self.worker.rank:
            return self.worker.agree(False)
        names = self.setup.objectives
        self.store.patience()(
            lambda: writer.start(self.recipe, done, [dict(zip(names, v, strict=True)) for v in begin["values"]]),
            self.stop,
        )
        go_on = begin["go_on"] or done < known
        for metrics in writer.metrics()[known:done]:
            epoch = metrics.pop("epoch")
            went_on = epoch + 1 < done or training.progress is not None
            go_on, _ = self.study.report(self.number, epoch, metrics, went_on)
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
        path = (self.store / f"checkpoints/{checkpoint.name(training.epoch)}").uri
        attrs: dict[str, Any] = {"folder": self.store.uri, "checkpoint": path}
        device = self.worker.device
        attrs |= {"threads": torch.get_num_threads(), "device": device.type, "workers": self.worker.world}
        attrs["accumulated"] = training.parts.written
        attrs["precision"] = precision.used(self.recipe.optim.precision, device)
        if go_on:
            self.study.complete(self.number, attrs, metrics)
        else:
            self.study.prune(self.number, attrs)

    def _fetch(self, name: str, file: tuple[str, str]) -> None:
        """Brings a file that the recipe names to this machine, from where the driver has put it."""
        if given.get(*file) is None:
            content = Store(self.setup.storage).read(name)
            if content is not None:
                given.put(content, file[1])

    def _newest_checkpoint(self, writer: Writer, known: int, patience: Patience) -> checkpoint.Checkpoint | None:
        """The same checkpoint on every worker: rank 0 finds the newest good one, the others load it too.

        Args:
            writer: knows the metrics of the epochs so far.
            known: number of epochs that the study knows.
            patience: with the storage.
        """
        folder = f"{self.store.root}/checkpoints"
        state = None
        if self.worker.rank == 0:
            known = max(known, len(patience(writer.metrics, self.stop)))
            while True:
                state = patience(lambda: checkpoint.load_newest(self.store.fs, folder, self._notice), self.stop)
                if state is None:
                    break
                if Recipe.from_dict(state.meta["recipe"]).hash != self.recipe.hash:
                    reason = "it is of another recipe"  # of a study that was lost
                elif state.epoch > known:
                    reason = f"what is known ends at epoch {known}"
                else:
                    break
                self._notice(f"Set aside the checkpoint of epoch {state.epoch}: {reason}")
                at = (state.epoch, state.step)
                patience(functools.partial(checkpoint.set_aside, self.store.fs, folder, *at), self.stop)
        at = (state.epoch, state.step) if state else (0, 0)
        epoch, step = map(int, self.worker.sum(torch.tensor(at, dtype=torch.float64)).tolist())
        if self.worker.rank == 0 or not epoch + step:
            return state
        return patience(lambda: checkpoint.load(self.store.fs, f"{folder}/{checkpoint.name(epoch, step)}"), self.stop)

    def _notice(self, text: str) -> None:
        self.study.notice(f"trial {self.number}: {text}")

    def _keep(self, text: str) -> str:
        """Puts a traceback into the trial's folder; says where it is."""
        try:
            self.store.patience()(lambda: self.store.write("error.txt", text.encode()), self.stop)
        except (StorageError, Preempted):
            return ""
        return f" (traceback: {(self.store / 'error.txt').uri})"


def classify(error: Exception) -> tuple[str, str]:
    """(kind, one line) of a trial's failure: nan, oom, device, settings, storage or bug."""
    text = str(error)
    if isinstance(error, NonFiniteLossError):
        return "nan", first_line(error)
    if isinstance(error, StorageError):
        return "storage", first_line(error)
    if isinstance(error, ConfigError):
        return "settings", first_line(error)
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _EXHAUSTED.search(text):
        return "oom", first_line(error)
    kind = "device" if isinstance(error, torch.AcceleratorError) or _DEVICE.search(text) else "bug"
    return kind, f"{type(error).__name__}: {first_line(error)}"


def _attrs(error: Exception) -> dict[str, Any]:
    if isinstance(error, NonFiniteLossError):
        return {"failure_epoch": error.epoch, "failure_step": error.step, "failure_times": list(error.times)}
    return {}


def _peer_lost(error: Exception) -> bool:
    """Whether another worker of the group is gone: then it is that one's failure, and the group starts again."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error) or "NCCL" in str(error)
