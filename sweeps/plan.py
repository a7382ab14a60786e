"""The plan of a sweep: what runs, on what, how much of it at once and why, how long it takes, and what it stores."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import torch

from mollify_core.datasets import DatasetSpec, ImageSet
from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_core.training import Training, TrainingData
from mollify_core.validation import CELLS, ValidationSet
from mollify_core.worker import Worker
from sweeps.workers import Workers
from sweeps.writer import KEEP


@dataclass(frozen=True)
class Node:
    """One machine's resources."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Placement:
    """Who runs where.

    Attributes:
        workers: processes per trial, or their range.
        cpus, gpus: per worker.
        concurrent: trials at once.
        why: what limits their number, in words.
    """

    workers: Workers
    cpus: int
    gpus: float
    concurrent: int
    why: str

    @property
    def device(self) -> str:
        return f"{self.gpus:g} GPU" if self.gpus else "CPU"


def place(
    nodes: list[Node], *, workers: Workers, cpus: int, gpus: float | None, at_most: int | None, trials: int
) -> Placement:
    """Computes how many trials run at once so that none ever waits for what another one holds.

    A trial of one worker is that worker; a trial of several has a driver beside them, which like the study and the
    blocks of the data set claims no CPU. So whole trials are counted by what their workers need, node by node; those of
    elastic trials by the most that they take, since each of them asks for all of it.

    Raises:
        ConfigError: not even one trial fits; what it needs and what there is.
    """
    for name, value in (("--cpus-per-worker", cpus), ("--max-concurrent", at_most)):
        if value is not None and value < 1:
            raise ConfigError(f"Expected {name} to be at least 1, but got {value}")
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise ConfigError(f"Expected --gpus-per-worker to be 0, a fraction of 1, or a whole number, but got {gpus:g}")
    if gpus is None:
        gpus = 1.0 if any(n.gpus for n in nodes) else 0.0
    slots = 0
    limits = set()
    for node in nodes:
        by_cpu = int(node.cpus // cpus)
        # Fractions share one device; whole numbers take several.
        by_gpu = int(node.gpus) * int(1 / gpus + 1e-9) if 0 < gpus <= 1 else int(node.gpus // gpus) if gpus else by_cpu
        slots += min(by_cpu, by_gpu)
        limits.add("GPUs" if by_gpu < by_cpu else "CPUs")
    concurrent = slots // workers.most or int(slots >= workers.least)
    need = f"{workers} with {cpus} CPU{'s' * (cpus > 1)}" + (f" and {gpus:g} GPU" if gpus else "")
    have = f"{sum(n.cpus for n in nodes):g} CPUs and {sum(n.gpus for n in nodes):g} GPUs"
    if len(nodes) > 1:
        have += f" on {len(nodes)} nodes"
    if concurrent < 1:
        raise ConfigError(f"A trial needs {need}, but there are {have}")
    why = f"{have}; a trial takes {need}; limited by {' and '.join(sorted(limits))}"
    for bound, reason in ((trials, "as many as there are trials"), (at_most, "by --max-concurrent")):
        if bound is not None and bound < concurrent:
            concurrent, why = bound, reason
    return Placement(workers, cpus, gpus, concurrent, why)


def cores() -> int:
    """CPU cores that this process may use, also in a container."""
    import joblib

    return joblib.cpu_count()


def seconds_per_trial(
    recipe: Recipe, sample: ImageSet, spec: DatasetSpec, placement: Placement, n_fit: int, n_val: int
) -> float | None:
    """Estimates the training time of one trial by timing a few real steps here; None when its device is not here.

    Args:
        recipe: the base recipe.
        sample: one batch of real images.
        spec: the data set's `DatasetSpec`.
        placement: says the device and the threads.
        n_fit, n_val: number of fit and validation images.
    """
    if placement.gpus and not torch.cuda.is_available():
        return None
    device = torch.device("cuda" if placement.gpus else "cpu")
    threads = torch.get_num_threads()
    torch.set_num_threads(placement.cpus)
    try:
        images = ImageSet(sample.images.to(device), sample.labels.to(device))
        nothing = ValidationSet(images.images[None, :0], images.labels[:0])
        data = TrainingData(images, nothing, spec.classes, spec.mean, spec.std, "")
        training = Training(recipe, data, Worker(device=device))
        rows = torch.arange(len(images), device=device)
        times: list[float] = []
        while len(times) < 4 and sum(times) < 8:
            started = time.perf_counter()
            loss, _ = training._step(len(times), rows, len(rows), 1.0)
            loss.item()  # waits for the device
            times.append(time.perf_counter() - started)
        per_image = statistics.median(times[1:] or times) / len(images)
    finally:
        torch.set_num_threads(threads)
    validation = 0.05 * n_fit * recipe.optim.epochs + n_val * CELLS / 3
    return per_image / placement.workers.most * (n_fit * recipe.optim.epochs + validation)


def checkpoint_bytes(recipe: Recipe, spec: DatasetSpec) -> int:
    """What one trial keeps: weights and momentum, of the last checkpoints."""
    from mollify_core import networks

    with torch.device("meta"):
        network = networks.build(recipe.model.network, spec.classes, spec.image_shape)
    weights = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    momentum = sum(p.numel() * 4 for p in network.parameters()) if recipe.optim.momentum else 0
    return KEEP * (weights + momentum)


def duration(seconds: float) -> str:
    """45 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    seconds = max(0, round(seconds))
    for big, small, size, unit in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= big:
            rest = seconds % big // small
            return f"{seconds // big} {size}" + (f" {rest} {unit}" if rest else "")
    return f"{seconds} s"


def size(count: float) -> str:
    """A number of bytes for people."""
    power = min(4, int(math.log(max(count, 1), 1000)))
    return f"{count / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
