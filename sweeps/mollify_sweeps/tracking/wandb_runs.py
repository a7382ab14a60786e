"""Weights & Biases: a run for each trial and one for the report of the sweep, all in one group.

A run's identity is made of its sweep and its trial, so a trial that goes on in another process goes on in its run.
Offline that is a second run of the same identity, which `wandb sync` puts in the place of the first: it begins with a
copy of it.
Nothing is sent unless the mode is "online": then wandb writes to this machine only, and says nothing to its makers.
"""

from __future__ import annotations

import configparser
import contextlib
import hashlib
import json
import netrc
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from mollify_core.documents import json_of
from mollify_core.errors import ConfigError, DataError
from mollify_core.foreign import expanded
from mollify_core.kinds import MapOf, Number, Record, Whole, checked
from mollify_core.program import shell_command
from mollify_sweeps.study.description import Description
from mollify_sweeps.tracking.follower import Follower, chart_name, run_name

Mode = Literal["online", "offline", "off"]

_EPOCH = "_epoch"
_LINE = Record({_EPOCH: Whole()})
PATIENCE = 30.0  # seconds for wandb's server, at the start and at the end of a run


class WandbRuns(Follower):
    """Writes the runs of one sweep.

    Args:
        sweep: what the sweep is.
        folder: wandb writes below ``wandb/`` in it.
        mode: "online" or "offline".
        project: wandb project.
        notice: takes one line for the user: how to upload what was kept.
        asked: whether the user has named wandb; otherwise that line is not said.
        runs: wandb writes below ``wandb/`` in it instead.
    """

    def __init__(
        self,
        sweep: Description,
        folder: Path,
        mode: str,
        project: str,
        notice: Callable[[str], None] = print,
        asked: bool = True,
        runs: str | None = None,
    ) -> None:
        self._kept_in = folder if runs is None else Path(runs)
        self._sweep, self._folder, self._mode, self._project, self._notice = sweep, folder, mode, project, notice
        self._asked = asked
        self._runs: dict[int, Any] = {}
        self._used = False

    def start(
        self, number: int, recipe: dict[str, Any], params: dict[str, Any], kind: str | None, role: str | None = None
    ) -> None:
        if number not in self._runs:
            run = self._open(f"{number:05d}", "trial", recipe, kind, name=run_name(number, role))
            run.define_metric("*", step_metric="epoch")
            self._runs[number] = run
            for metrics in self._kept(number):
                _log(run, metrics.pop(_EPOCH), metrics)

    def epoch(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        run = self._runs.get(number)
        if run is not None:  # of a repeated epoch wandb keeps the first row; a resumed trial repeats the same numbers
            _log(run, epoch, metrics)
            if self._mode == "offline":
                with open(self._curve(number), "a", encoding="utf-8") as file:
                    file.write(json.dumps({_EPOCH: epoch, **metrics}) + "\n")

    def _curve(self, number: int) -> Path:
        return self._folder / "wandb" / f"curve-{number:05d}.jsonl"

    def _kept(self, number: int) -> list[dict[str, Any]]:
        """The epochs of a trial that an earlier offline run has, each once, in order."""
        found: dict[int, dict[str, Any]] = {}
        if self._mode == "offline" and self._curve(number).exists():
            for line in self._curve(number).read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(DataError):  # a line that a kill has cut off
                    metrics = checked(checked(json_of(line), MapOf(Number(any=True)), "it"), _LINE, "it")
                    found.setdefault(metrics[_EPOCH], metrics)
        return [found[epoch] for epoch in sorted(found)]

    def end(self, number: int, state: str, metrics: dict[str, float]) -> None:
        run = self._runs.pop(number, None)
        if run is not None:
            run.summary.update({**metrics, "state": state})
            run.finish(exit_code=int(state == "FAIL"))

    def report(self, folder: Path) -> None:
        """Writes the report's table of trials, its plots, and all of it as an artifact.

        Args:
            folder: what `report.build` wrote.
        """
        import wandb

        run = self._open("report", "report", self._sweep.to_dict())
        try:
            run.log({"trials": _table(folder / "trials.parquet")})
            run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in sorted(folder.glob("plots/*.png"))})
            artifact = wandb.Artifact(run.id, type="report")
            artifact.add_dir(str(folder))
            run.log_artifact(artifact)
        finally:
            run.finish()

    def close(self) -> None:
        with contextlib.ExitStack() as stack:  # one run's failure leaves no other unfinished
            if self._used and self._mode == "offline" and self._asked:
                runs = f"{shlex.quote(str(self._kept_in / 'wandb'))}/offline-run-*"
                sync = f"{shell_command('wandb', ['sync'])} {runs}"
                stack.callback(self._notice, f"wandb kept the curves on this machine; to upload: {sync}")
            while self._runs:
                _, run = self._runs.popitem()
                stack.callback(run.finish, exit_code=1)
                stack.callback(run.mark_preempting)

    def _open(self, what: str, kind: str, config: dict[str, Any], *tags: str | None, name: str | None = None) -> Any:
        if self._mode == "offline":
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would tell its makers of offline runs too
        import wandb

        (self._folder / "wandb").mkdir(parents=True, exist_ok=True)
        self._kept_in.mkdir(parents=True, exist_ok=True)
        sweep = self._sweep
        # the time of creation keeps two sweeps of one name in one project apart
        created = hashlib.sha256(f"{sweep.name} {sweep.created}".encode()).hexdigest()[:8]
        slug = re.sub(r"[^A-Za-z0-9_-]", "-", sweep.name)[:64]
        quiet = {"silent": True, "quiet": True, "console": "off"}
        # the driver's command line, code and load say nothing about a trial; the first may hold a database password
        lean = {"x_disable_meta": True, "x_disable_stats": True, "disable_git": True, "disable_code": True}
        limits = {"init_timeout": PATIENCE, "finish_timeout": PATIENCE}
        wanted: dict[str, Any] = {**quiet, **lean, **limits, "save_code": False}
        known = wandb.Settings.model_fields  # older wandb lacks finish_timeout
        settings = wandb.Settings(**{name: value for name, value in wanted.items() if name in known})
        wandb.setup(settings=settings)  # silences what wandb.init prints before it has read its own settings
        run = wandb.init(
            project=self._project,
            group=sweep.name,
            job_type=kind,
            name=f"{sweep.name}-{name or what}",
            id=f"{slug}-{created}-{what}",
            resume="allow",
            mode="online" if self._mode == "online" else "offline",
            reinit="create_new",
            config=config,
            tags=[tag[:64] for tag in (sweep.dataset, sweep.network, *tags) if tag],
            dir=str(self._kept_in),
            settings=settings,
        )
        self._used = True
        return run


def publish(
    folder: Path,
    *,
    sweep: Description,
    local: Path,
    mode: str,
    project: str,
    notice: Callable[[str], None],
    runs: str | None = None,
) -> None:
    """Writes a sweep's report to wandb; a failure becomes a notice, since the report itself is kept elsewhere.

    Args:
        folder: what `report.build` wrote.
        sweep: what the sweep is.
        local: folder of the sweep on this machine.
        mode: "off" does nothing.
        project: wandb project.
        notice: takes one line for the user.
        runs: see `WandbRuns`.
    """
    if mode == "off":
        return
    try:
        WandbRuns(sweep, local, mode, project, runs=runs).report(folder)
    except Exception as error:  # whatever wandb runs into
        notice(f"wandb has not got the report ({failure(error)})")


def check_login() -> None:
    """Looks at this machine only: environment, wandb's settings file, netrc.

    Raises:
        ConfigError: wandb would find no login.
    """
    if not _login():
        raise ConfigError("Expected a wandb login on this machine, but found none; try `--wandb offline`")


def failure(error: Exception) -> str:
    """An error of somebody else's in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _table(path: Path) -> Any:
    """The report's trials, without the columns that are the same in all of them or in none."""
    import pyarrow.parquet
    import wandb

    trials = pyarrow.parquet.read_table(path)
    names = [name for name in trials.column_names if trials[name].null_count < trials.num_rows]
    return wandb.Table(columns=names, data=[list(row.values()) for row in trials.select(names).to_pylist()])


def _login() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    settings = configparser.ConfigParser(interpolation=None)
    with contextlib.suppress(configparser.Error, OSError):
        settings.read(expanded(os.environ.get("WANDB_CONFIG_DIR", "~/.config/wandb")) / "settings")
    if settings.has_option("default", "api_key"):
        return True
    url = os.environ.get("WANDB_BASE_URL") or settings.get("default", "base_url", fallback="https://api.wandb.ai")
    try:
        logins = netrc.netrc(expanded(os.environ.get("NETRC", "~/.netrc")))
    except (OSError, netrc.NetrcParseError):
        return False
    return logins.authenticators(str(urlsplit(url).netloc)) is not None


def _log(run: Any, epoch: int, metrics: dict[str, float]) -> None:
    """A row of a run; epochs are counted from 1 there."""
    told = {chart_name(name): value for name, value in metrics.items()}
    run.log({"epoch": epoch + 1, **told}, step=epoch + 1, commit=True)
