"""What a study may say of its trials, written once: whoever made it, readers find what they expect, or one sentence.

Optuna reads a database as it is: it checks neither what attributes hold nor whether a value is a number.
"""

from __future__ import annotations

import datetime
import io
import re
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from mollify_core.documents import bounded, json_of
from mollify_core.errors import DataError, first_line
from mollify_core.foreign import clean, shown
from mollify_core.kinds import Flag, ListOf, MapOf, Maybe, Number, Record, Text, Whole, checked
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.ledger import METHOD, NUMBER, STOPPED

_MOST_VALUES = 256 << 20  # bytes of validation.npz, unpacked
_EPOCHS = 1_000_000  # of a trial; see `settings.Optim`
_SECONDS = Number(0, 1e12)
_NAME, _COUNT, _MEASURE = Text(1000), Whole(0, 10**9), Number(any=True)
_ANSWER = Record(
    {"values": ListOf(Maybe(_MEASURE), least=1, most=100), "seconds": _SECONDS, "go_on": Flag()},
    {"rungs": Whole(0, 100)},
)
_TRIAL = Record(
    {},
    {
        **dict.fromkeys(("reference", METHOD, "failure", "device", "precision"), _NAME),
        **dict.fromkeys(("failure_message", "folder", "checkpoint"), Text()),
        **dict.fromkeys(("recipe", "settings"), MapOf()),
        **dict.fromkeys((NUMBER, "epochs_done", "device_errors", "preempted", "threads", "workers"), _COUNT),
        **dict.fromkeys(("seconds", "startup_seconds"), _SECONDS),
        STOPPED: Flag(),
        "accumulate": Whole(1, 10**6),
        "metrics": MapOf(_MEASURE, 1000),
    },
)
_TRIAL_OF_OPTUNA = Record({}, {"fixed_params": MapOf(), "grid_id": _COUNT, "search_space": MapOf()})
_STUDY = Record({}, {"seconds_used": _SECONDS, "budget_spent": _SECONDS})
_STUDY_OF_OPTUNA = Record({}, {"study:metric_names": ListOf(_NAME, most=100)})
_EPOCH = re.compile(r"epoch_\d+")


def check_study(study: optuna.Study) -> None:
    """Checks what is said of the sweep as a whole, but for its description, and the numbers of trials.

    Raises:
        DataError: something is not of its kind.
    """
    checked(study.user_attrs, _STUDY, "the study's attributes")
    checked(study._storage.get_study_system_attrs(study._study_id), _STUDY_OF_OPTUNA, "the study's attributes")
    for trial in study.get_trials(deepcopy=False):
        checked(trial.number, _COUNT, "the number of a trial in the study")
        if NUMBER in trial.user_attrs:
            checked(trial.user_attrs[NUMBER], _COUNT, "the number of a trial in the sweep")


def check_trial(trial: FrozenTrial, sweep: Description, *, whole: bool = True) -> None:
    """Checks what is said of a trial.

    Args:
        trial: of the sweep's study.
        sweep: its description.
        whole: also that nothing is missing that a report needs.

    Raises:
        DataError: something is not of its kind; what, in one sentence.
    """
    who, objectives = f"trial {trial.number} in the study", len(sweep.objectives)
    bounded([trial.user_attrs, trial.system_attrs], nul=True)
    checked(trial.user_attrs, _TRIAL, who)
    for key, value in trial.user_attrs.items():
        if _EPOCH.fullmatch(key):
            checked(value, _ANSWER, who, (key,))
            checked(value["values"], ListOf(None, objectives, objectives), who, (key, "values"))
    checked(trial.system_attrs, _TRIAL_OF_OPTUNA, who)
    for key, value in trial.system_attrs.items():
        if key.startswith("completed_rung_"):
            checked(value, _MEASURE, who, (key,))
    values = trial.values
    if values is not None or trial.state == TrialState.COMPLETE:
        checked(values, ListOf(_MEASURE, objectives, objectives), who, ("values",))
    for step, value in trial.intermediate_values.items():
        checked(step, Whole(0, _EPOCHS), f"an epoch of {who}")
        checked(value, _MEASURE, who, ("values", step))
    for moment in (trial.datetime_start, trial.datetime_complete):
        check_moment(moment, who)
    for name, distribution in trial.distributions.items():
        _check_parameter(name, trial.params.get(name), distribution, sweep.space.get(name), who)
    needs = ["recipe"] if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else []
    needs += [] if sweep.space else ["reference"]  # a sweep that searches nothing knows its trials by that
    for key in needs if whole else ():
        if key not in trial.user_attrs:
            raise DataError(f"Expected {who} to hold `{key}`, but it does not")


def check_moment(moment: Any, who: str) -> None:
    """Checks a time that is known, or none; raises as `check_trial` does."""
    if moment is not None and not (isinstance(moment, datetime.datetime) and 1980 <= moment.year < 9000):
        raise DataError(f"Expected the times of {who} to be after 1980, but got {shown(str(moment))}")


def _check_parameter(
    name: str, value: Any, distribution: BaseDistribution, space: dict[str, Any] | None, who: str
) -> None:
    if space is None:
        return  # `check` tells of it
    if isinstance(distribution, CategoricalDistribution):
        drawn: dict[str, Any] = {"choices": list(distribution.choices)}
    elif isinstance(distribution, FloatDistribution | IntDistribution):
        drawn = {"low": distribution.low, "high": distribution.high, "log": distribution.log}
        checked(value, Number(), who, ("params", name))
    else:
        drawn = {}
    if drawn != space:
        raise DataError(
            f"Expected `{name}` of {who} to be drawn from {shown(space)}, as the sweep says, but got {shown(drawn)}"
        )
    if not distribution._contains(distribution.to_internal_repr(value)):
        raise DataError(f"Expected `{name}` of {who} to be in {shown(space)}, but got {shown(value)}")


def metrics_of(line: bytes | str, objectives: Iterable[str] = ()) -> dict[str, Any]:
    """What a line of metrics.jsonl says: the epoch and its metrics, these objectives among them.

    Raises:
        DataError: it is no such line.
    """
    epoch = {"epoch": Whole(0, _EPOCHS)}
    entry = checked(json_of(line), MapOf(_MEASURE, 1000), "it")
    return checked(entry, Record({**dict.fromkeys(objectives, _MEASURE), **epoch}), "it")


def images_of(data: bytes) -> dict[str, np.ndarray]:
    """What validation.npz says of each image: name -> numbers, an image each along the first axis.

    Raises:
        DataError: it is no such file, or much larger than what we write.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > _MOST_VALUES:
            raise DataError(f"Expected values of at most {_MOST_VALUES:,} bytes, but got {size:,}")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = dict(arrays)
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, struct and NumPy each have their own for a damaged archive
        raise DataError(f"Expected arrays of numbers, but {clean(first_line(error), 150)}") from None
    wrong = [name for name, values in found.items() if values.dtype.kind not in "fiub" or values.ndim < 1]
    if wrong:
        raise DataError(f"Expected arrays of numbers, but {shown(wrong[0])} is none")
    return found


def check_numbers(trials: Iterable[FrozenTrial]) -> None:
    """Checks that trials have the numbers from 0 on, each once: a driver finds them by these.

    Raises:
        DataError: one is missing or doubled.
    """
    found = sorted(trial.number for trial in trials)
    wrong = next((i for i, number in enumerate(found) if i != number), None)
    if wrong is not None:
        raise DataError(
            f"Expected {len(found)} trials in the study, numbered from 0, but got {found[wrong]} for {wrong}"
        )
