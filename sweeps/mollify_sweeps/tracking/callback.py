"""Tells somebody's own code how a sweep stands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mollify_sweeps.tracking.follower import Follower, finished_of


@dataclass(frozen=True)
class Progress:
    """How a sweep stands.

    Attributes:
        sweep: its name.
        trials: that it is to have; None where a budget alone ends it.
        finished: that have ended, `pruned` and `failed` ones among them.
        running: trial -> (epochs that it has trained, epochs in all).
        best: number of the best completed trial, and its value of the first objective; None before there is one.
        notices: what the user was told on the way, a line each.
    """

    sweep: str
    trials: int | None
    finished: int
    pruned: int
    failed: int
    running: dict[int, tuple[int, int]]
    best: tuple[int, float] | None
    notices: tuple[str, ...] = ()


class Told(Follower):
    """Calls `tell` with a `Progress` whenever something of it has changed.

    Args:
        sweep: its name.
        tell: is called from the thread that runs the sweep; what it raises ends the sweep.
    """

    def __init__(self, sweep: str, tell: Callable[[Progress], Any]) -> None:
        self._sweep, self._tell = sweep, tell
        self._notices: tuple[str, ...] = ()
        self._last: Progress | None = None

    def notice(self, text: str) -> None:
        self._notices = (*self._notices, text)

    def update(self, status: dict[str, Any]) -> None:
        counts, best = status["counts"], status["best"]
        now = Progress(
            sweep=self._sweep,
            trials=status["trials"] or None,
            finished=finished_of(status),
            pruned=counts["PRUNED"],
            failed=counts["FAIL"],
            running={live["number"]: (live["epoch"], live["epochs"]) for live in status["live"]},
            best=None if best is None else (best["number"], best["value"]),
            notices=self._notices,
        )
        if now != self._last:
            self._last = now
            self._tell(now)
