"""What is asked between steps: whether a loss is no number, and whether to stop. All workers get the same answer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mollify_core.batch import times
from mollify_core.errors import NonFiniteLossError
from mollify_core.recipe import Recipe
from mollify_core.steps import Steps
from mollify_core.worker import Worker

Stop = Callable[[], bool]
_EVERY = 50  # steps
_AGREE_EVERY = 10  # the same of several workers, of which each may be told to stop


class Looks:
    """Looks at a training from time to time. On a GPU a look is read at the next one, so that no step waits for it.

    Args:
        worker: this process among its peers.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker, self._every = worker, _EVERY if worker.world == 1 else _AGREE_EVERY
        self._asked: Callable[[], Tensor] | None = None

    def after(self, step: int, losses: Tensor, stop: Stop | None) -> tuple[bool, bool]:
        """(whether a loss of any worker is known to be NaN or infinite, whether to stop after this step).

        Args:
            step: index in the epoch.
            losses: (steps,) of this worker, on its device; 0 of those to come.
            stop: whether this worker is to; one alone asks after each step.
        """
        due, alone = step % self._every == 0, self._worker.world == 1
        stops = stop is not None and (due or alone) and stop()
        if not due or (alone and stops):
            return False, stops
        bad = torch.isfinite(losses).logical_not_().any().float()
        asked: Callable[[], Tensor] | None = self._worker.sum_later(torch.stack([bad, torch.full_like(bad, stops)]))
        if losses.is_cuda:
            asked, self._asked = self._asked, asked
        if asked is None:
            return False, False
        bad_losses, stopping = asked().tolist()
        return bad_losses > 0, stopping > 0


def check_finite(
    losses: Tensor, recipe: Recipe, epoch: int, steps: Steps, image_shape: tuple[int, int, int], worker: Worker
) -> None:
    """Raises a NonFiniteLossError on every worker, of what the first of them has met.

    Args:
        losses: (steps,) sums of this worker, on its device; 0 of those to come.
        recipe, epoch, steps, worker: whose they are.
        image_shape: (channels, height, width).
    """
    bad = (~torch.isfinite(losses)).nonzero()
    met = torch.zeros(worker.world, 2, dtype=torch.float64)
    first = int(bad[0]) if len(bad) else len(steps)
    met[worker.rank] = torch.tensor([first, float(losses[first]) if len(bad) else 0.0])
    met = worker.sum(met)
    rank = int(met[:, 0].argmin())
    step, loss = int(met[rank, 0]), float(met[rank, 1])
    if step == len(steps):
        return
    key = (recipe.seed, epoch, step, steps.drawing(step, rank))
    drawn = times(len(steps.share(step, rank)) * recipe.mollify.repeat, image_shape[-1], recipe, *key)
    told = f"t from {min(drawn):.3g} to {max(drawn):.3g}" if drawn else "no image degraded"
    raise NonFiniteLossError(
        f"Expected a finite loss, but got {loss} in epoch {epoch}, step {step} ({told})",
        epoch=epoch,
        step=step,
        times=drawn,
    )
