"""TensorBoard: a run for each trial, with epochs from 1."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mollify_core.recipe import SETTINGS, Recipe
from mollify_sweeps.study.description import Description
from mollify_sweeps.tracking.follower import Follower, chart_name, run_name


class TensorBoard(Follower):
    """One folder per trial: scalars by epoch, and the HParams of a trial that ended."""

    def __init__(self, sweep: Description, folder: Path) -> None:
        self._space, self._folder = sweep.space, folder
        self._kind = "method" if sweep.methods else "reference"
        self._hparams: dict[int, dict[str, Any]] = {}
        self._writers: dict[int, Any] = {}
        self._last: dict[int, int] = {}
        self._folders: dict[int, Path] = {}

    def start(
        self, number: int, recipe: dict[str, Any], params: dict[str, Any], kind: str | None, role: str | None = None
    ) -> None:
        name = re.sub(r"[^A-Za-z0-9._]+", "-", run_name(number, role))[:100]
        self._folders[number] = next(self._folder.glob(f"{number:05d}*"), self._folder / name)
        built = Recipe.from_dict(recipe)
        values = {name: built.get(name) for name in self._space if name in SETTINGS} | params
        plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in values.items()}
        self._hparams[number] = {**plain, self._kind: kind or "none"}

    def epoch(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        step = epoch + 1
        if step <= self._last.get(number, 0) and number in self._writers:
            self._writers.pop(number).close()
        writer = self._writer(number, purge_step=step)
        self._last[number] = step
        for name, value in metrics.items():
            writer.add_scalar(chart_name(name), value, step)
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
            folder = self._folders.get(number, self._folder / run_name(number, None))
            self._writers[number] = SummaryWriter(str(folder), purge_step=purge_step)
        return self._writers[number]
