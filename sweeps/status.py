"""`python sweeps/status.py [SWEEP | STORAGE]`: how sweeps are, while their drivers run and after these are gone."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import socket
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if __name__ == "__main__":  # run as a script: make the packages importable, and sweeps/ itself not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from mollify_core.errors import ConfigError, MollifyError
from sweeps.arguments import Parser

if TYPE_CHECKING:  # Optuna and torch are slow to import: --help answers at once
    from sweeps.look import SweepStatus

_EPILOG = """
SWEEP is <storage>/<name>, or the name of a sweep in runs; STORAGE is a folder or s3://bucket/prefix.

examples:
  python sweeps/status.py                          all sweeps in runs
  python sweeps/status.py s3://bucket/sweeps       all sweeps in a bucket
  python sweeps/status.py digits-resnet20-1a2b3c   one sweep and its trials
  python sweeps/status.py runs/my-sweep --stop     as Ctrl-C at its driver: nothing is lost
  python sweeps/status.py runs/my-sweep --continue --run
"""


# ---- showing


def show_sweeps(sweeps: list[SweepStatus]) -> RenderableType:
    """All sweeps of a storage, a row each."""
    table = Table(box=None, pad_edge=False)
    for column in ("sweep", "state", "trials", "best", "age", "data", "network"):
        table.add_column(column, style="cyan" if column == "sweep" else "", overflow="fold")
    for sweep in sweeps:
        data = escape(sweep.dataset or "") + ("" if sweep.verified else " [red](unverified)[/]")
        table.add_row(sweep.name, _state(sweep), _progress(sweep), _best(sweep), _age(sweep), data, sweep.network or "")
    return Group(table, *(Text(f"{sweep.name}: {sweep.problem}", style="red") for sweep in sweeps if sweep.problem))


def show_sweep(sweep: SweepStatus) -> RenderableType:
    """One sweep: what it is, and its trials."""
    head = Table(box=None, show_header=False, pad_edge=False, title=f"Sweep {sweep.name}", title_justify="left")
    head.add_column(style="bold")
    head.add_column(overflow="fold")
    verified = "" if sweep.verified else " [red](unverified)[/]"
    head.add_row("state", _state(sweep))
    head.add_row("trials", _progress(sweep))
    head.add_row("best", _best(sweep) or "none yet")
    head.add_row("age", _age(sweep))
    head.add_row("data", f"{escape(sweep.dataset or '')}{verified}, {sweep.network}")
    head.add_row("storage", escape(sweep.storage))
    if sweep.copied is not None:
        head.add_row("read from", f"the copy in the storage, {_ago(sweep.copied)} old")
    metric = sweep.objectives[0] if sweep.objectives else "value"
    table = Table(box=None, pad_edge=False)
    for column in ("trial", "state", "epoch", metric, "time"):
        table.add_column(column, justify="left" if column == "state" else "right")
    table.add_column("settings", overflow="fold")
    for trial in sweep.trials:
        value = "" if trial.value is None else f"{trial.value:.4g}"
        epochs = f"{trial.epoch}/{trial.epochs}" if trial.epochs else ""
        params = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.params.items())
        note = {"paper": "the paper's schedule", "plain": "plain training"}.get(trial.reference or "", params)
        best = sweep.best is not None and sweep.best["number"] == trial.number
        row = (str(trial.number), trial.state, epochs, value, _span(trial.seconds) if trial.seconds else "")
        table.add_row(*row, Text(trial.failure or note), style="bold green" if best else "")
    return Group(head, Text(), table)


def _state(sweep: SweepStatus) -> str:
    if sweep.state != "running":
        return sweep.state
    elsewhere = f" on {sweep.host or 'another machine'}" if sweep.host != socket.gethostname() else ""
    return f"[green]running[/]{f' by process {sweep.pid}' if sweep.pid else ''}{elsewhere}"


def _progress(sweep: SweepStatus) -> str:
    counts = sweep.counts
    finished = sum(counts.get(state, 0) for state in ("complete", "pruned", "fail"))
    parts = [f"{finished}/{sweep.total}" if sweep.total else str(finished)]
    words = {"complete": "complete", "pruned": "pruned", "fail": "failed", "running": "running"}
    if sweep.state != "running":
        words["running"] = "cut off"
    return ", ".join(parts + [f"{counts[state]} {word}" for state, word in words.items() if counts.get(state)])


def _best(sweep: SweepStatus) -> str:
    if sweep.best is None:
        return ""
    return f"{sweep.objectives[0]} {sweep.best['value']:.4g} (trial {sweep.best['number']})"


def _age(sweep: SweepStatus) -> str:
    age = "" if sweep.created is None else _ago(sweep.created)
    return age if sweep.changed is None else f"{age}, changed {_ago(sweep.changed)} ago"


def _ago(moment: float) -> str:
    return _span(time.time() - moment)


def _span(seconds: float) -> str:
    """In the largest unit of which there are two."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


# ---- the program


def _parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="sweeps/status.py",
        description="How sweeps are, while their drivers run and after these are gone; and stop or continue one.",
        epilog=textwrap.dedent(_EPILOG),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("where", nargs="?", default="runs", metavar="SWEEP|STORAGE", help="see below (default: runs)")
    p.add_argument("--study-url", metavar="URL", help="of the sweep's study, when it is a database with a password")
    p.add_argument("--watch", type=float, nargs="?", const=5.0, metavar="SECONDS", help="look again every 5 s")
    p.add_argument("--json", action="store_true", help="print it for programs")
    g = p.add_mutually_exclusive_group()
    g.add_argument("--stop", action="store_true", help="stop the driver of this sweep, which is on this machine")
    g.add_argument(
        "--continue", dest="go_on", action="store_true", help="print the command that goes on with this sweep"
    )
    p.add_argument("--run", action="store_true", help="with --continue: run it")
    return p


def main(argv: list[str] | None = None) -> int:
    """Shows sweeps; returns the exit code: 0 done, 1 a driver has not stopped, 2 bad input."""
    try:
        args = _parser().parse_args(argv)
        if args.run and not args.go_on:
            raise ConfigError("Expected --continue with --run, but got --run alone")
        if args.watch is not None and args.watch <= 0:
            raise ConfigError(f"Expected --watch to be a positive number of seconds, but got {args.watch:g}")
        from sweeps.look import find, look

        single, stores = find(args.where)
        if args.stop or args.go_on:
            if not single:
                raise ConfigError(f"Expected one sweep to stop or continue, but {args.where!r} is a storage of sweeps")
            _act(look(stores[0], args.study_url), args)
        else:
            _show(args)
        return 0
    except MollifyError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, RuntimeError) else 2
    except KeyboardInterrupt:
        return 0


def _act(sweep: SweepStatus, args: argparse.Namespace) -> None:
    """Stops or continues a sweep."""
    from sweeps.look import command_of, go_on, stop

    if args.stop:
        stop(sweep)
        print(f"sweep {sweep.name} has stopped; nothing is lost")
    else:
        print(command_of(sweep), flush=True)
        if args.run:
            go_on(sweep)


def _show(args: argparse.Namespace) -> None:
    """Prints what is asked for, once or again and again."""
    from sweeps.look import find, look, look_at_all

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a file has no edge at which a row would have to be broken
    moving = args.watch is not None and console.is_terminal and not args.json
    with Live(console=console, auto_refresh=False) if moving else contextlib.nullcontext() as live:
        while True:
            single, stores = find(args.where)
            sweeps = [look(stores[0], args.study_url)] if single else look_at_all(stores, args.study_url)
            if args.json:
                found = [dataclasses.asdict(sweep) for sweep in sweeps]
                print(json.dumps(found[0] if single else found), flush=True)
            elif live:
                live.update(show_sweep(sweeps[0]) if single else show_sweeps(sweeps), refresh=True)
            else:
                console.print(show_sweep(sweeps[0]) if single else show_sweeps(sweeps))
            if args.watch is None:
                return
            time.sleep(args.watch)


if __name__ == "__main__":
    sys.exit(main())
