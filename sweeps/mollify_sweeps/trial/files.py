"""A trial's files, written beside its training: the storage may be slow, away or full, and the trial goes on.

What waits to be written is bounded: of checkpoints only the newest, which stands for those before it.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from mollify_core import checkpoint
from mollify_core.checkpoint import KEEP
from mollify_core.errors import DataError, Preempted
from mollify_core.recipe import Recipe
from mollify_core.training import Stop, Training
from mollify_sweeps.storage.patience import LOOK
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study.soundness import metrics_of

T = TypeVar("T")


class Writer:
    """Writes a trial's files in a thread of its own, in order.

    Args:
        store: the trial's folder.
        provenance: goes into every checkpoint.
        active: False for the workers that write nothing.
        tell: see `Patience`; called from the writer's thread.
    """

    def __init__(
        self,
        store: Store,
        provenance: dict[str, Any],
        *,
        active: bool,
        tell: Callable[[str | None], None] = lambda text: None,
    ) -> None:
        self._store, self._provenance, self._active = store, provenance, active
        self._patience = store.patience(tell)
        self._lines: list[str] | None = None
        self._jobs: dict[str, Callable[[], None]] = {}  # by what is written, in order; a newer one replaces an older
        self._changed = threading.Condition()
        self._busy = self._ended = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def metrics(self) -> list[dict[str, Any]]:
        """What metrics.jsonl says of epochs 0, 1, ..., as far as it is whole."""
        if self._lines is None:
            lines: list[str] = []
            for line in (self._store.read("metrics.jsonl") or b"").splitlines():
                try:
                    if metrics_of(line)["epoch"] != len(lines):
                        break
                except DataError:  # a damaged line
                    break
                lines.append(line.decode())
            self._lines = lines
        return [metrics_of(line) for line in self._lines]

    def start(self, recipe: Recipe, epochs_done: int, known: Sequence[dict[str, Any]] = ()) -> None:
        """Writes the recipe, and takes up the metrics of the epochs that a checkpoint stands behind.

        Args:
            recipe: the trial's.
            epochs_done: how many epochs the checkpoint has.
            known: what is known of their metrics, should a line of metrics.jsonl be lost.

        Raises:
            OSError: the storage failed.
        """
        if not self._active:
            return
        found = self.metrics()[:epochs_done]
        found += [{"epoch": epoch, **known[epoch]} for epoch in range(len(found), min(epochs_done, len(known)))]
        self._lines = [json.dumps(metrics) for metrics in found]
        self._thread.start()
        self._put("recipe", lambda: self._store.write("recipe.json", recipe.to_json().encode()))

    def epoch(self, training: Training, metrics: dict[str, float]) -> None:
        """Queues the metrics and the checkpoint of the epoch that has just ended.

        Raises:
            StorageError: the storage refuses for good.
        """
        if not self._active:
            return
        assert self._lines is not None
        self._lines.append(json.dumps({"epoch": training.epoch - 1, **metrics}))
        self.state(training)

    def state(self, training: Training) -> None:
        """Queues a checkpoint of this very moment; see `epoch`."""
        if not self._active:
            return
        state = training.state(**self._provenance)
        text = "".join(f"{line}\n" for line in self._lines or []).encode()
        self._put("checkpoint", lambda: self._save(state, text))

    def values(self, per_image: dict[str, np.ndarray]) -> None:
        """Queues the per-image validation values of a finished trial; see `epoch`."""
        if not self._active:
            return
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **per_image)  # type: ignore[arg-type]
        self._put("values", lambda: self._store.write("validation.npz", buffer.getvalue()))

    def close(self, stop: Stop = lambda: False) -> None:
        """Waits until everything is written, and ends the thread.

        Args:
            stop: asked while waiting; the thread then goes on, see `leave`.

        Raises:
            StorageError: the storage refuses for good.
            Preempted: `stop` said so.
        """
        with self._changed:
            while not self._changed.wait_for(lambda: self._error or not (self._jobs or self._busy), LOOK):
                if stop():
                    raise Preempted("The trial was stopped while it waited for its storage")
        self.leave(0)
        if self._error:
            raise self._error

    def leave(self, seconds: float) -> None:
        """Gives what is left to write so many seconds, then gives it up."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not (self._jobs or self._busy), seconds)
            self._ended = True
            self._changed.notify_all()

    def _put(self, name: str, job: Callable[[], None]) -> None:
        with self._changed:
            if self._error:
                raise self._error
            self._jobs[name] = job
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._jobs or self._ended)
                if self._ended:
                    return
                name = next(iter(self._jobs))
                job, self._busy = self._jobs.pop(name), True
            try:
                self._patience(job, lambda name=name: self._ended or name in self._jobs)  # type: ignore[misc]
            except Preempted:
                continue  # a newer one takes its place
            except Exception as error:
                with self._changed:
                    self._error, self._busy = error, False
                    self._jobs.clear()
                    self._changed.notify_all()
                return

    def _save(self, state: checkpoint.Checkpoint, metrics: bytes) -> None:
        folder = f"{self._store.root}/checkpoints"
        if metrics:
            self._store.write("metrics.jsonl", metrics)  # first: each epoch of a checkpoint has its metrics
        checkpoint.save(self._store.fs, folder, state)
        if not self._ended:  # else another process may be at work in the folder already
            checkpoint.keep_newest(self._store.fs, folder, KEEP)
