"""From prepared Parquet to the images on a worker's device, through Ray Data.

The driver reads the Parquet files once and hands them out as Ray Data datasets of in-memory blocks: one shard of the
fit images for each worker of a trial, and the validation images. Blocks that lie in the object store need no CPU to be
read, so data can never wait for a CPU that the trial itself holds. A worker pulls its shard once and keeps it, as
uint8, on its device; the next trial in the same process finds it there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from mollify_core.datasets.load import ImageSet
from mollify_core.datasets.prepare import Prepared
from mollify_core.recipe import Recipe
from mollify_core.training import TrainingData, split_rows
from mollify_core.validation import ValidationSet
from mollify_core.worker import Worker

_BLOCKS = 8


@dataclass(frozen=True)
class FeedInfo:
    """What a worker has to know beside the images themselves.

    Attributes:
        key: equal for equal images; what a worker keeps is kept under it.
        fit_total: number of fit images over all workers.
        classes, mean, std, fingerprint: see `TrainingData`.
        seed: of the order and the corruptions of validation.
    """

    key: str
    fit_total: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    seed: int


def datasets(prepared: Prepared, recipe: Recipe, workers: int) -> tuple[dict[str, Any], FeedInfo]:
    """Ray Data datasets "fit-0" .. and "validation", and what goes with them. Needs a running Ray."""
    import ray.data

    table = prepared.table("train")
    fit, validation = split_rows(table.column("label").to_numpy(), recipe, prepared.fingerprint)
    parts = {f"fit-{rank}": fit[rank::workers] for rank in range(workers)}
    parts["validation"] = validation
    shards = {name: ray.data.from_arrow(_blocks(table.take(rows))) for name, rows in parts.items()}
    spec = prepared.spec
    key = f"{prepared.fingerprint}-{recipe.data}-{workers}"
    return shards, FeedInfo(
        key, len(fit), spec.classes, spec.mean, spec.std, prepared.fingerprint, recipe.data.split_seed
    )


def _blocks(table: pa.Table) -> list[pa.Table]:
    step = max(1, -(-len(table) // _BLOCKS))
    return [table.slice(i, step).combine_chunks() for i in range(0, len(table), step)]


_resident: dict[tuple, TrainingData] = {}


def training_data(info: FeedInfo, worker: Worker, shard: Callable[[str], Any]) -> TrainingData:
    """The images of this worker, on its device; pulled from Ray Data by the first trial in a process.

    Args:
        info: from `datasets`.
        worker: this process among its peers.
        shard: `ray.train.get_dataset_shard`.
    """
    key = (info.key, worker)
    if key not in _resident:
        _resident.clear()  # one data set at a time: a process serves one sweep
        fit = _pull(shard(f"fit-{worker.rank}"))
        validation = ValidationSet.make(_pull(shard("validation")), seed=info.seed, device=worker.device)
        on_device = ImageSet(fit.images.to(worker.device), fit.labels.to(worker.device))
        _resident[key] = TrainingData(
            on_device, info.fit_total, validation, info.classes, info.mean, info.std, info.fingerprint
        )
    return _resident[key]


def _pull(iterator: Any) -> ImageSet:
    """All images of a shard, in the order of the official files, whatever order the blocks came in."""
    batches = list(iterator.iter_batches(batch_size=None, batch_format="numpy"))
    index = np.concatenate([b["index"] for b in batches])
    order = np.argsort(index)
    images = np.concatenate([b["image"] for b in batches])[order]
    labels = np.concatenate([b["label"] for b in batches])[order]
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels))
