"""The pictures of a grid; those of the schedule's ablations were left as stubs in the paper's released code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mollify_core.measure import statistics
from mollify_sweeps.comparison import grids
from mollify_sweeps.display.figures import MARKERS, PALETTE, figure, styled
from mollify_sweeps.display.text import label, scale

Record = Mapping[str, Any]

_METRICS = ("corrupted_error", "corrupted_nll", "corrupted_ece", "clean_error")


@styled
def draw(records: Sequence[Record]) -> dict[str, Figure]:
    """Name of the plot -> figure, for each data set and every plot that there are runs for."""
    figures: dict[str, Figure | None] = {}
    for dataset in dict.fromkeys(record["dataset"] for record in records):
        own = [record for record in records if record["dataset"] == dataset]
        figures |= {
            f"{dataset}_augmentations": augmentations(own),
            f"{dataset}_roles": bars(own, "Noise, blur, both", _ROLES),
            f"{dataset}_times": times(own),
            f"{dataset}_powers": powers(own),
            f"{dataset}_smoothing": bars(own, "Does the label have to follow?", _SMOOTHING),
            f"{dataset}_labels": bars(own, "Three labels", {name: name for name in grids.LABELS.values()}),
            f"{dataset}_soft": bars(own, "Three labels", {name: name for name in _SOFT}),
        }
    return {name.replace("/", "_"): figure for name, figure in figures.items() if figure is not None}


_SOFT = [f"{name}, {words}" for name in grids.SOFT for words in grids.SOFT_LABELS]
_ROLES = {
    f"{grids.ABLATED}, {setting}": words
    for setting, words in {"off": "none", "noise only": "noise", "blur only": "blur", "mollified": "both"}.items()
}
_SMOOTHING = {
    f"{grids.ABLATED}, {setting}": words
    for setting, words in {"off": "none", "k = 100": "images only", "mollified": "images and labels"}.items()
}


def _mean(records: Sequence[Record], run: str, metric: str) -> statistics.Mean | None:
    found = [record[metric] for record in records if record["run"] == run and metric in record]
    return statistics.mean(found) if found else None


def augmentations(records: Sequence[Record]) -> Figure | None:
    """Each augmentation with and without mollification, in four metrics."""
    names = [name for name in grids.AUGMENTATIONS if _mean(records, f"{name}, mollified", "clean_error")]
    names = [name for name in names if _mean(records, f"{name}, off", "clean_error")]
    if not names:
        return None
    made, axes = _panels(records, "With and without mollification", height=1.4 + 0.45 * len(names))
    for axis, metric in zip(axes, _METRICS, strict=True):
        for shift, (setting, colour) in enumerate({"off": PALETTE[0], "mollified": PALETTE[1]}.items()):
            for row, name in enumerate(names):
                mean = _mean(records, f"{name}, {setting}", metric)
                if mean is not None:
                    where = row + 0.15 * (2 * shift - 1)
                    _dot(axis, mean, where, metric, colour, MARKERS[shift], setting if row == 0 else None)
        axis.set_yticks(range(len(names)), names if axis is axes[0] else [""] * len(names))
        axis.set_ylim(len(names) - 0.5, -0.5)
    axes[0].legend(loc="best")
    return made


def bars(records: Sequence[Record], title: str, runs: Mapping[str, str]) -> Figure | None:
    """A few runs side by side, in four metrics; needs two of them."""
    found = [run for run in runs if _mean(records, run, "clean_error")]
    if len(found) < 2:
        return None
    made, axes = _panels(records, title, height=1.4 + 0.4 * len(found))
    for axis, metric in zip(axes, _METRICS, strict=True):
        for row, run in enumerate(found):
            mean = _mean(records, run, metric)
            if mean is not None:
                _dot(axis, mean, row, metric, PALETTE[row % len(PALETTE)], MARKERS[row % len(MARKERS)], None)
        axis.set_yticks(range(len(found)), [runs[run] for run in found] if axis is axes[0] else [""] * len(found))
        axis.set_ylim(len(found) - 0.5, -0.5)
    return made


def times(records: Sequence[Record]) -> Figure | None:
    """The law of times Beta(1, b): the larger b, the milder most degradations are."""
    runs = {2.0: f"{grids.ABLATED}, mollified", **{b: f"{grids.ABLATED}, b = {b:g}" for b in grids.BETAS if b != 2}}
    found = {b: run for b, run in runs.items() if _mean(records, run, "clean_error")}
    if len(found) < 2:
        return None
    made, axes = _panels(records, "The law of times, Beta(1, b)", height=3.2)
    for axis, metric in zip(axes, _METRICS, strict=True):
        means = [mean for run in found.values() if (mean := _mean(records, run, metric))]
        if len(means) == len(found):
            centre = scale(metric) * np.array([m.value for m in means])
            half = scale(metric) * np.nan_to_num([m.high - m.value for m in means])
            axis.errorbar(list(found), centre, yerr=half, marker="o", color=PALETTE[0], capsize=3)
        axis.set(xlabel="b", xticks=list(found))
    return made


def powers(records: Sequence[Record]) -> Figure | None:
    """The label powers of noise and blur: a map for each metric."""

    def run(n: float, b: float) -> str:
        return f"{grids.ABLATED}, " + ("mollified" if n == b == 1 else f"k = {n:g}, {b:g}")

    k = grids.POWERS
    if sum(_mean(records, run(n, b), "clean_error") is not None for n in k for b in k) < 4:
        return None
    made, axes = _panels(records, "Label powers", height=3.2)
    for axis, metric in zip(axes, _METRICS, strict=True):
        table = [[_mean(records, run(n, b), metric) for b in k] for n in k]
        numbers = scale(metric) * np.array([[np.nan if m is None else m.value for m in row] for row in table])
        axis.imshow(numbers, cmap="cividis_r", aspect="auto")
        axis.grid(False)
        middle = (np.nanmin(numbers) + np.nanmax(numbers)) / 2 if np.isfinite(numbers).any() else 0
        for i, j in zip(*np.nonzero(np.isfinite(numbers)), strict=True):
            colour = "white" if numbers[i, j] > middle else "black"
            axis.text(j, i, f"{numbers[i, j]:.3g}", ha="center", va="center", color=colour)
        axis.set_xticks(range(len(k)), [f"{b:g}" for b in k])
        axis.set_yticks(range(len(k)), [f"{n:g}" for n in k])
        axis.set(xlabel="power of blur", ylabel="power of noise" if axis is axes[0] else "")
    return made


def _panels(records: Sequence[Record], title: str, height: float) -> tuple[Figure, Sequence[Any]]:
    seeds = {record["seed"] for record in records}
    about = {"dataset": records[0]["dataset"], "verified": all(record["verified"] for record in records)}
    words = f"{grids.protocol_of(records[0])}, {len(seeds)} seeds, mean and 95 % interval"
    made, axes = figure(about, f"{title}, {words}", (12, height), (1, len(_METRICS)))
    for axis, metric in zip(axes[0], _METRICS, strict=True):
        axis.set_title(label(metric), fontsize=10)
    return made, axes[0]


def _dot(
    axis: Any, mean: statistics.Mean, where: float, metric: str, colour: str, marker: str, text: str | None
) -> None:
    factor = scale(metric)
    half = 0.0 if np.isnan(mean.low) else factor * (mean.high - mean.value)
    axis.errorbar(
        [factor * mean.value], [where], xerr=[half], marker=marker, color=colour, capsize=3, ls="", label=text
    )
