"""Where a sweep's study lives: opening it, telling whose it is, and how far it has come."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

from mollify_core.errors import ConfigError, DataError, MollifyError, StorageError, first_line
from mollify_core.foreign import clean, shown
from mollify_core.hiding import MASK, hidden
from mollify_core.recipe import Recipe
from mollify_sweeps.study.description import Description, describe, described
from mollify_sweeps.study.ledger import Ledger, study_name
from mollify_sweeps.study.soundness import check_numbers, check_study, check_trial

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
FAILURES = ("nan", "oom", "device", "settings", "bug")  # what a failed trial is told as
# A server that is gone without a word, as after a failover, is given up before another driver takes this one for dead
# (`claim`): seconds, but `tcp_user_timeout`, which is in milliseconds. A user's own, in the URL, stay.
_LIBPQ = {
    "connect_timeout": 10,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
_MYSQL = {"connect_timeout": 10, "read_timeout": 15, "write_timeout": 15}
_TIMEOUTS: dict[str, dict[str, int]] = {
    "sqlite+pysqlite": {"timeout": 60},
    "postgresql+psycopg2": _LIBPQ,
    "postgresql+psycopg": _LIBPQ,
    "mysql+pymysql": _MYSQL,
    "mysql+mysqldb": _MYSQL,
}


@dataclass(frozen=True)
class Location:
    """Where studies are kept: in an SQLite file, or on a database server.

    Attributes:
        url: as Optuna takes it.
    """

    url: str

    @classmethod
    def of_file(cls, path: Path) -> Location:
        """An SQLite file, whatever its folders are called: `?`, `#` and `%` mean something in a URL."""
        return cls(URL.create("sqlite", database=str(path)).render_as_string(hide_password=False))

    @property
    def file(self) -> Path | None:
        """The SQLite file of `sqlite:///PATH`; None of any other address, which is taken for a server's."""
        url = self._parsed
        plain = url is not None and url.drivername == "sqlite" and not url.query.get("uri") and not self._in_memory
        return Path(str(url.database)) if plain and url is not None else None

    @property
    def _in_memory(self) -> bool:
        url = self._parsed
        if url is None or url.get_backend_name() != "sqlite":
            return False
        return not url.database or ":memory:" in (url.database, f":{url.query.get('mode')}:")

    @property
    def _parsed(self) -> URL | None:
        try:
            return make_url(self.url)
        except (ArgumentError, ValueError):  # the latter of a port that is no number
            return None

    @property
    def shown(self) -> str:
        """The URL as it may be shown: without a password."""
        return self.url if self.file is not None else hidden(self.url)

    @property
    def incomplete(self) -> bool:
        """Whether it is only what may be shown of a URL with a password."""
        return MASK in self.url

    @property
    def draftable(self) -> bool:
        """Whether it is a file that is not there yet, and may be put there as a whole."""
        return self.file is not None and not self.file.exists()

    @property
    def engine(self) -> URL:
        """The URL as SQLAlchemy takes it, with a driver that is installed: which it takes for PostgreSQL changes.

        Raises:
            ArgumentError: it is none (SQLAlchemy's).
        """
        url = make_url(self.url)
        if url.drivername != "postgresql":
            return url
        newer = importlib.util.find_spec("psycopg") is not None
        return url.set(drivername=f"postgresql+{'psycopg' if newer else 'psycopg2'}")

    @property
    def timeouts(self) -> dict[str, int]:
        """How long the driver waits, as arguments of a connection; raises as `engine` does."""
        url = self.engine
        known = _TIMEOUTS.get(f"{url.get_backend_name()}+{url.get_driver_name()}", {})
        return {name: value for name, value in known.items() if name not in url.query}

    def open(self) -> optuna.storages.BaseStorage:
        """Optuna's storage there.

        Raises:
            StorageError: it cannot be opened, or cannot be kept; the password is not shown.
        """
        if self._in_memory:
            raise StorageError(f"Expected a study in a file, sqlite:///PATH, or on a server, but got {self.shown!r}")
        try:
            if self.draftable:
                # Its tables are made in many steps: whoever looks meanwhile, or after a kill, is to find none or all.
                assert self.file is not None
                draft = self.file.with_name(f"{self.file.name}.{os.getpid()}.tmp")
                optuna.storages.RDBStorage(Location.of_file(draft).url).engine.dispose()
                os.replace(draft, self.file)
            options = {"connect_args": self.timeouts, "pool_pre_ping": self.file is None}
            return optuna.storages.RDBStorage(self.engine.render_as_string(False), engine_kwargs=options)
        except Exception as error:  # SQLAlchemy, the driver, or a missing driver: a user's URL is wrong in many ways
            missing = isinstance(error, ImportError) and self.url.startswith("postgresql")
            hint = "; the package's extra `postgresql` brings the driver" if missing else ""
            raise StorageError(f"Cannot open the study {self.shown}: {hidden(cause(error))}{hint}") from None

    def load(self, name: str, *, strict: bool = True) -> Ledger | None:
        """The studies of a sweep, or None when there are none yet.

        Args:
            name: of the sweep.
            strict: all that they say of trials is checked.

        Raises:
            DataError: they say something that cannot be.
            StorageError: see `open`.
        """
        storage = self.open()
        try:
            ledger = _load(storage, name)
            trials = [] if ledger is None else ledger.get_trials()
            told = None if ledger is None else described(ledger)
            if strict and told is not None:
                for trial in trials:
                    check_trial(trial, told)
        except (MollifyError, OptunaError, DBAPIError):
            raise
        except Exception as error:  # Optuna and SQLAlchemy take a database for their own: any error of Python's
            raise DataError(f"Expected the study of a sweep, but it is damaged ({_words(error)})") from None
        return ledger

    def make(self, description: Description) -> Ledger:
        """The studies of a sweep, made where there are none yet.

        Raises:
            ConfigError: there are some of another sweep.
            StorageError: see `open`.
        """
        storage = self.open()
        known = _load(storage, description.name)
        if known is not None:
            check_same(known, description)
        directions = [StudyDirection.MINIMIZE] * len(description.objectives)
        studies = {}
        for method in description.methods or ("",):
            studies[method] = optuna.create_study(
                study_name=study_name(description.name, method),
                storage=storage,
                directions=directions,
                load_if_exists=True,
            )
            describe(studies[method], description)
        return Ledger(description.name, studies)


def _load(storage: optuna.storages.BaseStorage, name: str) -> Ledger | None:
    summaries = optuna.get_all_study_summaries(storage, include_best_trial=False)
    names = {s.study_name for s in summaries if s.study_name == name or s.study_name.startswith(f"{name}/")}
    studies = {n.partition("/")[2]: optuna.load_study(study_name=n, storage=storage) for n in sorted(names)}
    if not studies:
        return None
    for study in studies.values():
        check_study(study)
    told = next(filter(None, map(described, studies.values())), None)
    order = list(told.methods) if told else []
    if told and (strange := studies.keys() - set(order or [""])):
        raise DataError(f"Expected studies of {', '.join(order) or 'one sweep'}, but got {shown(min(strange))} too")
    return Ledger(name, dict(sorted(studies.items(), key=lambda item: order.index(item[0]) if item[0] in order else 0)))


def _words(error: Exception) -> str:
    return clean(f"{type(error).__name__}: {first_line(error)}", 150, "")


def quiet_optuna() -> None:
    """Keeps Optuna and what it stands on from writing to the terminal."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message=".*out of range.*")
    logging.getLogger("alembic").setLevel(logging.ERROR)


@contextlib.contextmanager
def study_errors() -> Iterator[None]:
    """For what reads and writes studies that are open already.

    Raises:
        StorageError: the database of one went away, or refused.
    """
    try:
        yield
    except StorageInternalError as error:
        raise StorageError(f"The study's database failed: {cause(error)}; what it was told is kept") from None


def cause(error: BaseException) -> str:
    """Why a database failed, in its own driver's words where Optuna or SQLAlchemy has others."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return first_line(getattr(error, "orig", None) or error)


def check_same(study: Ledger, description: Description) -> None:
    """Checks that a study belongs to this sweep.

    Raises:
        ConfigError: it is of another data set, space or protocol; what differs is named.
        DataError: its trials are not all there.
    """
    known = described(study)
    if known is None and not study.trials and len(study.directions) == len(description.objectives):
        return  # killed when it was being made
    if known is None:
        raise ConfigError(f"Study {study.name!r} was not made by mollify; give the sweep another --name")
    check_numbers(study.get_trials())
    different = differences(known, description)
    if different == ["base_recipe"] and (file := _changed_file(known, description)):
        raise ConfigError(
            f"{file} has changed since sweep {study.name!r} began; put the old one back to continue it (a copy is in "
            "its folder), or start a new one with another --name"
        )
    if different:
        words = {"fingerprint": "data set", "base_recipe": "base recipe", "space": "search space", "feed": "--feed"}
        words["groups"] = "--groups file"
        what = " and ".join(words.get(k, k) for k in different)
        raise ConfigError(
            f"Sweep {study.name!r} exists with another {what}; repeat its own settings to continue it, "
            f"or start a new one with another --name, and with --from this one's folder to try its best recipes first"
        )


def _changed_file(known: Description, other: Description) -> str:
    """The name of the file, of a network's code or of weights, in whose content alone two base recipes differ."""
    old, new = (Recipe.from_dict(description.base_recipe) for description in (known, other))
    for name, sha256 in (("network", "network_sha256"), ("weights", "weights_sha256")):
        if old.with_({sha256: ""}) == new.with_({sha256: ""}):
            return f"The {'code' if name == 'network' else 'file'} of {name} {shown(new.get(name))}"
    return ""


def differences(known: Description, other: Description) -> list[str]:
    """In what two descriptions are of different sweeps.

    Base recipes are the same that train the same: one may be in old words, or written before a setting existed that
    has its default in the other.
    """
    old, new = known.identity, other.identity
    different = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if "groups" in different and "fingerprint" in different:  # it is of the images and their groups
        different.remove("fingerprint")
    with contextlib.suppress(ConfigError):  # of a damaged one: it is different
        if "base_recipe" in different and len({Recipe.from_dict(d["base_recipe"]).hash for d in (old, new)}) == 1:
            different.remove("base_recipe")
    return different


def answers(trial: FrozenTrial) -> list[dict[str, Any]]:
    """What was reported of each epoch of a trial and answered, in order of epochs."""
    found: list[dict[str, Any]] = []
    while (key := f"epoch_{len(found)}") in trial.user_attrs:
        found.append(trial.user_attrs[key])
    return found


def progress(study: Ledger) -> tuple[int, int, int]:
    """(finished trials, epochs answered, trials): of two copies of one study, the later one has the greater."""
    trials = study.get_trials()
    epochs = sum(key.startswith("epoch_") for trial in trials for key in trial.user_attrs)
    return sum(trial.state in FINISHED for trial in trials), epochs, len(trials)


def finished(study: Ledger | None) -> int:
    """How many of its trials have ended, in whatever way."""
    return 0 if study is None else progress(study)[0]
