"""Where a sweep's study lives: opening it, telling whose it is, and how far it has come."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mollify_core.errors import ConfigError, StorageError, first_line
from mollify_core.recipe import Recipe
from mollify_sweeps.study.description import Description, describe, described

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_SQLITE = "sqlite:///"


@dataclass(frozen=True)
class Location:
    """Where studies are kept: in an SQLite file, or on a database server.

    Attributes:
        url: as Optuna takes it.
    """

    url: str

    @classmethod
    def of_file(cls, path: Path) -> Location:
        """An SQLite file."""
        return cls(f"{_SQLITE}{path}")

    @property
    def file(self) -> Path | None:
        """The SQLite file; None where there is a server."""
        return Path(self.url.removeprefix(_SQLITE)) if self.url.startswith(_SQLITE) else None

    @property
    def shown(self) -> str:
        """The URL as it may be shown: without a password."""
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError

        if self.file is not None:
            return self.url
        try:
            return make_url(self.url).render_as_string(hide_password=True)
        except ArgumentError:
            return "given by --study-url"

    @property
    def incomplete(self) -> bool:
        """Whether it is only what may be shown of a URL with a password."""
        return ":***@" in self.url

    @property
    def draftable(self) -> bool:
        """Whether it is a file that is not there yet, and may be put there as a whole."""
        file = self.file
        return file is not None and not (":memory:" in self.url or "?" in self.url or file.exists())

    def open(self) -> optuna.storages.BaseStorage:
        """Optuna's storage there.

        Raises:
            StorageError: it cannot be opened; the password is not shown.
        """
        options = {"pool_pre_ping": True} if self.file is None else {"connect_args": {"timeout": 60}}
        try:
            if self.draftable:
                # Its tables are made in many steps: whoever looks meanwhile, or after a kill, is to find none or all.
                assert self.file is not None
                draft = self.file.with_name(f"{self.file.name}.{os.getpid()}.tmp")
                optuna.storages.RDBStorage(Location.of_file(draft).url).engine.dispose()
                os.replace(draft, self.file)
            return optuna.storages.RDBStorage(self.url, engine_kwargs=options)
        except Exception as error:  # SQLAlchemy, the driver, or a missing driver: a user's URL is wrong in many ways
            raise StorageError(f"Cannot open the study {self.shown}: {cause(error)}") from None

    def load(self, name: str) -> optuna.Study | None:
        """The study of a sweep, or None when there is none yet; raises as `open` does."""
        return _load(self.open(), name)

    def make(self, description: Description) -> optuna.Study:
        """The study of a sweep, made where there is none yet.

        Raises:
            ConfigError: there is one of another sweep.
            StorageError: see `open`.
        """
        storage = self.open()
        study = _load(storage, description.name)
        if study is None:
            directions = [StudyDirection.MINIMIZE] * len(description.objectives)
            study = optuna.create_study(
                study_name=description.name, storage=storage, directions=directions, load_if_exists=True
            )
        check_same(study, description)
        describe(study, description)
        return study


def _load(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study | None:
    if name not in [s.study_name for s in optuna.get_all_study_summaries(storage, include_best_trial=False)]:
        return None
    return optuna.load_study(study_name=name, storage=storage)


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


def check_same(study: optuna.Study, description: Description) -> None:
    """Checks that a study belongs to this sweep.

    Raises:
        ConfigError: it is of another data set, space or protocol; what differs is named.
    """
    known = described(study)
    if known is None and not study.trials and len(study.directions) == len(description.objectives):
        return  # killed when it was being made
    if known is None:
        raise ConfigError(f"Study {study.study_name!r} was not made by mollify; give the sweep another --name")
    old, new = known.identity, description.identity
    different = [key for key in new if old[key] != new[key]]
    if "base_recipe" in different and _base(known).hash == _base(description).hash:
        different.remove("base_recipe")  # written before a setting existed that has its default here, or in old words
    if different:
        words = {"fingerprint": "data set", "base_recipe": "base recipe", "space": "search space"}
        what = " and ".join(words.get(k, k) for k in different)
        raise ConfigError(
            f"Sweep {study.study_name!r} exists with another {what}; repeat its own settings to continue it, "
            f"or start a new one with another --name"
        )


def _base(description: Description) -> Recipe:
    return Recipe.from_dict(description.base_recipe)


def answers(trial: FrozenTrial) -> list[dict[str, Any]]:
    """What was reported of each epoch of a trial and answered, in order of epochs."""
    found: list[dict[str, Any]] = []
    while (key := f"epoch_{len(found)}") in trial.user_attrs:
        found.append(trial.user_attrs[key])
    return found


def progress(study: optuna.Study) -> tuple[int, int, int]:
    """(finished trials, epochs answered, trials): of two copies of one study, the later one has the greater."""
    trials = study.get_trials(deepcopy=False)
    epochs = sum(key.startswith("epoch_") for trial in trials for key in trial.user_attrs)
    return sum(trial.state in FINISHED for trial in trials), epochs, len(trials)


def finished(study: optuna.Study | None) -> int:
    """How many of its trials have ended, in whatever way."""
    return 0 if study is None else progress(study)[0]
