"""What follows a sweep: told of every event and, every second, of how it stands."""

from __future__ import annotations

from typing import Any


def run_name(number: int, role: str | None) -> str:
    """A trial's name in a list of runs, in which they stand in order: "00003 mollification"."""
    return f"{number:05d} {role or ''}".strip()


def chart_name(metric: str) -> str:
    """A metric's name in a list of charts, grouped by what comes before the slash: "clean_nll" is "clean/nll"."""
    group, _, rest = metric.partition("_")
    if group in ("train", "clean", "corrupted") and rest:
        return f"{group}/{rest}"
    return {"lr": "train/lr", "seconds": "time/seconds", "images_per_second": "time/images_per_second"}.get(
        metric, metric
    )


def finished_of(status: dict[str, Any]) -> int:
    """Trials that have ended, in whatever way, by `SweepStudy.status`."""
    return sum(status["counts"][state] for state in ("COMPLETE", "PRUNED", "FAIL"))


class Follower:
    """Does nothing with what it is told; whoever follows a sweep does something with some of it.

    Events come in order, from one thread.
    """

    def start(
        self, number: int, recipe: dict[str, Any], params: dict[str, Any], kind: str | None, role: str | None = None
    ) -> None:
        """Trial `number` starts, or starts again: a trial adopted after an interruption continues its curves.

        Args:
            kind: its method; where a sweep has none, which reference it is.
            role: what it is called in a list: which of the trials with settings that nothing has searched, else `kind`.
        """

    def epoch(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        """Scalars of epoch `epoch` (from 0). An epoch repeated after a resume takes the place of the first."""

    def end(self, number: int, state: str, metrics: dict[str, float]) -> None:
        """Trial `number` ended as COMPLETE, PRUNED or FAIL with these final metrics (possibly none)."""

    def notice(self, text: str) -> None:
        """One line for the user."""

    def update(self, status: dict[str, Any]) -> None:
        """What `SweepStudy.status` says now."""
