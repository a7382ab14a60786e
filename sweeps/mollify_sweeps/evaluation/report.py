"""The report of an evaluation: any number of models side by side, from one table with a row for each model and cell.

A cell is the clean test set, a corruption at a severity, or a distortion at a level. The table is kept whole, so that
every number of the summary and every plot can be made again from evaluation.parquet alone.

The metadata is one JSON object; all but the first three may be missing:

| key | meaning |
|---|---|
| dataset | its name |
| verified | whether all images come from files that equal the official ones |
| class_names | one for each class, in order |
| fingerprint, corruption_fingerprint | what identifies the data set's images and the corrupted ones |
| models | label -> checkpoint, epochs, recipe (what differs from the defaults), seed, git_commit, versions, mollified |
| reference | label of the model that others are compared with; by default the first |
| distortions | whose constants they have: those of information matching's "evaluation" or "training" |
| groups | in how many groups the clean images come, each of which counts as one in intervals; null without groups |
| ood, ood_fingerprint, ood_images | the data set that models are to tell from their own, and how many of its images |
| published_distortions | whether normalised images were distorted |
| created, seed, precision, git_commit, versions | of the evaluation |
"""

from __future__ import annotations

import io
import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
from matplotlib.figure import Figure

from mollify_core.corruptions.benchmark import BENCHMARK, GROUPS, SEVERITIES
from mollify_core.errors import StorageError, first_line
from mollify_core.measure.evaluation import MEANS
from mollify_core.measure.statistics import wilson_interval
from mollify_sweeps.display.figures import pngs
from mollify_sweeps.display.text import NONE, UNVERIFIED, label, markdown, scale
from mollify_sweeps.evaluation import corruption_plots, distortion_plots, use_plots, uses
from mollify_sweeps.evaluation.rows import (
    Rows,
    cell,
    common_cells,
    distortions,
    models,
    reference_of,
    select,
    summaries,
    to_table,
)
from mollify_sweeps.storage.store import Store

ANSWERED = ("error", "ece", "nll")
"""What the answer and the table by severity are about."""
ESTIMATORS = {"ece": "pooled", "batch_mean_ece": "batch mean", "matching_ece": "batch and bin mean"}
_APART = ("confidence", "batch_mean_ece", "matching_ece", *uses.SELECTIVE, *uses.DETECTION)  # have their own sections
MOST_LEVELS = 11  # columns in tables by level
Numbers = Mapping[str, Mapping[str, Any]]
"""Model -> what `evaluation.summarise` says of it."""


def write(
    rows: pa.Table | Rows,
    metadata: Mapping[str, Any],
    folder: Path,
    *,
    dpi: int = 150,
    focus: int = 0,
    notice: Callable[[str], None] = print,
) -> list[Path]:
    """Writes evaluation.parquet, summary.md, classes.csv and plots/*.png, each file atomically.

    Args:
        rows: columns as in `SCHEMA`, each model and cell once.
        metadata: see above; kept in the Parquet file.
        folder: local; made when missing.
        dpi: of the plots.
        focus: index of the class whose confidence under distortion has plots of its own.
        notice: takes a sentence about plots that cannot be drawn.

    Returns:
        The files written.

    Raises:
        ConfigError: there is no class `focus`, or no model of the name of the reference.
        DataError: rows or metadata are not as said.
        StorageError: the folder cannot be written.
    """
    table = to_table(rows, metadata)
    rows = table.to_pylist()
    distortion_plots.check_focus(focus, metadata)
    text = summary(rows, metadata)
    files: list[Path] = []
    store = Store(str(folder))

    def put(name: str, data: bytes) -> None:
        try:
            store.write(name, data)
        except OSError as error:
            raise StorageError(f"Cannot write {str(folder / name)!r}: {first_line(error)}") from None
        files.append(folder / name)

    buffer = io.BytesIO()
    pa.parquet.write_table(table, buffer)
    put("evaluation.parquet", buffer.getvalue())
    put("summary.md", text.encode())
    put("classes.csv", uses.classes_csv(rows, metadata).encode())

    def draw() -> dict[str, Figure]:
        shown = corruption_plots.draw(rows, metadata) | distortion_plots.draw(rows, metadata, focus)
        return shown | use_plots.draw(rows, metadata)

    for name, png in pngs(draw, notice, dpi):
        put(f"plots/{name}.png", png)
    return files


def summary(rows: Rows, metadata: Mapping[str, Any]) -> str:
    """The text of summary.md: question and answer, tables, what the data is, where the numbers come from."""
    numbers, reference = summaries(rows, metadata), reference_of(rows, metadata)
    lines = [] if metadata["verified"] else [f"> **{UNVERIFIED}.**", ""]
    lines += [f"# Evaluation on {metadata['dataset']}", "", *_answer(numbers, metadata, reference)]
    lines += [*_errors(rows, numbers, metadata, reference), *_probabilities(rows, numbers), *_severities(numbers)]
    lines += uses.summary(rows, metadata, numbers)
    lines += [*_levels(rows), *_biased(numbers), *_data(rows, metadata, numbers), *_provenance(metadata)]
    return "\n".join(lines)


def _answer(numbers: Numbers, metadata: Mapping[str, Any], reference: str) -> Iterator[str]:
    scopes = {"corrupted": f"corrupted images (mean of {_count(numbers)})", "clean": "clean images"}
    keys = list(itertools.product(scopes, ANSWERED))
    yield from ("**Which model errs least when images are corrupted, and whose confidence can be believed?**", "")
    for scope, words in scopes.items():
        known = {model: found for model, found in numbers.items() if f"{scope}_error" in found}
        if known:
            best = {m: min((found[f"{scope}_{m}"], model) for model, found in known.items()) for m in ANSWERED}
            listed = ", ".join(
                f"{label(m, unit=False)} {_quantity(m, value)} ({model})" for m, (value, model) in best.items()
            )
            yield from (f"{'Lowest' if len(numbers) > 1 else 'Measured'} on {words}: {listed}.", "")
    lines = []
    for model in [model for model in numbers if model != reference]:
        own, other = ([numbers[of].get(f"{scope}_{m}", math.nan) for scope, m in keys] for of in (model, reference))
        values = [_shown(m, one - two, "+") for (_, m), one, two in zip(keys, own, other, strict=True)]
        lines.append([model + _kind(metadata, model), *values])
    if lines:
        header = [label(f"{scope}_{m}", difference=True) for scope, m in keys]
        title = f"difference to {reference}{_kind(metadata, reference)}; below 0 is better"
        yield from (markdown([title, *header], lines), "")
    yield (
        "Each model is one training run, so differences include the luck of its seed. The interval of the clean error "
        "covers the choice of the test images alone. All cells show the same test images, so their errors are not "
        "independent: means over cells have no interval here and differences no test, which would take the values of "
        "every image."
    )
    yield ""


def _errors(rows: Rows, numbers: Numbers, metadata: Mapping[str, Any], reference: str) -> Iterator[str]:
    scopes = {"corrupted_error": "corrupted", **{f"corrupted_{g}_error": g for g in GROUPS}, "extra_error": "extra"}
    scopes = {key: text for key, text in scopes.items() if any(key in found for found in numbers.values())}
    lines = []
    for model, found in numbers.items():
        interval = NONE
        for row in select(rows, model=model, kind="clean"):
            low, high = wilson_interval(row["error"], metadata.get("groups") or row["images"])
            interval = f"{100 * low:.2f} to {100 * high:.2f}"
        error, *values = (_shown("error", found.get(key)) for key in ("clean_error", *scopes, "mce"))
        lines.append([model, error, interval, *values])
    header = ["error (%)", "clean", "95 % interval", *scopes.values(), "mCE"]
    yield from ("## Error", "", markdown(header, lines), "")
    if metadata.get("groups"):
        yield f"Intervals: the images come in {metadata['groups']:,} groups, each of which counts as one image.\n"
    if "corrupted_error" in scopes:
        yield (
            f"Corrupted: the unweighted mean of {_count(numbers)}{_missing(rows)}. mCE: the error relative to that of "
            f"{reference}, summed over severities, mean over corruptions, in %."
            + (" Extra: corruptions that models may be tuned on, in no mean." if "extra_error" in scopes else "")
        )
        yield ""


def _missing(rows: Rows) -> str:
    have = set(map(cell, common_cells(rows)))
    lacking = {name: [str(s) for s in SEVERITIES if (name, s) not in have] for name in BENCHMARK}
    words = [
        name if len(severities) == len(SEVERITIES) else f"{name} at severity {', '.join(severities)}"
        for name, severities in lacking.items()
        if severities
    ]
    return f" that all models have (missing: {'; '.join(words)})" if words else ""


def _probabilities(rows: Rows, numbers: Numbers) -> Iterator[str]:
    temperatures = {row["model"]: _shown("temperature", row["temperature"]) for row in rows}
    for scope, title in {"clean": "Clean images", "corrupted": f"Corrupted images, mean of {_count(numbers)}"}.items():
        shown = [
            m
            for m in MEANS
            if m not in _APART and any(math.isfinite(n.get(f"{scope}_{m}", math.nan)) for n in numbers.values())
        ]
        if shown:
            lines = [
                [model, *(_shown(m, found.get(f"{scope}_{m}")) for m in shown), temperatures[model]]
                for model, found in numbers.items()
            ]
            yield from (f"## {title}", "", markdown(["", *map(label, shown), "temperature"], lines), "")
    yield (
        "ECE: 15 bins of equal width, pooled over the images of a cell; adaptive: of equal mass. Scaled: after "
        "division of the log-probabilities by the model's temperature, fitted on images held out of training "
        "(1 for a model of `--final`, which held none out)."
    )
    yield ""


def _severities(numbers: Numbers) -> Iterator[str]:
    scopes = ("clean", *(f"corrupted_severity_{severity}" for severity in SEVERITIES))
    lines = [
        [f"{label(metric)}: {model}", *(_shown(metric, found.get(f"{scope}_{metric}")) for scope in scopes)]
        for metric in ANSWERED
        for model, found in numbers.items()
        if "corrupted_error" in found
    ]
    if lines:
        header = ["mean over corruptions", "clean", *(f"severity {severity}" for severity in SEVERITIES)]
        yield from ("## By severity", "", markdown(header, lines), "")


def _levels(rows: Rows) -> Iterator[str]:
    shown = select(rows, kind="distortion")
    if not shown:
        return
    levels = sorted({row["level"] for row in shown})
    levels = levels[:: math.ceil(len(levels) / MOST_LEVELS)]
    accuracy, gap = [], []
    for kind in distortions(rows):
        for model in models(rows):
            found = {row["level"]: row for row in select(shown, model=model, name=kind)}
            right = [1 - found[d]["error"] if d in found else None for d in levels]
            over = [found[d]["confidence"] - (1 - found[d]["error"]) if d in found else None for d in levels]
            accuracy.append([f"{kind}: {model}", *(_shown("error", share) for share in right)])
            gap.append([f"{kind}: {model}", *(_shown("error", share, "+") for share in over)])
    header = [f"d = {level:.3g}" for level in levels]
    yield from ("## Robust accuracy under distortion", "", markdown(["accuracy (%)", *header], accuracy), "")
    yield from ("Mean confidence less accuracy, above 0 when overconfident:", "")
    yield from (markdown(["points", *header], gap), "")


def _biased(numbers: Numbers) -> Iterator[str]:
    keys = [(scope, m) for scope in ("clean", "corrupted") for m in ESTIMATORS]
    keys = [(scope, m) for scope, m in keys if any(f"{scope}_{m}" in found for found in numbers.values())]
    lines = [[model, *(_shown(m, found.get(f"{scope}_{m}")) for scope, m in keys)] for model, found in numbers.items()]
    header = ["ECE (%)", *(f"{scope}, {ESTIMATORS[m]}" for scope, m in keys)]
    yield from ("## Biased estimators of the papers' own code", "", markdown(header, lines), "")
    yield (
        "**Biased: only to compare with published numbers.** Batch mean: the mean of the ECEs of batches of 100 images "
        "(mollification). Batch and bin mean: the unweighted mean over all non-empty bins of all batches, 10 bins each "
        "(information matching). A perfectly calibrated model of 80 % accuracy scores about 9 and 15 on them."
    )
    yield ""


def _data(rows: Rows, metadata: Mapping[str, Any], numbers: Numbers) -> Iterator[str]:
    sources = {"official": "the official, published arrays", "made": "made here from the clean test images"}
    normalised = "on normalised images, as the published script does by mistake"
    verified = "equal the official ones" if metadata["verified"] else "were NOT checked against the official ones"
    yield from ("## Data", "")
    yield (
        f"- {metadata['dataset']} ({_told(metadata, 'fingerprint')}): the source files {verified}. Clean: "
        f"{_images(select(rows, kind='clean'))} test images."
    )
    if corrupted := select(rows, kind="corruption"):
        named = [sources.get(source, source) for source in dict.fromkeys(row["source"] for row in corrupted)]
        yield (
            f"- Corrupted ({_told(metadata, 'corruption_fingerprint')}): {' and '.join(named)}; {_count(numbers)}"
            f"{_missing(rows)}, each of {_images(corrupted)} images."
        )
    if distorted := select(rows, kind="distortion"):
        yield (
            f"- Distorted: {', '.join(distortions(rows))}, with information matching's constants of "
            f"{_told(metadata, 'distortions')}, "
            f"{normalised if metadata.get('published_distortions') else 'in [0, 1] before normalisation'}; each cell "
            f"of {_images(distorted)} images."
        )
    yield (
        "- Mollified models have seen noise and blur in training, and augmentations such as AugMix, RandAugment, "
        "AutoAugment and TrivialAugment overlap with further corruptions: judge by group."
    )
    yield ""


def _images(rows: Rows) -> str:
    return " or ".join(f"{count:,}" for count in sorted({row["images"] for row in rows})) or "no"


def _provenance(metadata: Mapping[str, Any]) -> Iterator[str]:
    found: Mapping[str, Mapping[str, Any]] = metadata.get("models", {})
    keys = ("checkpoint", "epochs", "seed", "git_commit", "versions")
    lines = [[model + _kind(metadata, model), *(_told(about, key) for key in keys)] for model, about in found.items()]
    yield from ("## Provenance", "", markdown(["", *keys], lines), "")
    own = [f"{key} {_told(metadata, key)}" for key in ("created", "seed", "precision", "git_commit", "versions")]
    yield from (f"The evaluation: {'; '.join(own)}. Settings of the recipes that differ from the defaults:", "")
    yield from (f"- {model}: `{json.dumps(about.get('recipe'))}`" for model, about in found.items())
    yield ""


def _told(metadata: Mapping[str, Any], key: str) -> str:
    value = metadata.get(key)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return NONE if value is None else str(value)


def _kind(metadata: Mapping[str, Any], model: str) -> str:
    mollified = metadata.get("models", {}).get(model, {}).get("mollified")
    return "" if mollified is None else f" ({'mollified' if mollified else 'not mollified'})"


def _count(numbers: Numbers) -> str:
    return f"{max(n['corrupted_cells'] for n in numbers.values())} of {len(BENCHMARK) * len(SEVERITIES)} cells"


def _shown(metric: str, value: float | None, sign: str = "") -> str:
    if value is None or not math.isfinite(value):
        return NONE
    return f"{100 * value:{sign}z.2f}" if scale(metric) == 100 else f"{value:{sign}z.4f}"


def _quantity(metric: str, value: float) -> str:
    return _shown(metric, value) + (" %" if scale(metric) == 100 else "")
