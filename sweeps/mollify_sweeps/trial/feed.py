"""From prepared Parquet to the images on a worker's device, through Ray Data.

Resident images: the driver reads the Parquet files once and hands them out as Ray Data datasets of in-memory blocks:
the fit images and the validation images. Blocks that lie in the object store need no CPU to be read, so data can never
wait for a CPU that the trial itself holds. A worker pulls all of them once and keeps them, as uint8, on its device; the
next trial in the same process finds them there. Which of a step's images are whose is settled step by step
(`Training`), so the number of workers may change under way. On the CPU nothing is copied: all trials of a machine look
at its one object store.

Streamed images: the driver hands out which images there are, and those that an epoch measures. For every epoch a worker
builds a Ray Data dataset of its own whose read tasks are the windows of that epoch's order, each with the worker's
share of the window's images (`mollify_core.stream`). They take no CPU from the trials, run where the shards are, and
stay two windows ahead; the worker decodes what they bring in threads of its own.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mollify_core.datasets.load import ImageSet, whole_numbers
from mollify_core.datasets.preparation import Prepared
from mollify_core.datasets.shards import Sharded, Shards
from mollify_core.datasets.split import judging_rows
from mollify_core.measure.validation import GROUP, ValidationSet
from mollify_core.recipe import Recipe
from mollify_core.stream import Fetch, Stream, StreamedValidation, first_places
from mollify_core.training_data import TrainingData, groups_of, split_rows
from mollify_core.worker import Worker

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class FeedInfo:
    """What a worker has to know beside the images themselves.

    Attributes:
        key: equal for equal images; what a worker keeps is kept under it.
        classes, mean, std, fingerprint, names: see `TrainingData`.
        seed: of the order and the corruptions of validation, and of which images only judge.
        judging_fraction: share of the validation images that only judge.
        shards: where streamed images are; None where they are resident.
        node: Ray's id of the machine that has them on its disk.
    """

    key: str
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    seed: int
    judging_fraction: float
    names: tuple[str, ...] = ()
    shards: Shards | None = None
    node: str = ""

    def judging(self, labels: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
        """Row numbers of the validation images that only judge."""
        return judging_rows(labels, self.judging_fraction, self.seed, self.fingerprint, groups)


def datasets(prepared: Prepared, recipe: Recipe) -> tuple[dict[str, Any], FeedInfo]:
    """Ray Data datasets, and what goes with them. Needs a running Ray.

    The datasets are the images "fit" and "validation"; where they are streamed, the label and place of each of these,
    and "first", the images that an epoch measures. Of images that validate there is the group too, where it is known.
    """
    import pyarrow as pa
    import ray
    import ray.data

    spec, data = prepared.spec, recipe.data
    key = f"{prepared.fingerprint}-{data}"
    names = tuple(prepared.manifest["class_names"])
    about = (spec.classes, spec.mean, spec.std, prepared.fingerprint, data.split_seed, data.judging_fraction, names)
    if not isinstance(prepared, Sharded):
        table = prepared.table("train")
        rows = split_rows(whole_numbers(table.column("label")), recipe, prepared)
        parts = {
            name: table.take(part).combine_chunks() for name, part in zip(("fit", "validation"), rows, strict=True)
        }
        parts["validation"] = _grouped(parts["validation"], groups_of(prepared, rows[1]))
        # One block each: a worker on the CPU reads it where it lies.
        return {name: ray.data.from_arrow(part) for name, part in parts.items()}, FeedInfo(key, *about)
    shards, labels, places = prepared.shards("train"), prepared.labels("train"), prepared.places("train")
    info = FeedInfo(f"{key}-stream", *about, shards, ray.get_runtime_context().get_node_id())
    fit, held_out = split_rows(labels, recipe, prepared)
    parts = {
        name: pa.table({"label": labels[rows], "place": places[rows]})
        for name, rows in (("fit", fit), ("validation", held_out))
    }
    groups = groups_of(prepared, held_out)
    parts["validation"] = _grouped(parts["validation"], groups)
    first = first_places(shards, places[held_out], info.judging(labels[held_out], groups), len(fit))
    parts["first"] = shards.read(first)
    return {name: ray.data.from_arrow(part) for name, part in parts.items()}, info


_resident: dict[tuple, TrainingData] = {}


def training_data(info: FeedInfo, worker: Worker, shard: Callable[[str], Any], threads: int = 1) -> TrainingData:
    """The images of this worker, on its device or streamed; pulled from Ray Data by the first trial in a process.

    Args:
        info: from `datasets`.
        worker: this process among its peers.
        shard: `ray.train.get_dataset_shard`.
        threads: that decode images where they are streamed.
    """
    key = (info.key, worker.device)
    if key not in _resident:
        _resident.clear()  # one data set at a time: a process serves one sweep
        fit, validation = _pulled(info, worker, shard, threads)
        about = (info.classes, info.mean, info.std, info.fingerprint, info.names)
        _resident[key] = TrainingData(fit, validation, *about)
    return _resident[key]


def _pulled(
    info: FeedInfo, worker: Worker, shard: Callable[[str], Any], threads: int
) -> tuple[ImageSet | Stream, ValidationSet | StreamedValidation]:
    if info.shards is None:
        (fit, _), (held_out, groups) = _pull(shard("fit")), _pull(shard("validation"))
        judging = info.judging(held_out.labels.numpy(), groups)
        validation = ValidationSet.make(held_out, seed=info.seed, device=worker.device, judging=judging, groups=groups)
        return fit.to(worker.device), validation
    (labels, places, _), (of_held_out, held_places, groups) = _rows(shard("fit")), _rows(shard("validation"))
    (first,) = shard("first").iter_batches(batch_size=None, batch_format="pyarrow")
    fetch = windows(info.shards, info.node)
    streamed = StreamedValidation.make(
        info.shards,
        held_places,
        of_held_out,
        info.judging(of_held_out, groups),
        len(labels),
        seed=info.seed,
        device=worker.device,
        first=info.shards.decode(first),
        fetch=fetch,
        groups=groups,
    )
    return Stream(info.shards, torch.from_numpy(labels), places, threads, fetch), streamed


def windows(shards: Shards, node: str) -> Fetch:
    """What reads windows of images through Ray Data, on the machine that has them.

    Args:
        shards: where they are.
        node: Ray's id of the machine.
    """

    def fetch(readings: Sequence[np.ndarray]) -> Iterator[pa.Table]:
        import ray.data

        context = ray.data.DataContext.get_current().copy()
        context.execution_options.preserve_order = True
        window = shards.layout.rows * shards.layout.groups * shards.image_bytes
        context.execution_options.resource_limits = ray.data.ExecutionResources(object_store_memory=2 * window)
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a trial may take its time
        with ray.data.DataContext.current(context):
            read = ray.data.read_datasource(
                _source(shards, readings),
                override_num_blocks=len(readings),
                concurrency=1,
                num_cpus=0,  # reading is little work, and may not wait for a CPU: the trials hold all of them
                label_selector={"ray.io/node-id": node},
            )
        yield from read.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)

    return fetch


def _source(shards: Shards, readings: Sequence[np.ndarray]) -> Any:
    """A Ray Data datasource with a read task for each window, in their order."""
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    class Windows(Datasource):
        def estimate_inmemory_data_size(self) -> int:
            return sum(len(places) for places in readings) * shards.image_bytes

        def get_read_tasks(self, parallelism: int, *args: Any, **kwargs: Any) -> list[ReadTask]:
            return [
                ReadTask(
                    functools.partial(_read, shards, places),
                    BlockMetadata(
                        num_rows=len(places),
                        size_bytes=len(places) * shards.image_bytes,
                        input_files=None,
                        exec_stats=None,
                    ),
                )
                for places in readings
            ]

    return Windows()


def _read(shards: Shards, places: np.ndarray) -> list[pa.Table]:
    return [shards.read(places)]


def _grouped(table: pa.Table, groups: np.ndarray | None) -> pa.Table:
    return table if groups is None else table.append_column(GROUP, [groups])


def _rows(iterator: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(labels, places, groups if any) of all images of a data set, in the order of the official files."""
    (table,) = iterator.iter_batches(batch_size=None, batch_format="pyarrow")
    groups = whole_numbers(table[GROUP]) if GROUP in table.column_names else None
    return whole_numbers(table["label"]), whole_numbers(table["place"]), groups


def _pull(iterator: Any) -> tuple[ImageSet, np.ndarray | None]:
    """All images of a data set, in the order of the official files, where they lie in the object store; and groups."""
    (block,) = iterator.iter_batches(batch_size=None, batch_format="numpy")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to images
        images = ImageSet(torch.from_numpy(block["image"]), torch.from_numpy(block["label"]))
    return images, None if GROUP not in block else block[GROUP].copy()
