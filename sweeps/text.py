"""How reports write numbers and tables, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from sweeps.results import scale

NONE = "–"
"""Stands where there is no number."""


def shown(metric: str, value: float | None, sign: str = "") -> str:
    """A metric's value with four digits, in per cent where that is customary; `sign` as in format()."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{scale(metric) * value:{sign}#.4g}".rstrip(".")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is words, the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(" ".join(c.replace("|", "\\|").split()) for c in line) + " |" for line in lines)
