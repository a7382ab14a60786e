"""What a trial will take, from a few real steps and from the size of its network."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np
import torch

from mollify_core import networks, program, stream
from mollify_core.checkpoint import KEEP
from mollify_core.classifier import build_network
from mollify_core.datasets import DatasetSpec, ImageSet, Prepared
from mollify_core.datasets.shards import Sharded
from mollify_core.measure.validation import CELLS, ValidationSet, epoch_images
from mollify_core.recipe import Recipe
from mollify_core.training import Training
from mollify_core.training_data import TrainingData
from mollify_core.worker import Worker
from mollify_sweeps.plan.placement import Placement

_SECONDS, _STEPS = 8.0, 3  # that are timed at most
_READ = 64  # images whose reading is timed
# Importing PyTorch and this package took so long. On the same machine Ray's start and the imports of its processes, and
# the report, take so many times as long: measured 5 to 8 and 8 to 10 on two cores, and 1 to 2.
_IMPORTS = min(time.perf_counter() - program.STARTED, 30.0)
_START_ALONE, _START_GROUP, _REPORT = 8, 12, 2
_EACH, _UNEVEN = 0.5, 1.25  # seconds between two trials, and how much longer they train beside one another, at most
T = TypeVar("T")


def apart(action: Callable[..., T], *args: object) -> T:
    """What `action` returns in a process of its own: one that has used a GPU keeps some of its memory to its end.

    Raises:
        BrokenProcessPool: that process died.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(action, *args).result()


def resident_bytes(spec: DatasetSpec, n_fit: int, n_val: int, *, gpu: bool) -> int:
    """What a trial holds beside its training: every cell of validation; on a GPU its images, else shared by all. Where
    images are streamed, what an epoch measures of validation and two windows.
    """
    if spec.streamed:
        return stream.held_bytes(math.prod(spec.image_shape), n_fit, n_val)
    return math.prod(spec.image_shape) * (n_val * CELLS + n_fit * gpu)


def ready(recipe: Recipe, sample: ImageSet, spec: DatasetSpec, device: torch.device) -> Training:
    """A model in training on a few images, without any for validation.

    Args:
        recipe: what it trains.
        sample: one batch of real images.
        spec: their data set.
        device: where.
    """
    images = ImageSet(sample.images.to(device), sample.labels.to(device))
    nothing = ValidationSet(images.images[None, :0], images.labels[:0], 0)
    data = TrainingData(images, nothing, spec.classes, spec.mean, spec.std, "")
    return Training(recipe, data, Worker(device=device))


def seconds_per_trial(
    recipe: Recipe,
    sample: ImageSet,
    spec: DatasetSpec,
    placement: Placement,
    n_fit: int,
    n_val: int,
    reading: float = 0.0,
) -> float | None:
    """Estimates the training time of one trial by timing a few real steps here; None when its device is not here.

    Args:
        recipe: the base recipe.
        sample: one batch of real images.
        spec: their data set.
        placement: says the device and the threads.
        n_fit, n_val: number of fit and validation images.
        reading: seconds that reading an image takes a core, see `reading_seconds`.
    """
    if placement.gpus and not torch.cuda.is_available():
        return None
    job = (recipe, sample, dataclasses.replace(spec, source=None), placement.cpus, "cuda" if placement.gpus else "cpu")
    try:
        per_image = apart(_per_image, *job) if placement.gpus else _per_image(*job)
    except BrokenProcessPool:
        return None
    reading /= placement.cpus
    per_image = max(per_image, reading) if placement.gpus else per_image + reading
    # A forward pass costs a third of a step.
    each = epoch_images(n_fit, round(n_val * (1 - recipe.data.judging_fraction)))
    validation = (each * recipe.optim.epochs + n_val) * CELLS / 3
    return per_image / placement.workers.most * (n_fit * recipe.optim.epochs + validation)


def reading_seconds(prepared: Prepared) -> float:
    """What it takes a core to read and decode an image that is streamed; 0 where all are in memory."""
    if not isinstance(prepared, Sharded):
        return 0.0
    shards = prepared.shards("train")
    places = np.arange(min(shards.layout.size(0), _READ))
    started = time.perf_counter()
    shards.decode(shards.read(places))
    return (time.perf_counter() - started) / len(places)


def start_seconds(placement: Placement) -> float:
    """From the plan to the first batch of a trial, at most."""
    return _IMPORTS * (_START_ALONE if placement.workers.alone else _START_GROUP)


def most_seconds(each: float, left: int, placement: Placement) -> float:
    """What a sweep takes from its plan to its report, at most, on a machine that does nothing else.

    Args:
        each: training time of one trial.
        left: trials that are to train.
        placement: how many train at once.
    """
    rounds = -(-left // placement.concurrent)
    return start_seconds(placement) + rounds * (each * _UNEVEN + _EACH) + _IMPORTS * _REPORT


def _per_image(recipe: Recipe, sample: ImageSet, spec: DatasetSpec, threads: int, device: str) -> float:
    """Seconds of training for each image."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        training = ready(recipe, sample, spec, torch.device(device))
        return statistics.median(training.rehearse(_SECONDS, _STEPS)) / training.images_per_step
    finally:
        torch.set_num_threads(before)


def checkpoint_bytes(recipe: Recipe, spec: DatasetSpec) -> int:
    """What one trial keeps: weights and momentum, of the last checkpoints."""
    network = build_network(recipe, spec.classes, spec.image_shape, networks.outline)
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    momentum = sum(p.numel() * 4 for p in network.parameters()) if recipe.optim.momentum else 0
    return KEEP * (weights + momentum)
