"""The pictures of an evaluation under distortions by level d, and of the general metrics, for any number of models.

They are the figures of the evaluation of information matching (Bonilla Salvador 2025), and beside them what those
leave out: accuracy against confidence under distortion. A confidence that falls means little by itself, as it should
fall with the accuracy, and no faster.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mollify_core.errors import ConfigError
from mollify_sweeps.display.figures import BLUE, GREY, RED, bars, figure, heat_map, legend, line_style, styled
from mollify_sweeps.evaluation.rows import Row, Rows, distortions, file_names, models, select

Value = Callable[[Row], float]
MANY = 10  # more classes than these are shown as a band


def draw(rows: Rows, metadata: Mapping[str, Any], focus: int = 0) -> dict[str, Figure]:
    """Name of the plot -> figure, for every plot that there are rows for.

    Args:
        rows, metadata: an evaluation, see `report`.
        focus: index of the class whose confidence is shown by itself, see `check_focus`.
    """
    text = f"probability of {metadata['class_names'][focus]}, on its images (%)"
    figures = {"general_metrics_comparison": general_metrics(rows, metadata)}
    views: tuple[tuple[str, str, str, Value], ...] = (
        ("robust_acc", "", "accuracy (%)", accuracy),
        ("confidence", f"_class{focus}", text, class_probability(focus)),
    )
    for kind in distortions(rows):
        for view, suffix, text, value in views:
            figures[f"{view}_vs_{kind}{suffix}"] = against_level(rows, metadata, kind, text, value)
    for model, name in file_names(rows).items():
        for view, suffix, text, value in views:
            figures[f"{view}_per_dist{suffix}_{name}"] = per_distortion(rows, metadata, model, text, value)
        figures[f"distortions_{name}"] = level_map(rows, metadata, model)
        figures[f"class_confidence_{name}"] = class_confidence(rows, metadata, model)
    figures["distortion_calibration"] = distortion_calibration(rows, metadata)
    return {name: made for name, made in figures.items() if made is not None}


def check_focus(focus: int, metadata: Mapping[str, Any]) -> None:
    """Raises a ConfigError when there is no class of this index."""
    classes = len(metadata["class_names"])
    if not 0 <= focus < classes:
        raise ConfigError(f"Expected the class to show to be in 0 .. {classes - 1}, but got {focus!r}")


def accuracy(row: Row) -> float:
    """The accuracy in per cent."""
    return 100 * (1 - row["error"])


def class_probability(index: int) -> Value:
    """The mean true-class probability of the images of one class, in per cent."""
    return lambda row: 100 * row["class_confidence"][index]


@styled
def general_metrics(rows: Rows, metadata: Mapping[str, Any]) -> Figure | None:
    """Top-1 and top-5 accuracy, cross-entropy and ECE (pooled over images) of every model on clean images."""
    clean = select(rows, kind="clean")
    if not clean:
        return None
    made, axes = figure(metadata, "clean images", (8.5, 6.6), (2, 2))
    panels: dict[str, Value] = {
        "top-1 accuracy (%)": accuracy,
        "top-5 accuracy (%)": lambda row: 100 * (1 - row["top5_error"]),
        "cross-entropy (nats)": lambda row: row["nll"],
        "ECE (%)": lambda row: 100 * row["ece"],
    }
    for panel, (text, value) in zip(axes.flat, panels.items(), strict=True):
        heights = [value(row) for row in clean]
        for index, (row, height) in enumerate(zip(clean, heights, strict=True)):
            drawn = bars(panel, index, len(clean), [height], label=row["model"])
            panel.bar_label(drawn, fmt="%.3f" if "nats" in text else "%.2f", padding=2, fontsize=8)
        panel.set(title=text, ylim=(0, 1.12 * max(heights) or 1), xticks=[])
    legend(made, axes[0, 0].containers)
    return made


@styled
def against_level(rows: Rows, metadata: Mapping[str, Any], kind: str, text: str, value: Value) -> Figure | None:
    """A value in per cent by level of one distortion, one line a model.

    Args:
        rows, metadata: an evaluation.
        kind: the distortion.
        text: name of the value.
        value: row -> value; models without one are left out.
    """
    shown = select(rows, kind="distortion", name=kind)
    series = {model: select(shown, model=model) for model in models(rows)}
    return _by_level(metadata, f"under {kind}", text, series, value)


@styled
def per_distortion(rows: Rows, metadata: Mapping[str, Any], model: str, text: str, value: Value) -> Figure | None:
    """A value in per cent by level, one line a distortion, of one model; arguments as for `against_level`."""
    shown = select(rows, kind="distortion", model=model)
    series = {kind: select(shown, name=kind) for kind in distortions(rows)}
    return _by_level(metadata, f"under distortion, {model}", text, series, value)


@styled
def level_map(rows: Rows, metadata: Mapping[str, Any], model: str) -> Figure | None:
    """Accuracy and mean confidence of one model by distortion and level; missing cells are hatched."""
    shown, kinds = select(rows, kind="distortion", model=model), distortions(rows)
    if not shown:
        return None
    levels = sorted({row["level"] for row in select(rows, kind="distortion")})
    size = (max(6.0, 0.52 * min(len(levels), 20) + 2.4), 0.7 * len(kinds) + 2.4)
    made, axes = figure(metadata, f"under distortion, {model}", size, (2, 1), sharex=True)
    views: dict[str, Value] = {"accuracy (%)": accuracy, "mean confidence (%)": _confidence}
    for panel, (text, value) in zip(axes[:, 0], views.items(), strict=True):
        found = {(row["name"], row["level"]): value(row) for row in shown}
        values = np.array([[found.get((kind, level), np.nan) for level in levels] for kind in kinds])
        heat_map(made, panel, values, "viridis", Normalize(0, 100), text)
        panel.set_yticks(range(len(kinds)), kinds)
    step = 1 + len(levels) // 20
    axes[1, 0].set_xticks(range(0, len(levels), step), [f"{level:.3g}" for level in levels[::step]])
    axes[1, 0].set(xlabel="level d")
    return made


@styled
def class_confidence(rows: Rows, metadata: Mapping[str, Any], model: str) -> Figure | None:
    """Mean true-class probability by level of every distortion: a line a class, or quantiles over many classes.

    Of many classes those that keep the most and the least of it are named.
    """
    shown, names = select(rows, kind="distortion", model=model), metadata["class_names"]
    kinds = [kind for kind in distortions(rows) if select(shown, name=kind)]
    if not kinds:
        return None
    columns = min(2, len(kinds))
    lines = math.ceil(len(kinds) / columns)
    size, grid = (4.2 * columns + 1, 3.1 * lines + 1.4), (lines, columns)
    made, axes = figure(metadata, f"confidence by class, {model}", size, grid, sharey=True)
    for panel in axes.flat[len(kinds) :]:
        panel.set_visible(False)
    kept = np.ma.masked_invalid([row["class_confidence"] for row in shown]).mean(axis=0)
    order = kept.argsort()[: kept.count()][::-1]  # without classes that have no images
    named = list(range(len(names))) if len(names) <= MANY else [*order[:2], *order[-2:]]
    for panel, kind in zip(axes.flat, kinds, strict=False):
        found = sorted(select(shown, name=kind), key=lambda row: row["level"])
        levels = [row["level"] for row in found]
        values = 100 * np.array([row["class_confidence"] for row in found], dtype=float)
        if len(names) > MANY:
            low, quarter, middle, three_quarters, high = np.nanquantile(values, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1)
            panel.fill_between(levels, low, high, color=GREY, alpha=0.25, lw=0, label="5 to 95 % of the classes")
            panel.fill_between(levels, quarter, three_quarters, color=GREY, alpha=0.45, lw=0, label="25 to 75 %")
            panel.plot(levels, middle, color="black", lw=2, label="median class")
        for index, which in enumerate(named):
            panel.plot(levels, values[:, which], label=names[which], ms=4, lw=1.2, **line_style(index))
        panel.set(title=kind, xlabel="level d", xlim=(-0.02, 1.02), ylim=(0, 100))
    for line in axes[:, 0]:
        line.set_ylabel("probability of the true class (%)")
    legend(made, axes[0, 0].get_legend_handles_labels()[0])
    return made


@styled
def distortion_calibration(rows: Rows, metadata: Mapping[str, Any]) -> Figure | None:
    """Accuracy and mean confidence by level, distortion by distortion and model by model, and the gap between them."""
    shown, kinds = select(rows, kind="distortion"), distortions(rows)
    names = [model for model in models(rows) if select(shown, model=model)]
    if not names:
        return None
    size, grid = (2.5 * len(kinds) + 1.4, 1.9 * len(names) + 1.5), (len(names), len(kinds))
    made, axes = figure(metadata, "calibration under distortion", size, grid, sharex=True, sharey=True)
    for line, model in zip(axes, names, strict=True):
        for panel, kind in zip(line, kinds, strict=True):
            found = select(shown, model=model, name=kind)
            if not found:
                panel.text(0.5, 50, "not measured", ha="center", color=GREY)
                continue
            levels, right = _series(found, accuracy)
            believed = _series(found, _confidence)[1]
            panel.plot(levels, right, color=BLUE, lw=1.6, label="accuracy")
            panel.plot(levels, believed, color=RED, lw=1.6, ls="--", label="mean confidence")
            style: dict[str, Any] = {"alpha": 0.25, "lw": 0, "interpolate": True}
            over = believed > right
            panel.fill_between(levels, right, believed, where=over, color=RED, label="overconfident", **style)
            panel.fill_between(levels, right, believed, where=~over, color=BLUE, label="underconfident", **style)
        line[0].set_ylabel(f"{textwrap.fill(model, 24)}\n(%)", fontsize=8.5)
    for panel, kind in zip(axes[0], kinds, strict=True):
        panel.set(title=kind, xlim=(0, 1), ylim=(0, 100))
    for panel in axes[-1]:
        panel.set_xlabel("level d")
    filled = next(panel for panel in axes.flat if panel.get_lines())
    legend(made, filled.get_legend_handles_labels()[0])
    return made


def _confidence(row: Row) -> float:
    return 100 * row["confidence"]


def _series(rows: Rows, value: Value) -> tuple[np.ndarray, np.ndarray]:
    """Levels, ascending, and values at them."""
    ordered = sorted(rows, key=lambda row: row["level"])
    return np.array([row["level"] for row in ordered]), np.array([value(row) for row in ordered])


def _by_level(
    metadata: Mapping[str, Any], title: str, text: str, series: Mapping[str, Rows], value: Value
) -> Figure | None:
    made, axes = figure(metadata, title, (6.8, 4.8))
    for index, (name, rows) in enumerate(series.items()):  # the colour is that of the place, drawn or not
        levels, values = _series(rows, value)
        if np.isfinite(values).any():
            axes[0, 0].plot(
                levels, values, label=name, lw=1.8, ms=5, markevery=1 + len(levels) // 20, **line_style(index)
            )
    if not axes[0, 0].get_lines():
        return None
    axes[0, 0].set(xlabel="level d", ylabel=text, xlim=(-0.02, 1.02), ylim=(0, 100))
    legend(made, axes[0, 0].get_lines())
    return made
