"""The place of one training process among its peers: rank, world size, device, and the few collectives needed."""

from __future__ import annotations

from collections.abc import Iterable
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
