"""The pictures of a sweep, drawn headless with matplotlib in colours that colour-blind readers can tell apart.

Each function takes the results of a sweep and returns a figure, or None when there are too few trials to show anything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from optuna.trial import FrozenTrial, TrialState

from sweeps.results import Results, label, scale

# Okabe & Ito (2008), Color Universal Design
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#9A9A9A"
MARKED = {"best": (RED, "*", 190), "paper": (ORANGE, "D", 60), "plain": (GREEN, "s", 60)}
STYLE: Any = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.axisbelow": True,
    "figure.dpi": 150,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def draw(results: Results) -> dict[str, Figure]:
    """Name of the plot -> figure, for every plot that there are enough trials for."""
    with mpl.rc_context(STYLE):
        figures = {
            "history": history(results),
            "importance": importance(results),
            "parallel": parallel(results),
            "curves": curves(results),
            "pareto": pareto(results),
            "slices": slices(results),
        }
    return {name: figure for name, figure in figures.items() if figure is not None}


def history(results: Results) -> Figure | None:
    """The first objective by trial number, and the best so far."""
    done = sorted(results.completed, key=lambda trial: trial.number)
    if len(done) < 2:
        return None
    figure, axes = _figure(results, "How the search went", 8, 4.6)
    metric = results.metric
    numbers, values = [t.number for t in done], _values(done, metric)
    pruned = [t for t in _trials(results, TrialState.PRUNED) if t.intermediate_values]
    failed = _trials(results, TrialState.FAIL)
    limits = bulk_limits(values)
    best = np.minimum.accumulate(values)
    end = len(results.trials) - 1
    axes.step([*numbers, end], [*best, best[-1]], where="post", color=BLUE, lw=1.6, label="best so far")
    axes.scatter(numbers, clipped(values, limits), s=34, color=BLUE, alpha=0.75, lw=0, label="completed")
    if pruned:
        last = scale(metric) * np.array([t.intermediate_values[max(t.intermediate_values)] for t in pruned])
        style: dict[str, Any] = {"s": 30, "facecolor": "white", "edgecolor": GREY, "lw": 1.3}
        axes.scatter([t.number for t in pruned], clipped(last, limits), label="pruned (last value)", **style)
    if failed:
        style = {"s": 36, "marker": "x", "color": "black", "lw": 1.3, "clip_on": False, "zorder": 6}
        axes.scatter([t.number for t in failed], [limits[0]] * len(failed), label="failed (no value)", **style)
    for name, trial in _marked(results):
        _mark(axes, name, trial, trial.number, clipped(_values([trial], metric), limits))
    note = "points on the upper edge lie beyond it"
    axes.text(1, 1.01, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=8, color="#666666")
    axes.set(xlabel="trial", ylabel=label(metric), ylim=limits)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure)
    return figure


def importance(results: Results) -> Figure | None:
    """The share of each searched parameter in the variance of the ranks."""
    if not results.importances:
        return None
    names, shares = list(results.importances), [100 * share for share in results.importances.values()]
    title = f"What the {label(results.metric, unit=False)} depends on"
    figure, axes = _figure(results, title, 7, 1.4 + 0.34 * len(names))
    bars = axes.barh(names, shares, color=BLUE, height=0.62)
    axes.bar_label(bars, fmt="%.0f", padding=4)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="share of the variance of the ranks (%)", xlim=(0, 1.1 * max(shares)))
    return figure


def parallel(results: Results) -> Figure | None:
    """Parallel coordinates over the searched parameters, coloured by the first objective."""
    sweep = results.sweep
    metric, names = sweep["objectives"][0], list(sweep["space"])
    done, pruned = results.completed, _trials(results, TrialState.PRUNED)
    if len(done) < 3 or len(names) < 2:
        return None
    figure, axes = _figure(results, "Parameters of all trials", max(7, 1.25 * len(names) + 2), 5)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    everyone = [results.searched(trial) for trial in [*done, *pruned]]
    scales = [Scale(sweep["space"][name], [p[name] for p in everyone if name in p]) for name in names]

    def line(trial: FrozenTrial) -> np.ndarray:
        params = results.searched(trial)
        heights = [s.place(params[n]) if n in params else math.nan for n, s in zip(names, scales, strict=True)]
        return np.column_stack([np.arange(len(names)), heights])

    values = _values(done, metric)
    norm = Normalize(values.min(), bulk_limits(values)[1])
    axes.add_collection(LineCollection([line(t) for t in pruned], colors="#D5D5D5", lw=0.8, zorder=1))
    lines = LineCollection([line(t) for t in done[::-1]], cmap="viridis", norm=norm, lw=1.2, alpha=0.7, zorder=2)
    lines.set_array(values[::-1])
    axes.add_collection(lines)
    for name, trial in _marked(results):
        width = 5 if name == "plain" else 2.6  # it often lies under the paper's
        text = f"{name} (trial {trial.number})"
        axes.plot(*line(trial).T, color=MARKED[name][0], lw=width, marker="o", ms=width + 2, zorder=4, label=text)
    for x, axis in enumerate(scales):
        axes.axvline(x, color="#555555", lw=0.8, zorder=2.5)
        for y, text in axis.ticks():
            box = {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 0.6}
            where: dict[str, Any] = {"xytext": (-5, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            axes.annotate(text, (x, y), fontsize=7.5, zorder=6, bbox=box, **where)
    axes.set(xlim=(-0.45, len(names) - 0.85), ylim=(-0.04, 1.04), yticks=[])
    axes.set_xticks(range(len(names)), names, rotation=25, ha="right")
    axes.tick_params(axis="x", length=0)
    opaque = ScalarMappable(lines.norm, lines.cmap)
    bar = figure.colorbar(opaque, ax=axes, pad=0.01, aspect=30, label=label(metric))
    bar.outline.set_visible(False)
    _legend(figure)
    return figure


def curves(results: Results) -> Figure | None:
    """The objective by epoch, of sweeps with a single objective."""
    objectives = results.sweep["objectives"]
    trials = [t for t in results.trials if len(t.intermediate_values) > 1]
    if len(objectives) > 1 or not trials:
        return None
    figure, axes = _figure(results, "Learning curves", 8, 4.5)
    marked = {trial.number: name for name, trial in _marked(results)}
    shown: list[float] = []
    labelled: set[str] = set()
    for trial in sorted(trials, key=lambda t: (t.number in marked, t.state == TrialState.COMPLETE)):
        epochs, values = np.array(sorted(trial.intermediate_values.items())).T
        style: dict[str, Any]
        if trial.number in marked:
            kind, style = f"{marked[trial.number]} (trial {trial.number})", {"lw": 2.4}
            style["color"] = MARKED[marked[trial.number]][0]
        elif trial.state == TrialState.COMPLETE:
            kind, style = "completed", {"color": BLUE, "alpha": 0.35, "lw": 1}
        else:
            kind, style = "pruned or stopped", {"color": GREY, "alpha": 0.7, "lw": 0.8}
        axes.plot(epochs, scale(objectives[0]) * values, label="_" if kind in labelled else kind, **style)
        labelled.add(kind)
        shown.extend(scale(objectives[0]) * values)
    axes.set(xlabel="epoch (from 0)", ylabel=f"{label(objectives[0])}, fixed subsample", ylim=bulk_limits(shown))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(figure)
    return figure


def pareto(results: Results) -> Figure | None:
    """Every pair of the (first three) objectives, and the trials that no other beats on all objectives."""
    objectives, done = results.sweep["objectives"], results.completed
    if len(objectives) < 2 or len(done) < 3:
        return None
    pairs = list(itertools.combinations(range(min(3, len(objectives))), 2))
    figure, grid = _figure(results, "Trade-off between the objectives", 1.2 + 4.6 * len(pairs), 5, columns=len(pairs))
    for axes, (i, j) in zip(np.atleast_1d(grid), pairs, strict=True):
        x, y = (_values(done, objectives[k], k) for k in (i, j))
        on = np.array([t.number in results.front for t in done])
        frame = bulk_limits(x), bulk_limits(y)
        inside = np.column_stack([clipped(x, frame[0]), clipped(y, frame[1])])
        axes.scatter(*inside[~on].T, s=34, color=GREY, alpha=0.7, lw=0, label="completed")
        axes.scatter(*inside[on].T, s=44, color=BLUE, lw=0, label="Pareto front")
        if len(objectives) == 2:  # with more, the front is no line in this plane
            order = np.argsort(x[on])
            axes.step(x[on][order], y[on][order], where="post", color=BLUE, lw=1.2)
        for name, trial in _marked(results):
            _mark(axes, name, trial, *inside[[t.number for t in done].index(trial.number)])
        axes.set(xlabel=label(objectives[i]), ylabel=label(objectives[j]), xlim=frame[0], ylim=frame[1])
    _legend(figure)
    return figure


def slices(results: Results) -> Figure | None:
    """The first objective over each searched parameter by itself, coloured by trial number."""
    sweep, done = results.sweep, results.completed
    metric, names = sweep["objectives"][0], list(sweep["space"])
    if len(done) < 3 or not names:
        return None
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    size = 2.9 * columns + 1, 2.5 * rows + 1
    figure, grid = _figure(results, "One parameter at a time (darker: later trial)", *size, rows, columns)
    values = _values(done, metric)
    limits = bulk_limits(values)
    newest = max(t.number for t in done)
    heights = dict(zip([t.number for t in done], clipped(values, limits), strict=True))
    for axes in np.ravel(grid)[len(names) :]:
        axes.set_visible(False)
    for index, (axes, name) in enumerate(zip(np.ravel(grid), names, strict=False)):
        axis = Scale(sweep["space"][name], [results.searched(t).get(name) for t in done])
        at = {t.number: axis.place(results.searched(t).get(name)) for t in done}
        norm = Normalize(-0.35 * newest, newest)  # the palest blues do not show on white
        style: dict[str, Any] = {"cmap": "Blues", "norm": norm, "s": 24, "lw": 0.3, "edgecolor": BLUE}
        axes.scatter(list(at.values()), list(heights.values()), c=list(at), **style)
        for mark, trial in _marked(results):
            _mark(axes, mark, trial, at[trial.number], heights[trial.number], 0.6)
        axes.set_xticks(*zip(*axis.ticks(), strict=True), fontsize=8)
        axes.set(xlabel=name, xlim=(-0.06, 1.06), ylim=limits)
        if index % columns == 0:
            axes.set_ylabel(label(metric))
        else:
            axes.tick_params(labelleft=False)
    _legend(figure)
    return figure


class Scale:
    """Where a parameter's values stand between 0 and 1 on an axis of its own: linear, logarithmic or by choice."""

    def __init__(self, space: Mapping[str, Any], values: Iterable[Any]) -> None:
        self._choices = list(space.get("choices", []))
        self._log = bool(space.get("log"))
        if not self._choices:
            numbers = [float(v) for v in (space["low"], space["high"], *values) if v is not None]
            self._low, self._high = min(numbers), max(numbers)

    def place(self, value: Any) -> float:
        """NaN, which is not drawn, for a value that has no place."""
        if self._choices:
            known = value in self._choices
            return (self._choices.index(value) + 0.5) / len(self._choices) if known else math.nan
        if value is None:
            return math.nan
        low, high, at = (math.log(v) if self._log else v for v in (self._low, self._high, float(value)))
        return (at - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts: both ends, and round values in between."""
        if self._choices:
            return [(self.place(choice), str(choice)) for choice in self._choices]
        subs = (1.0, 3.0) if self._log and self._high / self._low > 20 else (1.0, 2.0, 5.0)
        locator = LogLocator(subs=subs, numticks=20) if self._log else MaxNLocator(4)
        between = [v for v in locator.tick_values(self._low, self._high) if 0.12 < self.place(v) < 0.88]
        return [(self.place(v), short(v)) for v in (self._low, *between, self._high)]


def short(value: float) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e")


def _figure(results: Results, title: str, width: float, height: float, rows: int = 1, columns: int = 1) -> Any:
    """A figure and its axes; the title names the sweep, and says so when the data is not verified."""
    sweep = results.sweep
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(rows, columns)
    warning, color = ("", "black") if sweep["verified"] else ("UNVERIFIED DATA\n", RED)
    text = f"{warning}{title}: {sweep['name']} ({sweep['dataset']})"
    figure.suptitle(text, x=0.01, ha="left", fontsize=11, color=color)
    return figure, grid


def _legend(figure: Figure) -> None:
    axes: list[Axes] = figure.axes
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        columns = min(len(labels), int(figure.get_figwidth() / 1.75))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8.5)


def _marked(results: Results) -> list[tuple[str, FrozenTrial]]:
    """The references and the best trial, the best last, so that it is drawn on top."""
    return list(results.compared.items())[::-1]


def _mark(axes: Axes, name: str, trial: FrozenTrial, x: float, y: Any, size: float = 1.0) -> None:
    color, marker, area = MARKED[name]
    style: dict[str, Any] = {"color": color, "marker": marker, "s": size * area, "edgecolor": "black", "lw": 0.8}
    axes.scatter(x, y, label=f"{name} (trial {trial.number})", zorder=5, **style)


def _values(trials: Iterable[FrozenTrial], metric: str, index: int = 0) -> np.ndarray:
    return scale(metric) * np.array([trial.values[index] for trial in trials])


def _trials(results: Results, state: TrialState) -> list[FrozenTrial]:
    return [trial for trial in results.trials if trial.state == state]


def bulk_limits(values: Iterable[float]) -> tuple[float, float]:
    """Axis limits around the bulk of the values: a few diverged trials must not flatten all others."""
    finite = np.array([v for v in values if math.isfinite(v)])
    low, quarter, three_quarters, high = np.quantile(finite, [0, 0.25, 0.75, 1])
    high = min(high, three_quarters + 4 * (three_quarters - quarter)) if three_quarters > quarter else high
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return float(low - margin), float(high + margin)


def clipped(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Values beyond the upper limit are drawn just below it."""
    return np.minimum(values, limits[1] - 0.025 * (limits[1] - limits[0]))
