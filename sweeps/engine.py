"""Runs a settled sweep on Ray: the study's actor, the data sets, Tune in a thread, the live view and the trackers."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mollify_core.errors import ConfigError, MollifyError, SweepError, first_line
from sweeps import environment
from sweeps.dashboards import LOOPBACK, OptunaDashboard, show_addresses
from sweeps.plan import Node, cores

if TYPE_CHECKING:
    from rich.console import Console

    from sweeps.settle import Sweep

_POLL = 1.0  # seconds between looks at the study
_LEAVE_PATIENCE = 10.0  # seconds that a stopped sweep gives its trials to end their step and keep their state
_STOP_PATIENCE = 5.0  # seconds that a stopped sweep waits for each tracker, and for the snapshot of its study
_END_PATIENCE = 120.0  # the same of a sweep that has ended


class Stopped(Exception):
    """The user, or the batch system, stopped the sweep."""


def connect(address: str | None, *, dashboard: bool = False) -> None:
    """Starts Ray on this machine, with its dashboard on loopback when asked, or connects to a running cluster.

    Raises:
        ConfigError: there is no such cluster.
    """
    environment.set_defaults()
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # workers import the very code that the driver runs
    import ray
    import torch

    if ray.is_initialized():
        return
    for logger in ("ray", "ray.data", "ray.train"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that failed or died is told by the study
    options: dict[str, Any] = {"namespace": "mollify", "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"address": "local", "num_cpus": cores(), "num_gpus": torch.cuda.device_count()}
        options |= {"include_dashboard": dashboard, "dashboard_host": LOOPBACK}
    else:
        options |= {"address": address}
        if address.startswith("ray://"):  # elsewhere Ray looks itself; a cluster without one would lose its actors
            from ray._private.authentication.authentication_token_setup import (
                maybe_enable_token_auth_if_token_available,
            )

            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process at once
    except Exception as error:  # Ray raises plain ones too, as when this machine is too busy to start it
        what = "start Ray on this machine" if address is None else f"connect to a Ray cluster at {address!r}"
        raise ConfigError(f"Cannot {what}: {first_line(error)}") from None


def cluster_nodes(address: str) -> list[Node]:
    """The resources of every live machine of a running cluster."""
    connect(address)
    import ray

    found = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return [Node(r.get("CPU", 0), r.get("GPU", 0)) for r in found]


def execute(
    sweep: Sweep,
    console: Console,
    *,
    still_ours: Callable[[], None] = lambda: None,
    address: str | None,
    wandb: str,
    wandb_project: str,
    dashboard: int | None = None,
) -> None:
    """Runs the trials that are left.

    Args:
        sweep: what is run.
        console: where the live view goes.
        still_ours: raises a SweepError once another driver has taken the sweep; asked all the time.
        address: of a Ray cluster; None starts Ray here.
        wandb, wandb_project: see `Trackers`.
        dashboard: port of Optuna's dashboard, 0 takes a free one; None serves none.

    Raises:
        Stopped: the user stopped it.
        SweepError: Ray or Tune broke on the way.
        MollifyError: the trackers or the cluster cannot be had.
    """
    from sweeps.metrics import SweepMetrics
    from sweeps.snapshots import Snapshots
    from sweeps.trackers import Trackers
    from sweeps.view import View

    board = None if dashboard is None else OptunaDashboard(dashboard)
    trackers = Trackers(
        sweep=sweep.setup.sweep,
        folder=sweep.local,
        wandb=wandb,  # type: ignore[arg-type]
        project=wandb_project,
        notice=lambda text: view.notice(text),
    )
    view = View(
        console,
        name=sweep.name,
        objective=sweep.setup.sweep["objectives"][0],
        concurrent=sweep.placement.concurrent,
        seconds_per_trial=sweep.seconds,
    )
    snapshots = Snapshots(sweep.store, sweep.setup.url, sweep.name, view.notice)
    patience = _END_PATIENCE
    try:
        with console.status("starting Ray"):
            connect(address, dashboard=board is not None)
            run = Run(sweep)
        metrics = SweepMetrics(sweep.name, sweep.setup.sweep["objectives"][0])
        if board is not None:
            board.serve(sweep.setup.url, sweep.name)
            show_addresses(console, board)
        with view:
            try:
                while run.alive():
                    still_ours()
                    _follow(run, trackers, view, snapshots, metrics)
                    time.sleep(_POLL)
            except KeyboardInterrupt:
                view.notice("stopping: trials keep what they have after their next step (once more to end at once)")
                run.stop()
                until = time.monotonic() + _LEAVE_PATIENCE
                while run.busy() and time.monotonic() < until:
                    _follow(run, trackers, view, snapshots, metrics)
                    time.sleep(_POLL / 5)
                raise
            _follow(run, trackers, view, snapshots, metrics)
        run.check(console)
    except KeyboardInterrupt:
        patience = _STOP_PATIENCE
        raise Stopped("Stopped.") from None
    except MollifyError:
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
        snapshots.close(patience)
        trackers.close(patience)


def _follow(run: Run, trackers: Any, view: Any, snapshots: Any, metrics: Any) -> None:
    events, status = run.look()
    for kind, *rest in events:
        if kind == "start":
            number, recipe, params, reference = rest
            trackers.start(number, recipe, params, reference=reference)
        elif kind == "epoch":
            trackers.epoch(*rest)
            metrics.epoch()
        elif kind == "end":
            trackers.end(*rest)
            snapshots.ask()
        elif kind == "notice":
            view.notice(*rest)
    view.update(status)
    metrics.update(status)


class Run:
    """Tune at work in a thread, and the study's actor beside it."""

    def __init__(self, sweep: Sweep) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from sweeps import feed
        from sweeps.study import SweepStudy
        from sweeps.trial import TrialSetup

        self._name = f"study-{sweep.name}"
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        options = {"name": self._name, "namespace": "mollify", "num_cpus": 0, "scheduling_strategy": here}
        actor: Any = ray.remote(SweepStudy)
        self._study: Any = actor.options(**options).remote(sweep.setup)
        self._status: dict[str, Any] = ray.get(self._study.status.remote())
        shards, info = feed.datasets(sweep.prepared, sweep.base)
        description = sweep.setup.sweep
        setup = TrialSetup(
            storage=sweep.store.uri,
            study=self._name,
            objectives=tuple(description["objectives"]),
            workers=sweep.placement.workers,
            cpus=sweep.placement.cpus,
            gpus=sweep.placement.gpus,
            feed=info,
            provenance={k: description[k] for k in ("versions", "commit", "verified")},
        )
        started = {
            "program": sweep.program,
            "command": sweep.argv,
            "cwd": os.getcwd(),
            "host": socket.gethostname(),
            "trials": sweep.setup.trials,
        }
        sweep.store.write("sweep.json", (json.dumps({**description, **started}, indent=2) + "\n").encode())
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._tune, args=(sweep, setup, shards), daemon=True)
        self._thread.start()

    def alive(self) -> bool:
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

    def check(self, console: Console) -> None:
        """Says why a sweep ended early, when it did."""
        if self._error is not None:
            raise self._error
        if self._status["stopped_by_failures"]:
            console.print("[bold red]The sweep was ended: too many trials failed by a bug (see --max-failures).[/]")

    def _tune(self, sweep: Sweep, setup: Any, shards: dict[str, Any]) -> None:
        from ray import tune
        from ray.tune.execution import class_cache

        from sweeps.trial import TrialActor

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
                    search_alg=_searcher(setup.study),
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


def _searcher(study: str) -> Any:
    """A `StudySearcher` that Tune asks again, where the study has nothing to hand out now or cannot be written."""
    from optuna.exceptions import StorageInternalError
    from ray.tune.search import Searcher

    from sweeps.searcher import StudySearcher

    class Patient(StudySearcher):
        def suggest(self, trial_id: str) -> Any:
            try:
                assignment = super().suggest(trial_id)
            except StorageInternalError:
                return None
            if assignment != Searcher.FINISHED and assignment["number"] is None:
                del self._numbers[trial_id]
                return None
            return assignment

    return Patient(study)
