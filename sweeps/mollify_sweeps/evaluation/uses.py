"""What people do with a trained classifier: refuse what it is unsure of, detect foreign images, look at single classes.

All functions take the rows of one evaluation (see `rows`) and its metadata.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mollify_core.datasets.about import UNEQUAL
from mollify_core.foreign import clean
from mollify_core.measure.detection import SCORES
from mollify_sweeps.display.text import label, markdown, shown
from mollify_sweeps.evaluation.rows import Row, Rows, common_cells, models, select

SELECTIVE = ("aurc", "risk_at_80", "risk_at_90", "risk_at_95")
DETECTION = tuple(f"ood_{score}_{name}" for score in SCORES for name in ("auroc", "fpr95"))
WORST = 5  # classes that are shown of each model
_SCOPES = ("clean", "corrupted")
Numbers = Mapping[str, Mapping[str, Any]]


def summary(rows: Rows, metadata: Mapping[str, Any], numbers: Numbers) -> Iterator[str]:
    """Sections of summary.md; `numbers` are those of `rows.summaries`."""
    if known(rows, "aurc"):
        yield from _section("Selective prediction", rows, numbers, SELECTIVE)
        yield (
            "The least confident images are refused, by the maximum softmax probability. Risk: the error of those that "
            "are left; AURC: its mean over all coverages. Images of equal confidence share their mean error."
        )
        yield ""
    if any(math.isnan(row["aurc"]) for row in rows):
        yield "Cells that an earlier version measured have no AURC, and stay as they are; a new --out measures them."
        yield ""
    if known(rows, "ood_msp_auroc"):
        name = clean(metadata.get("ood") or "another data set")
        yield from _section(f"Detection of images of {name}", rows, numbers, DETECTION)
        yield (
            f"The test images against {metadata.get('ood_images') or 'the'} images of {name}, which are never "
            "corrupted: corrupted test images are known ones too. AUROC: higher is better, 50 % is chance; FPR: the "
            "share of foreign images taken for known at the threshold that keeps 95 % of the known. By the maximum "
            "softmax probability, and by the negative energy, logsumexp of the logits."
        )
        yield ""
    yield from _classes(rows, metadata)


def known(rows: Rows, metric: str) -> bool:
    """Whether a row has the metric."""
    return any(math.isfinite(row[metric]) for row in rows)


def scopes(rows: Rows, metric: str) -> tuple[str, ...]:
    """Of "clean" and "corrupted", those in which a metric is known."""
    kinds = {"clean": "clean", "corrupted": "corruption"}
    return tuple(scope for scope in _SCOPES if known(select(rows, kind=kinds[scope]), metric))


def table(numbers: Numbers, keys: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and lines, a model each, of metrics of `summarise`."""
    lines = [[model, *(shown(key, found.get(key)) for key in keys)] for model, found in numbers.items()]
    return ["model", *map(label, keys)], lines


def _section(title: str, rows: Rows, numbers: Numbers, metrics: Sequence[str]) -> Iterator[str]:
    yield from (f"## {title}", "")
    for scope in scopes(rows, metrics[0]):
        yield from (markdown(*table(numbers, [f"{scope}_{metric}" for metric in metrics])), "")
    corrupted = select(rows, kind="corruption")
    lines = []
    for name in dict.fromkeys(row["name"] for row in corrupted):
        for model in models(rows):
            own = select(corrupted, name=name, model=model)
            if own:
                lines.append([f"{name}: {model}", *(shown(m, np.mean([row[m] for row in own])) for m in metrics)])
    if lines:
        header = ["corruption, mean over severities", *map(label, metrics)]
        yield from (markdown(header, lines), "")


def by_class(rows: Rows, metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line a model and class: images, error and mean probability of the true class, clean and under corruptions.

    `images` are clean ones, None where an earlier version did not count them; corrupted is the unweighted mean over
    the benchmark's cells that all models have. NaN: no such image.
    """
    found, cells = [], common_cells(rows)
    benchmark = [row for row in cells if row["group"] != "extra"]
    for model in models(rows):
        means = {"clean": select(rows, model=model, kind="clean"), "corrupted": select(benchmark, model=model)}
        counts = means["clean"][0]["class_images"] if means["clean"] else []
        values = {
            f"{scope}_{name}": _mean(own, f"class_{name}", len(metadata["class_names"]))
            for scope, own in means.items()
            for name in ("error", "confidence")
        }
        for index, name in enumerate(metadata["class_names"]):
            line = {"model": model, "class": name, "images": counts[index] if counts else None}
            found.append(line | {key: column[index] for key, column in values.items()})
    return found


def _mean(rows: Sequence[Row], column: str, classes: int) -> list[float]:
    if not rows:
        return [math.nan] * classes
    return np.mean([row[column] for row in rows], axis=0).tolist()


def classes_csv(rows: Rows, metadata: Mapping[str, Any]) -> str:
    """classes.csv: the lines of `by_class`, shares in [0, 1]; empty where there is no value."""
    file, lines = io.StringIO(), by_class(rows, metadata)
    writer = csv.DictWriter(file, list(lines[0]))
    writer.writeheader()
    for line in lines:
        blank = {key: "" for key, value in line.items() if isinstance(value, float) and math.isnan(value)}
        writer.writerow(line | blank)
    return file.getvalue()


def unequal(rows: Rows) -> bool:
    """Whether the test images are much more of one class than of another."""
    counts: list[int] = next((row["class_images"] for row in select(rows, kind="clean")), [])
    return bool(counts) and max(counts) > UNEQUAL * min(counts)


def worst(rows: Rows, metadata: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the classes of each model that have the highest clean error."""
    keys = [f"{scope}_{name}" for scope in scopes(rows, "error") for name in ("error", "confidence")]
    lines, found = [], by_class(rows, metadata)
    for model in models(rows):
        own = [line for line in found if line["model"] == model and math.isfinite(line["clean_error"])]
        for line in sorted(own, key=lambda line: -line["clean_error"])[:WORST]:
            name = f"{model}: {clean(line['class'], 24, keep='')}"
            values = [shown(key, line[key]) for key in keys]
            lines.append([name, "" if line["images"] is None else f"{line['images']:,}", *values])
    return ["class", "images", *(label(key) for key in keys)], lines


def _classes(rows: Rows, metadata: Mapping[str, Any]) -> Iterator[str]:
    header, lines = worst(rows, metadata)
    if not lines:
        return
    yield from ("## By class", "", markdown(header, lines), "")
    yield (
        f"The {WORST} classes of each model with the highest error on clean images; all stand in classes.csv. "
        "Confidence: the mean probability of the true class."
    )
    yield ""
