"""How reports write metrics, numbers, durations, sizes and, in Markdown, tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from mollify_core.foreign import clean

UNVERIFIED = "UNVERIFIED DATA: the files of this data set were not checked against official checksums"
NONE = "–"
"""Stands where there is no number."""
_NAMES = {
    "error": "error",
    "balanced_error": "balanced error",
    "top5_error": "top-5 error",
    "nll": "NLL",
    "brier": "Brier score",
    **dict.fromkeys(("ece", "batch_mean_ece", "matching_ece"), "ECE"),  # by which estimator is said beside the table
    "adaptive_ece": "adaptive ECE",
    "debiased_ece": "debiased ECE",
    "scaled_nll": "scaled NLL",
    "scaled_ece": "scaled ECE",
    "scaled_adaptive_ece": "scaled adaptive ECE",
    "sink_mass": "sink mass",
    "aurc": "AURC",
    **{f"risk_at_{coverage}": f"risk at {coverage} % coverage" for coverage in (80, 90, 95)},
    "ood_msp_auroc": "AUROC by softmax",
    "ood_msp_fpr95": "FPR at 95 % TPR by softmax",
    "ood_energy_auroc": "AUROC by energy",
    "ood_energy_fpr95": "FPR at 95 % TPR by energy",
}
_SHARES = ("error", "ece", "aurc", "risk_at_80", "risk_at_90", "risk_at_95", "auroc", "fpr95")


def label(metric: str, unit: bool = True, *, difference: bool = False) -> str:
    """A metric's name for readers: "corrupted_ece" is "corrupted ECE (%)", a difference "corrupted ECE (points)"."""
    scope, _, name = ("", "", metric) if metric in _NAMES else metric.partition("_")
    words = f"{scope} {_NAMES.get(name, name)}".strip()
    return words + (f" ({'points' if difference else '%'})" if unit and scale(metric) == 100 else "")


def scale(metric: str) -> float:
    """Factor from a metric to the number that is customarily shown: 100 for shares, else 1."""
    return 100.0 if metric.endswith(_SHARES) else 1.0


def points(metric: str) -> str:
    """What follows a difference in a metric: " points" where it is shown in per cent, else nothing."""
    return " points" if scale(metric) == 100 else ""


def shown(metric: str, value: float | None, sign: str = "") -> str:
    """A metric's value with four digits, in per cent where that is customary; `sign` as in format()."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{scale(metric) * value:{sign}z#.4g}".rstrip(".")


def setting(value: Any) -> str:
    """A setting's value for readers."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else ",".join(value) if isinstance(value, (list, tuple)) else str(value)


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    seconds = max(0, round(seconds))
    for big, small, size, unit in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= big:
            rest = seconds % big // small
            return f"{seconds // big} {size}" + (f" {rest} {unit}" if rest else "")
    return f"{seconds} s"


def size(count: float) -> str:
    """A number of bytes for people."""
    power = min(4, int(math.log(max(count, 1), 1000)))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _cell(text: str) -> str:
    return clean(" ".join(text.split())).replace("|", "\\|").replace("<", "\\<")


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is words, the others numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)
