"""The pictures of an evaluation under corruptions, for any number of models side by side.

All functions take the rows of one evaluation, one a model and cell (see `sweeps.evaluation_report`), and its metadata,
and return a figure, or None when the rows it shows are missing. Colours are of
Okabe & Ito (2008) with markers beside them, so that lines can be told apart without colour.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, GROUPS, SEVERITIES
from mollify_core.evaluation import summarise
from sweeps.plots import BLUE, GREY, RED, STYLE
from sweeps.results import scale

Row = Mapping[str, Any]
Rows = Sequence[Row]

PALETTE = (BLUE, RED, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
MARKERS = "os^DvPX*"
LABELS = {"error": "error (%)", "ece": "ECE (%)", "nll": "NLL (nats)"}
styled = mpl.rc_context({**STYLE, "text.parse_math": False})  # a label may have a $


def draw(rows: Rows, metadata: Mapping[str, Any]) -> dict[str, Figure]:
    """Name of the plot -> figure, for every plot that there are rows for."""
    figures = {"error_by_severity": by_severity(rows, metadata), "error_by_group": by_group(rows, metadata)}
    for model, name in file_names(rows).items():
        figures[f"reliability_{name}"] = reliability(rows, metadata, model)
        figures[f"corruptions_{name}"] = corruption_map(rows, metadata, model)
    return {name: made for name, made in figures.items() if made is not None}


@styled
def reliability(rows: Rows, metadata: Mapping[str, Any], model: str) -> Figure | None:
    """Accuracy by confidence, on clean images and on all cells of the benchmark pooled; below, how many images."""
    cells = [row for row in select(rows, model=model, kind="corruption") if row["group"] != "extra"]
    panels = {"clean images": select(rows, model=model, kind="clean"), f"corrupted images, {len(cells)} cells": cells}
    panels = {title: shown for title, shown in panels.items() if shown}
    if not panels:
        return None
    grid = {"height_ratios": [3, 1]}
    made, axes = figure(
        metadata, f"reliability of {model}", (4.6 * len(panels), 6.2), (2, len(panels)), gridspec_kw=grid
    )
    for (upper, lower), (title, shown) in zip(axes.T, panels.items(), strict=True):
        images, accuracy, confidence = pooled_bins(shown)
        share, edges = images / images.sum(), np.linspace(0, 100, len(images) + 1)
        style: dict[str, Any] = {"width": 100 / len(images), "align": "edge", "edgecolor": "white", "lw": 0.8}
        upper.bar(edges[:-1], 100 * accuracy, color="#80B8D8", label="accuracy", **style)
        style |= {"facecolor": "none", "edgecolor": RED, "hatch": "////", "alpha": 0.7}
        upper.bar(
            edges[:-1],
            100 * (confidence - accuracy),
            bottom=100 * accuracy,
            label="gap to the mean confidence",
            **style,
        )
        upper.plot([0, 100], [0, 100], color="black", lw=1, ls="--")
        ece = f"ECE {100 * np.sum(share * np.abs(accuracy - confidence)):.2f} %"
        if len(shown) > 1:
            ece += f", all pooled\n{100 * summarise(shown)['corrupted_ece']:.2f} %, mean of the cells"
        upper.text(
            3, 97, f"{ece}\n{images.sum():,.0f} images", va="top", bbox={"facecolor": "white", "alpha": 0.8, "lw": 0}
        )
        upper.set(title=title, xlim=(0, 100), ylim=(0, 100), ylabel="accuracy (%)")
        lower.bar(edges[:-1], 100 * share, width=100 / len(images), align="edge", color=GREY, edgecolor="white", lw=0.8)
        lower.axvline(100 * np.sum(share * accuracy), color=BLUE, lw=1.6, label="mean accuracy")
        lower.axvline(100 * np.sum(share * confidence), color=RED, lw=1.6, ls="--", label="mean confidence")
        lower.set(xlim=(0, 100), xlabel="confidence (%)", ylabel="images (%)")
    handles = [handle for half in axes[:, 0] for handle in half.get_legend_handles_labels()[0]]
    legend(made, handles)
    return made


@styled
def by_severity(rows: Rows, metadata: Mapping[str, Any]) -> Figure | None:
    """Error, ECE and NLL by severity, 0 for clean images: the mean over the benchmark, and group by group."""
    cells, names = common_cells(rows), models(rows)
    numbers = {(m, 0): summarise(select(rows, model=m, kind="clean")) for m in names}
    numbers |= {(m, s): summarise(select(cells, model=m, severity=s)) for m in names for s in SEVERITIES}
    scopes = {"corrupted": "all corruptions", **{f"corrupted_{group}": group for group in GROUPS}}
    scopes = {scope: text for scope, text in scopes.items() if any(f"{scope}_error" in n for n in numbers.values())}
    if not scopes:
        return None
    size, grid = (2.3 * len(scopes) + 1, 7.5), (len(LABELS), len(scopes))
    made, axes = figure(metadata, "by severity of the corruption", size, grid, sharex=True, sharey="row")
    for line, (metric, label) in zip(axes, LABELS.items(), strict=True):
        for panel, (scope, text) in zip(line, scopes.items(), strict=True):
            for index, model in enumerate(names):
                keys = {s: f"{scope if s else 'clean'}_{metric}" for s in (0, *SEVERITIES)}
                found = {s: scale(metric) * numbers[model, s][k] for s, k in keys.items() if k in numbers[model, s]}
                panel.plot(list(found), list(found.values()), label=model, ms=4, **look(index))
            panel.set_title(text if metric == "error" else "", fontsize=10)
        line[0].set(ylabel=label, ylim=(0, None))
    for panel in axes[-1]:
        panel.set(xlabel="severity", xticks=(0, *SEVERITIES), xlim=(-0.3, 5.3))
    legend(made, axes[0, 0].get_lines())
    return made


@styled
def by_group(rows: Rows, metadata: Mapping[str, Any]) -> Figure | None:
    """Error, ECE and NLL of every model as bars: clean, by group of corruptions, and the mean of the benchmark."""
    numbers = summaries(rows, metadata)
    count = max(n["corrupted_cells"] for n in numbers.values())
    scopes = {"clean": "clean", **{f"corrupted_{group}": group for group in GROUPS}}
    scopes |= {"corrupted": f"mean of\n{count} cells", "extra": "extra\n(not in the mean)"}
    scopes = {scope: text for scope, text in scopes.items() if any(f"{scope}_error" in n for n in numbers.values())}
    if scopes.keys() <= {"clean"}:
        return None
    size, grid = (1.4 * len(scopes) + 2, 8), (len(LABELS), 1)
    made, axes = figure(metadata, "by group of corruptions", size, grid, sharex=True)
    for panel, (metric, label) in zip(axes[:, 0], LABELS.items(), strict=True):
        for index, (model, found) in enumerate(numbers.items()):
            heights = [scale(metric) * found.get(f"{scope}_{metric}", np.nan) for scope in scopes]
            bars(panel, index, len(numbers), heights, label=model)
        panel.set(ylabel=label)
        panel.set_xticks(range(len(scopes)), list(scopes.values()))
        panel.grid(axis="x", visible=False)
    legend(made, axes[0, 0].containers)
    return made


@styled
def corruption_map(rows: Rows, metadata: Mapping[str, Any], model: str) -> Figure | None:
    """Error of one model by corruption and severity, and its difference to the reference; missing cells are hatched."""
    corrupted, reference = select(rows, kind="corruption"), reference_of(rows, metadata)
    if not select(corrupted, model=model):
        return None
    names = [n for n in CORRUPTIONS if n in BENCHMARK or any(row["name"] == n for row in corrupted)]
    found = {(row["model"], *cell(row)): 100 * row["error"] for row in corrupted}

    def errors(of: str) -> np.ndarray:
        return np.array([[found.get((of, name, severity), np.nan) for severity in SEVERITIES] for name in names])

    panels = [("error (%)", errors(model), "YlOrBr", Normalize(0, max(found.values())))]
    differences = {m: errors(m) - errors(reference) for m in models(rows)}
    if model != reference and np.isfinite(differences[model]).any():
        largest = max(np.nanmax(np.abs(d), initial=1e-9) for d in differences.values())  # one scale for all models
        panels.append(("difference (points)", differences[model], "RdBu_r", Normalize(-largest, largest)))
    size = (3.8 * len(panels) + 1.6, 0.3 * len(names) + 1.9)
    title = f"error of {model}" + (f", and its difference to {reference}" if len(panels) > 1 else "")
    made, axes = figure(metadata, title, size, (1, len(panels)), sharey=True)
    for panel, (text, values, colors, norm) in zip(axes[0], panels, strict=True):
        heat_map(made, panel, values, colors, norm, text, sign="+" if colors == "RdBu_r" else "")
        panel.set_xticks(range(len(SEVERITIES)), list(map(str, SEVERITIES)))
        panel.set(xlabel="severity")
        for border in np.cumsum([len(group) for group in GROUPS.values()]):
            panel.axhline(border - 0.5, color="black", lw=1)
    axes[0, 0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    return made


def models(rows: Rows) -> list[str]:
    """The models, in the order of their first rows."""
    return list(dict.fromkeys(row["model"] for row in rows))


def reference_of(rows: Rows, metadata: Mapping[str, Any]) -> str:
    """The model that others are compared with: the one that the metadata names, else the first."""
    return metadata.get("reference") or models(rows)[0]


def select(rows: Rows, **where: Any) -> list[Row]:
    """The rows whose columns have these values."""
    return [row for row in rows if all(row[column] == value for column, value in where.items())]


def cell(row: Row) -> tuple[str, int]:
    """What names a corruption row within a model: (corruption, severity)."""
    return row["name"], row["severity"]


def common_cells(rows: Rows) -> list[Row]:
    """The corruption rows of cells that every model with any has: means over different cells do not compare."""
    corrupted = select(rows, kind="corruption")
    have = [set(map(cell, found)) for model in models(rows) if (found := select(corrupted, model=model))]
    common = set.intersection(*have) if have else set()
    return [row for row in corrupted if cell(row) in common]


def summaries(rows: Rows, metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Model -> its numbers by `evaluation.summarise`: clean, and under the corruptions that all models were put to."""
    shown = [*select(rows, kind="clean"), *common_cells(rows)]
    reference = select(shown, model=reference_of(rows, metadata))
    measured = bool(select(reference, kind="corruption"))
    return {m: summarise(select(shown, model=m), reference if measured else None) for m in models(rows)}


def pooled_bins(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, accuracy and mean confidence of each bin of confidence, over all rows; 0 in empty bins."""
    columns = ("bin_count", "bin_accuracy", "bin_confidence")
    count, accuracy, confidence = (np.array([row[c] for row in rows], dtype=float) for c in columns)
    sums = (np.where(count > 0, count * values, 0).sum(axis=0) for values in (accuracy, confidence))
    images = count.sum(axis=0)
    right, believed = (total / np.maximum(images, 1) for total in sums)
    return images, right, believed


def file_names(rows: Rows) -> dict[str, str]:
    """Model -> a part of a file name that no other model has."""
    names = {model: re.sub(r"[^A-Za-z0-9.]+", "-", model)[:60].strip("-.") or "model" for model in models(rows)}
    if len({name.lower() for name in names.values()}) < len(names):
        names = {model: f"{index}-{name}" for index, (model, name) in enumerate(names.items(), 1)}
    return names


def figure(
    metadata: Mapping[str, Any], title: str, size: tuple[float, float], grid: tuple[int, int] = (1, 1), **options: Any
) -> tuple[Figure, Any]:
    """A figure and its axes as an array of the shape `grid`; the title says when the data is not verified."""
    made = Figure(figsize=size)
    axes = made.subplots(*grid, squeeze=False, **options)
    warning, color = ("", "black") if metadata["verified"] else ("UNVERIFIED DATA\n", RED)
    text = textwrap.fill(f"{metadata['dataset']}: {title}", int(12 * size[0]))
    made.suptitle(warning + text, x=0.01, ha="left", fontsize=11, color=color)
    return made, axes


def legend(made: Figure, handles: Sequence[Any]) -> None:
    """A legend below the axes, in as many columns as fit."""
    texts = [textwrap.fill(handle.get_label(), 40) for handle in handles]
    widest = max(len(line) for text in texts for line in text.splitlines())
    columns = max(1, min(len(texts), int(made.get_figwidth() / (0.5 + 0.075 * widest))))
    made.legend(handles, texts, loc="outside lower center", ncols=columns, fontsize=8.5)


def look(index: int) -> dict[str, Any]:
    """Colour, marker and dashes of the index-th line."""
    which, turn = index % len(PALETTE), index // len(PALETTE)
    return {"color": PALETTE[which], "marker": MARKERS[(which + 3 * turn) % len(MARKERS)], "ls": "--" if turn else "-"}


def bars(axes: Axes, index: int, count: int, heights: Sequence[float] | np.ndarray, label: str) -> Any:
    """The index-th of `count` bars in each of several groups at x = 0, 1, ..; the bars."""
    width = 0.84 / count
    at = np.arange(len(heights)) + (index - (count - 1) / 2) * width
    hatch = "////" if index >= len(PALETTE) else None
    return axes.bar(at, heights, 0.92 * width, color=look(index)["color"], hatch=hatch, label=label)


def heat_map(
    made: Figure, axes: Axes, values: np.ndarray, colors: str, norm: Normalize, text: str, sign: str = ""
) -> None:
    """Values as colours and, unless there are very many, as numbers; NaN is hatched."""
    image = axes.imshow(np.ma.masked_invalid(values), cmap=colors, norm=norm, aspect="auto")
    axes.patch.set(facecolor="white", hatch="////", edgecolor=GREY)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    made.colorbar(image, ax=axes, pad=0.02, aspect=30).outline.set_visible(False)
    axes.set_title(text + (", hatched: not measured" if np.isnan(values).any() else ""), fontsize=10)
    if values.shape[1] > 12:
        return
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = image.cmap(norm(value))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            axes.text(
                j, i, f"{value:{sign}.1f}", ha="center", va="center", fontsize=8, color="white" if dark else "black"
            )
