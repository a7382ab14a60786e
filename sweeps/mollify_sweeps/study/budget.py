"""`--budget`: wall time in place of a number of trials. Methods get equal training time, not equal trials.

What a sweep has used is kept in its study after every epoch, so that a continued one knows it. A trial is not begun
where it could not end: it is taken to train all its epochs, at the pace of the slowest one of its method so far.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from mollify_core.errors import ConfigError
from mollify_sweeps.study.database import answers
from mollify_sweeps.study.ledger import METHOD, Ledger
from mollify_sweeps.study.methods import Search

UNBOUNDED = 10**6  # trials of a sweep that has a budget only
_USED, _SPENT = "seconds_used", "budget_spent"  # attributes of the first study
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def parse(text: str) -> float:
    """Seconds of a text like "90m", "12h", "1d 6h".

    Raises:
        ConfigError: it is none.
    """
    found = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in found)
    if re.sub(r"(\d+(?:\.\d+)?)\s*(min|[smhd])|\s", "", text) or not seconds > 0:
        raise ConfigError(f"Expected --budget to be a time like 90m, 12h or 1d, but got {text!r}")
    return seconds


def used(ledger: Ledger | None) -> float:
    """Seconds that the drivers of a sweep with a budget have run it, up to the last epoch."""
    return 0.0 if ledger is None else float(ledger.user_attrs.get(_USED, 0.0))


def spent(ledger: Ledger | None, seconds: float | None) -> bool:
    """Whether a sweep has come to the end of so large a budget."""
    return ledger is not None and seconds is not None and float(ledger.user_attrs.get(_SPENT, 0.0)) >= seconds


class Budget:
    """The wall time of one sweep.

    Args:
        ledger: of the sweep.
        seconds: in all, also those of earlier drivers.
        epochs: of a trial that is not pruned.
        estimate: of the training time of such a trial, until one has trained an epoch; None is not known.
    """

    def __init__(self, ledger: Ledger, seconds: float, epochs: int, estimate: float | None) -> None:
        self._ledger, self._seconds, self._epochs, self._estimate = ledger, seconds, epochs, estimate or 0.0
        self._before, self._started = used(ledger), time.monotonic()

    def keep(self) -> None:
        """Keeps what has been used so far."""
        self._ledger.set_user_attr(_USED, self.used)

    @property
    def used(self) -> float:
        """Seconds used so far."""
        return self._before + time.monotonic() - self._started

    def close(self) -> None:
        """Nothing runs, and nothing more fits."""
        self.keep()
        self._ledger.set_user_attr(_SPENT, self._seconds)

    def turn(self, searches: Sequence[Search], trials: Sequence[FrozenTrial]) -> Search | None:
        """The method that has had the least training time for its share; None where its next trial could not end."""
        had: dict[str, float] = defaultdict(float)
        for trial in trials:
            if trial.state != TrialState.WAITING:
                name = trial.user_attrs.get(METHOD, "")
                running = trial.state == TrialState.RUNNING
                had[name] += self._full(name, trials) if running else sum(a["seconds"] for a in answers(trial))
        least = min(searches, key=lambda search: had[search.name] / search.share)
        return least if self.used + self._full(least.name, trials) <= self._seconds else None

    def _full(self, method: str, trials: Sequence[FrozenTrial]) -> float:
        """Seconds of a trial of a method that is not pruned."""
        known = [(trial.user_attrs.get(METHOD, "") == method, answers(trial)) for trial in trials]
        paces = [(own, max(a["seconds"] for a in found)) for own, found in known if found]
        own = [pace for same, pace in paces if same] or [pace for _, pace in paces]
        return max(own) * self._epochs if own else self._estimate
