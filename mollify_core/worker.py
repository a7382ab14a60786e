"""The place of one training process among its peers: rank, world size, device, and the few collectives needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Worker:
    """One of `world` processes that train one model together; the process group is made by whoever starts them.

    Attributes:
        rank: this process, in [0, world).
        world: number of processes; 1 needs no process group.
        device: where the network and the images live.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def sum(self, values: Tensor) -> Tensor:
        """The sum of CPU tensor `values` over all processes, on the CPU."""
        if self.world == 1:
            return values
        values = values.to(self.device)
        dist.all_reduce(values)
        return values.cpu()

    def sum_later(self, values: Tensor) -> Callable[[], Tensor]:
        """Begins the sum of a tensor on this worker's device over all processes, in place.

        Returns:
            What gives it on the CPU, and waits for the device as far as the sum, not for what it is given to do later.
        """
        if self.world > 1:
            dist.all_reduce(values)
        if not values.is_cuda:
            return lambda: values
        kept = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
        done = torch.cuda.Event()
        done.record(torch.cuda.current_stream(values.device))

        def summed() -> Tensor:
            done.synchronize()
            return kept

        return summed

    def spread(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites tensors with those of rank 0."""
        if self.world > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def agree(self, flag: bool) -> bool:
        """Rank 0's flag, known to all."""
        return bool(self.sum(torch.tensor(float(flag and self.rank == 0))).item())

    def share(self, total: int) -> range:
        """The rows of `total` that belong to this process: every world-th, from `rank`."""
        return range(self.rank, total, self.world)
