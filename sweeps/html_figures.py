"""The figures of report.html that show a study's trials.

Each function takes the results of a sweep and returns figures, none where there are too few trials to show anything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from sweeps.html_charts import Line, Linear, Mark, bars, legend, parallel, plot
from sweeps.html_page import Html, figure, figures
from sweeps.plots import Scale, bulk_limits
from sweeps.results import Results, label, scale
from sweeps.study_storage import answers
from sweeps.text import shown

_SMALL = (172, 150)
_SHADES = 5  # of lines in parallel coordinates
T = TypeVar("T", Line, Mark)


def kind(results: Results, trial: FrozenTrial) -> str:
    """How a trial is drawn, see `html_charts`."""
    names = (name for name, one in results.compared.items() if one.number == trial.number)
    other = {TrialState.COMPLETE: "done", TrialState.FAIL: "failed"}.get(trial.state, "pruned")
    return next(names, other)


def compared_legend(results: Results, *others: tuple[str, str]) -> Html:
    """What the marks mean: the compared trials, then `others` as (kind, text)."""
    texts: dict[int, list[str]] = {}
    for name, trial in results.compared.items():
        texts.setdefault(trial.number, []).append(name)
    names = [(words[0], f"{' and '.join(words)} (trial {number})") for number, words in texts.items()]
    return legend([*names, *others])


def history(results: Results) -> list[Html]:
    """The first objective by trial number, and the best so far."""
    done = sorted(results.completed, key=lambda trial: trial.number)
    if len(done) < 2:
        return []
    metric = results.metric
    points = [(trial, _value(trial, metric)) for trial in done]
    pruned = [t for t in results.trials if t.state == TrialState.PRUNED and t.intermediate_values]
    points += [(t, scale(metric) * t.intermediate_values[max(t.intermediate_values)]) for t in pruned]
    axis = _axis(y for _, y in points)
    points += [(t, math.nan) for t in results.trials if t.state == TrialState.FAIL]
    best = np.minimum.accumulate([_value(trial, metric) for trial in done]).tolist()
    steps = _steps([*zip([t.number for t in done], best, strict=True), (len(results.trials) - 1, best[-1])])
    marks = [
        Mark(t.number, _inside(axis, y), kind(results, t), _told(results, t, metric, y), t.number) for t, y in points
    ]
    chart = plot(
        f"{label(metric)} of each trial, and the best so far",
        Linear(-0.5, len(results.trials) - 0.5, whole=True, most=8),
        axis,
        labels=("trial", label(metric)),
        lines=[Line(steps, "front", "best so far")],
        marks=_compared_last(marks),
    )
    return [
        figure(chart, "Every trial in its order; the thin line is the best so far. Values beyond the top lie on it.")
    ]


def curves(results: Results) -> list[Html]:
    """Each objective by epoch."""
    made = []
    for index, metric in enumerate(results.sweep["objectives"]):
        lines = []
        for trial in results.trials:
            found = [answer["values"][index] for answer in answers(trial)]
            if not found and len(results.sweep["objectives"]) == 1:
                found = [value for _, value in sorted(trial.intermediate_values.items())]
            points = [(epoch, scale(metric) * value) for epoch, value in enumerate(found, 1)]
            if len(points) > 1:
                title = _told(results, trial, metric, points[-1][1])
                lines.append(Line(points, kind(results, trial).replace("failed", "pruned"), title, trial.number))
        if not lines:
            continue
        axis = _axis(y for line in lines for _, y in line.points)
        lines = [
            Line([(x, _inside(axis, y)) for x, y in line.points], line.kind, line.title, line.trial) for line in lines
        ]
        last = max(len(line.points) for line in lines)
        chart = plot(
            f"Learning curves: {label(metric)} by epoch",
            Linear(1, last, whole=True, most=8),
            axis,
            labels=("epoch", f"{label(metric)}, fixed subsample"),
            lines=_compared_last(lines),
        )
        made.append(
            figure(chart, "Learning curves, measured after each epoch on a fixed part of the validation images.")
        )
    return made


def fronts(results: Results) -> list[Html]:
    """Trade-offs: pairs of the (first three) objectives, or the clean metric against the one under corruptions."""
    objectives = results.sweep["objectives"]
    if len(objectives) > 1:
        pairs = list(itertools.combinations(objectives[:3], 2))
    else:
        names = dict.fromkeys([results.metric.partition("_")[2], "error"])
        pairs = [(f"clean_{name}", f"corrupted_{name}") for name in names]
    return [made for pair in pairs for made in _front(results, pair)]


def _front(results: Results, pair: tuple[str, str]) -> list[Html]:
    objectives = results.sweep["objectives"]
    measured = [(trial, [_measured(results, trial, metric) for metric in pair]) for trial in results.completed]
    measured = [(trial, xy) for trial, xy in measured if np.isfinite(xy).all()]
    if len(measured) < 3:
        return []
    front = results.front if len(objectives) > 1 else _unbeaten({trial.number: xy for trial, xy in measured})
    x, y = (_axis(xy[i] for _, xy in measured) for i in (0, 1))
    marks, corners = [], {}
    for trial, (a, b) in measured:
        told = _told(results, trial, pair[0], a, pair[1], b)
        drawn = kind(results, trial)
        drawn = "front" if drawn == "done" and trial.number in front else drawn
        marks.append(Mark(_inside(x, a), _inside(y, b), drawn, told, trial.number))
        if trial.number in front:
            corners[trial.number] = (_inside(x, a), _inside(y, b))
    on = sorted(corners, key=lambda number: corners[number])
    steps = _steps([corners[number] for number in on])
    chart = plot(
        f"{label(pair[1])} against {label(pair[0])} of the completed trials",
        x,
        y,
        labels=(label(pair[0]), label(pair[1])),
        lines=[Line(steps, "front", "Pareto front")] if len(objectives) <= 2 else [],  # else it is no line here
        marks=_compared_last(marks),
    )
    return [figure(chart, f"Lower left is better. On the Pareto front: trial {', '.join(map(str, on))}.")]


def _unbeaten(points: dict[int, list[float]]) -> set[int]:
    """The trials that no other beats on both metrics."""
    return {
        number
        for number, own in points.items()
        if not any(np.less_equal(xy, own).all() and np.less(xy, own).any() for xy in points.values())
    }


def _steps(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line through points that goes right first, then up or down."""
    line: list[tuple[float, float]] = []
    for x, y in points:
        line += [(x, line[-1][1])] if line else []
        line.append((x, y))
    return line


def importances(results: Results) -> list[Html]:
    """The share of each searched parameter in the variance of the ranks."""
    if not results.importances:
        return []
    rows = [(name, 100 * share) for name, share in results.importances.items()]
    chart = bars("Importance of the searched parameters", rows, "share of the variance of the ranks (%)")
    return [figure(chart, f"fANOVA on the ranks of the trials in {label(results.metric, unit=False)}; a rough guide.")]


def slices(results: Results) -> list[Html]:
    """The first objective over each searched parameter by itself."""
    done, metric = results.completed, results.metric
    if len(done) < 3 or not results.sweep["space"]:
        return []
    y = _axis(_value(trial, metric) for trial in done)
    made = []
    for name, space in results.sweep["space"].items():
        x = Scale(space, [results.searched(trial).get(name) for trial in done])
        marks = [
            Mark(
                results.searched(t).get(name),  # type: ignore[arg-type]
                _inside(y, _value(t, metric)),
                kind(results, t),
                f"{_told(results, t, metric, _value(t, metric))}, {name} {results.searched(t).get(name)}",
                t.number,
            )
            for t in done
        ]
        chart = plot(
            f"{label(metric)} by {name}", _Few(x), y, labels=("", name), marks=_compared_last(marks), size=_SMALL
        )
        made.append(figure(chart))
    return [figures(*made, kind="small")]


class _Few:
    """A parameter's axis with at most three ticks, for small charts."""

    def __init__(self, axis: Scale) -> None:
        self.place, self._axis = axis.place, axis

    def ticks(self) -> list[tuple[float, str]]:
        ticks = self._axis.ticks()
        return ticks if len(ticks) <= 3 else [ticks[0], ticks[len(ticks) // 2], ticks[-1]]


def coordinates(results: Results) -> list[Html]:
    """Parallel coordinates over the searched parameters."""
    space, done = results.sweep["space"], results.completed
    if len(done) < 3 or len(space) < 2:
        return []
    trials = [t for t in results.trials if t.state == TrialState.PRUNED] + done[::-1]
    axes = {name: Scale(space[name], [results.searched(t).get(name) for t in trials]) for name in space}
    rank = {trial.number: index for index, trial in enumerate(done)}

    def line(trial: FrozenTrial) -> Line:
        known = results.searched(trial)
        points = [
            (i, axis.place(known[name]) if name in known else math.nan) for i, (name, axis) in enumerate(axes.items())
        ]
        drawn, told = kind(results, trial), _told(results, trial)
        if trial.number in rank:
            told = _told(results, trial, results.metric, _value(trial, results.metric))
            drawn += f" q{_SHADES * rank[trial.number] // len(done)}" if drawn == "done" else ""
        return Line(points, drawn, told, trial.number)

    chart = parallel("Parameters of all trials", axes, _compared_last([line(trial) for trial in trials]))
    words = f"A line is a trial; the stronger, the lower its {label(results.metric, unit=False)}. Dotted: pruned."
    return [figure(chart, words, wide=True)]


def _compared_last(drawn: Sequence[T]) -> list[T]:
    order = ("pruned", "failed", "done", "front", "plain", "paper", "best")
    return sorted(drawn, key=lambda one: order.index(one.kind.partition(" ")[0]))


def _axis(values: Iterable[float]) -> Linear:
    return Linear(*bulk_limits(values))


def _inside(axis: Linear, value: float) -> float:
    """Values beyond the axis are drawn on its upper end, those of failed trials on the lower one."""
    return axis.low if math.isnan(value) else min(value, axis.high)


def _value(trial: FrozenTrial, metric: str) -> float:
    return scale(metric) * trial.values[0]


def _measured(results: Results, trial: FrozenTrial, metric: str) -> float:
    objectives = results.sweep["objectives"]
    if metric in objectives:
        return scale(metric) * trial.values[objectives.index(metric)]
    return scale(metric) * trial.user_attrs.get("metrics", {}).get(metric, math.nan)


def _told(results: Results, trial: FrozenTrial, *measured: str | float) -> str:
    """What the pointer shows of a trial; `measured` is metric, value (as shown), and so on."""
    names = [name for name, one in results.compared.items() if one.number == trial.number]
    names += [] if trial.state == TrialState.COMPLETE else [trial.state.name.lower()]
    text = f"trial {trial.number}" + (f" ({', '.join(names)})" if names else "")
    pairs = zip(measured[::2], measured[1::2], strict=True)
    values = ", ".join(f"{label(str(m))} {shown(str(m), float(v) / scale(str(m)))}" for m, v in pairs)
    return f"{text}: {values}" if values else text
