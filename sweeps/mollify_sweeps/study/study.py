"""A sweep's Optuna studies behind one Ray actor: ask, report, prune?, tell. They are the truth about a sweep.

Every trial, every epoch's value and every state is written to the study's storage before anybody acts on it, so a
driver that dies at any moment loses nothing: trials left RUNNING are adopted under their own numbers by the next one.
Whatever is told may be told again: a call that was cut short in any place, by a kill or by a storage that refused,
leaves nothing behind that a second one does not put right.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter, deque
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from mollify_core.errors import ConfigError
from mollify_sweeps.storage.patience import AGAIN
from mollify_sweeps.study import methods, pruning, sampling
from mollify_sweeps.study.budget import Budget
from mollify_sweeps.study.database import FINISHED, answers, quiet_optuna
from mollify_sweeps.study.ledger import METHOD, NUMBER, STOPPED
from mollify_sweeps.study.live import Live, written
from mollify_sweeps.study.methods import Search
from mollify_sweeps.study.pruning import make_pruner
from mollify_sweeps.study.setup import Setup

NOTHING_NOW: dict[str, Any] = {"number": None}
"""What is handed out while nothing is left but trials that run: one of them may come back."""


class SweepStudy:
    """Keeps the studies of one sweep; a plain class, run as a Ray actor by the driver. One driver at a time owns it."""

    def __init__(self, setup: Setup) -> None:
        quiet_optuna()
        self._setup = setup
        self._pruner = make_pruner(setup.description.pruner, setup.base.optim.epochs)
        self._searches = {search.name: search for search in setup.searches}
        self._objectives = setup.description.objectives
        self._single = len(self._objectives) == 1
        self._ledger = setup.location.make(setup.description)
        for study in self._ledger.studies.values():
            study.pruner = self._pruner
        self._trials: dict[int, optuna.Trial] = {}
        self._live: dict[int, Live] = {}
        self._events: deque[tuple] = deque()
        self._bugs = 0
        self._stopping = False
        self._storage: str | None = None  # why the sweep ends: no trial's fault
        self.refused = False  # by the study's own storage
        self._stalled: set[int] = set()  # trials whose files cannot be stored
        self._trouble = ("", 0.0)  # what was said of that last, and when
        self._replaced: set[int] = set()  # trials whose process was to be replaced, through no fault of theirs
        self._lost_at: dict[int, int] = {}  # epochs of a trial when it was lost the last time
        self._boards: dict[int | str, dict[str, Any]] = {}
        sampling.enqueue(self._ledger, setup)
        self._budget = None
        if setup.budget is not None:
            self._budget = Budget(self._ledger, setup.budget, setup.base.optim.epochs, setup.seconds)

    # ---- what the searcher asks

    @written
    def next(self) -> dict[str, Any] | None:
        """The next trial to run: {"number", "recipe", "adopted"}; `NOTHING_NOW`; or None when the sweep ends."""
        if self._stopping or self._bugs >= self._setup.max_failures:
            return None
        frozen = self._frozen()
        trial = next((t for t in frozen if t.state == TrialState.RUNNING and t.number not in self._live), None)
        if trial is not None:
            search = self._searches[trial.user_attrs.get(METHOD, "")]
            study = self._ledger.studies[search.name]
            opened = sampling.reopen(study, trial._trial_id, self._setup, search)
            return self._assign(trial.number, search, opened, adopted=True)
        begun = Counter(t.user_attrs.get(METHOD, "") for t in frozen if t.state != TrialState.WAITING)
        if begun.total() < self._setup.trials:
            turn = methods.turn(self._setup.searches, begun, self._setup.description.sampler, self._setup.grid_points)
            if self._budget is not None:
                turn = self._budget.turn(self._setup.searches, frozen)
            if turn is not None:
                asked = sampling.ask(self._ledger.studies[turn.name], self._setup, turn)
                number = asked.user_attrs.get(NUMBER, len(frozen)) if turn.name else asked.number
                return self._assign(number, turn, asked, adopted=False)
            if self._budget is not None and not self._live:
                self._budget.close()
        return NOTHING_NOW if self._live else None

    def lost(self, number: int, message: str, stays: bool = False) -> None:
        """A trial's process, or worker group, died more often than it may be restarted.

        It may again when its process was to be replaced, or has come further since it was lost the last time: machines
        that come and go end no trial, one that breaks at the same place does.

        Args:
            number: the trial.
            message: why, in one line.
            stays: the process that tells it tries again itself; otherwise the trial is handed out once more.
        """
        if self._stopping or number not in self._live:
            return
        epochs = len(answers(self._frozen_trial(number)))
        further = epochs > self._lost_at.get(number, 0)
        self._lost_at[number] = epochs
        if number not in self._replaced and not further:
            self.fail(number, "bug", message)
        elif not stays:
            self._live.pop(number, None)
        self._replaced.discard(number)

    # ---- what trials say

    @written
    def begin(self, number: int, threads: int = 1) -> dict[str, Any]:
        """Told by a trial when it starts or starts again, with the threads that it would take.

        Returns:
            threads: those that it takes: as many as at its first start, since its last digits depend on them.
            finished: it has ended already, there is nothing to do.
            values: the objective values of each epoch that has been reported.
            go_on: what the pruner says to the last of them.
            accumulate: parts in which it sees a batch; more than one after it ran out of memory.
            device_errors: how often its device has failed it.
        """
        trial = self._frozen_trial(number)
        known = answers(trial)
        self.storage(number, None)
        if number in self._live:
            self._live[number].epoch = len(known)
            if "threads" not in trial.user_attrs:
                self._trials[number].set_user_attr("threads", threads)
        return {
            "threads": trial.user_attrs.get("threads", threads),
            "finished": trial.state in FINISHED,
            "values": [answer["values"] for answer in known],
            "go_on": not known or known[-1]["go_on"],
            "accumulate": trial.user_attrs.get("accumulate", 1),
            "device_errors": trial.user_attrs.get("device_errors", 0),
        }

    def ready(self, number: int, workers: int = 1) -> None:
        """A trial has its data and its network, and takes its first batch, on so many workers."""
        live = self._live[number]
        live.note = ""
        if live.workers not in (None, workers):
            self.notice(f"trial {number} goes on with {workers} worker{'s' * (workers > 1)} ({live.workers} before)")
        live.workers = workers
        self._trials[number].set_user_attr("startup_seconds", time.monotonic() - live.started)

    @written
    def report(
        self, number: int, epoch: int, metrics: dict[str, float], went_on: bool = False
    ) -> tuple[bool, dict[str, float]]:
        """The metrics of an epoch, from epoch 0; those of the objectives are its values.

        A trial that went back to an older checkpoint repeats epochs. On a GPU, or on another number of workers, they
        come out a little differently: the values of the first time stay, and it hears the same answers.

        Args:
            went_on: the trial has trained on after this epoch already, as it was told by a study that was lost.

        Returns:
            Whether to go on, not pruned, and the metrics with those values that stay.
        """
        frozen = self._frozen_trial(number)
        known, values = answers(frozen), self._values(metrics)
        trial = self._trials[number]
        if epoch < len(known):
            go_on, values = known[epoch]["go_on"], known[epoch]["values"]
        else:
            if self._single:
                if epoch not in frozen.intermediate_values:  # else a kill came between value and answer
                    trial.report(values[0], epoch)
                    frozen.intermediate_values[epoch] = values[0]
                values = [frozen.intermediate_values[epoch]]
            before = known[-1].get("rungs", pruning.rungs(frozen)) if known else 0
            go_on = not self._should_prune(trial, frozen, epoch, before) or went_on
            answer = {"values": values, "seconds": metrics["seconds"], "go_on": go_on}
            answer["rungs"] = pruning.rungs(self._frozen_trial(number))
            trial.set_user_attr(f"epoch_{epoch}", answer)
            if self._budget is not None:
                self._budget.keep()
        live = self._live[number]
        live.epoch, live.value, live.note = epoch + 1, values[0], ""
        metrics = {**metrics, **dict(zip(self._objectives, values, strict=True))}
        self._events.append(("epoch", number, epoch, metrics))
        return go_on, metrics

    @written
    def complete(self, number: int, attrs: dict[str, Any], metrics: dict[str, float]) -> None:
        """A trial ended with these metrics, measured on all of validation."""
        values = self._values(metrics)
        if any(math.isnan(value) for value in values):
            self.fail(number, "nan", f"Expected numbers from validation, but got {values}", attrs)
        else:
            self._end(number, TrialState.COMPLETE, values, {**attrs, "metrics": metrics}, metrics)

    @written
    def prune(self, number: int, attrs: dict[str, Any]) -> None:
        """A trial left when it was told to."""
        self._end(number, TrialState.PRUNED, None, attrs, {})

    @written
    def fail(self, number: int, kind: str, message: str, attrs: dict[str, Any] | None = None) -> None:
        """A trial failed: kind is nan, oom, device, settings or bug. Several workers may say so of one trial."""
        if self._state(number) in FINISHED:
            return
        attrs = {"failure": kind, "failure_message": message[:500], **(attrs or {})}
        self._end(number, TrialState.FAIL, None, attrs, {})
        self._bugs += kind in ("bug", "device", "settings")
        self.notice(f"trial {number} failed ({kind}): {message}")

    @written
    def out_of_memory(self, number: int, accumulate: int, message: str) -> bool:
        """A trial that saw its batches in `accumulate` parts ran out of memory. True: try again, with half of that.

        Several workers may say so of one trial.
        """
        if self._state(number) in FINISHED:
            return False
        if self._frozen_trial(number).user_attrs.get("accumulate", 1) <= accumulate:
            if accumulate > 1:
                self.fail(number, "oom", message)
                return False
            self._trials[number].set_user_attr("accumulate", 2)
            self.notice(f"trial {number} ran out of memory and goes on with batches in two halves ({message})")
        return True

    @written
    def device_error(self, number: int, before: int, message: str) -> None:
        """The device failed a trial, that had begun after so many such errors: it is tried once more, elsewhere.

        Several workers may say so of one trial.
        """
        if self._state(number) in FINISHED or self._frozen_trial(number).user_attrs.get("device_errors", 0) > before:
            return
        if before:
            self.fail(number, "device", message)
            return
        self._trials[number].set_user_attr("device_errors", 1)
        self._replaced.add(number)
        self.notice(f"trial {number} met an error of its device; it is tried once more in a new process ({message})")

    def give_up(self, number: int, message: str) -> None:
        """The storage has refused a trial's files for long: the sweep is to end, and the trial waits for the next."""
        self._storage = message
        self._live.pop(number, None)
        self.stop()

    @written
    def leave(self, number: int, epoch: int, step: int) -> None:
        """A trial was stopped from outside after so many epochs and steps, and goes on in another process."""
        self.storage(number, None)
        if self._stopping:
            self._live.pop(number, None)
        elif number in self._live:
            attrs = self._frozen_trial(number).user_attrs
            self._trials[number].set_user_attr("preempted", attrs.get("preempted", 0) + 1)
            self._replaced.add(number)
            self._live[number].note = "preempted"
            self.notice(f"trial {number} was preempted after epoch {epoch}, step {step}; it goes on from there")

    def stopping(self) -> bool:
        """Whether trials are to leave at their next step."""
        return self._stopping

    def storage(self, number: int, trouble: str | None) -> None:
        """A trial cannot store its files, or can again (None). The user hears it once of all trials, and of each kind.

        What goes on is said again after some minutes.
        """
        if trouble is not None:
            kind, now = trouble.partition(" (")[0], time.monotonic()
            said, at = self._trouble
            if not self._stalled or kind != said or now - at >= AGAIN:
                self.notice(trouble)
                self._trouble = kind, now
            self._stalled.add(number)
        elif number in self._stalled:
            self._stalled.remove(number)
            if not self._stalled:
                self.notice("the storage takes files again; nothing was lost")

    def board(self, key: int | str, **changes: Any) -> dict[str, Any]:
        """What processes of a trial (its number) or of a worker group tell one another; after these changes to it."""
        board = self._boards.setdefault(key, {})
        board.update(changes)
        return dict(board)

    def note(self, number: int, text: str) -> None:
        """What a running trial is doing, for the live view."""
        if number in self._live:
            self._live[number].note = text

    def notice(self, text: str) -> None:
        """One line for the user."""
        self._events.append(("notice", text))

    # ---- what the driver wants to know

    def status(self) -> dict[str, Any]:
        """Counts by state and by failure, the best trial so far, the running ones, and the seconds of finished ones."""
        frozen = self._frozen()
        complete = [t for t in frozen if t.state == TrialState.COMPLETE]
        best = min(complete, key=lambda t: t.values[0], default=None)
        by_method = [(t.user_attrs.get(METHOD) or t.user_attrs.get("reference"), t.values[0]) for t in complete]
        return {
            "counts": {**dict.fromkeys(TrialState.__members__, 0), **Counter(t.state.name for t in frozen)},
            "failures": Counter(t.user_attrs["failure"] for t in frozen if "failure" in t.user_attrs),
            "trials": self._setup.total,
            "budget": None if self._budget is None else (self._budget.used, self._setup.budget),
            "best": None if best is None else {"number": best.number, "value": best.values[0]},
            "compared": {name: min(v for n, v in by_method if n == name) for name, _ in by_method if name is not None},
            "live": [vars(self._live[n]) | {"seconds": self._seconds(n)} for n in sorted(self._live)],
            "finished_seconds": [t.user_attrs["seconds"] for t in frozen if "seconds" in t.user_attrs],
            "stopped_by_failures": self._bugs >= self._setup.max_failures,
            "stopped_by_storage": self._storage,
        }

    def stop(self) -> None:
        """The sweep is to end: trials leave at their next step, and no other one starts."""
        self._stopping = True
        with contextlib.suppress(StorageInternalError):  # they are cut off then, as if the driver had been killed
            for number in self._live:
                self._trials[number].set_user_attr(STOPPED, True)

    def drain(self) -> list[tuple]:
        """The events since the last call, for the trackers and the terminal."""
        events, self._events = list(self._events), deque()
        return events

    # ---- inside

    def _values(self, metrics: dict[str, float]) -> list[float]:
        return [metrics[name] for name in self._objectives]

    def _assign(self, number: int, search: Search, trial: optuna.Trial, *, adopted: bool) -> dict[str, Any] | None:
        if search.name and NUMBER not in trial.user_attrs:
            trial.set_user_attr(NUMBER, number)
        self._trials[number] = trial
        try:
            recipe = self._setup.base.with_({**search.settings, **trial.params, **trial.user_attrs.get("settings", {})})
        except ConfigError as error:  # what was drawn does not go together, which the plan could not foresee
            self.fail(number, "settings", str(error))
            return self.next()
        trial.set_user_attr("recipe", recipe.to_dict())
        if adopted and trial.user_attrs.get(STOPPED):
            trial.set_user_attr(STOPPED, False)
        self._live[number] = Live(
            number,
            started=time.monotonic(),
            epochs=recipe.optim.epochs,
            seconds=sum(a["seconds"] for a in answers(self._frozen_trial(number))),
            note="resuming" if adopted else "starting",
        )
        reference = trial.user_attrs.get("reference")
        kind, role = search.name or reference, reference or search.name
        self._events.append(("start", number, recipe.to_dict(), trial.params, kind, role))
        return {"number": number, "recipe": recipe.to_dict(), "adopted": adopted}

    def _should_prune(self, held: optuna.Trial, trial: FrozenTrial, epoch: int, rungs: int) -> bool:
        last = epoch + 1 == self._setup.base.optim.epochs  # nothing is left to save
        if last or not self._single or "reference" in trial.user_attrs:  # references: what all others are held against
            return False
        return pruning.should_prune(self._pruner, held.study, trial, rungs)

    def _end(
        self, number: int, state: TrialState, values: list[float] | None, attrs: dict[str, Any], metrics: dict
    ) -> None:
        frozen = self._frozen_trial(number)
        if frozen.state in FINISHED:
            return
        trial, known = self._trials[number], answers(frozen)
        attrs = {**attrs, "epochs_done": len(known), "seconds": sum(a["seconds"] for a in known)}
        for key, value in attrs.items():
            trial.set_user_attr(key, value)
        trial.study.tell(trial, values=values, state=state, skip_if_finished=True)
        self._live.pop(number, None)
        self.storage(number, None)
        self._events.append(("end", number, state.name, metrics))

    def _frozen(self) -> list[FrozenTrial]:
        return self._ledger.get_trials()

    def _frozen_trial(self, number: int) -> FrozenTrial:
        held = self._trials.get(number)
        # Alone where that can be: to read all trials takes the longer the more there are.
        return self._frozen()[number] if held is None else held.study._storage.get_trial(held._trial_id)

    def _state(self, number: int) -> TrialState:
        return self._frozen_trial(number).state

    def _seconds(self, number: int) -> float:
        live = self._live[number]
        return live.seconds + time.monotonic() - live.started
