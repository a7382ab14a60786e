"""`reproduce.py --tune`: the learning rate of every run of a grid, tuned on validation images with one budget for all.

The papers train every run with one learning rate, which is not the best one for all of them. Here each run is trained
with the same multiples of its own, with a seed that is not measured; the best by validation is what is then measured.
They are runs of a sweep like all others, so a command that was killed goes on, and finds the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mollify_core import rng
from mollify_core.recipe import Recipe
from mollify_sweeps.plan import runs
from mollify_sweeps.plan.runs import Run
from mollify_sweeps.study.ledger import Ledger

FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0)
"""What the learning rate of each run is multiplied by."""


@dataclass(frozen=True)
class Tuned:
    """What was tried for one run.

    Attributes:
        values: learning rate -> the objective on validation images, less is better; NaN where it has no result. In the
            order of `FACTORS`.
        lr: the best of them; the run's own where none has a result.
    """

    values: dict[float, float]
    lr: float


def seed(first: int) -> int:
    """The seed that learning rates are tuned with: none of those from `first` on that are measured."""
    return rng.derive(first, "tuning the learning rate") % 2**31


def tried(base: Recipe, run: Run) -> dict[float, Run]:
    """Learning rate -> the run with it, and with the end of its decay multiplied alike."""
    optim = base.with_(run.settings).optim
    rates = {float(f"{optim.lr * factor:.12g}"): factor for factor in FACTORS}  # 0.03, not 0.030000000000000002
    return {
        lr: Run(f"{run.name}, lr {lr:g}", {**run.settings, "lr": lr, "final_lr": optim.final_lr * factor})
        for lr, factor in rates.items()
    }


def read(study: Ledger, base: Recipe, wanted: Sequence[Run]) -> dict[str, Tuned]:
    """Run -> what was tried for it, by a sweep of all `tried`."""
    completed, found = runs.completed(study), {}
    for run in wanted:
        values = {}
        for lr, one in tried(base, run).items():
            trials = completed.get(one.name, {})
            values[lr] = next((trial.values[0] for trial in trials.values()), math.nan)
        own = base.with_(run.settings).optim.lr
        known = {lr: value for lr, value in values.items() if not math.isnan(value)}
        found[run.name] = Tuned(values, min(known, key=lambda lr: known[lr], default=own))
    return found


def tuned(base: Recipe, wanted: Sequence[Run], found: dict[str, Tuned]) -> list[Run]:
    """The runs with their best learning rates."""
    return [Run(run.name, tried(base, run)[found[run.name].lr].settings) for run in wanted]
