"""The pruner's answer to an epoch, the same however often it is asked."""

from __future__ import annotations

import optuna
from optuna.trial import FrozenTrial

from mollify_core.errors import ConfigError, nearest

PRUNERS = ("halving", "hyperband", "none", "median", "percentile")


def make_pruner(name: str, epochs: int) -> optuna.pruners.BasePruner:
    """An Optuna pruner over epochs 0 .. epochs - 1."""
    p = optuna.pruners
    match name:
        case "halving":
            # One bracket. Hyperband's several each hide the others' trials from the sampler and from one another: with
            # a dozen trials nearly all are then start-up trials, drawn at random. The better half goes on after a
            # quarter and a half of the way: of a dozen trials about four end, enough to be compared.
            return p.SuccessiveHalvingPruner(min_resource=max(1, round(epochs / 4)), reduction_factor=2)
        case "hyperband":
            return p.HyperbandPruner(min_resource=max(1, round(epochs / 27)), max_resource=epochs, reduction_factor=3)
        case "none":
            return p.NopPruner()
        case "median":
            return p.MedianPruner(n_startup_trials=4, n_warmup_steps=max(1, epochs // 9))
        case "percentile":
            return p.PercentilePruner(25.0, n_startup_trials=4, n_warmup_steps=max(1, epochs // 9))
    raise ConfigError(f"Unknown pruner {name!r}{nearest(name, PRUNERS)}")


def rungs(trial: FrozenTrial) -> int:
    """How many rungs of successive halving a trial has completed, as Optuna's pruner keeps count."""
    count = 0
    while f"completed_rung_{count}" in trial.system_attrs:
        count += 1
    return count


def should_prune(pruner: optuna.pruners.BasePruner, study: optuna.Study, trial: FrozenTrial, before: int) -> bool:
    """Whether a trial is to stop at the last epoch it reported.

    A successive-halving pruner writes the rungs that a trial has completed into the study when it is asked. Killed
    between that and our own record of its answer, it would take the trial for one on the next rung. So where the study
    holds more rungs than before the epoch, the pruner is asked on a copy of the study that does not.

    Args:
        pruner: any of Optuna's.
        study: its study.
        trial: the trial, with the epoch's value.
        before: rungs that it had completed before this epoch.
    """
    if rungs(trial) <= before:
        return pruner.prune(study, trial)
    copy = optuna.create_study(study_name=study.study_name, directions=study.directions, pruner=pruner)
    for other in study.get_trials():
        if other.number == trial.number:
            kept = (f"completed_rung_{rung}" for rung in range(before))
            other.system_attrs = {key: trial.system_attrs[key] for key in kept}
        copy.add_trial(other)
    asked = copy.get_trials(deepcopy=False)[trial.number]
    answer = pruner.prune(copy, asked)
    asked = copy.get_trials(deepcopy=False)[trial.number]
    for rung in range(rungs(trial), rungs(asked)):
        key = f"completed_rung_{rung}"
        study._storage.set_trial_system_attr(trial._trial_id, key, asked.system_attrs[key])
    return answer
