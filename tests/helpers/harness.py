"""Sweeps as real processes that are to be hurt: started as a user starts them, watched, killed, continued, compared."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from mollify_core import checkpoint
from mollify_core.errors import CheckpointError
from mollify_sweeps.inspection.check import Check
from mollify_sweeps.storage.store import Store, trial_folder
from mollify_sweeps.study.database import Location
from places import ROOT

PATIENCE = 900.0  # seconds for anything that must happen at last; a busy machine needs most of them
QUIET = "MOLLIFY_QUIET" in os.environ  # this machine does nothing else: promises about seconds hold
# One trial at a time, on one CPU worker: the results of two sweeps are then equal bit for bit.
DIGITS = (
    *("--dataset", "digits", "--name", "s", "--train-fraction", "0.1", "--max-concurrent", "1"),
    *("--set", "validation_fraction=0.05"),
)
SHORT = (*DIGITS, "--trials", "5", "--epochs", "6")
LONG = (*DIGITS, "--trials", "10", "--epochs", "9")

# The number of a trial in its sweep is an attribute of it: each method has a study of its own.
_PROGRESS = """SELECT CAST(COALESCE(n.value_json, CAST(trials.number AS TEXT)) AS INTEGER), trials.state, count(a.key)
               FROM trials
               LEFT JOIN trial_user_attributes AS n ON n.trial_id = trials.trial_id AND n.key = 'number'
               LEFT JOIN trial_user_attributes AS a ON a.trial_id = trials.trial_id AND {}
               GROUP BY trials.trial_id, trials.number, trials.state, n.value_json"""


@dataclass(frozen=True)
class Told:
    """What the study says of one trial, less everything that measures time; and the weights it ended with.

    Attributes:
        values: final objective values.
        epochs: epoch -> value.
        answers: the pruner's stored answers.
        weights: sha256 of the file of weights of the checkpoint that the study names.
    """

    number: int
    state: str
    params: dict[str, Any]
    values: list[float] | None
    epochs: dict[int, float]
    answers: list[bool]
    weights: str | None


@dataclass(frozen=True)
class Process:
    """A process by its id and the moment it was started, so that no later one with the same id is taken for it."""

    pid: int
    started: str

    @property
    def command(self) -> str:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return ""

    @property
    def trains(self) -> bool:
        """Whether it is one of Tune's actors at work: its title is then the sweep and the trial."""
        return re.match(r"ray::\S+/\d{5}$", self.command) is not None

    @property
    def alive(self) -> bool:
        return _processes().get(self.pid, (0, "", "Z"))[1:] in [(self.started, s) for s in "RSDTtI"]

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _processes() -> dict[int, tuple[int, str, str]]:
    """Process id -> (parent, time of start, state) of every process on this machine."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                found[int(folder.name)] = (int(fields[1]), fields[19], fields[0])
    return found


def descendants(pid: int) -> list[Process]:
    """All processes below a process."""
    every = _processes()
    found, parents = [], {pid}
    while parents:
        children = {child for child, (parent, *_) in every.items() if parent in parents}
        found += [Process(child, every[child][1]) for child in sorted(children)]
        parents = children
    return found


class Sweep:
    """One sweep in a folder of its own, run by the real command in a process of its own.

    Args:
        folder: working directory of the command.
        options: of `sweeps/search.py`.
        storage: `--storage`, when it is not `runs`.
        study_url: `--study-url`, when the study is on a database server.
        env: further environment of the process.
    """

    def __init__(
        self, folder: Path, *options: str, storage: str | None = None, study_url: str | None = None, **env: str
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.options, self.env = folder, [*options], env
        self.local = folder / "runs/s"
        if storage:
            self.options += ["--storage", storage]
            if "://" not in storage:
                self.local = Path(storage) / "s"
        self.uri = f"{storage}/s" if storage else str(self.local)
        self.study = self.local / "study.sqlite"
        self.study_url = study_url
        if study_url:
            self.options += ["--study-url", study_url]
        self.logs: list[Path] = []
        self.pids: list[int] = []
        self.driver: subprocess.Popen[bytes] | None = None
        self._seen: set[Process] = set()

    # ---- its life

    def start(self, *more: str, **env: str) -> Sweep:
        """Runs the command; what it prints goes to a file."""
        self.logs.append(self.folder / f"{time.monotonic_ns()}.log")
        with open(self.logs[-1], "wb") as log:
            self.driver = subprocess.Popen(
                [sys.executable, str(ROOT / "sweeps/search.py"), *self.options, *more],
                cwd=self.folder,
                env={**os.environ, **self.env, **env},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # as in a user's terminal: Ctrl-C reaches the whole group
            )
        self.pids.append(self.driver.pid)
        return self

    def wait(self, reached: Callable[[dict[int, tuple[str, int]]], object], seconds: float = PATIENCE) -> float:
        """Waits until `progress` satisfies `reached`; returns the seconds it took."""
        started = time.monotonic()
        while not reached(self.progress()):
            assert self.running, f"the sweep ended before it came to that:\n{self.last}"
            assert time.monotonic() - started < seconds, f"the sweep did not come to that in time:\n{self.last}"
            time.sleep(0.02)
        return time.monotonic() - started

    def pause(self, seconds: float, epochs: int) -> None:
        """Waits some seconds, but no longer than until so many epochs have been reported in all."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.epochs() < epochs:
            time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL, *, linger: bool = False, power: bool = False) -> None:
        """Sends the driver a signal and waits for its end, and, unless `linger`, for that of all its processes.

        With `power` none of these outlives it by a moment, as when a machine loses its power.
        """
        assert self.driver is not None
        assert self.running, f"the sweep had ended already:\n{self.last}"
        self._seen.update(descendants(self.driver.pid))
        for process in self._seen if power else ():
            process.kill()
        self.driver.send_signal(number)
        self.driver.wait(PATIENCE)
        if not linger:
            self.gone()

    def finish(self, code: int = 0, seconds: float = PATIENCE) -> str:
        """Waits for the driver's own end; returns what it printed."""
        assert self.driver is not None
        deadline = time.monotonic() + seconds
        while self.running:
            assert time.monotonic() < deadline, f"the sweep did not end:\n{self.last}"
            self._seen.update(descendants(self.driver.pid))
            time.sleep(0.2)
        assert self.driver.returncode == code, self.last
        assert "Traceback" not in self.output, self.last
        return self.output

    def gone(self, seconds: float = 120) -> None:
        """Waits until no training process, nor any other of the sweep's workers, is left."""
        deadline = time.monotonic() + seconds
        while left := [p for p in self._seen if p.alive and re.match(r"ray::(?!.*Agent)", p.command)]:
            assert time.monotonic() < deadline, f"left behind: {[p.command for p in left]}"
            time.sleep(0.05)

    def end(self) -> None:
        """Ends whatever of it still runs."""
        if self.running and self.driver is not None:
            self._seen.update(descendants(self.driver.pid))
            self.driver.kill()
            self.driver.wait()
        for process in self._seen:
            process.kill()

    # ---- what can be seen of it

    @property
    def running(self) -> bool:
        return self.driver is not None and self.driver.poll() is None

    @property
    def output(self) -> str:
        """What its last life has printed."""
        return self.logs[-1].read_text(errors="replace")

    @property
    def last(self) -> str:
        """The end of it, for a failed test."""
        return f"...{self.output[-3000:]}"

    def said(self, text: str) -> int:
        """How often all its lives together have printed a text, however it was wrapped."""
        return sum(" ".join(log.read_text(errors="replace").split()).count(text) for log in self.logs)

    def progress(self) -> dict[int, tuple[str, int]]:
        """Trial number -> (state, epochs that were reported and answered), straight from the study's storage."""
        if self.study_url:
            return self._progress_on_server(self.study_url)
        query = _PROGRESS.format("a.key GLOB 'epoch_[0-9]*'")
        if self.study.exists():
            with contextlib.suppress(sqlite3.Error):  # it is being made, or its writer was killed just now
                with contextlib.closing(sqlite3.connect(f"file:{self.study}?mode=ro", uri=True)) as database:
                    return {number: (state, epochs) for number, state, epochs in database.execute(query)}
        return {}

    def _progress_on_server(self, url: str) -> dict[int, tuple[str, int]]:
        import psycopg

        query = _PROGRESS.format("a.key ~ '^epoch_[0-9]+$'")
        with contextlib.suppress(psycopg.Error):  # no tables yet, or it is away
            with contextlib.closing(psycopg.connect(url)) as database, database.cursor() as cursor:
                cursor.execute(query)
                return {number: (state, epochs) for number, state, epochs in cursor.fetchall()}
        return {}

    def epochs(self) -> int:
        return sum(epochs for _, epochs in self.progress().values())

    def workers(self) -> list[Process]:
        """The processes that train."""
        assert self.driver is not None
        return [p for p in descendants(self.driver.pid) if p.trains]

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        location = Location(self.study_url) if self.study_url else Location.of_file(self.study)
        study = location.load("s")
        assert study is not None
        return study.trials

    def told(self) -> list[Told]:
        """Everything about a sweep that must not depend on what was done to it."""
        store = Store(self.uri)
        result = []
        for t in self.trials():
            answers = [t.user_attrs[f"epoch_{epoch}"]["go_on"] for epoch in sorted(t.intermediate_values)]
            weights = None
            if "checkpoint" in t.user_attrs:
                name = f"{trial_folder(t.number)}/checkpoints/{checkpoint.name(len(answers))}/model.safetensors"
                weights = hashlib.sha256(store.read(name) or b"").hexdigest()
            result.append(
                Told(t.number, t.state.name, t.params, t.values, dict(t.intermediate_values), answers, weights)
            )
        return result

    def sound(self) -> None:
        """Runs the checker."""
        findings = [str(finding) for finding in Check(self.uri, self.study_url).findings if not finding.note]
        assert findings == [], findings

    def newest(self, number: int) -> int:
        """Finished epochs of a trial's newest good checkpoint."""
        store = Store(self.uri) / trial_folder(number)
        folder = f"{store.root}/checkpoints"
        for epoch in reversed(checkpoint.epochs(store.fs, folder)):
            with contextlib.suppress(CheckpointError):
                return checkpoint.load(store.fs, f"{folder}/{checkpoint.name(epoch)}").epoch
        return 0

    def trained(self) -> dict[int, dict[int, int]]:
        """Life -> trial -> the first epoch that it trained, by the epoch log that its driver kept (TensorBoard)."""
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

        first: dict[int, dict[int, int]] = {}
        for path in self.local.glob("tensorboard/*/events.out.tfevents.*"):
            life = self.pids.index(int(path.name.split(".")[-2]))
            for event in EventFileLoader(str(path)).Load():
                if any(value.tag == "train/loss" for value in event.summary.value):  # charts count epochs from 1
                    first.setdefault(life, {})[int(path.parent.name.partition("-")[0])] = event.step - 1
                    break
        return first


def in_trial(number: int, epochs: int = 1) -> Callable[[dict[int, tuple[str, int]]], bool]:
    """Whether trial `number` or a later one is running and has reported so many epochs."""

    def reached(progress: dict[int, tuple[str, int]]) -> bool:
        return any(n >= number and s == "RUNNING" and e >= epochs for n, (s, e) in progress.items())

    return reached


def injected(folder: Path, code: str) -> str:
    """A PYTHONPATH by which every process runs some code as it starts: what no signal and no server can bring about."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextlib.contextmanager
def stopped(process: subprocess.Popen[bytes], seconds: float) -> Iterator[None]:
    """A process that stands still for a time, as a server behind a broken network does; it goes on at the end."""
    process.send_signal(signal.SIGSTOP)
    started = time.monotonic()
    try:
        yield
        time.sleep(max(0.0, seconds - (time.monotonic() - started)))
    finally:
        process.send_signal(signal.SIGCONT)
