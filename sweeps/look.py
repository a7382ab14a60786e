"""How sweeps are, while their drivers run and after these are gone; and how to stop and continue one.

Everything is read from where a sweep keeps itself: its study, its sweep.json and the claim of its driver. A study in
SQLite is read from a copy, so that looking never disturbs the driver.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import shlex
import signal
import socket
import sqlite3
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from pyarrow import fs

from mollify_core.errors import ConfigError, MollifyError, StorageError, SweepError, first_line
from sweeps import claim
from sweeps.results import Results, settings_of
from sweeps.store import Store
from sweeps.study_storage import FINISHED, answers, load_study, quiet_optuna, study_errors

PROGRAMS = ("sweeps/search.py", "sweeps/reproduce.py")
"""What may be called to go on with a sweep."""
_SQLITE = "sqlite:///"
_STUDY = "study.sqlite"
_STOP_PATIENCE = 120.0
STATES = ("complete", "pruned", "fail", "running", "waiting")


@dataclass(frozen=True)
class TrialStatus:
    """One trial.

    Attributes:
        number, state: as in the study; the state is one of `STATES`.
        value: first objective: measured at the end, else of the last epoch; None before the first.
        epoch, epochs: done, and when it is not pruned.
        seconds: of training.
        reference: "paper" or "plain" of the two trials that the others are held against.
        params: the searched settings it trains with.
        failure: why it failed.
    """

    number: int
    state: str
    value: float | None
    epoch: int
    epochs: int | None
    seconds: float
    reference: str | None
    params: dict[str, Any]
    failure: str | None


@dataclass(frozen=True)
class SweepStatus:
    """One sweep.

    Attributes:
        name, storage: its name, and the URI of its folder.
        state: running, stopped (it has trials to go), finished, or unreadable.
        pid, host: the driver's process and machine, as far as they are known; None when none runs.
        beside: the folder beside the driver, on its machine.
        dataset, verified, network, objectives: what is searched.
        best: {"number", "value"} of the best trial on the first objective.
        counts: trials by state, see `TrialStatus`.
        total: trials in all; None when it was not kept.
        created, changed: seconds since 1970; when it was begun, and when its study last changed.
        copied: seconds since 1970 when the copy of the study was made that this was read from; None: from the study.
        command, program, folder: the arguments that made the sweep, of which program, and the folder in which they were
            given.
        trials: by number.
        problem: why it is unreadable.
    """

    name: str
    storage: str
    state: str
    pid: int | None = None
    host: str | None = None
    beside: str | None = None
    dataset: str | None = None
    verified: bool = True
    network: str | None = None
    objectives: list[str] = field(default_factory=list)
    best: dict[str, Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)
    total: int | None = None
    created: float | None = None
    changed: float | None = None
    copied: float | None = None
    command: list[str] | None = None
    program: str = PROGRAMS[0]
    folder: str | None = None
    trials: list[TrialStatus] = field(default_factory=list)
    problem: str | None = None


# ---- reading


def find(where: str) -> tuple[bool, list[Store]]:
    """The sweeps at a place.

    Args:
        where: a storage, a sweep in it, or the name of a sweep in `runs`.

    Returns:
        Whether the place is one sweep, and the sweeps' folders, by name.

    Raises:
        ConfigError: there is nothing.
        StorageError: the storage cannot be read.
    """
    places = [Store(where)]
    if "/" not in where:
        places.append(Store("runs") / where)
    try:
        for place in places:
            if _is_sweep(place):
                return True, [place]
        children = [place for place in _children(places[0]) if _is_sweep(place)]
    except OSError as error:
        raise StorageError(f"Cannot read storage {places[0].uri!r}: {first_line(error)}") from None
    if not children:
        raise ConfigError(f"Expected a sweep or a storage with sweeps, but {places[0].uri!r} holds none")
    return False, children


def _children(store: Store) -> list[Store]:
    found = store.fs.get_file_info(fs.FileSelector(store.root, allow_not_found=True))
    return [store / info.base_name for info in sorted(found, key=lambda info: info.path) if not info.is_file]


def _is_sweep(store: Store) -> bool:
    return any(info.is_file for info in store.fs.get_file_info([f"{store.root}/{n}" for n in ("sweep.json", _STUDY)]))


def look(store: Store, study_url: str | None = None) -> SweepStatus:
    """How a sweep is.

    Args:
        store: the sweep's folder.
        study_url: Optuna storage URL of its study, when it is not SQLite and its URL has a password.

    Raises:
        ConfigError: its study is elsewhere and its address was not given.
        StorageError: the storage or the study cannot be read.
    """
    quiet_optuna()
    try:
        description: dict[str, Any] = json.loads(store.read("sweep.json") or b"{}")
        read = _read(store, description, study_url)
        reported = store.fs.get_file_info(f"{store.root}/report/summary.md").is_file
    except json.JSONDecodeError:
        raise StorageError(f"Cannot read {store.uri}/sweep.json: it is damaged") from None
    except OSError as error:
        if isinstance(error, MollifyError):
            raise
        raise StorageError(f"Cannot read sweep {store.uri!r}: {first_line(error)}") from None
    results, live, copied = read.results, read.live, read.copied
    known = {**(results.sweep if results else {}), **description}
    frozen = results.trials if results else []
    trials = [_trial(trial, results) for trial in frozen] if results else []
    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    total = known.get("trials")
    finished = sum(counts[state.name.lower()] for state in FINISHED)
    done = finished >= total if total is not None else reported and not counts["running"]
    beside = store.local or (live.parent if live else read.folder)
    driver = (claim.driver_of(beside) if beside else None) or read.driver
    if driver is None and copied is not None and time.time() - copied < claim.FRESH and counts["running"]:
        driver = None, known.get("host")  # on another machine, which copies its study here
    moments = [m.timestamp() for t in frozen for m in (t.datetime_start, t.datetime_complete) if m]
    created = datetime.datetime.fromisoformat(known["created"]).timestamp() if "created" in known else None
    best = results.completed[0] if results and results.completed else None
    return SweepStatus(
        name=_name(store, description),
        storage=store.uri,
        state="running" if driver else "finished" if done else "stopped",
        pid=driver[0] if driver else None,
        host=driver[1] if driver else None,
        beside=str(beside) if beside else None,
        dataset=known.get("dataset"),
        verified=known.get("verified", True),
        network=known.get("network"),
        objectives=known.get("objectives", []),
        best=None if best is None else {"number": best.number, "value": best.values[0]},
        counts=counts,
        total=total,
        created=min(moments, default=None) if created is None else created,
        changed=live.stat().st_mtime if live and live.is_file() else max(moments, default=None),
        copied=copied,
        command=known.get("command"),
        program=known.get("program", PROGRAMS[0]),
        folder=known.get("cwd"),
        trials=trials,
    )


@dataclass(frozen=True)
class _Read:
    """What a study says.

    Attributes:
        results: None when there is none yet.
        live: its file beside the driver; None when it is in a database server.
        copied: when the copy in storage was made that this was read from.
        driver, folder: who signed it on another machine, and where it keeps its files; see `claim.signer`.
    """

    results: Results | None
    live: Path | None
    copied: float | None = None
    driver: claim.Driver | None = None
    folder: Path | None = None


def _read(store: Store, description: dict[str, Any], study_url: str | None) -> _Read:
    name = _name(store, description)
    url = study_url or description.get("study_url", f"{_SQLITE}{store.local or '.'}/{_STUDY}")
    if ":***@" in url:
        raise ConfigError(f"The study of sweep {name!r} is at {url}; give its address by --study-url")
    live, copied = None, None
    with tempfile.TemporaryDirectory(prefix="mollify-status-") as scratch:
        if url.startswith(_SQLITE):
            here = [store.local / _STUDY] if store.local else []  # first: a folder may have been moved
            named, copy = Path(url.removeprefix(_SQLITE)), Path(scratch) / _STUDY
            files = [named, *here] if study_url else [*here, named]
            live = next((file for file in files if file.is_file()), files[0])
            if live.is_file():
                _copy(live, copy)
            elif (data := store.read(_STUDY)) is not None:
                copied = store.fs.get_file_info(f"{store.root}/{_STUDY}").mtime.timestamp()
                copy.write_bytes(data)
            else:
                return _Read(None, live)
            url = f"{_SQLITE}{copy}"
        with study_errors():
            study = load_study(url, name)
            if study is None or "sweep" not in study.user_attrs:  # it is being made just now
                return _Read(None, live, copied)
            return _Read(Results(study), live, copied, *claim.signer(study))


def _name(store: Store, description: dict[str, Any]) -> str:
    return description.get("name", store.root.rpartition("/")[2])


def look_at_all(stores: list[Store], study_url: str | None = None) -> list[SweepStatus]:
    """How sweeps are; one that cannot be read hides no other."""
    sweeps = []
    for store in stores:
        try:
            sweeps.append(look(store, study_url))
        except MollifyError as error:
            sweeps.append(SweepStatus(store.root.rpartition("/")[2], store.uri, "unreadable", problem=str(error)))
    return sweeps


def _copy(source: Path, target: Path) -> None:
    """Copies a live SQLite study in a consistent state."""
    try:
        with contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=60)) as study:
            with contextlib.closing(sqlite3.connect(target)) as copy:
                study.backup(copy)
    except sqlite3.Error as error:
        raise StorageError(f"Cannot read the study {str(source)!r}: {first_line(error)}") from None


def _trial(trial: FrozenTrial, results: Results) -> TrialStatus:
    attrs, known = trial.user_attrs, answers(trial)
    value = trial.values[0] if trial.values else known[-1]["values"][0] if known else None
    failure = f"{attrs['failure']}: {attrs.get('failure_message', '')}" if "failure" in attrs else None
    return TrialStatus(
        number=trial.number,
        state=trial.state.name.lower(),
        value=value if value is not None and math.isfinite(value) else None,
        epoch=len(known),
        epochs=settings_of(trial).get("epochs"),
        seconds=sum(answer["seconds"] for answer in known),
        reference=attrs.get("reference"),
        params=results.searched(trial),
        failure=failure,
    )


# ---- the driver


def stop(sweep: SweepStatus, patience: float = _STOP_PATIENCE) -> None:
    """Asks the driver of a sweep to stop, as Ctrl-C does, and waits until it has, for so many seconds.

    Raises:
        ConfigError: no driver runs, or it is not a process of this machine or this user.
        SweepError: it has not stopped in time; it still may.
    """
    if sweep.state != "running" or sweep.beside is None:
        raise ConfigError(f"Expected a running sweep to stop, but {sweep.name!r} is {sweep.state}")
    folder = Path(sweep.beside)
    if sweep.pid is None or sweep.host != socket.gethostname() or not _has_open(sweep.pid, folder / "driver.lock"):
        where = f"on {sweep.host}" if sweep.host and sweep.host != socket.gethostname() else "on another machine"
        process = f"process {sweep.pid}" if sweep.pid else "its driver"
        raise ConfigError(f"Sweep {sweep.name!r} runs {where}; stop {process} there")
    try:
        os.kill(sweep.pid, signal.SIGTERM)
    except PermissionError:
        raise ConfigError(f"Sweep {sweep.name!r} is run by process {sweep.pid} of another user") from None
    deadline = time.monotonic() + patience
    while claim.driver_of(folder) is not None:
        if time.monotonic() > deadline:
            raise SweepError(f"Process {sweep.pid} was asked to stop and has not yet after {patience:.0f} s")
        time.sleep(0.2)


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open: it may be of another machine or container, whose numbers mean nothing here."""
    if not Path("/proc/self/fd").is_dir():
        return True
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if entry.samefile(path):
                    return True
    return False


def command_of(sweep: SweepStatus) -> str:
    """The command that goes on with a sweep, to be typed.

    Raises:
        ConfigError: it was not kept.
    """
    if sweep.command is None or sweep.program not in PROGRAMS:
        raise ConfigError(f"The command of sweep {sweep.name!r} was not kept; repeat the one that started it")
    command = shlex.join(["python", sweep.program, *sweep.command])
    return f"cd {shlex.quote(sweep.folder)} && {command}" if sweep.folder else command


def go_on(sweep: SweepStatus) -> None:
    """Becomes the command that goes on with a sweep; does not return.

    Raises:
        ConfigError: it was not kept, is not whole, cannot be run here, or runs already.
    """
    command = command_of(sweep)
    assert sweep.command is not None
    if sweep.state == "running":
        process = f"process {sweep.pid}" if sweep.pid else "a process elsewhere"
        raise ConfigError(f"Expected a sweep that does not run, but {sweep.name!r} is being run by {process}")
    if ":***@" in command:
        raise ConfigError("The password in --study-url was not kept; type the command with it")
    if sweep.folder and not Path(sweep.folder).is_dir():
        raise ConfigError(f"Sweep {sweep.name!r} was started in {sweep.folder!r}, which is not on this machine")
    os.chdir(sweep.folder or ".")
    program = str(Path(__file__).resolve().parents[1] / sweep.program)
    os.execv(sys.executable, [sys.executable, program, *sweep.command])
