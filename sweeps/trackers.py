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
from mollify_core.recipe import SETTINGS, Recipe
from sweeps.wandb_runs import Mode, WandbRuns, check_login, failure

CLOSE_TIMEOUT = 120.0  # seconds to wait for one tracker at the end; what is written locally is kept in any case


class Trackers:
    """Every tracker of one sweep, behind one set of events.

    Args:
        sweep: the study's `sweep` attribute; `name`, `dataset`, `network`, `space` and `created` are read.
        folder: local folder of the sweep; TensorBoard writes below ``tensorboard/``, wandb below ``wandb/``.
        wandb: "online", "offline" (nothing is sent; one line at the end says how to upload) or "off".
        project: wandb project.
        notice: takes one line for the user: the first failure of each tracker, and how to upload. It is called from
            another thread.

    Raises:
        ConfigError: `wandb` is "online" and there is no login on this machine.
    """

    def __init__(
        self,
        *,
        sweep: dict[str, Any],
        folder: Path,
        wandb: Mode,
        project: str = "mollify",
        notice: Callable[[str], None] = print,
    ) -> None:
        if wandb not in get_args(Mode):
            raise ConfigError(f"Expected `wandb` to be one of {get_args(Mode)}, but got {wandb!r}")
        if wandb == "online":
            check_login()
        self._workers = [_Worker("TensorBoard", _TensorBoard(sweep, folder / "tensorboard"), notice)]
        if wandb != "off":
            self._workers.append(_Worker("wandb", WandbRuns(sweep, folder, wandb, project, notice), notice))

    def start(self, number: int, recipe: dict[str, Any], params: dict[str, Any], *, reference: str | None) -> None:
        """Trial `number` starts, or starts again: a trial adopted after an interruption continues its curves."""
        self._tell("start", number, recipe, dict(params), reference)

    def epoch(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        """Scalars of epoch `epoch` (from 0). An epoch repeated after a resume takes the place of the first."""
        self._tell("epoch", number, epoch, dict(metrics))

    def end(self, number: int, state: str, metrics: dict[str, float]) -> None:
        """Trial `number` ended as COMPLETE, PRUNED or FAIL with these final metrics (possibly none)."""
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
    def start(self, number: int, recipe: dict[str, Any], params: dict[str, Any], reference: str | None) -> None: ...
    def epoch(self, number: int, epoch: int, metrics: dict[str, float]) -> None: ...
    def end(self, number: int, state: str, metrics: dict[str, float]) -> None: ...
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


class _TensorBoard:
    """One folder per trial: scalars by epoch, and the HParams of a trial that ended."""

    def __init__(self, sweep: dict[str, Any], folder: Path) -> None:
        self._space, self._folder = sweep["space"], folder
        self._hparams: dict[int, dict[str, Any]] = {}
        self._writers: dict[int, Any] = {}
        self._last: dict[int, int] = {}

    def start(self, number: int, recipe: dict[str, Any], params: dict[str, Any], reference: str | None) -> None:
        built = Recipe.from_dict(recipe)
        values = {name: built.get(name) for name in self._space if name in SETTINGS} | params
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in values.items()}
        self._hparams[number] = {**plain, "reference": reference or "none"}

    def epoch(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        if epoch <= self._last.get(number, -1) and number in self._writers:
            self._writers.pop(number).close()
        writer = self._writer(number, purge_step=epoch)
        self._last[number] = epoch
        for name, value in metrics.items():
            writer.add_scalar(name, value, epoch)
        writer.flush()  # a running trial is watched live, and a crash of the driver loses nothing

    def end(self, number: int, state: str, metrics: dict[str, float]) -> None:
        from torch.utils.tensorboard.summary import hparams

        step = self._last.pop(number, 0)
        writer = self._writer(number, purge_step=None)
        final = {f"final/{name}": value for name, value in metrics.items()}
        for name, value in final.items():
            writer.add_scalar(name, value, step)
        # SummaryWriter.add_hparams would open a second run folder for each trial
        experiment, *session = hparams({**self._hparams.pop(number, {}), "state": state}, final)
        # TensorBoard takes the columns of its table from any one trial's: only those that have metrics may name them
        for summary in [experiment, *session] if final else session:
            writer.file_writer.add_summary(summary)
        self._writers.pop(number).close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def _writer(self, number: int, purge_step: int | None) -> Any:
        """The trial's open writer; a new one makes TensorBoard forget what older files say from `purge_step` on."""
        from torch.utils.tensorboard import SummaryWriter

        if number not in self._writers:
            folder = str(self._folder / f"{number:05d}")
            self._writers[number] = SummaryWriter(folder, purge_step=purge_step)
        return self._writers[number]
