"""The one live view of a running sweep: trials by state, the running ones, the best so far, time left."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mollify_sweeps.display.console import moves
from mollify_sweeps.display.text import duration
from mollify_sweeps.tracking.follower import Follower, finished_of

_LINE_EVERY = 60.0  # seconds between lines where there is no terminal


class View(Follower):
    """A live table on a terminal; elsewhere a line whenever a trial ends, and one a minute.

    Args:
        console: where to write.
        name: of the sweep.
        objective: name of the first objective.
        concurrent: trials at once.
        seconds_per_trial: an estimate, until the first epoch; None when there is none.
        seconds_to_start: until then, from now; an estimate too.
    """

    def __init__(
        self,
        console: Console,
        *,
        name: str,
        objective: str,
        concurrent: int,
        seconds_per_trial: float | None,
        seconds_to_start: float = 0,
    ) -> None:
        self._console, self._name, self._objective = console, name, objective
        self._concurrent, self._estimate, self._start = concurrent, seconds_per_trial, seconds_to_start
        self._started = time.monotonic()
        self._line_at = self._started
        self._finished: int | None = None
        self._live = Live(console=console, refresh_per_second=4, transient=True) if moves(console) else None

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def notice(self, text: str) -> None:
        """A line that stays, above the live table."""
        self._console.print(Text.assemble(("! ", "yellow"), text), highlight=False, soft_wrap=True)

    def update(self, status: dict[str, Any]) -> None:
        """Shows what `SweepStudy.status` said."""
        if self._live:
            self._live.update(self._table(status))
            return
        finished = finished_of(status)
        now = time.monotonic()
        if finished != self._finished or now - self._line_at > _LINE_EVERY:
            self._finished, self._line_at = finished, now
            self._console.print(self._line(status), highlight=False, soft_wrap=True)

    def _line(self, status: dict[str, Any]) -> str:
        counts, total = status["counts"], status["trials"]
        parts = [
            f"{finished_of(status)}{f'/{total}' if total else ''} trials",
            f"{counts['PRUNED']} pruned",
            f"{counts['FAIL']} failed",
        ]
        if status["best"]:
            parts.append(f"best {self._objective} {status['best']['value']:.4g} (trial {status['best']['number']})")
        parts.append(f"elapsed {duration(time.monotonic() - self._started)}")
        left = self._seconds_left(status)
        if left is not None:
            parts.append(f"about {duration(left)} left")
        return ", ".join(parts)

    def _table(self, status: dict[str, Any]) -> Group:
        head = Text.assemble((self._name, "bold"), "  ", self._line(status))
        bar = Table.grid()
        done, total = (finished_of(status), status["trials"]) if status["trials"] else status["budget"]
        bar.add_row(ProgressBar(total=total, completed=done, width=60))
        table = Table(box=None, pad_edge=False)
        for column, justify in (("trial", "right"), ("epoch", "right"), (self._objective, "right"), ("time", "right")):
            table.add_column(column, justify=justify, style="cyan" if column == "trial" else "")  # type: ignore[arg-type]
        table.add_column("")
        for live in status["live"]:
            value = "" if live["value"] is None else f"{live['value']:.4g}"
            row = (str(live["number"]), f"{live['epoch']}/{live['epochs']}", value, duration(live["seconds"]))
            table.add_row(*row, live["note"])
        foot = "   ".join(f"{name}: {value:.4g}" for name, value in status["compared"].items())
        return Group(head, bar, table, Text(foot, style="dim"), Text("Ctrl-C stops; nothing is lost", style="dim"))

    def _seconds_left(self, status: dict[str, Any]) -> float | None:
        """From the mean time of finished trials (pruned ones included), else the pace of the running ones, else the
        estimates.
        """
        paces = [live["seconds"] / live["epoch"] * live["epochs"] for live in status["live"] if live["epoch"]]
        if not status["trials"]:
            return max(0.0, status["budget"][1] - status["budget"][0])
        known = status["finished_seconds"] or paces or [s for s in [self._estimate] if s is not None]
        if not known:
            return None
        mean = sum(known) / len(known)
        running = sum(max(0.0, mean - live["seconds"]) for live in status["live"])
        unstarted = max(0, status["trials"] - finished_of(status) - len(status["live"]))
        start = 0.0
        if not paces and not status["finished_seconds"]:
            start = max(0.0, self._start - (time.monotonic() - self._started))
        return start + (running + unstarted * mean) / self._concurrent
