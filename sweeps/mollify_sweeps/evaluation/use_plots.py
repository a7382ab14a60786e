"""The pictures of `uses`: risk by coverage, and the ROC of the detection of foreign images.

Functions as in `corruption_plots`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mollify_core.measure.detection import SCORES
from mollify_sweeps.display.figures import GREY, figure, legend, line_style, styled
from mollify_sweeps.evaluation.rows import Rows, common_cells, models, select

_PERCENT = np.arange(1, 101)
_TITLES = {"msp": "by maximum softmax probability", "energy": "by energy"}


def draw(rows: Rows, metadata: Mapping[str, Any]) -> dict[str, Figure]:
    """Name of the plot -> figure, for every plot that there are rows for."""
    figures = {"risk_coverage": risk_coverage(rows, metadata), "ood_roc": roc(rows, metadata)}
    return {name: made for name, made in figures.items() if made is not None}


@styled
def risk_coverage(rows: Rows, metadata: Mapping[str, Any]) -> Figure | None:
    """Error of the most confident images by their share: clean, and the mean over the benchmark's cells."""
    panels = _panels(rows, "risk_curve")
    if not panels:
        return None
    made, axes = figure(metadata, "risk and coverage", (4.6 * len(panels), 4.4), (1, len(panels)))
    for panel, (title, shown) in zip(axes[0], panels.items(), strict=True):
        for index, (model, curve) in shown.items():
            panel.plot(_PERCENT, 100 * curve, label=model, markevery=20, ms=4, **line_style(index))
        panel.set(title=title, xlabel="coverage (%)", ylabel="error of the covered (%)", xlim=(0, 100), ylim=(0, None))
    legend(made, axes[0, 0].get_lines())
    return made


@styled
def roc(rows: Rows, metadata: Mapping[str, Any]) -> Figure | None:
    """True by false positive rate of known images against foreign ones, a row of panels a score."""
    grid = {score: panels for score in SCORES if (panels := _panels(rows, f"ood_{score}_roc"))}
    if not grid:
        return None
    wide = max(map(len, grid.values()))
    title = f"test images told from those of {metadata.get('ood') or 'another data set'}"
    made, axes = figure(metadata, title, (4.6 * wide, 4.2 * len(grid)), (len(grid), wide))
    for line, (score, panels) in zip(axes, grid.items(), strict=True):
        for panel, (text, shown) in zip(line, panels.items(), strict=True):
            for index, (model, curve) in shown.items():
                rates = [np.concatenate([[0], values, [100]]) for values in (100 * curve, _PERCENT)]
                panel.plot(*rates, label=model, markevery=20, ms=4, **line_style(index))
            panel.plot([0, 100], [0, 100], color=GREY, lw=1, ls="--")
            panel.axhline(95, color=GREY, lw=1, ls=":")
            panel.set(title=f"{text}\n{_TITLES[score]}", xlabel="foreign taken for known (%)", ylabel="known kept (%)")
            panel.set(xlim=(0, 100), ylim=(0, 101))
    legend(made, axes[0, 0].get_lines()[: len(next(iter(next(iter(grid.values())).values())))])
    return made


def _panels(rows: Rows, column: str) -> dict[str, dict[int, tuple[str, np.ndarray]]]:
    """Title -> index of a model -> (its label, the mean of a curve over cells), of the models that have one."""
    cells = [row for row in common_cells(rows) if row["group"] != "extra"]
    found = {}
    for title, shown in {"clean images": select(rows, kind="clean"), "corrupted images, mean of cells": cells}.items():
        curves = {}
        for index, model in enumerate(models(rows)):
            own = [row[column] for row in select(shown, model=model)]
            if own and all(own):
                curves[index] = model, np.mean(own, axis=0)
        if curves:
            found[title] = curves
    return found
