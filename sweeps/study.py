"""The Optuna study behind one Ray actor: ask, report, prune?, tell. The study is the truth about a sweep.

Every trial, every epoch's value and every state is written to the study's storage before anybody acts on it, so a
driver that dies at any moment loses nothing: trials left RUNNING are adopted under their own numbers by the next one.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections import deque
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mollify_core.errors import ConfigError, StorageError, first_line
from mollify_core.recipe import Recipe
from mollify_core.rng import derive
from sweeps.space import Reference, Space, make_pruner, make_sampler

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
IDENTITY = ("fingerprint", "objectives", "base_recipe", "space", "sampler", "pruner", "seed")


@dataclass(frozen=True)
class Setup:
    """What the study needs to know about its sweep.

    Attributes:
        url: storage of the study, as Optuna takes it.
        name: name of the sweep and of the study.
        sweep: the content of sweep.json.
        base: the recipe that every trial varies.
        space: what is searched.
        references: trials 0 and 1.
        trials: how many trials there shall be in all.
        grid_points: values of each range in a grid search.
        max_failures: end the sweep after so many trials failed by a bug.
    """

    url: str
    name: str
    sweep: dict[str, Any]
    base: Recipe
    space: Space
    references: tuple[Reference, ...]
    trials: int
    grid_points: int = 3
    max_failures: int = 5


@dataclass
class Live:
    """What is known of a running trial."""

    number: int
    started: float
    epoch: int = 0
    epochs: int = 0
    value: float | None = None
    seconds: float = 0.0  # training time before this process, of an adopted trial
    note: str = ""


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


def open_storage(url: str) -> optuna.storages.BaseStorage:
    """Optuna's storage behind a URL.

    Raises:
        StorageError: it cannot be opened; the password is not shown.
    """
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except Exception as error:  # SQLAlchemy, the driver, or a missing driver: a user's URL is wrong in many ways
        reason = first_line(getattr(error, "orig", None) or error)
        raise StorageError(f"Cannot open the study {hide_password(url)}: {reason}") from None


def load_study(url: str, name: str) -> optuna.Study | None:
    """The study of a sweep, or None when there is none yet."""
    storage = open_storage(url)
    if name not in [s.study_name for s in optuna.get_all_study_summaries(storage, include_best_trial=False)]:
        return None
    return optuna.load_study(study_name=name, storage=storage)


def check_same(study: optuna.Study, sweep: dict[str, Any]) -> None:
    """Checks that a study belongs to this sweep.

    Raises:
        ConfigError: it is of another data set, space or protocol; what differs is named.
    """
    known = study.user_attrs.get("sweep")
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


class SweepStudy:
    """Keeps the study of one sweep; a plain class, run as a Ray actor by the driver. One driver at a time owns it."""

    def __init__(self, setup: Setup) -> None:
        quiet_optuna()
        self._setup = setup
        self._pruner = make_pruner(setup.sweep["pruner"], setup.base.optim.epochs)
        self._single = len(setup.sweep["objectives"]) == 1
        study = load_study(setup.url, setup.name)
        if study is None:
            study = optuna.create_study(
                study_name=setup.name,
                storage=open_storage(setup.url),
                directions=["minimize"] * len(setup.sweep["objectives"]),
            )
            study.set_user_attr("sweep", setup.sweep)
        else:
            check_same(study, setup.sweep)
        study.pruner = self._pruner
        self._study = study
        self._trials: dict[int, optuna.Trial] = {}
        self._live: dict[int, Live] = {}
        self._events: deque[tuple] = deque()
        self._bugs = 0
        self._enqueue_references()
        self._adopt = deque(t.number for t in self._frozen() if t.state == TrialState.RUNNING)

    # ---- what the searcher asks

    def next(self) -> dict[str, Any] | None:
        """The next trial to run: {"number", "recipe", "adopted"}; None when the budget is spent."""
        if self._bugs >= self._setup.max_failures:
            return None
        if self._adopt:
            number = self._adopt.popleft()
            return self._assign(self._reopen(number), adopted=True)
        asked = sum(t.state != TrialState.WAITING for t in self._frozen())
        if asked >= self._setup.trials:
            return None
        return self._assign(self._ask(), adopted=False)

    def lost(self, number: int, message: str) -> None:
        """A trial's process died more often than it may be restarted."""
        self.fail(number, "bug", message)

    # ---- what trials say

    def begin(self, number: int) -> dict[str, Any]:
        """Told by a trial when it starts or starts again.

        Returns:
            finished: it has ended already, there is nothing to do.
            epochs: how many epochs have been reported.
            go_on: what the pruner says to the last of them.
        """
        trial = self._frozen_trial(number)
        answers = self._answers(trial)
        if number in self._live:
            self._live[number].epoch = len(answers)
        return {
            "finished": trial.state in FINISHED,
            "epochs": len(answers),
            "go_on": not answers or answers[-1]["go_on"],
        }

    def ready(self, number: int) -> None:
        """A trial has its data and its network, and takes its first batch."""
        live = self._live[number]
        live.note = ""
        self._trials[number].set_user_attr("startup_seconds", time.monotonic() - live.started)

    def report(self, number: int, epoch: int, values: list[float], metrics: dict[str, float]) -> bool:
        """An epoch's objective values, from epoch 0. True: go on, False: pruned.

        A trial that went back to an older checkpoint repeats epochs; it hears the same answers. They are kept because
        a successive-halving pruner, asked twice about one epoch, takes the second time for the next rung.
        """
        answers = self._answers(self._frozen_trial(number))
        if epoch < len(answers):
            go_on = answers[epoch]["go_on"]
        else:
            trial = self._trials[number]
            if self._single:
                trial.report(values[0], epoch)
            go_on = not self._should_prune(self._frozen_trial(number), epoch)
            answer = {"values": values, "seconds": metrics["seconds"], "go_on": go_on}
            trial.set_user_attr(f"epoch_{epoch}", answer)
        live = self._live[number]
        live.epoch, live.value, live.note = epoch + 1, values[0], ""
        self._events.append(("epoch", number, epoch, metrics))
        return go_on

    def complete(self, number: int, values: list[float], attrs: dict[str, Any], metrics: dict[str, float]) -> None:
        """A trial ended with its objective values, measured on all of validation."""
        self._end(number, TrialState.COMPLETE, values, {**attrs, "metrics": metrics}, metrics)

    def prune(self, number: int, attrs: dict[str, Any]) -> None:
        """A trial left when it was told to."""
        self._end(number, TrialState.PRUNED, None, attrs, {})

    def fail(self, number: int, kind: str, message: str) -> None:
        """A trial failed: kind is nan, oom, preempted or bug. Several workers may say so of one trial."""
        if self._state(number) in FINISHED:
            return
        self._bugs += kind == "bug"
        self._end(number, TrialState.FAIL, None, {"failure": kind, "failure_message": message[:500]}, {})
        self._events.append(("notice", f"trial {number} failed ({kind}): {message}"))

    def notice(self, text: str) -> None:
        """One line for the user."""
        self._events.append(("notice", text))

    # ---- what the driver wants to know

    def status(self) -> dict[str, Any]:
        """Counts by state, the best trial so far, the running trials, and the seconds that finished trials took."""
        frozen = self._frozen()
        complete = [t for t in frozen if t.state == TrialState.COMPLETE]
        best = min(complete, key=lambda t: t.values[0], default=None)
        return {
            "counts": {s.name: sum(t.state == s for t in frozen) for s in TrialState},
            "trials": self._setup.trials,
            "best": None if best is None else {"number": best.number, "value": best.values[0]},
            "references": {
                t.user_attrs["reference"]: t.values[0] for t in complete if t.user_attrs.get("reference") is not None
            },
            "live": [vars(self._live[n]) | {"seconds": self._seconds(n)} for n in sorted(self._live)],
            "finished_seconds": [t.user_attrs["seconds"] for t in frozen if "seconds" in t.user_attrs],
            "stopped_by_failures": self._bugs >= self._setup.max_failures,
        }

    def drain(self) -> list[tuple]:
        """The events since the last call, for the trackers and the terminal."""
        events, self._events = list(self._events), deque()
        return events

    # ---- inside

    def _enqueue_references(self) -> None:
        known = {t.user_attrs.get("reference") for t in self._frozen()}
        for reference in self._setup.references:
            if reference.name not in known:
                attrs = {"reference": reference.name, "settings": reference.settings}
                self._study.enqueue_trial(reference.params, user_attrs=attrs)

    def _ask(self) -> optuna.Trial:
        waiting = [t.number for t in self._frozen() if t.state == TrialState.WAITING]
        number = min(waiting, default=len(self._frozen()))
        self._study.sampler = self._sampler(number)
        return self._study.ask(fixed_distributions=self._setup.space.searched)

    def _reopen(self, number: int) -> optuna.Trial:
        """The trial object of a trial that a dead driver left RUNNING, with the parameters that it has."""
        frozen = self._frozen_trial(number)
        settled = "recipe" in frozen.user_attrs
        # Building a Trial makes the sampler think; one that has all its parameters must not disturb a sampler's state.
        self._study.sampler = optuna.samplers.RandomSampler() if settled else self._sampler(number)
        trial = optuna.Trial(self._study, frozen._trial_id)
        for name, distribution in self._setup.space.searched.items():
            trial._suggest(name, distribution)
        return trial

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler whose draws depend on (seed, trial number) and the study only: a restart changes nothing."""
        seed = derive(self._setup.sweep["seed"], "sampler", number) % 2**32
        grid = self._setup.space.grid(self._setup.grid_points)
        return make_sampler(self._setup.sweep["sampler"], seed, grid)

    def _assign(self, trial: optuna.Trial, *, adopted: bool) -> dict[str, Any]:
        number = trial.number
        recipe = self._setup.base.with_({**trial.params, **trial.user_attrs.get("settings", {})})
        trial.set_user_attr("recipe", recipe.to_dict())
        self._trials[number] = trial
        self._live[number] = Live(
            number,
            started=time.monotonic(),
            epochs=recipe.optim.epochs,
            seconds=sum(a["seconds"] for a in self._answers(self._frozen_trial(number))),
            note="resuming" if adopted else "starting",
        )
        reference = trial.user_attrs.get("reference")
        self._events.append(("start", number, recipe.to_dict(), trial.params, reference))
        return {"number": number, "recipe": recipe.to_dict(), "adopted": adopted}

    def _should_prune(self, trial: FrozenTrial, epoch: int) -> bool:
        if not self._single or "reference" in trial.user_attrs:  # the references are what all others are held against
            return False
        if epoch + 1 == self._setup.base.optim.epochs:  # nothing is left to save
            return False
        return self._pruner.prune(self._study, trial)

    def _end(
        self, number: int, state: TrialState, values: list[float] | None, attrs: dict[str, Any], metrics: dict
    ) -> None:
        if self._state(number) in FINISHED:
            return
        trial = self._trials[number]
        answers = self._answers(self._frozen_trial(number))
        attrs = {**attrs, "epochs_done": len(answers), "seconds": sum(a["seconds"] for a in answers)}
        for key, value in attrs.items():
            trial.set_user_attr(key, value)
        self._study.tell(trial, values=values, state=state, skip_if_finished=True)
        self._live.pop(number, None)
        self._events.append(("end", number, state.name, metrics))

    def _frozen(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def _frozen_trial(self, number: int) -> FrozenTrial:
        return self._frozen()[number]

    def _state(self, number: int) -> TrialState:
        return self._frozen_trial(number).state

    @staticmethod
    def _answers(trial: FrozenTrial) -> list[dict[str, Any]]:
        """What was reported of each epoch and answered, in order of epochs."""
        answers: list[dict[str, Any]] = []
        while (key := f"epoch_{len(answers)}") in trial.user_attrs:
            answers.append(trial.user_attrs[key])
        return answers

    def _seconds(self, number: int) -> float:
        live = self._live[number]
        return live.seconds + time.monotonic() - live.started
