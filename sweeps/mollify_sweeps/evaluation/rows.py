"""The rows of an evaluation, one a model and cell: their columns, their file, and what may be read off them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from mollify_core.documents import json_of
from mollify_core.errors import ConfigError, DataError, StorageError, first_line, nearest
from mollify_core.foreign import clean
from mollify_core.kinds import Flag, ListOf, MapOf, Maybe, Number, Record, Text, Whole, checked
from mollify_core.measure.detection import SCORES
from mollify_core.measure.evaluation import summarise

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
LATER = {  # not in what earlier versions wrote
    "class_images": pa.list_(pa.int64()),
    **dict.fromkeys(("aurc", "risk_at_80", "risk_at_90", "risk_at_95"), pa.float64()),
    **{f"ood_{score}_{name}": pa.float64() for score in SCORES for name in ("auroc", "fpr95")},
    **dict.fromkeys(("risk_curve", *(f"ood_{score}_roc" for score in SCORES)), pa.list_(pa.float64())),
}
_TYPES |= LATER
SCHEMA = pa.schema(list(_TYPES.items()))
"""Columns of the table. Errors and calibration errors are shares in [0, 1], NaN where there is none.

model: the label shown. kind, name: "clean" and "", "corruption" and which, or "distortion" and which. group: of the
corruption, "extra" for those that models are not judged by. severity: 1 .. 5 of a corruption, else 0. level: strength d
in [0, 1] of a distortion, else NaN. source: "official", "made" or "test set". confidence: mean largest probability.
scaled_*: after division by the temperature. bin_*: equal-width bins of confidence; class_*: one value a class,
class_confidence being the mean probability of the true class. risk_*: error of the most confident images at coverages
in %, risk_curve at 1 .. 100 %. ood_*: detection of another data set's images by a score, roc being the false positive
rates at true positive rates of 1 .. 100 %; NaN and empty where there were none. Rows of earlier versions have none of
these, nor aurc and class_images, which are NaN and empty there too.
"""
_KEY = b"mollify_evaluation"
_NAME = Text(1000)
_METADATA = Record(
    {"dataset": _NAME, "verified": Flag(), "class_names": ListOf(_NAME, 1, 100_000)},
    {
        **dict.fromkeys(("fingerprint", "corruption_source", "corruption_fingerprint", "reference"), Maybe(_NAME)),
        **dict.fromkeys(("distortions", "precision", "git_commit", "created", "ood", "ood_fingerprint"), Maybe(_NAME)),
        "models": MapOf(Record({}, {"mollified": Maybe(Flag()), "recipe": MapOf(), "checkpoint": Text()}), 10_000),
        "published_distortions": Maybe(Flag()),
        **dict.fromkeys(("seed", "ood_images"), Maybe(Whole())),
        "groups": Maybe(Whole(1)),
        "versions": MapOf(_NAME),
    },
)
Row = Mapping[str, Any]
Rows = Sequence[Row]


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and metadata of an evaluation.parquet.

    Raises:
        DataError: the file is none that `report.write` wrote.
        StorageError: it cannot be read.
    """
    try:
        table = pa.parquet.ParquetFile(path).read()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"Expected {str(path)!r} to be a Parquet file: {clean(first_line(error), 200)}") from None
    except OSError as error:
        raise StorageError(f"Cannot read {str(path)!r}: {first_line(error)}") from None
    metadata = (table.schema.metadata or {}).get(_KEY)
    if metadata is None:
        raise DataError(f"Expected {str(path)!r} to hold an evaluation, but it was not written as one")
    what = f"the metadata of {str(path)!r}"
    try:
        rows, told = list(map(_filled, table.to_pylist())), checked(json_of(metadata), _METADATA, what)
        to_table(rows, told)
    except (DataError, ConfigError) as error:
        raise DataError(f"Cannot read the evaluation {str(path)!r}: {error}") from None
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"Cannot read the evaluation {str(path)!r}: {clean(first_line(error), 200)}") from None
    return rows, told


def _filled(row: dict[str, Any]) -> dict[str, Any]:
    """A row with what earlier versions did not measure, as missing."""
    blank: dict[str, Any] = {name: math.nan if of == pa.float64() else [] for name, of in LATER.items()}
    return {**row, **{name: value for name, value in blank.items() if name not in row}}


_KINDS = {
    pa.string(): _NAME,
    pa.int64(): Whole(),
    pa.float64(): Number(any=True),
    pa.list_(pa.int64()): ListOf(Whole()),
    pa.list_(pa.float64()): ListOf(Number(any=True)),
}
_MEASURED = Record(
    {name: _KINDS[of] for name, of in _TYPES.items() if name not in ("model", "source", *LATER)},
    {name: _KINDS[of] for name, of in LATER.items()},
)
_TEMPERATURE = Record({"temperature": Number(1e-6, 1e6)})


def kept_row(text: bytes) -> dict[str, Any]:
    """What was kept of a measured cell: a row, but for `model` and `source`.

    Raises:
        DataError: it is none.
    """
    tree = _filled(checked(json_of(text), _MEASURED, "a kept cell"))
    return {name: tree[name] for name in _MEASURED.required | _MEASURED.optional}


def kept_temperature(text: bytes) -> dict[str, Any]:
    """What was kept of a model's temperature; raises as `kept_row` does."""
    return checked(json_of(text), _TEMPERATURE, "a kept temperature")


def to_table(rows: pa.Table | Rows, metadata: Mapping[str, Any]) -> pa.Table:
    """The rows under `SCHEMA`, with the metadata.

    Raises:
        ConfigError: there is no model of the name of the reference.
        DataError: rows or metadata are not as said.
    """
    found = rows.to_pylist() if isinstance(rows, pa.Table) else list(rows)
    missing = [key for key in ("dataset", "verified", "class_names") if key not in metadata]
    if missing:
        raise DataError(f"Expected the metadata to hold `{missing[0]}`, but it has only {sorted(metadata)}")
    if not found:
        raise DataError("Expected rows of at least one cell, but got none")
    for row in found:
        if differing := row.keys() ^ _TYPES.keys():
            raise DataError(f"Expected the columns of an evaluation, but missing or too many are {sorted(differing)}")
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


def distortions(rows: Rows) -> list[str]:
    """The distortions, in the order of their first rows."""
    return list(dict.fromkeys(row["name"] for row in select(rows, kind="distortion")))
