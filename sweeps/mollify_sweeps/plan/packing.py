"""`--pack auto`: how many trials share a device, measured here with the real training steps before a sweep starts.

Small networks leave a GPU, or the cores of a CPU, idle between their kernels; several trials at once fill it. Each
candidate is run for real, in as many processes as there would be trials, and what would not fit in memory is left out.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mollify_core import granted
from mollify_core.datasets import DatasetSpec, ImageSet
from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_sweeps.cluster.connection import Node
from mollify_sweeps.plan.options import Resources
from mollify_sweeps.plan.placement import Placement, place
from mollify_sweeps.plan.rehearsal import apart, ready, resident_bytes

SECONDS = 4.0  # of training, in each candidate
_WARM_UP = 2  # steps
_GAIN = 1.05  # a further trial at once must bring so much, or it is not worth its memory
_MEMORY = 0.8  # share of the free memory that trials may fill
_PATIENCE = 300.0  # seconds for all processes of a candidate to come to their first step


@dataclass(frozen=True)
class Measured:
    """Some trials at once on one device.

    Attributes:
        trials: how many.
        threads: CPU threads of each.
        images_per_second: of all of them together.
        memory: of the largest one, in bytes, on the device.
    """

    trials: int
    threads: int
    images_per_second: float
    memory: int


@dataclass(frozen=True)
class Packing:
    """What was chosen.

    Attributes:
        cpus, gpus: for each trial, as in `--cpus-per-worker` and `--gpus-per-worker`.
        why: in words.
    """

    cpus: int
    gpus: float
    why: str


def wanted(resources: Resources) -> bool:
    """Whether the number of trials on a device is to be measured; raises a ConfigError where that cannot be."""
    if not resources.pack:
        return False
    if resources.address is not None or not resources.workers.alone:
        raise ConfigError("Expected --pack auto for trials of one worker on this machine: it is measured here")
    if resources.cpus != 1 or resources.gpus is not None:
        raise ConfigError("Expected --pack auto without --cpus-per-worker and --gpus-per-worker, which it chooses")
    return True


def placed(packed: Packing, nodes: list[Node], resources: Resources, trials: int) -> Placement:
    """Where trials run when as many share a device as train the most images together."""
    placement = place(nodes, dataclasses.replace(resources, cpus=packed.cpus, gpus=packed.gpus), trials)
    return dataclasses.replace(placement, why=f"{placement.why}; {packed.why}")


def choose(recipe: Recipe, sample: ImageSet, spec: DatasetSpec, cores: int, n_fit: int, n_val: int) -> Packing:
    """Measures one trial at a time against several, on a GPU of this machine or on its CPU.

    Args:
        recipe: what trials train.
        sample: one batch of real images.
        spec: their data set.
        cores: CPU cores of this machine that trials may have.
        n_fit, n_val: number of fit and validation images, which a trial holds.
    """
    gpu = torch.cuda.is_available()
    device, beside = "cuda" if gpu else "cpu", resident_bytes(spec, n_fit, n_val, gpu=gpu)
    candidates = (
        [n for n in (1, 2, 3, 4, 6, 8, 12, 16) if n <= cores] if gpu else sorted({1, max(1, cores // 2), cores})
    )
    measured: list[Measured] = []
    for trials in candidates:
        if measured and trials * measured[0].memory > _MEMORY * _free(gpu):
            break
        measured.append(measure(recipe, sample, spec, trials, max(1, cores // trials), device, beside))
        if gpu and len(measured) > 1 and measured[-1].images_per_second < measured[-2].images_per_second:
            break  # it is full
    best = measured[0]
    for one in measured[1:]:
        if one.images_per_second > _GAIN * best.images_per_second:
            best = one
    gain = best.images_per_second / measured[0].images_per_second
    several = f"{best.trials} trials at once train {gain:.2f} times the images of one at a time"
    why = f"measured: {several if best.trials > 1 else 'a second trial at once brings nothing'}"
    return Packing(best.threads if not gpu else 1, 1 / best.trials if gpu else 0.0, why)


def measure(
    recipe: Recipe, sample: ImageSet, spec: DatasetSpec, trials: int, threads: int, device: str, beside: int = 0
) -> Measured:
    """Trains in so many processes at once for some seconds, each of which holds so many bytes beside that.

    Raises:
        ConfigError: a process failed, as when memory ran out.
    """
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(trials), context.Queue()
    light = dataclasses.replace(spec, source=None)
    job = (recipe.to_dict(), sample, light, threads, device, beside)
    processes = [context.Process(target=_train, args=(job, barrier, answers), daemon=True) for _ in range(trials)]
    for process in processes:
        process.start()
    found = list(_collect(processes, answers))
    return Measured(trials, threads, sum(speed for speed, _ in found), max(memory for _, memory in found))


def _collect(processes: list[Any], answers: Any) -> Iterator[tuple[float, int]]:
    import queue

    deadline = time.monotonic() + _PATIENCE
    left = len(processes)
    try:
        while left:
            try:
                yield answers.get(timeout=1.0)
                left -= 1
            except queue.Empty:
                dead = any(process.exitcode not in (None, 0) for process in processes)
                if dead or time.monotonic() > deadline:
                    reason = "one ended early, perhaps for want of memory" if dead else "they did not start in time"
                    raise ConfigError(
                        f"Cannot measure {len(processes)} trials at once ({reason}); give --cpus-per-worker or "
                        "--gpus-per-worker instead of --pack auto"
                    ) from None
    finally:
        for process in processes:
            process.join(5.0)
            process.kill()


def _train(job: tuple, barrier: Any, answers: Any) -> None:
    """One trial's steps, in a process of its own: puts (images per second, bytes)."""
    tree, sample, spec, threads, device, beside = job
    torch.set_num_threads(threads)
    held = torch.ones(beside, dtype=torch.uint8, device=device)  # as a trial holds its images
    training = ready(Recipe.from_dict(tree), sample, spec, torch.device(device))
    training.rehearse(math.inf, _WARM_UP, warm_up=0)
    barrier.wait(_PATIENCE)
    times = training.rehearse(SECONDS, warm_up=0)
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        used = max(torch.cuda.max_memory_reserved(), (total - free) // barrier.parties)  # the latter with its context
    else:
        used = _peak()
    del held
    answers.put((training.images_per_step / statistics.median(times), used))


def _peak() -> int:
    """The most bytes that this process has had in memory. Linux's `ru_maxrss` also knows those of who started it."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _free(gpu: bool) -> int:
    """Free bytes of the first GPU, or of this machine."""
    if gpu:
        return apart(torch.cuda.mem_get_info)[0]
    return min(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), granted.memory())
