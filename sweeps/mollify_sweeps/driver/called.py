"""The programs from Python: typed options in, a value out; nothing is printed, and errors are exceptions."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from mollify_core.errors import ConfigError, SweepError
from mollify_sweeps.cluster import environment
from mollify_sweeps.display.console import Terminal
from mollify_sweeps.driver import search as program
from mollify_sweeps.driver.opened import OpenSweep, open_sweep
from mollify_sweeps.evaluation import evaluate as evaluation
from mollify_sweeps.evaluation.options import Evaluation
from mollify_sweeps.plan.options import Command, Search
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.plan.words import words
from mollify_sweeps.study.database import study_errors
from mollify_sweeps.tracking.callback import Progress


def search(options: Search, *, progress: Callable[[Progress], Any] | None = None) -> OpenSweep:
    """Runs a search, or what is left of it, as `sweeps/search.py` does; the same call again continues it.

    Ray is started on this machine, and ended with it, unless `options` name a cluster.

    Args:
        options: what is searched, on what, and where it is kept.
        progress: is called whenever something has changed, at most once a second; what it raises ends the sweep.

    Returns:
        The sweep as it then is.

    Raises:
        ConfigError: it cannot be run as `options` say; or Ray is in use in this process already.
        SweepError: it broke, or too many trials failed. What has completed is kept: see `open_sweep`.
        KeyboardInterrupt: it was stopped; the same call continues it.
        MollifyError: of its data or storage.
    """
    if options.running.dry_run:
        raise ConfigError("Expected no dry run, but got one; `dry_run` says what a search would do")
    following = replace(options.running.following, progress=progress)
    code, sweep = _run(replace(options, running=replace(options.running, following=following)), Terminal(quiet=True))
    if code == 130:
        raise KeyboardInterrupt("the sweep was stopped; the same call continues it")
    if code:
        raise SweepError(f"Sweep {sweep.name} ended without a result: too many trials failed, or none has completed")
    return open_sweep(sweep.store.uri, study_url=options.running.keeping.study_url)


def dry_run(options: Search) -> str:
    """What `search` would do, as `sweeps/search.py --dry-run` prints it; raises as `search` does."""
    with io.StringIO() as text:
        _run(replace(options, running=replace(options.running, dry_run=True)), Terminal(file=text, width=120))
        return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def evaluate(options: Evaluation, *, progress: Callable[[int, int], Any] | None = None) -> evaluation.Evaluated:
    """Measures models on the test set, as `sweeps/evaluate.py` does; cells that are kept are not measured again.

    Args:
        options: which models, on which images, how.
        progress: is called with how many cells are measured, and how many there are.

    Raises:
        MollifyError: they cannot be measured.
    """
    with _environment(), study_errors():
        return evaluation.evaluate(options, Terminal(quiet=True), progress)


def _run(options: Search, console: Terminal) -> tuple[int, Sweep]:
    command = Command("sweeps/search.py", words(replace(options, running=replace(options.running, dry_run=False))))
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        raise ConfigError("Expected no Ray in this process, since a sweep has its own; call ray.shutdown() first")
    with _environment(), study_errors():
        return program.run(replace(options, running=replace(options.running, command=command)), console)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """What Ray and its workers are to find in the environment, as long as they may start; then it is as it was."""
    before = dict(os.environ)
    try:
        environment.set_defaults()
        yield
    finally:
        for name in {*before, *os.environ}:
            if name not in before:
                os.environ.pop(name, None)
            elif os.environ.get(name) != before[name]:
                os.environ[name] = before[name]
