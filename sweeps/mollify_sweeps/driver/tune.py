"""Runs a settled sweep on Ray: the study's actor, the data sets, Tune in a thread, and all who follow it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from mollify_core import given
from mollify_core.errors import MollifyError, SweepError, first_line
from mollify_sweeps.cluster.connection import NAMESPACE, connect
from mollify_sweeps.driver.publishing import RunningPage
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.storage.store import SWEEP
from mollify_sweeps.study.client import actor_name
from mollify_sweeps.study.description import Started
from mollify_sweeps.study.snapshots import Snapshots
from mollify_sweeps.tracking.callback import Told
from mollify_sweeps.tracking.follower import Follower
from mollify_sweeps.tracking.optuna_dashboard import OptunaDashboard, show_addresses
from mollify_sweeps.tracking.prometheus import SweepMetrics
from mollify_sweeps.tracking.terminal import View
from mollify_sweeps.tracking.trackers import Trackers

_POLL = 1.0  # seconds between looks at the study
_LEAVE_PATIENCE = 10.0  # seconds that a stopped sweep gives its trials to end their step and keep their state
_STOP_PATIENCE = 5.0  # seconds that a stopped sweep waits for each tracker, and for the snapshot of its study
_END_PATIENCE = 120.0  # the same of a sweep that has ended


class Stopped(Exception):
    """The user or the batch system stopped the sweep, or too many of its trials failed.

    Attributes:
        code: the exit code to end with.
    """

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


def execute(
    sweep: Sweep,
    console: Console,
    still_ours: Callable[[], None] = lambda: None,
    page: RunningPage | None = None,
) -> None:
    """Runs the trials that are left.

    Args:
        sweep: what is run.
        console: where the live view goes.
        still_ours: raises a SweepError once another driver has taken the sweep; asked all the time.
        page: is kept new.

    Raises:
        Stopped: the user stopped it, or it was ended by failures.
        SweepError: Ray or Tune broke on the way.
        MollifyError: the trackers or the cluster cannot be had.
    """
    description, following = sweep.setup.description, sweep.following
    objective = description.objectives[0]
    board = None if following.dashboard is None else OptunaDashboard(following.dashboard)
    view = View(
        console,
        name=sweep.name,
        objective=objective,
        concurrent=sweep.placement.concurrent,
        seconds_per_trial=sweep.seconds,
        seconds_to_start=sweep.start_seconds,
    )
    trackers = Trackers(
        sweep=description,
        folder=sweep.local,
        wandb=following.wandb,
        project=following.project,
        notice=view.notice,
        asked=following.asked,
        runs=following.folder,
    )
    snapshots = Snapshots(sweep.store, sweep.setup.location, sweep.name, view.notice)
    patience = _END_PATIENCE
    try:
        with console.status("starting Ray"):
            connect(sweep.address, dashboard=board is not None)
            tuning = Tuning(sweep)
        if board is not None:
            board.serve(sweep.setup.location, sweep.setup.first_study)
            show_addresses(console, board)
        with view:
            metrics = SweepMetrics(sweep.name, objective)
            followers = [trackers, view, metrics, *([page] if page else []), _Copier(snapshots)]
            followers += [] if following.progress is None else [Told(sweep.name, following.progress)]
            _watch(tuning, followers, still_ours)
        tuning.check()
    except KeyboardInterrupt:
        patience = _STOP_PATIENCE
        raise Stopped("Stopped.", code=130) from None
    except (MollifyError, Stopped):
        raise
    except Exception as error:  # Ray's or Tune's
        with contextlib.suppress(OSError):
            (sweep.local / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        raise SweepError(
            f"The sweep broke: {first_line(error)} (traceback: {sweep.local}/error.txt); the same command continues it"
        ) from error
    finally:
        import ray

        ray.shutdown()  # first: nothing is to train on while the rest is written
        if board is not None:
            board.close()
        if page is not None:
            page.close(patience)
        snapshots.close(patience)
        trackers.close(patience)


class _Copier(Follower):
    """Asks for a copy of the study when a trial has ended."""

    def __init__(self, snapshots: Snapshots) -> None:
        self._snapshots = snapshots

    def end(self, number: int, state: str, metrics: dict[str, float]) -> None:
        self._snapshots.ask()


def _watch(tuning: Tuning, followers: Sequence[Follower], still_ours: Callable[[], None]) -> None:
    """Tells the followers what happens, until all is done; a first Ctrl-C lets the trials leave."""

    def follow() -> None:
        events, status = tuning.look()
        for kind, *rest in events:
            for follower in followers:
                getattr(follower, kind)(*rest)
        for follower in followers:
            follower.update(status)

    try:
        while tuning.alive():
            still_ours()
            follow()
            time.sleep(_POLL)
    except KeyboardInterrupt:
        for follower in followers:
            follower.notice("stopping: trials keep what they have after their next step (once more to end at once)")
        tuning.stop()
        until = time.monotonic() + _LEAVE_PATIENCE
        while tuning.busy() and time.monotonic() < until:
            follow()
            time.sleep(_POLL / 5)
        raise
    follow()


class Tuning:
    """Tune at work in a thread, and the study's actor beside it."""

    def __init__(self, sweep: Sweep) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from mollify_sweeps.study.study import SweepStudy
        from mollify_sweeps.trial import feed
        from mollify_sweeps.trial.trial import TrialSetup

        name = actor_name(sweep.name)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": name, "namespace": NAMESPACE, "num_cpus": 0, "scheduling_strategy": here}
        actor: Any = ray.remote(SweepStudy)
        self._study: Any = actor.options(**options).remote(sweep.setup)
        shards, info = feed.datasets(sweep.prepared, sweep.base)  # while the study's process starts
        self._status: dict[str, Any] = ray.get(self._study.status.remote())
        description = sweep.setup.description
        setup = TrialSetup(
            storage=sweep.store.uri,
            study=name,
            objectives=description.objectives,
            workers=sweep.placement.workers,
            cpus=sweep.placement.cpus,
            gpus=sweep.placement.gpus,
            feed=info,
            provenance={key: getattr(description, key) for key in ("versions", "commit", "verified")},
        )
        started = Started(
            sweep.command.program, sweep.command.words, os.getcwd(), socket.gethostname(), sweep.setup.total
        )
        for file, (sha256, suffix) in given.of(sweep.base.model).items():  # workers elsewhere, and readers, need them
            if (content := given.get(sha256, suffix)) is not None:
                sweep.store.write(file, content)
        sweep.store.write(SWEEP, dataclasses.replace(description, started=started).to_json())
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._tune, args=(sweep, setup, shards), daemon=True)
        self._thread.start()

    def alive(self) -> bool:
        """Whether Tune is at work."""
        return self._thread.is_alive()

    def busy(self) -> bool:
        """Whether trials are running, by the last look."""
        return self.alive() and bool(self._status["live"])

    def stop(self) -> None:
        """Lets the trials leave."""
        import ray

        ray.get(self._study.stop.remote())

    def look(self) -> tuple[list[tuple], dict[str, Any]]:
        """(the events since the last look, the status now)."""
        import ray
        from optuna.exceptions import StorageInternalError

        events: list[tuple] = ray.get(self._study.drain.remote())
        with contextlib.suppress(StorageInternalError):  # the next look may be luckier
            self._status = ray.get(self._study.status.remote())
        return events, self._status

    def check(self) -> None:
        """Raises why a sweep ended early, when it did."""
        if self._error is not None:
            raise self._error
        if self._status["stopped_by_storage"]:
            raise SweepError(f"{self._status['stopped_by_storage']}; nothing is lost, the same command continues")
        if self._status["stopped_by_failures"]:
            raise Stopped(
                "The sweep was ended: too many trials failed by a bug or by their device (see --max-failures).", code=1
            )

    def _tune(self, sweep: Sweep, setup: Any, shards: dict[str, Any]) -> None:
        from ray import tune
        from ray.tune.execution import class_cache

        from mollify_sweeps.driver.searcher import StudySearcher
        from mollify_sweeps.trial.actor import TrialActor

        # Tune would hand the driver's keys to its actors on their command lines, which every user of a machine can
        # read. Workers started here inherit them anyway; those of a cluster have a role, or an environment, of theirs.
        class_cache.ENV_VARS_TO_PROPAGATE.difference_update(
            {name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
        )

        place = sweep.placement
        bundle = (
            {"CPU": place.cpus, **({"GPU": place.gpus} if place.gpus else {})}
            if place.workers.alone
            # The driver of a worker group only waits; claiming a CPU it could starve its own workers.
            else {"node:__internal_head__": 0.001}
        )
        scratch = tempfile.mkdtemp(prefix="mollify-tune-")
        try:
            trainable = tune.with_parameters(TrialActor, setup=setup, datasets=shards)
            trainable = tune.with_resources(trainable, tune.PlacementGroupFactory([bundle]))
            trainable.__name__ = trainable.__qualname__ = sweep.name  # the class of its actors in Ray's dashboard
            tune.Tuner(
                trainable,
                tune_config=tune.TuneConfig(
                    search_alg=StudySearcher(setup.study),
                    num_samples=-1,  # the study says when it is enough: a preempted trial is handed out again
                    max_concurrent_trials=place.concurrent,
                    reuse_actors=True,
                    trial_name_creator=lambda trial: f"{sweep.name}-{trial.config.get('number', 0):05d}",
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name=sweep.name,
                    storage_path=scratch,
                    verbose=0,
                    failure_config=tune.FailureConfig(max_failures=3),
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                ),
            ).fit()
        except BaseException as error:
            self._error = error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
