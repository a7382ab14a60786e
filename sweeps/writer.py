"""A trial's files, written beside its training: the storage may be slow, away or full, and the trial goes on.

What waits to be written is bounded: of checkpoints only the newest, which stands for those before it.
"""

from __future__ import annotations

import datetime
import io
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from mollify_core import checkpoint
from mollify_core.errors import Preempted, StorageError, first_line
from mollify_core.recipe import Recipe
from mollify_core.training import Stop, Training
from sweeps.store import Store, reason, trouble

KEEP = 2  # checkpoints of a running trial: the newest, and the one before should it be damaged
_PAUSES = (0.2, 1.0, 3.0, 10.0)  # seconds between attempts, the last one again and again
_REFUSALS = 4  # attempts before an answer like "access denied" is taken for the last word
_SILENT = 5.0  # seconds after which one failure alone is told
_LOOK = 0.2  # seconds between looks at who may want to stop
T = TypeVar("T")


class Patience:
    """Tries again while the storage fails, for as long as it takes.

    Args:
        uri: of the storage, for the user.
        tell: is told in one sentence, once, that the storage does not answer or is full, and None when it is well
            again.
    """

    def __init__(self, uri: str, tell: Callable[[str | None], None] = lambda text: None) -> None:
        self._uri, self._tell = uri, tell
        self._told: str | None = None
        self._failures = 0  # in a row

    def __call__(self, action: Callable[[], T], stop: Stop = lambda: False) -> T:
        """What `action` returns, when the storage lets it.

        Args:
            action: may be called several times.
            stop: asked between attempts.

        Raises:
            StorageError: the storage refuses for good (access denied, no such bucket).
            Preempted: `stop` said so.
        """
        while True:
            if not self._failures:
                self._since = datetime.datetime.now()
                self._started = time.monotonic()
            try:
                result = action()
            except OSError as error:
                self._failed(error)
            else:
                if self._told:
                    self._tell(None)
                self._told, self._failures = None, 0
                return result
            until = time.monotonic() + _PAUSES[min(self._failures, len(_PAUSES)) - 1]
            while time.monotonic() < until:
                if stop():
                    raise Preempted(f"Storage {self._uri!r} has not answered")
                time.sleep(_LOOK)

    def _failed(self, error: OSError) -> None:
        self._failures += 1
        kind, waited = trouble(error), time.monotonic() - self._started
        if kind == "refused" and self._failures >= _REFUSALS:
            raise StorageError(f"Cannot use storage {self._uri!r}: {first_line(error)}") from None
        if kind == "full" and self._told != kind:
            text = "is full; training goes on without keeping more until there is room"
        elif kind == "down" and (self._failures > 1 or waited > _SILENT) and not self._told:
            text = f"does not answer since {self._since:%H:%M:%S}; training goes on and uploads wait ({reason(error)})"
        else:
            return
        self._told = kind
        self._tell(f"the storage {text}")


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
        self._patience = Patience(store.uri, tell)
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
            for line in (self._store.read("metrics.jsonl") or b"").decode(errors="replace").splitlines():
                try:
                    if json.loads(line)["epoch"] != len(lines):
                        break
                except (ValueError, KeyError, TypeError):  # a damaged line
                    break
                lines.append(line)
            self._lines = lines
        return [json.loads(line) for line in self._lines]

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
            while not self._changed.wait_for(lambda: self._error or not (self._jobs or self._busy), _LOOK):
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
