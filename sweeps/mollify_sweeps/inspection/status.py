"""What `sweeps/status.py` does: shows sweeps, or stops or continues one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import time

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mollify_core.errors import ConfigError
from mollify_core.foreign import clean
from mollify_core.program import say
from mollify_sweeps.display.console import Terminal, moves, styled
from mollify_sweeps.display.text import duration
from mollify_sweeps.inspection import control
from mollify_sweeps.inspection.state import STATES, SweepStatus, find, look, look_at_all
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study.results import REFERENCES


def show_sweeps(sweeps: list[SweepStatus]) -> RenderableType:
    """All sweeps of a storage, a row each."""
    table = Table(box=None, pad_edge=False)
    for column in ("sweep", "state", "trials", "best", "age", "data", "network"):
        table.add_column(column, style="cyan" if column == "sweep" else "", overflow="fold")
    for sweep in sweeps:
        data = Text.assemble(sweep.dataset or "", ("" if sweep.verified else " (unverified)", "red"))
        table.add_row(sweep.name, _state(sweep), _progress(sweep), _best(sweep), _age(sweep), data, sweep.network or "")
    return Group(table, *(Text(f"{sweep.name}: {sweep.problem}", style="red") for sweep in sweeps if sweep.problem))


def show_sweep(sweep: SweepStatus) -> RenderableType:
    """One sweep: what it is, and its trials."""
    head = Table(box=None, show_header=False, pad_edge=False, title=f"Sweep {sweep.name}", title_justify="left")
    head.add_column(style="bold")
    head.add_column(overflow="fold")
    verified = ("" if sweep.verified else " (unverified)", "red")
    head.add_row("state", _state(sweep))
    head.add_row("trials", _progress(sweep))
    head.add_row("best", _best(sweep) or "none yet")
    head.add_row("age", _age(sweep))
    head.add_row("data", Text.assemble(sweep.dataset or "", verified, f", {sweep.network}"))
    head.add_row("storage", sweep.storage)
    if sweep.copied is not None:
        head.add_row("read from", f"the copy in the storage, {_ago(sweep.copied)} old")
    metric = sweep.objectives[0] if sweep.objectives else "value"
    table = Table(box=None, pad_edge=False)
    several = any(trial.method for trial in sweep.trials)
    for column in ("trial", *(["method"] if several else []), "state", "epoch", metric, "time"):
        table.add_column(column, justify="left" if column in ("method", "state") else "right", overflow="fold")
    table.add_column("settings", overflow="fold")
    for trial in sweep.trials:
        value = "" if trial.value is None else f"{trial.value:.4g}"
        epochs = f"{trial.epoch}/{trial.epochs}" if trial.epochs else ""
        params = " ".join(
            f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={clean(v, 60)}" for k, v in trial.params.items()
        )
        note = REFERENCES.get(trial.reference or "", params)
        best = sweep.best is not None and sweep.best["number"] == trial.number
        method = (trial.method or "",) if several else ()
        row = (str(trial.number), *method, trial.state, epochs, value, duration(trial.seconds) if trial.seconds else "")
        table.add_row(*row, Text(trial.failure or note), style="bold green" if best else "")
    return Group(head, Text(), table)


def _state(sweep: SweepStatus) -> Text:
    if sweep.state != "running":
        return Text(sweep.state)
    elsewhere = f" on {sweep.host or 'another machine'}" if sweep.host != socket.gethostname() else ""
    return styled("running", "green", f"{f' by process {sweep.pid}' if sweep.pid else ''}{elsewhere}")


def _progress(sweep: SweepStatus) -> str:
    counts = sweep.counts
    finished = sum(counts.get(state, 0) for state in ("complete", "pruned", "fail"))
    parts = [f"{finished}/{sweep.total}" if sweep.total else str(finished)]
    words = {state: state for state in STATES if state != "waiting"} | {"fail": "failed"}
    return ", ".join(parts + [f"{counts[state]} {word}" for state, word in words.items() if counts.get(state)])


def _best(sweep: SweepStatus) -> str:
    if sweep.best is None:
        return ""
    return f"{sweep.objectives[0]} {sweep.best['value']:.4g} (trial {sweep.best['number']})"


def _age(sweep: SweepStatus) -> str:
    age = "" if sweep.created is None else _ago(sweep.created)
    return age if sweep.changed is None else f"{age}, changed {_ago(sweep.changed)} ago"


def _ago(moment: float) -> str:
    return duration(time.time() - moment)


# ---- what the program does


def stop(where: str, study_url: str | None) -> None:
    """Stops the driver of a sweep; raises as `control.stop` does."""
    sweep = look(only(where), study_url)
    control.stop(sweep)
    say(f"sweep {sweep.name} has stopped; nothing is lost")


def go_on(where: str, study_url: str | None, *, run: bool) -> None:
    """Prints the command that goes on with a sweep, and becomes it if asked to; raises as `control.go_on` does."""
    sweep = look(only(where), study_url)
    print(control.command_of(sweep), flush=True)
    if run:
        control.go_on(sweep)


def only(where: str) -> Store:
    """The folder of the one sweep at a place; raises a ConfigError where there are several."""
    single, stores = find(where)
    if not single:
        raise ConfigError(f"Expected one sweep, but {where!r} is a storage of sweeps")
    return stores[0]


def show(where: str, study_url: str | None, *, watch: float | None = None, as_json: bool = False) -> None:
    """Prints how sweeps are.

    Args:
        where: a sweep, or a storage with sweeps.
        study_url: see `state.look`.
        watch: seconds after which it looks again, and again; None looks once.
        as_json: for programs.
    """
    console = Terminal()
    if not console.is_terminal:
        console = Terminal(width=200)  # a file has no edge at which a row would have to be broken
    moving = watch is not None and moves(console) and not as_json
    with Live(console=console, auto_refresh=False) if moving else contextlib.nullcontext() as live:
        while True:
            single, stores = find(where)
            sweeps = [look(stores[0], study_url)] if single else look_at_all(stores, study_url)
            if as_json:
                found = [dataclasses.asdict(sweep) for sweep in sweeps]
                print(json.dumps(found[0] if single else found), flush=True)
            elif live:
                live.update(show_sweep(sweeps[0]) if single else show_sweeps(sweeps), refresh=True)
            else:
                console.print(show_sweep(sweeps[0]) if single else show_sweeps(sweeps))
            if watch is None:
                return
            time.sleep(watch)
