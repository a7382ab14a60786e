"""Charts as inline SVG, in colours that the page's style gives them, so that one chart is right in light and dark.

Kinds of lines and marks are classes of that style: "best", "paper", "plain" (the trials that are compared), "done",
"pruned" and "failed" (the others), "front", and "s0" .. "s7" (anything else). Marks of the first six differ in shape
too. All texts are plain and escaped here; `title` is what the pointer shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mollify_core.measure.statistics import Mean
from mollify_sweeps.display.axes import MINUS, Axis, Linear, short
from mollify_sweeps.display.page import Html, element, escape
from mollify_sweeps.display.text import scale, shown

SERIES = 8
STEPS = 9  # colours of a heat map
_CHARACTER = 6.6  # pixels, a little more than the mean width of a digit at the charts' 12 px
_SHAPES = {
    "best": "M0-1.5 .42-.5 1.45-.42 .65 .24 .9 1.25 0 .7-.9 1.25-.65 .24-1.45-.42-.42-.5Z",
    "paper": "M0-1.25 1.25 0 0 1.25-1.25 0Z",
    "plain": "M-.9-.9H.9V.9H-.9Z",
    "failed": "M-.8-.8 .8 .8M.8-.8-.8 .8",
    "beyond": "M0-1.9 1.6 1.1-1.6 1.1Z",
}
_CIRCLE = "M-.8 0A.8 .8 0 1 1 .8 0A.8 .8 0 1 1-.8 0Z"


@dataclass(frozen=True)
class Mark:
    """A point."""

    x: float
    y: float
    kind: str
    title: str
    trial: int | None = None


@dataclass(frozen=True)
class Line:
    """A line through points (x, y); those that are not finite break it."""

    points: Sequence[tuple[float, float]]
    kind: str
    title: str
    trial: int | None = None


@dataclass(frozen=True)
class IntervalRow:
    """A number with its interval, and how it is written."""

    label: str
    mean: Mean
    kind: str = "s0"
    text: str = ""


def difference_row(label: str, metric: str, difference: Mean, kind: str = "s0", text: str = "") -> IntervalRow:
    """A difference in a metric, in the unit in which that is shown; by default it is written with four digits."""
    value, low, high = (scale(metric) * v for v in (difference.value, difference.low, difference.high))
    text = text or shown(metric, difference.value, "+")
    return IntervalRow(label, Mean(value, low, high, difference.count), kind, text)


def plot(
    name: str,
    x: Axis,
    y: Axis,
    *,
    labels: tuple[str, str],
    lines: Iterable[Line] = (),
    marks: Iterable[Mark] = (),
    size: tuple[int, int] = (400, 270),
) -> Html:
    """Lines and points between two axes.

    Args:
        name: what it shows, for those who cannot see it.
        x, y: the axes.
        labels: of the axes.
        lines, marks: drawn in this order, marks on top.
        size: width and height in pixels where the chart is as wide as drawn.
    """
    width, height = size
    ticks = y.ticks()
    left = 12 + _CHARACTER * max((len(text) for _, text in ticks), default=0)
    frame = _Frame(left, 26, width - 12, height - (40 if labels[0] else 22))
    parts = [_heading(labels[1], width)]
    for place, text in ticks:
        at = frame.y(place)
        parts += [_line(frame.left, at, frame.right, at, "gridline"), _text(left - 8, at + 4, text, "end")]
    shown = x.ticks()
    if width < 200 and len(shown) > 3:  # no room for more
        shown = [shown[0], shown[len(shown) // 2], shown[-1]]
    for index, (place, text) in enumerate(shown):
        last = index == len(shown) - 1 and place > 0.97
        parts.append(_text(frame.x(place), frame.bottom + 17, text, "end" if last and len(text) > 4 else "mid"))
    parts.append(_line(frame.left, frame.bottom, frame.right, frame.bottom, "axis"))
    parts.append(_text(frame.right, height - 4, labels[0], "end title"))
    parts += [_path(line, [(frame.x(x.place(a)), frame.y(y.place(b))) for a, b in line.points]) for line in lines]
    parts += [_mark(mark, frame.x(x.place(mark.x)), frame.y(y.place(mark.y))) for mark in marks]
    return _svg(name, size, parts)


def interval_chart(name: str, rows: Sequence[IntervalRow], label: str, *, zero: bool = True, width: int = 400) -> Html:
    """A dot with error bars per row, with its numbers beside it.

    Args:
        name: what it shows, for those who cannot see it.
        rows: from the top; their `text` stands at the right.
        label: of the axis.
        zero: whether the axis includes 0, and a line marks it.
        width: in pixels.
    """
    values = [v for row in rows for v in (row.mean.value, row.mean.low, row.mean.high) if math.isfinite(v)] + [
        0.0
    ] * zero
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    axis = Linear(low - margin, high + margin, most=4)
    texts = max((len(row.text) for row in rows), default=0)
    left = min(0.34 * width, 10 + _CHARACTER * max((len(row.label) for row in rows), default=0))
    frame = _Frame(left, 26, width - 8 - (8 + _CHARACTER * texts if texts else 0), 32 + 28 * len(rows))
    parts = [_heading(label, width)]
    for place, text in axis.ticks():
        at = frame.x(place)
        parts += [_line(at, frame.top, at, frame.bottom, "gridline"), _text(at, frame.bottom + 16, text, "mid")]
    if zero:
        parts.append(_line(frame.x(axis.place(0)), frame.top, frame.x(axis.place(0)), frame.bottom, "zero"))
    for index, row in enumerate(rows):
        mean = row.mean
        at = frame.top + 17 + 28 * index
        title = f"{row.label}: {row.text or short(mean.value)}"
        inside = _title(title) + _text(0, at + 4, _cut(row.label, left - 10), "strong")
        if math.isfinite(mean.low) and math.isfinite(mean.high):
            ends = (frame.x(axis.place(v)) for v in (mean.low, mean.high))
            inside += _line(next(ends), at, next(ends), at, "span")
        if math.isfinite(mean.value):
            inside += _symbol(row.kind, frame.x(axis.place(mean.value)), at)
        parts.append(element("g", inside + _text(width, at + 4, row.text, "end strong"), class_=row.kind))
    return _svg(name, (width, round(frame.bottom) + 22), parts)


def bars(name: str, rows: Sequence[tuple[str, float]], label: str, *, width: int = 400) -> Html:
    """Horizontal bars from 0 with their values: (text, value >= 0) each."""
    left = 10 + _CHARACTER * max(len(text) for text, _ in rows)
    most = max(value for _, value in rows) or 1.0
    parts = [_heading(label, width)]
    for index, (text, value) in enumerate(rows):
        at = 24 + 26 * index
        length = max(1.0, (width - left - 50) * value / most)
        parts += [
            _text(left - 8, at + 14, text, "end strong"),
            element("rect", x=_n(left), y=at, width=_n(length), height=18, rx=3, class_="bar-fill"),
            _text(left + length + 6, at + 14, f"{value:.0f}"),
        ]
    return _svg(name, (width, 30 + 26 * len(rows)), parts)


def heat_map(
    name: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    limits: tuple[float, float],
    label: str,
    *,
    diverging: bool = False,
    borders: Sequence[int] = (),
    width: int = 400,
) -> Html:
    """Numbers as colours and as numbers.

    Args:
        name: what it shows, for those who cannot see it.
        rows, columns: their names.
        values: (rows, columns); NaN is "–".
        limits: values of the first and the last colour.
        label: what the numbers are.
        diverging: whether 0 is in the middle of the colours, below it is better, and numbers have a sign.
        borders: rows before which there is a gap.
        width: in pixels.
    """
    left = 10 + _CHARACTER * max(map(len, rows))
    side = (width - left) / len(columns)
    parts = [_heading(label, width)]
    parts += [_text(left + side * (j + 0.5), 32, text, "mid") for j, text in enumerate(columns)]
    top = 40
    for i, text in enumerate(rows):
        top += 6 * (i in borders)
        parts.append(_text(left - 8, top + 16, text, "end"))
        for j, value in enumerate(map(float, values[i])):
            kind, number = "", "–"
            if math.isfinite(value):
                share = (value - limits[0]) / (limits[1] - limits[0]) if limits[1] > limits[0] else 0.5
                kind = f" {'d' if diverging else 'h'}{min(STEPS - 1, max(0, int(share * STEPS)))}"
                number = f"{value:{'+' if diverging else ''}z.1f}".replace("-", MINUS)
            box = element("rect", x=_n(left + side * j + 1), y=top, width=_n(side - 2), height=22, rx=2)
            inside = _title(f"{text}, {columns[j]}: {number}") + (box if kind else "")
            inside += _text(left + side * (j + 0.5), top + 15.5, number)
            parts.append(element("g", inside, class_=f"cell{kind}" if kind else "mid"))
        top += 24
    return _svg(name, (width, top + 4), parts)


def parallel(name: str, axes: Mapping[str, Axis], lines: Sequence[Line], *, pitch: int = 92) -> Html:
    """Parallel coordinates: a line per trial over one axis per parameter.

    Args:
        name: what it shows, for those who cannot see it.
        axes: parameter -> its axis.
        lines: points (index of the axis, place on it from 0 to 1); drawn in this order.
        pitch: pixels between two axes.
    """
    pitch = max(pitch, round(12 + _CHARACTER * max(map(len, axes))))
    frame = _Frame(pitch / 2, 30, pitch * (len(axes) - 0.5), 300)
    parts = []
    for index, text in enumerate(axes):
        at = frame.left + pitch * index
        parts += [_line(at, frame.top, at, frame.bottom, "axis"), _text(at, 16, text, "mid title")]
    parts += [_path(line, [(frame.left + pitch * a, frame.y(b)) for a, b in line.points]) for line in lines]
    for index, axis in enumerate(axes.values()):
        at = frame.left + pitch * index
        parts += [_text(at + 5, frame.y(place) + 4, text, "halo") for place, text in axis.ticks()]
    return _svg(name, (pitch * len(axes), 312), parts)


def legend(entries: Iterable[tuple[str, str]]) -> Html:
    """What the kinds mean: (kind, text) each; a kind that starts with "line " is shown as a line."""
    items = []
    for kind, text in entries:
        drawn = _line(1, 8, 15, 8, kind) if kind.startswith("line ") else _symbol(kind, 8, 8)
        picture = element("svg", drawn, viewBox="0 0 16 16", aria_hidden="true")
        items.append(element("li", picture + escape(text)))
    return element("ul", "".join(items), class_="legend")


@dataclass(frozen=True)
class _Frame:
    """The rectangle between the axes, in pixels; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def x(self, place: float) -> float:
        return self.left + place * (self.right - self.left)

    def y(self, place: float) -> float:
        return self.bottom - place * (self.bottom - self.top)


def _svg(name: str, size: tuple[int, int], parts: Iterable[str]) -> Html:
    box = f"0 0 {size[0]} {size[1]}"
    return element("svg", "".join(parts), viewBox=box, width=size[0], height=size[1], role="img", aria_label=name)


def _n(value: float) -> str:
    """A coordinate, as short as a tenth of a pixel allows."""
    return f"{value:.1f}".removesuffix(".0")


def _text(x: float, y: float, text: str, kind: str | None = None) -> Html:
    return element("text", escape(text), x=_n(x), y=_n(y), class_=kind)


def _heading(text: str, width: float) -> Html:
    return _text(0, 12, _cut(text, width), "title")


def _title(text: str) -> Html:
    return element("title", escape(text))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return element("line", x1=_n(x1), y1=_n(y1), x2=_n(x2), y2=_n(y2), class_=kind)


def _cut(text: str, pixels: float) -> str:
    room = int(pixels / _CHARACTER)
    return text if len(text) <= room else text[: max(1, room - 1)] + "…"


def _path(line: Line, points: Sequence[tuple[float, float]]) -> Html:
    drawn, pen = [], "M"
    for x, y in points:
        finite = math.isfinite(x) and math.isfinite(y)
        drawn += [f"{pen}{_n(x)} {_n(y)}"] if finite else []
        pen = "L" if finite else "M"
    path = element("path", _title(line.title), d="".join(drawn), class_=f"line {line.kind}", data_trial=line.trial)
    return path if drawn else Html("")


def _symbol(kind: str, x: float, y: float, size: float = 5) -> Html:
    shape = _SHAPES.get(kind.partition(" ")[0], _CIRCLE)
    move = f"translate({_n(x)} {_n(y)})scale({size:g})"
    return element("path", d=shape, transform=move, class_=f"mark {kind}", vector_effect="non-scaling-stroke")


def _mark(mark: Mark, x: float, y: float) -> Html:
    if not (math.isfinite(x) and math.isfinite(y)):
        return Html("")
    return element("g", _title(mark.title) + _symbol(mark.kind, x, y), data_trial=mark.trial)
