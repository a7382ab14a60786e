"""The report of a sweep: its page while it runs; at its end all of it, on storage, in the terminal, and in wandb."""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial
from rich.console import Console

from mollify_core.errors import ConfigError, DataError
from mollify_core.hiding import MASK
from mollify_core.program import say, shell_command
from mollify_sweeps.comparison import confirmation, confirmed, crossing
from mollify_sweeps.comparison.confirmation import Confirmation
from mollify_sweeps.comparison.crossing import Plan
from mollify_sweeps.display.console import styled
from mollify_sweeps.display.text import label
from mollify_sweeps.plan.options import Confirm
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.report.build import PAGE, build, write_page
from mollify_sweeps.report.terminal import print_result
from mollify_sweeps.report.words import recipe_file
from mollify_sweeps.storage.patience import retry
from mollify_sweeps.storage.store import Store, trial_folder
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.ledger import Ledger
from mollify_sweeps.study.reading import kept
from mollify_sweeps.study.results import Results
from mollify_sweeps.study.soundness import images_of
from mollify_sweeps.tracking.follower import Follower
from mollify_sweeps.tracking.wandb_runs import publish

_EVERY = 60.0  # seconds between pages of a running sweep
_SHARE = 20.0  # times as long as it takes to make one


class Publication:
    """The report of one sweep. A context: at its end wandb gets the report, as it then is, once.

    Attributes:
        sweep, study: what it is about.
        page: where report.html lies.
    """

    def __init__(self, sweep: Sweep, study: Ledger) -> None:
        self.sweep, self.study = sweep, study
        self._store = sweep.store / "report"
        self.page = (self._store / PAGE).uri
        self._folder = tempfile.TemporaryDirectory(prefix="mollify-report-")
        self._built = False

    def __enter__(self) -> Publication:
        return self

    def __exit__(self, *_: object) -> None:
        with self._folder as folder:
            if self._built:
                publish(
                    Path(folder),
                    sweep=self.sweep.setup.description,
                    local=self.sweep.local,
                    mode=self.sweep.following.wandb,
                    project=self.sweep.following.project,
                    runs=self.sweep.following.folder,
                    notice=lambda text: say(f"! {text}"),
                )

    def build(self, console: Console) -> int | None:
        """Writes the report to storage and prints it; returns the number of the best trial."""
        self._seen: dict[str, Any] = {
            "per_image": per_image(self.sweep.store, Results(self.study).compared.values()),
            "evaluation": _tested(self.sweep.store, there=True),
            "commands": _commands(self.sweep, Results(self.study)),
        }
        notice = functools.partial(_notice, console)
        built = build(self.study, Path(self._folder.name), **self._seen, notice=notice)
        self._store.upload(Path(self._folder.name))
        if self.sweep.store.local is None:  # what is trained alone is read from this machine
            (recipes := self.sweep.local / "report").mkdir(parents=True, exist_ok=True)
            for file in Path(self._folder.name).glob("*.json"):
                shutil.copy(file, recipes)
        self._built = True
        print_result(console, self.study, report_uri=self.page, commands=self._seen["commands"])
        return built.best

    def add(self, found: Confirmation) -> None:
        """Puts a confirmation on the page, and the same as text into confirmation.md."""
        folder, name = Path(self._folder.name), "confirmation.md"
        self._write(found, folder / PAGE)
        (folder / name).write_text(confirmed.summary(found), encoding="utf-8")
        for changed in (PAGE, name):
            retry(functools.partial(self._store.write, changed, (folder / changed).read_bytes()))

    def confirming(self, sweep: Sweep, plan: Plan, matters: float) -> RunningPage:
        """Keeps the page new while a confirmation runs; arguments as of `read_confirmation`."""

        def write(study: Ledger, path: Path) -> None:
            found = read_confirmation(study, plan, matters, sweep.store)
            self._write(found, path, sweep.setup.total or 0)

        return RunningPage(sweep, self._store, write)

    def _write(self, found: Confirmation, path: Path, trainings: int = 0) -> None:
        write_page(Results(self.study), path, **self._seen, **confirmed.on_page(found, trainings))


def read_confirmation(study: Ledger, plan: Plan, matters: float, store: Store) -> Confirmation:
    """What a confirmation says, which may still run.

    Args:
        study: of the confirming sweep.
        plan: what it trains.
        matters: the smallest difference that matters, see `Confirm`.
        store: its folder.
    """
    return confirmation.read(study, plan, matters, per_image(store, Results(study).completed))


def write_kept_page(store: Store, path: Path, study_url: str | None = None) -> None:
    """Writes the page of a kept search as it is now, also while it runs, with its confirmation as far as it has gone.

    Args:
        store: the search's folder.
        path: of the page.
        study_url: see `reading.opened`.

    Raises:
        ConfigError: it has no study yet, or searches nothing.
        StorageError: the sweep cannot be read, or the page not written.
    """
    beside = store.beside(confirmation.SUFFIX)
    with kept(store, study_url) as (description, reading), kept(beside, study_url) as (known, confirming):
        if reading.study is None:
            raise ConfigError(f"Expected a sweep with a study, but {store.uri!r} has none yet")
        results = Results(reading.study)
        if not results.sweep.space:
            raise ConfigError(
                f"Expected a search, but {store.uri!r} trains recipes that were given: a confirmation stands on the "
                "page of its search, a grid on that which reproduce.py writes"
            )
        more: dict[str, Any] = {}
        if confirming.study is not None:
            matters = Confirm.matters if known is None or known.matters is None else known.matters
            plan = crossing.kept(results, confirming.study)
            found = read_confirmation(confirming.study, plan, matters, beside)
            more = confirmed.on_page(found, _trials(known))
        _write_page_now(results, _trials(description), store, path, **more)


def _trials(description: Description | None) -> int:
    """How many trials a kept sweep shall have, as far as that is known."""
    return (description.started.trials or 0) if description and description.started else 0


def _write_page_now(results: Results, trials: int, store: Store, path: Path, *, warning: str = "", **more: Any) -> None:
    """Writes the page of a search that shall have so many trials, as it is now; `more` as `page.page` takes it."""
    ended = sum(trial.state.is_finished() for trial in results.trials)
    total = max(trials, len(results.trials))
    own = f"Unfinished: {ended} of {total} trials have ended." if ended < total else ""
    seen = {"per_image": per_image(store, results.compared.values()), "evaluation": _tested(store, there=True)}
    write_page(results, path, **seen, **more, warning=" ".join(filter(None, [own, warning])))


def searching(sweep: Sweep) -> RunningPage:
    """Keeps the page of a search new while it runs."""

    def write(study: Ledger, path: Path) -> None:
        _write_page_now(Results(study), sweep.setup.total or 0, sweep.store, path)

    return RunningPage(sweep, sweep.store / "report", write)


class RunningPage(Follower):
    """Keeps a page on storage new while a sweep runs: in a thread, after trials have ended, at most once a minute.

    Args:
        sweep: that runs.
        store: where the page lies.
        write: is given the sweep's study, and where to write the page.
    """

    def __init__(self, sweep: Sweep, store: Store, write: Callable[[Ledger, Path], None]) -> None:
        self._sweep, self._store, self._page = sweep, store, write
        self._due = self._closed = False
        self._next = time.monotonic() + _EVERY
        self._thread: threading.Thread | None = None

    def end(self, number: int, state: str, metrics: dict[str, float]) -> None:
        self._due = True

    def update(self, status: dict[str, Any]) -> None:
        at_work = self._thread is not None and self._thread.is_alive()
        if self._due and not at_work and time.monotonic() >= self._next:
            self._due = False
            self._thread = threading.Thread(target=self._write, name="page", daemon=True)
            self._thread.start()

    def close(self, seconds: float) -> None:
        """Waits so long for a page that is being written; none is stored afterwards."""
        if self._thread is not None:
            self._thread.join(seconds)
        self._closed = True

    def _write(self) -> None:
        began, sweep = time.monotonic(), self._sweep
        # A page is a convenience, which the end of the sweep makes again: whatever it runs into, the sweep goes on.
        with contextlib.suppress(Exception), tempfile.TemporaryDirectory(prefix="mollify-page-") as folder:
            study = sweep.setup.location.load(sweep.name)
            if study is not None:
                self._page(study, Path(folder) / PAGE)
                if not self._closed:
                    self._store.write(PAGE, (Path(folder) / PAGE).read_bytes())
        ended = time.monotonic()
        self._next = ended + max(_EVERY, _SHARE * (ended - began))


def _notice(console: Console, text: str) -> None:
    console.print(styled("!", "yellow", f" {text}"), soft_wrap=True)


def _commands(sweep: Sweep, results: Results) -> list[tuple[str, str]]:
    """What a user may do next: (description, command), without a password."""
    flags = sweep.data_flags
    wanted = {metric: f"the best on the {label(metric, unit=False)}" for metric in results.leaders} or {"": "the best"}
    url = sweep.setup.description.study_url
    password = " (with its password)" if MASK in url else ""
    commands = [
        (f"look at the study{password}", shell_command("optuna-dashboard", [url])),
        ("look at the curves", shell_command("tensorboard", ["--logdir", str(sweep.local / "tensorboard")])),
    ]
    for metric, whose in wanted.items():
        train = shell_command("-m mollify_core.train", [str(sweep.local / "report" / recipe_file(metric)), *flags])
        commands.append((f"train {whose} again, alone (with `--final`: for use)", train))
    tested = _tested(sweep.store)
    if tested and not _measured(tested, results):
        typed = shell_command("sweeps/evaluate.py", [sweep.store.uri, "--out", str(tested.parent), *flags])
        commands.append(("measure it on the test set; the sweep's command then shows that too", typed))
    if sweep.setup.total is None:
        return commands
    return [*commands, ("search on", str(sweep.command.with_trials(2 * sweep.setup.total)))]


def _tested(store: Store, there: bool = False) -> Path | None:
    """Where a measurement on the test set is looked for; `there`: None unless there is one."""
    path = store.local / "evaluation" / "evaluation.parquet" if store.local else None
    return path if path and (path.is_file() or not there) else None


def _measured(path: Path, results: Results) -> bool:
    """Whether a measurement on the test set is newer than all that could be measured."""
    ends = [trial.datetime_complete.timestamp() for trial in results.completed if trial.datetime_complete]
    return path.is_file() and path.stat().st_mtime > max(ends, default=math.inf)


def per_image(store: Store, trials: Iterable[FrozenTrial]) -> dict[int, dict[str, np.ndarray]]:
    """Values over the validation images that judge, of trials that are compared image by image."""
    result = {}
    for trial in trials:
        data = retry(functools.partial(store.read, f"{trial_folder(trial.number)}/validation.npz"))
        if data:
            try:
                result[trial.number] = images_of(data)
            except DataError as error:
                raise DataError(f"Cannot read validation.npz of trial {trial.number}: {error}") from None
    return result
