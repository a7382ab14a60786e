"""The pictures of an evaluation under corruptions, for any number of models side by side.

All functions take the rows of one evaluation, one a model and cell (see `rows`), and its metadata, and return a figure,
or None when the rows it shows are missing. Colours have markers beside them, so that lines can be told apart without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, GROUPS, SEVERITIES
from mollify_core.measure.evaluation import summarise
from mollify_sweeps.display.figures import BLUE, GREY, RED, bars, figure, heat_map, legend, line_style, styled
from mollify_sweeps.display.text import label, scale
from mollify_sweeps.evaluation.rows import (
    Rows,
    cell,
    common_cells,
    file_names,
    models,
    pooled_bins,
    reference_of,
    select,
    summaries,
)

SHOWN = ("error", "ece", "nll")


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
    size, ratios = (4.6 * len(panels), 6.2), {"height_ratios": [3, 1]}
    made, axes = figure(metadata, f"reliability of {model}", size, (2, len(panels)), gridspec_kw=ratios)
    for (upper, lower), (title, shown) in zip(axes.T, panels.items(), strict=True):
        images, accuracy, confidence = pooled_bins(shown)
        share, edges = images / images.sum(), np.linspace(0, 100, len(images) + 1)
        style: dict[str, Any] = {"width": 100 / len(images), "align": "edge", "edgecolor": "white", "lw": 0.8}
        upper.bar(edges[:-1], 100 * accuracy, color="#80B8D8", label="accuracy", **style)
        style |= {"facecolor": "none", "edgecolor": RED, "hatch": "////", "alpha": 0.7, "bottom": 100 * accuracy}
        upper.bar(edges[:-1], 100 * (confidence - accuracy), label="gap to the mean confidence", **style)
        upper.plot([0, 100], [0, 100], color="black", lw=1, ls="--")
        ece = f"ECE {100 * np.sum(share * np.abs(accuracy - confidence)):.2f} %"
        if len(shown) > 1:
            ece += f", all pooled\n{100 * summarise(shown)['corrupted_ece']:.2f} %, mean of the cells"
        box = {"facecolor": "white", "alpha": 0.8, "lw": 0}
        upper.text(3, 97, f"{ece}\n{images.sum():,.0f} images", va="top", bbox=box)
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
    size, grid = (2.3 * len(scopes) + 1, 7.5), (len(SHOWN), len(scopes))
    made, axes = figure(metadata, "by severity of the corruption", size, grid, sharex=True, sharey="row")
    for line, metric in zip(axes, SHOWN, strict=True):
        for panel, (scope, text) in zip(line, scopes.items(), strict=True):
            for index, model in enumerate(names):
                keys = {s: f"{scope if s else 'clean'}_{metric}" for s in (0, *SEVERITIES)}
                found = {s: scale(metric) * numbers[model, s][k] for s, k in keys.items() if k in numbers[model, s]}
                panel.plot(list(found), list(found.values()), label=model, ms=4, **line_style(index))
            panel.set_title(text if metric == "error" else "", fontsize=10)
        line[0].set(ylabel=label(metric), ylim=(0, None))
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
    size, grid = (1.4 * len(scopes) + 2, 8), (len(SHOWN), 1)
    made, axes = figure(metadata, "by group of corruptions", size, grid, sharex=True)
    for panel, metric in zip(axes[:, 0], SHOWN, strict=True):
        for index, (model, found) in enumerate(numbers.items()):
            heights = [scale(metric) * found.get(f"{scope}_{metric}", np.nan) for scope in scopes]
            bars(panel, index, len(numbers), heights, label=model)
        panel.set(ylabel=label(metric))
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

    panels = [(label("error"), errors(model), "YlOrBr", Normalize(0, max(found.values())))]
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
