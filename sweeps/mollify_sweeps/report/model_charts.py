"""The figures of report.html that show models on sets of images: calibration, and errors corruption by corruption.

They take rows as in `evaluation.rows.SCHEMA`, one a model and set of images, of an evaluation on the test set or of the
validation of a sweep's trials.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from mollify_core.corruptions.benchmark import CORRUPTIONS, group_of
from mollify_core.corruptions.heldout import HELDOUT, SEVERITIES
from mollify_core.measure.validation import CELLS
from mollify_sweeps.display.axes import Linear
from mollify_sweeps.display.charts import SERIES, Line, Mark, heat_map, legend, plot
from mollify_sweeps.display.page import Html, details, figure, figures, paragraph, table
from mollify_sweeps.display.text import NONE, label, shown
from mollify_sweeps.evaluation.rows import Rows, models, pooled_bins, reference_of, select, summaries
from mollify_sweeps.report.words import PerImage
from mollify_sweeps.study.results import REFERENCES, Results

_FEW = 10  # images in a bin whose accuracy is shown
_TESTED = ("clean_error", "corrupted_error", "mce", "clean_nll", "corrupted_nll", "clean_ece", "corrupted_ece")


def validation(results: Results, per_image: PerImage) -> Rows:
    """Rows of the compared trials' validation: error, calibration error and bins of each cell, where they were kept."""
    places = [("clean", "", 0), *(("corruption", name, severity) for name in HELDOUT for severity in SEVERITIES)]
    names = {trial.number: name for name, trial in results.compared.items()}  # a reference keeps its name as the best
    rows: list[dict[str, Any]] = []
    for number, model in names.items():
        bins = per_image.get(number, {}).get("bins", np.zeros(0))
        if len(bins) != CELLS:
            continue
        for (kind, name, severity), (count, accuracy, confidence) in zip(places, bins, strict=True):
            place = {"model": model, "kind": kind, "name": name, "severity": severity, "group": kind}
            share = count / count.sum()
            error, ece = 1 - np.nansum(share * accuracy), np.nansum(share * np.abs(accuracy - confidence))
            found = {"bin_count": count, "bin_accuracy": accuracy, "bin_confidence": confidence}
            rows.append({**place, "error": float(error), "ece": float(ece), **found})
    return rows


def calibration(rows: Rows) -> list[Html]:
    """Accuracy by confidence of all models, on clean images and on the corrupted ones pooled."""
    corrupted = [row for row in select(rows, kind="corruption") if row["group"] != "extra"]
    drawn = _kinds(rows)
    made = []
    for title, shown_rows in {"clean images": select(rows, kind="clean"), "corrupted images": corrupted}.items():
        lines: list[Line] = [Line([(0, 0), (100, 100)], "ideal", "perfectly calibrated")]
        marks = []
        for model in reversed(models(shown_rows)):
            images, accuracy, confidence = pooled_bins(select(shown_rows, model=model))
            points = [
                (100 * c, 100 * a, int(n)) for n, a, c in zip(images, accuracy, confidence, strict=True) if n >= _FEW
            ]
            lines.append(Line([(x, y) for x, y, _ in points], drawn[model], model))
            marks += [
                Mark(x, y, drawn[model], f"{model}: confidence {x:.1f} %, accuracy {y:.1f} %, {n:,} images")
                for x, y, n in points
            ]
        if marks:
            axis = Linear(0, 100)
            texts = ("mean confidence (%)", f"accuracy (%), {title}")
            chart = plot(f"Accuracy by confidence on {title}", axis, axis, labels=texts, lines=lines, marks=marks)
            made.append(figure(chart, f"ECE: {_errors(shown_rows, 'ece')}."))
    if not made:
        return []
    words = "Each mark is a bin of confidence; bins of fewer than ten images are left out."
    words += " A model below the dotted line is surer than it is right."
    return [paragraph(words), figures(*made), legend((kind, model) for model, kind in drawn.items())]


def _errors(rows: Rows, metric: str) -> str:
    values = {model: float(np.mean([row[metric] for row in select(rows, model=model)])) for model in models(rows)}
    cells = max(len(select(rows, model=model)) for model in values)
    words = ", ".join(f"{model} {shown(metric, value)} %" for model, value in values.items())
    return words + (f" (mean of {cells} cells)" if cells > 1 else "")


def corruption_maps(rows: Rows, reference: str) -> list[Html]:
    """Error by corruption and severity: the reference's, the differences of the others to it, and all of them."""
    corrupted = select(rows, kind="corruption")
    names = [name for name in CORRUPTIONS if any(row["name"] == name for row in corrupted)]
    if not names:
        return []
    borders = [i for i in range(1, len(names)) if group_of(names[i]) != group_of(names[i - 1])]
    severities = [f"severity {s}" if s == SEVERITIES[0] else str(s) for s in SEVERITIES]

    def values(model: str, metric: str) -> np.ndarray:
        found = {(row["name"], row["severity"]): 100 * row[metric] for row in select(corrupted, model=model)}
        return np.array([[found.get((name, severity), math.nan) for severity in SEVERITIES] for name in names])

    def drawn(data: np.ndarray, limits: tuple[float, float], text: str, diverging: bool = False) -> Html:
        heads = [name.replace("_", " ") for name in names]
        return figure(heat_map(text, heads, severities, data, limits, text, diverging=diverging, borders=borders))

    everyone = models(corrupted)
    absolute = {(m, metric): values(m, metric) for m in everyone for metric in ("error", "ece")}
    top = {metric: max(np.nanmax(absolute[m, metric]) for m in everyone) for metric in ("error", "ece")}
    maps = {
        (m, metric): drawn(absolute[m, metric], (0, top[metric]), f"{label(f'corrupted_{metric}')}: {m}")
        for m, metric in absolute
    }
    others = [model for model in everyone if model != reference] if reference in everyone else []
    differences = {model: absolute[model, "error"] - absolute[reference, "error"] for model in others}
    largest = max((np.nanmax(np.abs(d), initial=1e-9) for d in differences.values()), default=1.0)
    first = [
        drawn(d, (-largest, largest), f"{label('error', difference=True)}: {model} − {reference}", diverging=True)
        for model, d in differences.items()
    ]
    words = f"Blue: fewer errors than {reference}; orange: more." if first else ""
    words += " The last four corruptions are those that validation uses." if words and len(names) > len(HELDOUT) else ""
    return [
        *([paragraph(words)] if words else []),
        figures(*first, *([] if first else [maps[m, "error"] for m in everyone])),
        *([details("Error of each model", figures(*(maps[m, "error"] for m in everyone)))] if first else []),
        details("Calibration error (ECE) of each model", figures(*(maps[m, "ece"] for m in everyone))),
    ]


def test_set(results: Results, rows: Rows, metadata: Mapping[str, Any]) -> list[Html]:
    """What an evaluation (its rows and metadata) measured on the test set, in numbers and pictures."""
    numbers, reference = summaries(rows, metadata), reference_of(rows, metadata)
    known = [metric for metric in _TESTED if any(metric in found for found in numbers.values())]
    header = ["test set", *("mCE (%)" if metric == "mce" else label(metric) for metric in known)]
    lines = [
        [model, *(shown("error" if metric == "mce" else metric, found.get(metric)) for metric in known)]
        for model, found in numbers.items()
    ]
    images = max(row["images"] for row in rows)
    sources = " and ".join(dict.fromkeys(row["source"] for row in select(rows, kind="corruption")))
    cells = max(found["corrupted_cells"] for found in numbers.values())
    words = f"{images:,} test images of {metadata['dataset']}"
    words += f", clean and in {cells} of the benchmark's 75 corrupted versions ({sources})." if cells else ", clean."
    parts = [paragraph(words + " Nothing was tuned on these. Each model is one training run.")]
    if metadata.get("fingerprint") != results.sweep.fingerprint:
        parts.append(paragraph("These images are not of the data set that the sweep was run on.", "warning"))
    old = [m for m in numbers if m.startswith("best (trial ") and m != _best(results)]
    if old:
        parts.append(paragraph(f"What was the {old[0]} when this was measured is not the best any more.", "warning"))
    if not metadata["verified"]:
        parts.append(paragraph("The files of this data set were not checked against official checksums.", "warning"))
    return [*parts, table(header, lines), *corruption_maps(rows, reference), *calibration(rows)]


def test_tiles(results: Results, rows: Rows, metadata: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The best trial and plain training on the test set, for `display.page.tiles`, where both were measured."""
    numbers = summaries(rows, metadata)
    if not {_best(results), "plain"} <= numbers.keys():
        return []
    made = []
    for metric in ("corrupted_error", "clean_error"):
        best, plain = (shown(metric, numbers[model].get(metric)) for model in (_best(results), "plain"))
        name = f"{label(metric, unit=False)} on the test set, {_best(results)}"
        made += [] if NONE in (best, plain) else [(name, f"{best} %", f"plain training: {plain} %")]
    return made


def _best(results: Results) -> str:
    """What an evaluation calls the best trial."""
    return f"best (trial {results.compared['best'].number})" if "best" in results.compared else ""


def _kinds(rows: Rows) -> dict[str, str]:
    """Model -> how it is drawn."""
    kinds: dict[str, str] = {}
    for index, model in enumerate(models(rows)):
        first = model.partition(" ")[0]
        known = first in ("best", *REFERENCES) and first not in kinds.values()
        kinds[model] = first if known else f"s{index % SERIES}"
    return kinds
