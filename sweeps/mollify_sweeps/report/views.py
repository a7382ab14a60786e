"""The data of the pictures of a study's trials, computed once for every renderer.

Each function takes the results of a sweep and gives pictures, none where there are too few trials to show anything.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from mollify_core.measure.search_curve import expected_best
from mollify_sweeps.display.axes import Axis, Linear, Scale
from mollify_sweeps.display.charts import SERIES, Line, Mark
from mollify_sweeps.display.text import label, scale, shown
from mollify_sweeps.study.database import answers
from mollify_sweeps.study.ledger import METHOD
from mollify_sweeps.study.methods import METHODS, PLAIN
from mollify_sweeps.study.results import REFERENCES, Results

SHADES = 5  # of lines in parallel coordinates
_MARKS = {
    "pruned": "pruned (last value)",
    "failed": "failed (no value)",
    "done": "completed",
    "front": "completed, on the Pareto front",
}
_ORDER = (*_MARKS, "plain", "paper", "best")
T = TypeVar("T", Line, Mark)


@dataclass(frozen=True)
class Picture:
    """Marks and lines between two axes.

    Attributes:
        name: what it shows.
        x, y: its axes.
        labels: of the axes.
        marks, lines: of the kinds of `display.charts`, inside of the axes, in the order in which they are drawn. What
            lies beyond the upper end of an axis stands on it, with a mark "beyond" on top.
        note: what to know of it.
    """

    name: str
    x: Axis
    y: Linear
    labels: tuple[str, str]
    marks: Sequence[Mark] = ()
    lines: Sequence[Line] = ()
    note: str = ""


@dataclass(frozen=True)
class Parallel:
    """Parallel coordinates: a line per trial over one axis per parameter.

    Attributes:
        axes: parameter -> its axis.
        lines: points (index of the axis, place on it from 0 to 1), in the order in which they are drawn; the kind
            "done" is followed by a shade, from " q0", the strongest, to " q4".
        metric: what the shades show.
        values: number of a completed trial -> the metric's value, as shown.
        limits: the value of the strongest shade, and the one from which on they are the weakest.
    """

    axes: dict[str, Scale]
    lines: Sequence[Line]
    metric: str
    values: dict[int, float]
    limits: tuple[float, float]
    marks: tuple[()] = ()


def history(results: Results) -> list[Picture]:
    """The first objective by trial number, and the best so far."""
    done, metric = sorted(results.completed, key=lambda trial: trial.number), results.metric
    if len(done) < 2:
        return []
    known = [(trial, _value(results, trial, metric)) for trial in done]
    best = np.minimum.accumulate([value for _, value in known]).tolist()
    pruned = [t for t in results.trials if t.state == TrialState.PRUNED and t.intermediate_values]
    known += [(t, scale(metric) * t.intermediate_values[max(t.intermediate_values)]) for t in pruned]
    x, y = Linear(-0.5, len(results.trials) - 0.5, whole=True, most=8), Linear.around(value for _, value in known)
    marks = [_mark(results, trial, trial.number, value, {metric: value}) for trial, value in known]
    marks += [_mark(results, t, t.number, y.low, {}) for t in results.trials if t.state == TrialState.FAIL]
    so_far = [*zip((trial.number for trial in done), best, strict=True), (len(results.trials) - 1, best[-1])]
    line = Line(_steps(so_far), "front", "best so far")
    name, note = f"{label(metric)} of each trial, and the best so far", "Every trial in its order."
    return [_inside(Picture(name, x, y, ("trial", label(metric)), _compared_last(marks), [line], note))]


def curves(results: Results) -> list[Picture]:
    """Each objective by epoch, from 1."""
    made = []
    for index, metric in enumerate(results.sweep.objectives):
        found = []
        for trial in results.trials:
            values = [answer["values"][index] for answer in answers(trial)]
            if not values and len(results.sweep.objectives) == 1:
                values = [value for _, value in sorted(trial.intermediate_values.items())]
            found += [(trial, [scale(metric) * value for value in values])] if len(values) > 1 else []
        if not found:
            continue
        y, lines = Linear.around(itertools.chain(*(values for _, values in found))), []
        for trial, values in found:
            points = list(enumerate(values, 1))
            drawn = kind(results, trial).replace("failed", "pruned")
            lines.append(Line(points, drawn, _told(results, trial, {metric: values[-1]}), trial.number))
        name, x = f"Learning curves: {label(metric)} by epoch", Linear(1, max(len(v) for _, v in found), True, 8)
        note = "Measured after each epoch on a fixed part of the validation images."
        labels = ("epoch", f"{label(metric)}, fixed subsample")
        made.append(_inside(Picture(name, x, y, labels, lines=_compared_last(lines), note=note)))
    return made


def expected(results: Results) -> list[Picture]:
    """The best that each method's search expects after k of its trials, by trials and by epochs trained.

    See `mollify_core.measure.search_curve`: whether one method was better, or only tried more often.
    """
    metric, found = results.metric, {}
    for name, effort in results.efforts.items():
        values = [scale(metric) * trial.values[0] for trial in results.of_method(name)]
        if values:
            curve = expected_best(values, effort.counts.get("pruned", 0))
            found[name] = curve, effort.epochs / len(curve.mean)
    if len(found) < 2:
        return []
    y = Linear.around(v for curve, _ in found.values() for v in (*curve.low, *curve.high))
    made = []
    for unit, by_epochs in (("trials", False), ("epochs trained", True)):
        lines = []
        for name, (curve, epochs) in found.items():
            for ends, band in ((curve.low, " band"), (curve.high, " band"), (curve.mean, "")):
                step = epochs if by_epochs else 1
                points = [(step * k, float(value)) for k, value in enumerate(ends, 1)]
                lines.append(Line(points, _method_kind(results, name) + band, METHODS[name].words))
        most = max(line.points[-1][0] for line in lines)
        x = Linear(0, most, whole=True, most=8)
        text = f"Expected best {label(metric, unit=False)} after so many {unit}"
        made.append(_inside(Picture(text, x, y, (f"{unit} of a method", label(metric)), lines=lines)))
    return made


def methods(results: Results) -> dict[str, str]:
    """Kind of line -> the method that is drawn so."""
    return {f"line {_method_kind(results, name)}": METHODS[name].words for name in results.sweep.methods}


def _method_kind(results: Results, name: str) -> str:
    best = results.compared.get("best")
    if name == PLAIN or (best is not None and best.user_attrs.get(METHOD) == name):
        return "plain" if name == PLAIN else "best"
    return f"s{list(results.sweep.methods).index(name) % SERIES}"


def fronts(results: Results) -> list[Picture]:
    """Trade-offs: pairs of the (first three) objectives, or the clean metric against the one under corruptions."""
    objectives = results.sweep.objectives
    if len(objectives) > 1:
        return [made for pair in itertools.combinations(objectives[:3], 2) for made in _front(results, *pair)]
    names = dict.fromkeys([results.metric.partition("_")[2], "error"])
    return [made for name in names for made in _front(results, f"clean_{name}", f"corrupted_{name}")]


def _front(results: Results, one: str, other: str) -> list[Picture]:
    several = len(results.sweep.objectives) > 1
    known = [(trial, _value(results, trial, one), _value(results, trial, other)) for trial in results.completed]
    known = [(trial, a, b) for trial, a, b in known if math.isfinite(a) and math.isfinite(b)]
    if len(known) < 3:
        return []
    front = results.front if several else _unbeaten({trial.number: (a, b) for trial, a, b in known})
    x, y = Linear.around(a for _, a, _ in known), Linear.around(b for _, _, b in known)
    marks = [_mark(results, trial, a, b, {one: a, other: b}) for trial, a, b in known]
    marks = [replace(m, kind="front") if m.kind == "done" and m.trial in front else m for m in marks]
    on = sorted((mark for mark in marks if mark.trial in front), key=lambda mark: (mark.x, mark.y))
    lines = [Line(_steps((mark.x, mark.y) for mark in on), "front", "Pareto front")]
    lines = lines if len(results.sweep.objectives) <= 2 else []  # with more, the front is no line in this plane
    name = f"{label(other)} against {label(one)} of the completed trials"
    note = f"Lower left is better. On the Pareto front: trial {', '.join(str(mark.trial) for mark in on)}."
    return [_inside(Picture(name, x, y, (label(one), label(other)), _compared_last(marks), lines, note))]


def _unbeaten(points: Mapping[int, tuple[float, float]]) -> set[int]:
    """The trials that no other beats on both metrics."""
    return {
        number
        for number, (x, y) in points.items()
        if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points.values())
    }


def slices(results: Results) -> list[Picture]:
    """The first objective over each searched parameter by itself."""
    done, metric = results.completed, results.metric
    if len(done) < 3:
        return []
    known = [(trial, _value(results, trial, metric), results.searched(trial)) for trial in done]
    y, made = Linear.around(value for _, value, _ in known), []
    for name, space in results.sweep.space.items():
        x, marks = Scale(space, [used.get(name) for *_, used in known]), []
        for trial, value, used in known:
            more = f", {name} {used.get(name)}"
            marks.append(_mark(results, trial, used.get(name), value, {metric: value}, more))
        made.append(_inside(Picture(f"{label(metric)} by {name}", x, y, (name, label(metric)), _compared_last(marks))))
    return made


def coordinates(results: Results) -> Parallel | None:
    """Parallel coordinates over the searched parameters, shaded by the first objective."""
    space, done, metric = results.sweep.space, results.completed, results.metric
    if len(done) < 3 or len(space) < 2:
        return None
    known = [(t, results.searched(t)) for t in results.trials if t.state == TrialState.PRUNED]
    known += [(trial, results.searched(trial)) for trial in done[::-1]]
    axes = {name: Scale(space[name], [used.get(name) for _, used in known]) for name in space}
    values = {trial.number: _value(results, trial, metric) for trial in done}
    shades, lines = Linear(min(values.values()), Linear.around(values.values()).high), []
    for trial, used in known:
        points = [(i, axis.place(used[n]) if n in used else math.nan) for i, (n, axis) in enumerate(axes.items())]
        drawn, value = kind(results, trial), values.get(trial.number)
        if drawn == "done" and value is not None:
            drawn += f" q{min(SHADES - 1, int(SHADES * shades.place(shades.inside(value))))}"
        told = _told(results, trial, {} if value is None else {metric: value})
        lines.append(Line(points, drawn, told, trial.number))
    return Parallel(axes, _compared_last(lines), metric, values, (shades.low, shades.high))


def kind(results: Results, trial: FrozenTrial) -> str:
    """How a trial is drawn, see `display.charts`."""
    names = (n for n, one in results.compared.items() if one.number == trial.number and n in ("best", *REFERENCES))
    other = {TrialState.COMPLETE: "done", TrialState.FAIL: "failed"}.get(trial.state, "pruned")
    return next(names, other)


def legend(results: Results, *pictures: Picture | Parallel) -> dict[str, str]:
    """Kind -> what it means: of the compared trials, then of what else these show, "line " before that of a line."""
    names: dict[int, list[str]] = {}
    for name, trial in results.compared.items():
        names.setdefault(trial.number, []).append(name)
    known = {words[0]: f"{' and '.join(words)} (trial {number})" for number, words in names.items()}
    for picture in pictures:
        known |= {mark.kind: _MARKS[mark.kind] for mark in picture.marks if mark.kind in _MARKS}
        for line in picture.lines:
            if line.kind.startswith("done"):
                known["done"] = _MARKS["done"]
            elif line.kind in ("front", "pruned"):
                known[f"line {line.kind}"] = line.title if line.kind == "front" else "pruned or stopped"
    return known | beyond(*pictures)


def beyond(*pictures: Picture | Parallel) -> dict[str, str]:
    """The kind of the marks on what lies beyond an axis -> how many there are, and whose; empty without any."""
    marks = [mark for picture in pictures for mark in picture.marks if mark.kind == "beyond"]
    trials = sorted({mark.trial for mark in marks if mark.trial is not None})
    whose = f" of trial {', '.join(map(str, trials[:8]))}{', …' * (len(trials) > 8)}" if trials else ""
    text = f"beyond the end of the axis: {len(marks)} value{'s' * (len(marks) > 1)}{whose}"
    return {"beyond": text} if marks else {}


def _inside(picture: Picture) -> Picture:
    """A picture of which nothing lies beyond the upper end of an axis, and what did is marked."""
    x, y = picture.x, picture.y
    found: list[Mark] = []

    def inside(point: tuple[Any, float], told: Mark | Line) -> tuple[Any, float]:
        at = x.inside(point[0]) if isinstance(x, Linear) else point[0], y.inside(point[1])
        if at != point and told.kind != "front":  # that line goes through marks
            found.append(Mark(*at, "beyond", told.title, told.trial))
        return at

    marks = [replace(mark, x=at[0], y=at[1]) for mark in picture.marks for at in [inside((mark.x, mark.y), mark)]]
    lines = [replace(line, points=[inside(point, line) for point in line.points]) for line in picture.lines]
    return replace(picture, marks=[*marks, *found], lines=lines)


def _mark(results: Results, trial: FrozenTrial, x: Any, y: float, values: Mapping[str, float], more: str = "") -> Mark:
    return Mark(x, y, kind(results, trial), _told(results, trial, values) + more, trial.number)


def _told(results: Results, trial: FrozenTrial, values: Mapping[str, float]) -> str:
    """A trial in words, with the values, as shown, of metrics."""
    names = [name for name, one in results.compared.items() if one.number == trial.number]
    names += [] if trial.state == TrialState.COMPLETE else [trial.state.name.lower()]
    text = f"trial {trial.number}" + (f" ({', '.join(names)})" if names else "")
    told = ", ".join(f"{label(metric)} {shown(metric, v / scale(metric))}" for metric, v in values.items())
    return f"{text}: {told}" if told else text


def _value(results: Results, trial: FrozenTrial, metric: str) -> float:
    """A metric of a completed trial, as shown; NaN where it was not measured."""
    known = trial.user_attrs.get("metrics", {}) | dict(zip(results.sweep.objectives, trial.values, strict=True))
    return scale(metric) * known.get(metric, math.nan)


def _compared_last(drawn: Sequence[T]) -> list[T]:
    return sorted(drawn, key=lambda one: _ORDER.index(one.kind.partition(" ")[0]))


def _steps(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """A line through points that goes right first, then up or down."""
    line: list[tuple[float, float]] = []
    for x, y in points:
        line += [(x, line[-1][1])] if line else []
        line.append((x, y))
    return line
