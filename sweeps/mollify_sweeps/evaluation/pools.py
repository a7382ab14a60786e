"""Spreads the cells of an evaluation over a Ray cluster: one resident evaluator for each GPU, else for each CPU.

Images travel through Ray's object store, so the machines need neither the data nor a shared disk.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from mollify_core.errors import SweepError, first_line
from mollify_sweeps.cluster.connection import connect
from mollify_sweeps.evaluation.evaluator import Evaluator

Pool = Callable[[Iterable[tuple], str], Iterator[tuple[Any, Any]]]
"""(tasks, name of a method of `Evaluator`) -> (first item of a task, the method's result on the task), in any order."""


def local_pool(packed: dict[str, Any], device: str | None, threads: int | None) -> Pool:
    """One evaluator in this process; `packed` are the first arguments of `Evaluator`."""
    evaluator = Evaluator(**packed, device=device, threads=threads)

    def here(tasks: Iterable[tuple], method: str) -> Iterator[tuple[Any, Any]]:
        for task in tasks:
            yield task[0], getattr(evaluator, method)(*task)

    return here


_RESTARTS = 3
_SHARED = 4  # tensors that many tasks have in common: the clean images, labels


def cluster_pool(address: str, packed: dict[str, Any]) -> Pool:
    """Evaluators on all devices of a cluster.

    Args:
        address: of the cluster, as Ray takes it; "local" starts Ray on this machine.
        packed: the first arguments of `Evaluator`.

    Raises:
        ConfigError: there is no such cluster.
    """
    import ray

    connect(None if address == "local" else address)
    found = ray.cluster_resources()
    gpus = int(found.get("GPU", 0))
    options: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
    options |= {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}
    remote = ray.remote(**options)(Evaluator)
    weights = {name: ray.put(item) for name, item in packed.items()}  # they travel once to each machine
    device, threads = ("cuda", None) if gpus else ("cpu", 1)
    count = gpus or max(1, int(found.get("CPU", 1)))
    actors = [remote.remote(**weights, device=device, threads=threads) for _ in range(count)]

    def spread(tasks: Iterable[tuple], method: str) -> Iterator[tuple[Any, Any]]:
        waiting, idle, running = iter(tasks), list(actors), {}
        put = _Shared(ray.put)
        while True:
            while idle and (task := next(waiting, None)) is not None:
                actor = idle.pop()
                running[getattr(actor, method).remote(*map(put, task))] = actor, task[0]
            if not running:
                return
            (done,), _ = ray.wait(list(running))
            actor, key = running.pop(done)
            try:
                yield key, ray.get(done)
            except ray.exceptions.RayError as error:
                raise SweepError(f"An evaluator was lost, finished cells are kept: {first_line(error)}") from None
            idle.append(actor)

    return spread


class _Shared:
    """Puts tensors into the object store, those of the last few tasks once only."""

    def __init__(self, put: Any) -> None:
        self._put = put
        self._known: OrderedDict[int, tuple[torch.Tensor, Any]] = OrderedDict()

    def __call__(self, item: Any) -> Any:
        if not isinstance(item, torch.Tensor):
            return item
        entry = self._known.pop(id(item), None) or (item, self._put(item.contiguous()))
        self._known[id(item)] = entry  # the newest stands last
        if len(self._known) > _SHARED:
            self._known.popitem(last=False)
        return entry[1]
