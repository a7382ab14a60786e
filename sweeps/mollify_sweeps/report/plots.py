"""The pictures of a sweep as PNG; their data is that of `views`, as on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mollify_sweeps.display.axes import Linear
from mollify_sweeps.display.figures import BLUE, GREEN, GREY, RED, figure, legend, styled
from mollify_sweeps.display.text import label
from mollify_sweeps.report import views
from mollify_sweeps.report.views import Picture
from mollify_sweeps.study.results import Results

COLORS = {"best": RED, "paper": BLUE, "plain": GREEN}
_FILL = "#BCD3E3"
_SHADES = ListedColormap(["#8D96A3", "#A9B0BA", "#C6CACF", "#DADDE1", "#E8EAED"], "shades")  # those of the page
_COMPARED: dict[str, Any] = {"edgecolor": "black", "lw": 0.8}
_MARKS: dict[str, dict[str, Any]] = {
    "best": {"color": RED, "marker": "*", "s": 190, **_COMPARED},
    "paper": {"color": BLUE, "marker": "D", "s": 60, **_COMPARED},
    "plain": {"color": GREEN, "marker": "s", "s": 60, **_COMPARED},
    "front": {"color": "black", "s": 40, "lw": 0},
    "done": {"color": GREY, "s": 34, "alpha": 0.85, "lw": 0},
    "pruned": {"facecolor": "white", "edgecolor": GREY, "s": 30, "lw": 1.3},
    "failed": {"color": "black", "marker": "x", "s": 36, "lw": 1.3},
    "beyond": {"facecolor": "none", "edgecolor": "black", "marker": "^", "s": 90, "lw": 1.0},
}
_LINES: dict[str, dict[str, Any]] = {
    **{kind: {"color": color, "lw": 2.4} for kind, color in COLORS.items()},
    "front": {"color": "black", "lw": 1.2, "alpha": 0.6},
    "done": {"color": GREY, "lw": 1, "alpha": 0.7},
    "pruned": {"color": GREY, "lw": 0.8, "alpha": 0.7, "ls": (0, (3, 3))},
}


@styled
def draw(results: Results) -> dict[str, Figure]:
    """Name of the plot -> figure, for every plot that there are enough trials for."""
    figures = {
        "history": _grid(results, "How the search went", views.history(results)),
        "importance": importance(results),
        "parallel": parallel(results),
        "curves": _grid(results, "Learning curves", views.curves(results)),
        "pareto": _grid(results, "Pareto front", views.fronts(results)),
        "slices": _grid(results, "One parameter at a time", views.slices(results), small=True),
    }
    return {name: made for name, made in figures.items() if made is not None}


def importance(results: Results) -> Figure | None:
    """The share of each searched parameter in the variance of the ranks."""
    if not results.importances:
        return None
    names, shares = list(results.importances), [100 * share for share in results.importances.values()]
    title = f"What the {label(results.metric, unit=False)} depends on"
    made, ((axes,),) = _figure(results, title, (7, 1.4 + 0.34 * len(names)))
    axes.bar_label(axes.barh(names, shares, color=_FILL, height=0.62), fmt="%.0f", padding=4)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="share of the variance of the ranks (%)", xlim=(0, 1.1 * max(shares)))
    return made


def parallel(results: Results) -> Figure | None:
    """Parallel coordinates over the searched parameters, shaded by the first objective."""
    view = views.coordinates(results)
    if view is None:
        return None
    names, count = views.legend(results, view), len(view.axes)
    made, ((axes,),) = _figure(results, "Parameters of all trials", (max(7, 1.25 * count + 2), 5))
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    pruned = [line.points for line in view.lines if line.kind == "pruned"]
    axes.add_collection(LineCollection(pruned, zorder=1, label=names.get("line pruned"), **_LINES["pruned"]))
    done = [line for line in view.lines if line.kind.startswith("done")]
    lines = LineCollection([line.points for line in done], cmap=_SHADES, norm=Normalize(*view.limits), lw=1.2, zorder=2)
    lines.set_array(np.array([view.values[line.trial] for line in done if line.trial is not None]))
    axes.add_collection(lines)
    for line in view.lines:
        if line.kind in COLORS:
            width = 5 if line.kind == "plain" else 2.6  # it often lies under the paper's
            style: dict[str, Any] = {"color": COLORS[line.kind], "marker": "o", "zorder": 4, "label": names[line.kind]}
            axes.plot(*zip(*line.points, strict=True), lw=width, ms=width + 2, **style)
    for x, axis in enumerate(view.axes.values()):
        axes.axvline(x, color="#555555", lw=0.8, zorder=2.5)
        for y, text in axis.ticks():
            box = {"facecolor": "white", "alpha": 0.8, "lw": 0, "pad": 0.6}
            where: dict[str, Any] = {"xytext": (-5, 0), "textcoords": "offset points", "ha": "right", "va": "center"}
            axes.annotate(text, (x, y), fontsize=7.5, zorder=6, bbox=box, **where)
    axes.set(xlim=(-0.45, count - 0.85), ylim=(-0.04, 1.04), yticks=[])
    axes.set_xticks(range(count), list(view.axes), rotation=25, ha="right")
    axes.tick_params(axis="x", length=0)
    made.colorbar(lines, ax=axes, pad=0.01, aspect=30, label=label(view.metric)).outline.set_visible(False)
    _legend(made, names)
    return made


def _grid(results: Results, title: str, pictures: Sequence[Picture], *, small: bool = False) -> Figure | None:
    """Pictures side by side; small ones, four in a row, have one y axis."""
    if not pictures:
        return None
    columns = min(4 if small else 3, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    size = (2.9 * columns + 1, 2.5 * rows + 1) if small else (max(8, 1.2 + 4.6 * columns), 5 * rows)
    made, grid = _figure(results, title, size, (rows, columns), sharey=small)
    names = views.legend(results, *pictures)
    for axes in grid.flat[len(pictures) :]:
        axes.set_visible(False)
    for index, (axes, picture) in enumerate(zip(grid.flat, pictures, strict=False)):
        _draw(axes, picture, names, 0.6 if small else 1)
        axes.tick_params(axis="x", labelsize=8 if small else None)
        axes.set_ylabel("" if small and index % columns else picture.labels[1])
    _legend(made, names)
    return made


def _draw(axes: Axes, picture: Picture, names: dict[str, str], size: float = 1.0) -> None:
    for line in picture.lines:
        text = names.get(f"line {line.kind}", names.get(line.kind))
        axes.plot(*zip(*line.points, strict=True), label=text, clip_on=False, **_LINES[line.kind])
    x = picture.x
    for kind in dict.fromkeys(mark.kind for mark in picture.marks):
        marks = [mark for mark in picture.marks if mark.kind == kind]
        at = [mark.x if isinstance(x, Linear) else x.place(mark.x) for mark in marks]
        style = {**_MARKS[kind], "s": size * _MARKS[kind]["s"], "label": names[kind]}
        axes.scatter(at, [mark.y for mark in marks], zorder=3, clip_on=False, **style)
    axes.set(xlabel=picture.labels[0], ylim=(picture.y.low, picture.y.high))
    if isinstance(x, Linear):
        axes.set_xlim(x.low, x.high)
        axes.xaxis.set_major_locator(MaxNLocator(x.most, integer=x.whole))
    else:
        axes.set_xlim(-0.06, 1.06)
        axes.set_xticks(*zip(*x.ticks(), strict=True))


def _figure(results: Results, title: str, size: tuple[float, float], *grid: tuple[int, int], **options: Any) -> Any:
    about = {"dataset": f"{results.sweep.name} ({results.sweep.dataset})", "verified": results.sweep.verified}
    return figure(about, title, size, *grid, **options)


def _legend(made: Figure, names: dict[str, str]) -> None:
    found = {handle.get_label(): handle for axes in made.axes for handle in axes.get_legend_handles_labels()[0]}
    handles = [found[text] for text in names.values() if text in found]
    if handles:
        legend(made, handles)
