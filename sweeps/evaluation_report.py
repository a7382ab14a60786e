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
| published_distortions | whether normalised images were distorted |
| created, seed, precision, git_commit, versions | of the evaluation |
"""

from __future__ import annotations

import io
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from mollify_core.corruptions.benchmark import BENCHMARK, GROUPS, SEVERITIES
from mollify_core.errors import ConfigError, DataError, StorageError, first_line, nearest
from sweeps import evaluation_plots, matching_plots
from sweeps.evaluation_plots import Rows, cell, common_cells, models, reference_of, select, summaries
from sweeps.matching_plots import distortions
from sweeps.report import NONE, UNVERIFIED
from sweeps.results import scale
from sweeps.store import Store
from sweeps.text import markdown

METRICS = {
    "error": "error (%)",
    "top5_error": "top-5 error (%)",
    "nll": "NLL",
    "brier": "Brier score",
    "ece": "ECE (%)",
    "adaptive_ece": "adaptive ECE (%)",
    "scaled_nll": "scaled NLL",
    "scaled_ece": "scaled ECE (%)",
    "scaled_adaptive_ece": "scaled adaptive ECE (%)",
    "sink_mass": "sink mass",
}
ANSWERED = {"error": "error", "ece": "ECE", "nll": "NLL"}  # what the answer and the table by severity are about
ESTIMATORS = {"ece": "pooled", "batch_mean_ece": "batch mean", "matching_ece": "batch and bin mean"}
LEVELS = 11  # columns in tables by level
_TYPES = {
    **dict.fromkeys(("model", "kind", "name", "group"), pa.string()),
    "severity": pa.int64(),
    "level": pa.float64(),
    "source": pa.string(),
    "images": pa.int64(),
    **dict.fromkeys(("error", "top5_error", "nll", "brier", "confidence", "ece", "adaptive_ece"), pa.float64()),
    **dict.fromkeys(("batch_mean_ece", "matching_ece", "scaled_nll", "scaled_ece"), pa.float64()),
    **dict.fromkeys(("scaled_adaptive_ece", "temperature", "sink_mass"), pa.float64()),
    "bin_count": pa.list_(pa.int64()),
    **dict.fromkeys(("bin_accuracy", "bin_confidence", "class_error", "class_confidence"), pa.list_(pa.float64())),
}
SCHEMA = pa.schema(list(_TYPES.items()))
"""Columns of the table. Errors and calibration errors are shares in [0, 1], NaN where there is none.

model: the label shown. kind, name: "clean" and "", "corruption" and which, or "distortion" and which. group: of the
corruption, "extra" for those that models are not judged by. severity: 1 .. 5 of a corruption, else 0. level: strength d
in [0, 1] of a distortion, else NaN. source: "official", "made" or "test set". confidence: mean largest probability.
scaled_*: after division by the temperature. bin_*: equal-width bins of confidence; class_*: one value a class,
class_confidence being the mean probability of the true class.
"""
Numbers = Mapping[str, Mapping[str, Any]]
"""Model -> what `evaluation.summarise` says of it."""
_KEY = b"mollify_evaluation"


def write(
    rows: pa.Table | Rows, metadata: Mapping[str, Any], folder: Path, *, dpi: int = 150, focus: int = 0
) -> list[Path]:
    """Writes evaluation.parquet, summary.md and plots/*.png, each file atomically.

    Args:
        rows: columns as in `SCHEMA`, each model and cell once.
        metadata: see above; kept in the Parquet file.
        folder: local; made when missing.
        dpi: of the plots.
        focus: index of the class whose confidence under distortion has plots of its own.

    Returns:
        The files written.

    Raises:
        ConfigError: there is no class `focus`, or no model of the name of the reference.
        DataError: rows or metadata are not as said.
        StorageError: the folder cannot be written.
    """
    table = _table(rows, metadata)
    rows = table.to_pylist()
    figures = evaluation_plots.draw(rows, metadata) | matching_plots.draw(rows, metadata, focus)
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
    put("summary.md", summary(rows, metadata).encode())
    for name, figure in figures.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        put(f"plots/{name}.png", buffer.getvalue())
    return files


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and metadata of an evaluation.parquet.

    Raises:
        DataError: the file is none that `write` wrote.
        StorageError: it cannot be read.
    """
    try:
        table = pa.parquet.ParquetFile(path).read()
    except pa.ArrowInvalid as error:
        raise DataError(f"Expected {str(path)!r} to be a Parquet file: {first_line(error)}") from None
    except OSError as error:
        raise StorageError(f"Cannot read {str(path)!r}: {first_line(error)}") from None
    metadata = (table.schema.metadata or {}).get(_KEY)
    if metadata is None:
        raise DataError(f"Expected {str(path)!r} to hold an evaluation, but it was not written as one")
    return table.to_pylist(), json.loads(metadata)


def summary(rows: Rows, metadata: Mapping[str, Any]) -> str:
    """The text of summary.md: question and answer, tables, what the data is, where the numbers come from."""
    numbers, reference = summaries(rows, metadata), reference_of(rows, metadata)
    lines = [] if metadata["verified"] else [f"> **{UNVERIFIED}.**", ""]
    lines += [f"# Evaluation on {metadata['dataset']}", "", *_answer(numbers, metadata, reference)]
    lines += [*_errors(rows, numbers, reference), *_probabilities(rows, numbers), *_severities(numbers)]
    lines += [*_levels(rows), *_biased(numbers), *_data(rows, metadata, numbers), *_provenance(metadata)]
    return "\n".join(lines)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent images.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 1927.
    """
    z = statistics.NormalDist().inv_cdf(0.975)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return middle - half, middle + half


def _table(rows: pa.Table | Rows, metadata: Mapping[str, Any]) -> pa.Table:
    """The rows under `SCHEMA`, with the metadata."""
    found = rows.to_pylist() if isinstance(rows, pa.Table) else list(rows)
    missing = [key for key in ("dataset", "verified", "class_names") if key not in metadata]
    if missing:
        raise DataError(f"Expected the metadata to hold `{missing[0]}`, but it has only {sorted(metadata)}")
    if not found:
        raise DataError("Expected rows of at least one cell, but got none")
    for row in found:
        if differing := row.keys() ^ _TYPES.keys():
            raise DataError(
                f"Expected the columns {', '.join(_TYPES)}, but missing or too many are {sorted(differing)}"
            )
    try:
        table = pa.Table.from_pylist(found, schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"Expected rows of the evaluation's types, but {first_line(error)}") from None
    if empty := [name for name in table.column_names if table[name].null_count]:
        raise DataError(f"Expected NaN where there is no value, but `{empty[0]}` has nulls")
    if any(len(row["class_confidence"]) != len(metadata["class_names"]) for row in found):
        raise DataError(f"Expected values of {len(metadata['class_names'])} classes, as there are names, in each row")
    cells = [(row["model"], row["kind"], row["name"], row["severity"], str(row["level"])) for row in found]
    if len(set(cells)) < len(cells):
        twice = next(place for place in cells if cells.count(place) > 1)
        raise DataError(f"Expected each model to have each cell once, but {twice} comes twice")
    if (reference := reference_of(found, metadata)) not in models(found):
        raise ConfigError(
            f"Expected the reference to be a model{nearest(reference, models(found))}, but got {reference!r}"
        )
    return table.replace_schema_metadata({_KEY: json.dumps(dict(metadata)).encode()})


def _answer(numbers: Numbers, metadata: Mapping[str, Any], reference: str) -> Iterator[str]:
    scopes = {"corrupted": f"corrupted images (mean of {_count(numbers)})", "clean": "clean images"}
    keys = list(itertools.product(scopes, ANSWERED))
    yield from ("**Which model errs least when images are corrupted, and whose confidence can be believed?**", "")
    for scope, words in scopes.items():
        known = {model: found for model, found in numbers.items() if f"{scope}_error" in found}
        if known:
            best = {m: min((found[f"{scope}_{m}"], model) for model, found in known.items()) for m in ANSWERED}
            listed = ", ".join(f"{ANSWERED[m]} {_quantity(m, value)} ({model})" for m, (value, model) in best.items())
            yield from (f"{'Lowest' if len(numbers) > 1 else 'Measured'} on {words}: {listed}.", "")
    lines = []
    for model in [model for model in numbers if model != reference]:
        own, other = ([numbers[of].get(f"{scope}_{m}", math.nan) for scope, m in keys] for of in (model, reference))
        values = [_shown(m, one - two, "+") for (_, m), one, two in zip(keys, own, other, strict=True)]
        lines.append([model + _kind(metadata, model), *values])
    if lines:
        header = [f"{scope} {METRICS[m].replace('%', 'points')}" for scope, m in keys]
        title = f"difference to {reference}{_kind(metadata, reference)}; below 0 is better"
        yield from (markdown([title, *header], lines), "")
    yield (
        "Each model is one training run, so differences include the luck of its seed. The interval of the clean error "
        "covers the choice of the test images alone. All cells show the same test images, so their errors are not "
        "independent: means over cells have no interval here and differences no test, which would take the values of "
        "every image."
    )
    yield ""


def _errors(rows: Rows, numbers: Numbers, reference: str) -> Iterator[str]:
    scopes = {"corrupted_error": "corrupted", **{f"corrupted_{g}_error": g for g in GROUPS}, "extra_error": "extra"}
    scopes = {key: text for key, text in scopes.items() if any(key in found for found in numbers.values())}
    lines = []
    for model, found in numbers.items():
        interval = NONE
        for row in select(rows, model=model, kind="clean"):
            low, high = wilson_interval(row["error"], row["images"])
            interval = f"{100 * low:.2f} to {100 * high:.2f}"
        error, *values = (_shown("error", found.get(key)) for key in ("clean_error", *scopes, "mce"))
        lines.append([model, error, interval, *values])
    header = ["error (%)", "clean", "95 % interval", *scopes.values(), "mCE"]
    yield from ("## Error", "", markdown(header, lines), "")
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
        shown = [m for m in METRICS if any(math.isfinite(n.get(f"{scope}_{m}", math.nan)) for n in numbers.values())]
        if shown:
            lines = [
                [model, *(_shown(m, found.get(f"{scope}_{m}")) for m in shown), temperatures[model]]
                for model, found in numbers.items()
            ]
            yield from (f"## {title}", "", markdown(["", *(METRICS[m] for m in shown), "temperature"], lines), "")
    yield (
        "ECE: 15 bins of equal width, pooled over the images of a cell; adaptive: of equal mass. Scaled: after "
        "division of the log-probabilities by the model's temperature, fitted on images held out of training."
    )
    yield ""


def _severities(numbers: Numbers) -> Iterator[str]:
    scopes = ("clean", *(f"corrupted_severity_{severity}" for severity in SEVERITIES))
    lines = [
        [f"{METRICS[metric]}: {model}", *(_shown(metric, found.get(f"{scope}_{metric}")) for scope in scopes)]
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
    levels = levels[:: math.ceil(len(levels) / LEVELS)]
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
    return f"{100 * value:{sign}.2f}" if scale(metric) == 100 else f"{value:{sign}.4f}"


def _quantity(metric: str, value: float) -> str:
    return _shown(metric, value) + (" %" if scale(metric) == 100 else "")
