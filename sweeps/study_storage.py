"""Where a sweep's study lives: opening it, telling whose it is, and how far it has come."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mollify_core.errors import ConfigError, StorageError, first_line
from mollify_core.recipe import Recipe

_SQLITE = "sqlite:///"
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
IDENTITY = ("fingerprint", "objectives", "base_recipe", "space", "sampler", "pruner", "seed")


def quiet_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message=".*out of range.*")
    logging.getLogger("alembic").setLevel(logging.ERROR)


def hide_password(url: str) -> str:
    """A study URL that may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        return "given by --study-url"


@contextlib.contextmanager
def study_errors() -> Iterator[None]:
    """For what reads and writes studies that are open already.

    Raises:
        StorageError: the database of one went away, or refused.
    """
    try:
        yield
    except StorageInternalError as error:
        raise StorageError(f"The study's database failed: {reason(error)}; what it was told is kept") from None


def reason(error: BaseException) -> str:
    """Why a database failed, in its own driver's words where Optuna or SQLAlchemy has others."""
    if isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    return first_line(getattr(error, "orig", None) or error)


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """Optuna's storage behind a URL.

    Raises:
        StorageError: it cannot be opened; the password is not shown.
    """
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        path = Path(url.removeprefix(_SQLITE))
        if url.startswith(_SQLITE) and not (":memory:" in url or "?" in url or path.exists()):
            # Its tables are made in many steps: whoever looks meanwhile, or after a kill, is to find none or all.
            draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
            optuna.storages.RDBStorage(f"{_SQLITE}{draft}").engine.dispose()
            os.replace(draft, path)
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except Exception as error:  # SQLAlchemy, the driver, or a missing driver: a user's URL is wrong in many ways
        raise StorageError(f"Cannot open the study {hide_password(url)}: {reason(error)}") from None


def load_study(url: str, name: str) -> optuna.Study | None:
    """The study of a sweep, or None when there is none yet."""
    storage = open_storage(url)
    if name not in [s.study_name for s in optuna.get_all_study_summaries(storage, include_best_trial=False)]:
        return None
    return optuna.load_study(study_name=name, storage=storage)


def make_study(url: str, name: str, sweep: dict[str, Any]) -> optuna.Study:
    """The study of a sweep, made where there is none yet.

    Raises:
        ConfigError: there is one of another sweep.
    """
    study = load_study(url, name)
    if study is None:
        directions = [StudyDirection.MINIMIZE] * len(sweep["objectives"])
        storage = open_storage(url)
        study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    check_same(study, sweep)
    if "sweep" not in study.user_attrs:
        study.set_user_attr("sweep", sweep)
        study.set_metric_names(sweep["objectives"])
    return study


def check_same(study: optuna.Study, sweep: dict[str, Any]) -> None:
    """Checks that a study belongs to this sweep.

    Raises:
        ConfigError: it is of another data set, space or protocol; what differs is named.
    """
    known = study.user_attrs.get("sweep")
    if known is None and not study.trials and len(study.directions) == len(sweep["objectives"]):
        return  # killed when it was being made
    if known is None:
        raise ConfigError(f"Study {study.study_name!r} was not made by mollify; give the sweep another --name")
    different = [key for key in IDENTITY if known.get(key) != sweep.get(key)]
    if "base_recipe" in different and Recipe.from_dict(known["base_recipe"]) == Recipe.from_dict(sweep["base_recipe"]):
        different.remove("base_recipe")  # written before a setting existed that has its default here
    if different:
        words = {"fingerprint": "data set", "base_recipe": "base recipe", "space": "search space"}
        what = " and ".join(words.get(k, k) for k in different)
        raise ConfigError(
            f"Sweep {study.study_name!r} exists with another {what}; repeat its own settings to continue it, "
            f"or start a new one with another --name"
        )


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
