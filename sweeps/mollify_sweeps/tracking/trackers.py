"""Experiment tracking: TensorBoard always, Weights & Biases on request.

Only the driver writes; trials send it their events, so credentials never leave it. Each tracker works in a thread of
its own: a slow disk or an unreachable server neither delays nor stops the sweep.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, get_args

from mollify_core.errors import ConfigError
from mollify_sweeps.study.description import Description
from mollify_sweeps.tracking.follower import Follower
from mollify_sweeps.tracking.tensorboard import TensorBoard
from mollify_sweeps.tracking.wandb_runs import Mode, WandbRuns, check_login, failure

CLOSE_TIMEOUT = 120.0  # seconds to wait for one tracker at the end; what is written locally is kept in any case


class Trackers(Follower):
    """Every tracker of one sweep, behind one set of events.

    Args:
        sweep: what the sweep is.
        folder: local folder of the sweep; TensorBoard writes below ``tensorboard/``, wandb below ``wandb/``.
        wandb: "online", "offline" (nothing is sent) or "off".
        project: wandb project.
        notice: takes one line for the user: the first failure of each tracker, and how to upload. It is called from
            another thread.
        asked: whether the user has named wandb; otherwise nothing is said of what it keeps.
        runs: the folder in which wandb keeps its runs; None is `folder`.

    Raises:
        ConfigError: `wandb` is "online" and there is no login on this machine.
    """

    def __init__(
        self,
        *,
        sweep: Description,
        folder: Path,
        wandb: str,
        project: str = "mollify",
        notice: Callable[[str], None] = print,
        asked: bool = True,
        runs: str | None = None,
    ) -> None:
        if wandb not in get_args(Mode):
            raise ConfigError(f"Expected `wandb` to be one of {get_args(Mode)}, but got {wandb!r}")
        if wandb == "online":
            check_login()
        self._workers = [_Worker("TensorBoard", TensorBoard(sweep, folder / "tensorboard"), notice)]
        if wandb != "off":
            self._workers.append(
                _Worker("wandb", WandbRuns(sweep, folder, wandb, project, notice, asked, runs), notice)
            )

    def start(
        self, number: int, recipe: dict[str, Any], params: dict[str, Any], kind: str | None, role: str | None = None
    ) -> None:
        self._tell("start", number, recipe, dict(params), kind, role)

    def epoch(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        self._tell("epoch", number, epoch, dict(metrics))

    def end(self, number: int, state: str, metrics: dict[str, float]) -> None:
        self._tell("end", number, state, dict(metrics))

    def close(self, timeout: float | None = None) -> None:
        """Write out everything; trials still open stay so, for a later process to continue.

        Args:
            timeout: seconds to wait for each tracker; None is `CLOSE_TIMEOUT`.
        """
        for worker in self._workers:
            worker.close(CLOSE_TIMEOUT if timeout is None else timeout)

    def _tell(self, event: str, *args: Any) -> None:
        for worker in self._workers:
            worker.tell(event, *args)


class _Tracker(Protocol):
    """A `Follower` that keeps what it hears, until it is closed."""

    def close(self) -> None: ...


class _Worker:
    """Hands events in order to one tracker in a daemon thread; the first failure becomes a notice."""

    def __init__(self, name: str, tracker: _Tracker, notice: Callable[[str], None]) -> None:
        self._name, self._tracker, self._notice = name, tracker, notice
        self._events: queue.SimpleQueue[tuple[str, tuple] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def tell(self, event: str, *args: Any) -> None:
        self._events.put((event, args))

    def close(self, timeout: float) -> None:
        if not self._thread.is_alive():
            return
        self._events.put(("close", ()))
        self._events.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._notice(f"{self._name} did not finish within {timeout:.0f} s; its records may be incomplete")

    def _run(self) -> None:
        failed = False
        while (item := self._events.get()) is not None:
            event, args = item
            try:
                getattr(self._tracker, event)(*args)
            except Exception as error:  # whatever a tracker runs into, the sweep goes on
                if not failed:
                    why = failure(error)
                    self._notice(f"{self._name} failed, its records may be incomplete; the sweep goes on ({why})")
                failed = True
