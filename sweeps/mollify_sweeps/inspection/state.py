"""How sweeps are, while their drivers run and after these are gone; and how to stop and continue one.

Everything is read from where a sweep keeps itself: its study, its sweep.json and the claim of its driver. A study in
SQLite is read from a copy, so that looking never disturbs the driver.
"""

from __future__ import annotations

import datetime
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from pyarrow import fs

from mollify_core.errors import ConfigError, MollifyError, StorageError, first_line
from mollify_core.kinds import Whole, fits
from mollify_sweeps.storage.store import STUDY, SWEEP, Store
from mollify_sweeps.study import claim
from mollify_sweeps.study.database import FINISHED, answers
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.ledger import METHOD, STOPPED
from mollify_sweeps.study.reading import Reading, kept, name_of
from mollify_sweeps.study.results import Results, settings_of

PROGRAMS = ("sweeps/search.py", "sweeps/reproduce.py")
"""What may be called to go on with a sweep."""
STATES = ("complete", "pruned", "fail", "running", "stopped", "cut off", "waiting")
"""Of a trial. Without a driver it does not run: it was stopped with its driver, or cut off when that was killed."""


@dataclass(frozen=True)
class TrialStatus:
    """One trial.

    Attributes:
        number: as in the study.
        state: one of `STATES`.
        value: first objective: measured at the end, else of the last epoch; None before the first.
        epoch, epochs: done, and when it is not pruned.
        seconds: of training.
        reference: which of the trials with settings that nothing has searched, see `Results.compared`.
        method: that it tries; None where a sweep has no methods.
        params: the searched settings that have an effect on it.
        failure: why it failed.
    """

    number: int
    state: str
    value: float | None
    epoch: int
    epochs: int | None
    seconds: float
    reference: str | None
    method: str | None
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
        kept_as: the URI of its folder then; None when it was not kept.
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
    kept_as: str | None = None
    trials: list[TrialStatus] = field(default_factory=list)
    problem: str | None = None


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
    return any(info.is_file for info in store.fs.get_file_info([f"{store.root}/{n}" for n in (SWEEP, STUDY)]))


def look(store: Store, study_url: str | None = None) -> SweepStatus:
    """How a sweep is.

    Args:
        store: the sweep's folder.
        study_url: Optuna storage URL of its study, when it is not SQLite and its URL has a password.

    Raises:
        ConfigError: its study is elsewhere and its address was not given.
        StorageError: the storage or the study cannot be read.
    """
    try:
        with kept(store, study_url) as (told, reading):
            results = None if reading.study is None else Results(reading.study)
            signed = claim.signer(claim.boards(store, reading.study if reading.live is None else None))
        reported = store.fs.get_file_info(f"{store.root}/report/summary.md").is_file
    except OSError as error:
        if isinstance(error, MollifyError):
            raise
        raise StorageError(f"Cannot read sweep {store.uri!r}: {first_line(error)}") from None
    return _status(store, told or (results.sweep if results else None), results, reading, signed, reported)


def _status(
    store: Store,
    known: Description | None,
    results: Results | None,
    reading: Reading,
    signed: tuple[claim.Driver | None, Path | None],
    reported: bool,
) -> SweepStatus:
    live, copied, started = reading.live, reading.copied, known.started if known else None
    frozen = results.trials if results else []
    total = started.trials if started else None
    ended, running = sum(t.state in FINISHED for t in frozen), any(t.state == TrialState.RUNNING for t in frozen)
    done = ended >= total if total is not None else reported and not running
    beside = store.local or signed[1] or (live.parent if live else None)
    driver = (claim.driver_of(beside) if beside else None) or signed[0]
    if driver is None and copied is not None and time.time() - copied < claim.FRESH and running:
        driver = None, started.host if started else None  # on another machine, which copies its study here
    trials = [_trial(trial, results, driver is not None) for trial in frozen] if results else []
    counts = {state: sum(trial.state == state for trial in trials) for state in STATES}
    moments = [m.timestamp() for t in frozen for m in (t.datetime_start, t.datetime_complete) if m]
    created = datetime.datetime.fromisoformat(known.created).timestamp() if known and known.created else None
    best = results.best if results else None
    return SweepStatus(
        name=name_of(store, known),
        storage=store.uri,
        state="running" if driver else "finished" if done else "stopped",
        pid=driver[0] if driver else None,
        host=driver[1] if driver else None,
        beside=str(beside) if beside else None,
        dataset=known.dataset if known else None,
        verified=known.verified if known else True,
        network=known.network if known else None,
        objectives=list(known.objectives) if known else [],
        best=None if best is None else {"number": best.number, "value": best.values[0]},
        counts=counts,
        total=total,
        created=min(moments, default=None) if created is None else created,
        changed=live.stat().st_mtime if live and live.is_file() else max(moments, default=None),
        copied=copied,
        command=list(started.command) if started and started.command is not None else None,
        program=started.program if started else PROGRAMS[0],
        folder=started.cwd if started else None,
        kept_as=known.storage if known else None,
        trials=trials,
    )


def look_at_all(stores: list[Store], study_url: str | None = None) -> list[SweepStatus]:
    """How sweeps are; one that cannot be read hides no other."""
    sweeps = []
    for store in stores:
        try:
            sweeps.append(look(store, study_url))
        except MollifyError as error:
            sweeps.append(_unreadable(store, str(error)))
        except Exception as error:  # a reader's mistake with one sweep must not hide the others
            sweeps.append(_unreadable(store, f"Cannot read it ({type(error).__name__}: {first_line(error)})"))
    return sweeps


def _unreadable(store: Store, problem: str) -> SweepStatus:
    return SweepStatus(store.root.rpartition("/")[2], store.uri, "unreadable", problem=problem)


def state_of(trial: FrozenTrial, driven: bool) -> str:
    """The state of a trial, one of `STATES`; `driven`: whether a driver is at work."""
    if trial.state != TrialState.RUNNING or driven:
        return trial.state.name.lower()
    return "stopped" if trial.user_attrs.get(STOPPED) else "cut off"


def _trial(trial: FrozenTrial, results: Results, driven: bool) -> TrialStatus:
    attrs, known = trial.user_attrs, answers(trial)
    value = trial.values[0] if trial.values else known[-1]["values"][0] if known else None
    epochs = settings_of(trial).get("epochs")
    failure = f"{attrs['failure']}: {attrs.get('failure_message', '')}" if "failure" in attrs else None
    return TrialStatus(
        number=trial.number,
        state=state_of(trial, driven),
        value=value if value is not None and math.isfinite(value) else None,
        epoch=len(known),
        epochs=epochs if fits(epochs, Whole()) else None,
        seconds=sum(answer["seconds"] for answer in known),
        reference=attrs.get("reference"),
        method=attrs.get(METHOD),
        params=results.effective(trial),
        failure=failure,
    )
