"""Real Optuna studies of a smooth function, for what reads studies."""

from __future__ import annotations

import math
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from mollify_core.recipe import Recipe
from mollify_sweeps.study.description import Description

SPACE: dict[str, Any] = {
    "max_noise": FloatDistribution(0.25, 1.0),
    "max_blur": FloatDistribution(0.5, 32.0, log=True),
    "smoothing": FloatDistribution(0.0, 1.0),
    "noise_power": FloatDistribution(0.25, 8.0, log=True),
    "blur_power": FloatDistribution(0.25, 8.0, log=True),
    "beta_b": FloatDistribution(1.0, 12.0, log=True),
    "p_clean": FloatDistribution(0.1, 0.9),
    "noise_share": FloatDistribution(0.0, 1.0),
    "lr": FloatDistribution(0.003, 0.3, log=True),
    "weight_decay": FloatDistribution(5e-5, 5e-3, log=True),
}
PAPER = {"max_noise": 1.0, "max_blur": 32.0, "smoothing": 1.0, "noise_power": 1.0, "blur_power": 1.0, "beta_b": 2.0}
PAPER |= {"p_clean": 1 / 3, "noise_share": 0.5, "lr": 0.01, "weight_decay": 5e-4}
EPOCHS = 12


def loss(settings: dict[str, Any], epoch: int) -> float:
    """A smooth stand-in for the corrupted validation NLL after `epoch` + 1 epochs."""
    s = settings
    strength = (1 - s["p_clean"]) * s["max_noise"]
    value = 0.9 + 0.5 * (strength - 0.5) ** 2 + 0.06 * math.log(s["lr"] / 0.05) ** 2
    value += 0.03 * math.log(s["beta_b"] / 4) ** 2 + 0.2 * (s["smoothing"] - 0.8) ** 2
    return value + 1.6 * math.exp(-4 * (epoch + 1) / EPOCHS)


def metrics_of(value: float) -> dict[str, float]:
    """All metrics of a trial whose corrupted NLL is `value`."""
    clean = {"nll": 0.5 * value, "error": 0.17 * value, "top5_error": 0.02 * value, "brier": 0.25 * value, "ece": 0.03}
    return {
        **{f"clean_{name}": v for name, v in clean.items()},
        **{f"corrupted_{name}": v * 2 for name, v in clean.items()},
        "corrupted_nll": value,
    }


def describe(distribution: Any) -> dict[str, Any]:
    """A searched setting as a description says it."""
    if isinstance(distribution, CategoricalDistribution):
        return {"choices": list(distribution.choices)}
    return {"low": distribution.low, "high": distribution.high, "log": distribution.log}


def make_study(
    trials: int = 25,
    *,
    objectives: tuple[str, ...] = ("corrupted_nll",),
    verified: bool = True,
    references: bool = True,
    url: str = "sqlite:////data/night.sqlite",
    space: dict[str, BaseDistribution] = SPACE,
) -> optuna.Study:
    """The study of a sweep whose trials 6, 13 and 14 fail; the first two are the references."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=3, n_startup_trials=6)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
    directions = [optuna.study.StudyDirection.MINIMIZE] * len(objectives)
    study = optuna.create_study(study_name="night", sampler=sampler, pruner=pruner, directions=directions)
    base = Recipe().with_(dataset="cifar100", network="presnet18", epochs=EPOCHS)
    sweep = Description(
        name="night",
        fingerprint="0f1e2d3c4b5a",
        objectives=objectives,
        base_recipe=base.to_dict(),
        space={name: describe(distribution) for name, distribution in space.items()},
        sampler="tpe",
        pruner="median",
        seed=3,
        dataset="cifar100",
        verified=verified,
        network="presnet18",
        versions={"torch": "2.9.0", "ray": "2.55.0"},
        commit="abc1234",
        created="2025-11-21T22:00:00+00:00",
        storage="s3://bucket/sweeps/night",
        study_url=url,
    )
    study.set_user_attr("sweep", sweep.to_dict())
    if references:
        study.enqueue_trial(PAPER, user_attrs={"reference": "paper"})
        study.enqueue_trial({**PAPER, "p_clean": 0.9}, user_attrs={"reference": "plain", "settings": {"p_clean": 1.0}})
    for number in range(trials):
        trial = study.ask(space)
        settings = {**PAPER, **trial.params, **trial.user_attrs.get("settings", {})}
        trial.set_user_attr("recipe", base.with_(settings).to_dict())
        trial.set_user_attr("folder", f"s3://bucket/sweeps/night/trials/{number:05d}")
        state, done = TrialState.COMPLETE, 0
        for epoch in range(EPOCHS):
            done = epoch + 1
            if number in (6, 13, 14) and epoch == 3:
                state = TrialState.FAIL
                break
            if len(objectives) == 1:
                trial.report(loss(settings, epoch) + 0.02 * math.sin(5 * number + epoch), epoch)
                if number > 1 and trial.should_prune():
                    state = TrialState.PRUNED
                    break
        trial.set_user_attr("epochs_done", done)
        trial.set_user_attr("seconds", 61.0 * done)
        if state == TrialState.FAIL:
            trial.set_user_attr("failure", "oom" if number == 6 else "nan")
            trial.set_user_attr(
                "failure_message", "CUDA out of memory | 2 GiB\nTraceback" if number == 6 else "loss is NaN"
            )
            study.tell(trial, state=state)
        elif state == TrialState.PRUNED:
            study.tell(trial, state=state)
        else:
            value = loss(settings, EPOCHS - 1)
            metrics = metrics_of(value)
            metrics["clean_error"] = 0.2 + 0.02 * settings["max_noise"] + 0.01 * math.log(settings["lr"] / 0.1) ** 2
            trial.set_user_attr("metrics", metrics)
            trial.set_user_attr("checkpoint", f"s3://bucket/sweeps/night/trials/{number:05d}/checkpoints/last")
            trial.set_user_attr("threads", 4)
            study.tell(trial, [metrics[name] for name in objectives])
    return study


def of_state(study: optuna.Study, state: TrialState) -> list[Any]:
    """Its trials in this state."""
    return [trial for trial in study.trials if trial.state == state]
