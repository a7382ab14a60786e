"""Axes: where values stand between their two ends, and which of them have ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

MINUS = "−"


class Axis(Protocol):
    """Where values stand on an axis."""

    def place(self, value: Any) -> float:
        """From 0 to 1 inside the axis; NaN, which is not drawn, where it has no place."""

    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts."""


class Scale:
    """An axis of a parameter's values, with ticks at both ends: linear, logarithmic or by choice."""

    def __init__(self, space: Mapping[str, Any], values: Iterable[Any]) -> None:
        self._choices = list(space.get("choices", []))
        self._log = bool(space.get("log"))
        if not self._choices:
            numbers = [float(v) for v in (space["low"], space["high"], *values) if v is not None]
            self._low, self._high = min(numbers), max(numbers)

    def place(self, value: Any) -> float:
        if self._choices:
            known = value in self._choices
            return (self._choices.index(value) + 0.5) / len(self._choices) if known else math.nan
        if value is None:
            return math.nan
        low, high, at = (math.log(v) if self._log else v for v in (self._low, self._high, float(value)))
        return (at - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        if self._choices:
            return [(self.place(choice), str(choice)) for choice in self._choices]
        from matplotlib.ticker import LogLocator, MaxNLocator  # slow to import

        subs = (1.0, 3.0) if self._log and self._high / self._low > 20 else (1.0, 2.0, 5.0)
        locator = LogLocator(subs=subs, numticks=20) if self._log else MaxNLocator(4)
        between = [v for v in locator.tick_values(self._low, self._high) if 0.12 < self.place(v) < 0.88]
        return [(self.place(v), short(v)) for v in (self._low, *between, self._high)]


@dataclass(frozen=True)
class Linear:
    """A linear axis from `low` to `high` with ticks at round values."""

    low: float
    high: float
    whole: bool = False
    most: int = 5

    @classmethod
    def around(cls, values: Iterable[float]) -> Linear:
        """An axis around the bulk of the values: a few diverged trials must not flatten all others."""
        finite = np.array([v for v in values if math.isfinite(v)] or [0.0])
        low, quarter, three_quarters, high = np.quantile(finite, [0, 0.25, 0.75, 1])
        high = min(high, three_quarters + 4 * (three_quarters - quarter)) if three_quarters > quarter else high
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(float(low - margin), float(high + margin))

    def inside(self, value: float) -> float:
        """Values beyond the upper end are drawn on it."""
        return self.high if value > self.high else value

    def place(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        from matplotlib.ticker import MaxNLocator

        values = MaxNLocator(self.most, integer=self.whole).tick_values(self.low, self.high)
        return [(self.place(v), short(v).replace("-", MINUS)) for v in values if self.low <= v <= self.high]


def short(value: float) -> str:
    """A number in few characters: three digits."""
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:z.3g}"
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e")
