"""Cells measured one by one, here or on a Ray cluster; every finished one is kept.

<store>/cells/<digest of a model and of what it is measured on>/
  temperature.json      fitted on the model's own validation images
  <cell>.json           one row of the table
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console

from mollify_core.errors import DataError, StorageError, first_line
from mollify_core.measure.evaluation import Cell
from mollify_core.training_data import split_rows
from mollify_sweeps.display.console import progress
from mollify_sweeps.evaluation.evaluator import Measurement
from mollify_sweeps.evaluation.images import TestData
from mollify_sweeps.evaluation.models import Model
from mollify_sweeps.evaluation.options import Place
from mollify_sweeps.evaluation.pools import Pool, cluster_pool, local_pool
from mollify_sweeps.evaluation.rows import kept_row, kept_temperature
from mollify_sweeps.storage.store import Store


def measure_cells(
    models: Sequence[Model],
    data: TestData,
    chosen: Sequence[Cell],
    how: Measurement,
    store: Store,
    digests: Sequence[str],
    place: Place,
    console: Console,
    told: Callable[[int, int], Any] | None = None,
) -> list[dict[str, Any]]:
    """The rows of all models and cells; those that `store` holds are not measured again.

    `told` hears how many are measured, and how many there are.
    """
    kept = {(i, cell): _read(store, digest, cell.key) for i, digest in enumerate(digests) for cell in chosen}
    todo = [(cell, [i for i in range(len(models)) if kept[i, cell] is None]) for cell in chosen]
    todo = [(cell, which) for cell, which in todo if which]
    if todo:
        spec = data.prepared.spec
        packed = {
            "models": [model.state for model in models],
            **{name: getattr(spec, name) for name in ("classes", "image_shape", "mean", "std")},
            "how": how,
        }
        pool = cluster_pool(place.address, packed) if place.address else local_pool(packed, place.device, place.threads)
        needed = sorted({i for _, which in todo for i in which})
        temperatures = _temperatures(models, data, store, digests, needed, pool)
        foreign = dict(pool(((i, data.foreign.images) for i in needed), "scores")) if data.foreign else {}
        tasks = ((cell, *data.images(cell), {i: temperatures[i] for i in which}, foreign) for cell, which in todo)
        with progress(console) as bar:
            task = bar.add_task("measuring", total=sum(len(which) for _, which in todo))
            for cell, found in pool(tasks, "rows"):
                for i, values in found.items():
                    kept[i, cell] = values
                    _write(store, digests[i], cell.key, values)
                    bar.advance(task)
                if told is not None:
                    told(sum(row is not None for row in kept.values()), len(kept))
    return [
        {"model": model.label, **(kept[i, cell] or {}), "source": data.source(cell)}
        for i, model in enumerate(models)
        for cell in chosen
    ]


def _temperatures(
    models: Sequence[Model], data: TestData, store: Store, digests: Sequence[str], needed: Sequence[int], pool: Pool
) -> dict[int, float]:
    """Fitted on the validation images that each model's recipe holds out from training; 1 where it held none out."""
    held_out = [i for i in needed if not models[i].state.meta.get("final")]
    known = {i: _read(store, digests[i], "temperature") for i in held_out}
    missing = [i for i, value in known.items() if value is None]
    if missing:
        train = data.prepared.tensors("train")

        def tasks() -> Iterator[tuple]:
            for i in missing:
                _, rows = split_rows(train.labels.numpy(), models[i].recipe, data.prepared)
                part = train.select(rows)
                yield i, part.images, part.labels

        for i, temperature in pool(tasks(), "temperature"):
            fitted = known[i] = {"temperature": temperature}
            _write(store, digests[i], "temperature", fitted)
    ones = dict.fromkeys(needed, 1.0)
    return ones | {i: value["temperature"] for i, value in known.items() if value is not None}


def digest(model: Model, data: TestData, how: Measurement) -> str:
    """Of everything that a row depends on, apart from the cell."""
    settings = {k: v for k, v in dataclasses.asdict(how).items() if k != "batch"}
    text = json.dumps([1, model.digest, data.identity, settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(store: Store, digest: str, name: str) -> dict[str, Any] | None:
    """A kept result; None when there is none, or a damaged one."""
    try:
        text = store.read(f"cells/{digest}/{name}.json")
        read = kept_temperature if name == "temperature" else kept_row
        return None if text is None else read(text)
    except DataError:
        return None
    except OSError as error:
        raise StorageError(f"Cannot read {store.uri!r}: {first_line(error)}") from None


def _write(store: Store, digest: str, name: str, values: dict[str, Any]) -> None:
    try:
        store.write(f"cells/{digest}/{name}.json", json.dumps(values).encode())
    except OSError as error:
        raise StorageError(f"Cannot write {store.uri!r}: {first_line(error)}") from None
