"""From prepared Parquet to the images on a worker's device, through Ray Data.

The driver reads the Parquet files once and hands them out as Ray Data datasets of in-memory blocks: the fit images and
the validation images. Blocks that lie in the object store need no CPU to be read, so data can never wait for a CPU that
the trial itself holds. A worker pulls all of them once and keeps them, as uint8, on its device; the next trial in the
same process finds them there. Which of a step's images are whose is settled step by step (`Training`), so the number of
workers may change under way. On the CPU nothing is copied: all trials of a machine look at its one object store.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mollify_core.datasets.load import ImageSet, whole_numbers
from mollify_core.datasets.preparation import Prepared
from mollify_core.datasets.split import judging_rows
from mollify_core.measure.validation import ValidationSet
from mollify_core.recipe import Recipe
from mollify_core.training_data import TrainingData, split_rows
from mollify_core.worker import Worker


@dataclass(frozen=True)
class FeedInfo:
    """What a worker has to know beside the images themselves.

    Attributes:
        key: equal for equal images; what a worker keeps is kept under it.
        classes, mean, std, fingerprint: see `TrainingData`.
        seed: of the order and the corruptions of validation, and of which images only judge.
        judging_fraction: share of the validation images that only judge.
    """

    key: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    seed: int
    judging_fraction: float


def datasets(prepared: Prepared, recipe: Recipe) -> tuple[dict[str, Any], FeedInfo]:
    """Ray Data datasets "fit" and "validation", and what goes with them. Needs a running Ray."""
    import ray.data

    table = prepared.table("train")
    fit, validation = split_rows(whole_numbers(table.column("label")), recipe, prepared)
    parts = {"fit": fit, "validation": validation}
    # One block each: a worker on the CPU reads it where it lies.
    shards = {name: ray.data.from_arrow(table.take(rows).combine_chunks()) for name, rows in parts.items()}
    spec, data = prepared.spec, recipe.data
    key = f"{prepared.fingerprint}-{data}"
    about = (spec.classes, spec.mean, spec.std, prepared.fingerprint, data.split_seed, data.judging_fraction)
    return shards, FeedInfo(key, *about)


_resident: dict[tuple, TrainingData] = {}


def training_data(info: FeedInfo, worker: Worker, shard: Callable[[str], Any]) -> TrainingData:
    """The images of this worker, on its device; pulled from Ray Data by the first trial in a process.

    Args:
        info: from `datasets`.
        worker: this process among its peers.
        shard: `ray.train.get_dataset_shard`.
    """
    key = (info.key, worker.device)
    if key not in _resident:
        _resident.clear()  # one data set at a time: a process serves one sweep
        fit, held_out = _pull(shard("fit")), _pull(shard("validation"))
        judging = judging_rows(held_out.labels.numpy(), info.judging_fraction, info.seed, info.fingerprint)
        validation = ValidationSet.make(held_out, seed=info.seed, device=worker.device, judging=judging)
        on_device = ImageSet(fit.images.to(worker.device), fit.labels.to(worker.device))
        _resident[key] = TrainingData(on_device, validation, info.classes, info.mean, info.std, info.fingerprint)
    return _resident[key]


def _pull(iterator: Any) -> ImageSet:
    """All images of a data set, in the order of the official files, where they lie in the object store."""
    (block,) = iterator.iter_batches(batch_size=None, batch_format="numpy")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to images
        return ImageSet(torch.from_numpy(block["image"]), torch.from_numpy(block["label"]))
