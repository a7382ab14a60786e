"""What a sweep settles about its study before Ray starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mollify_core.recipe import Recipe
from sweeps.space import Reference, Space


@dataclass(frozen=True)
class Setup:
    """What the study needs to know about its sweep.

    Attributes:
        url: storage of the study, as Optuna takes it.
        name: name of the sweep and of the study.
        sweep: the content of sweep.json.
        base: the recipe that every trial varies.
        space: what is searched.
        references: trials 0 and 1.
        trials: how many trials there shall be in all.
        grid_points: values of each range in a grid search.
        max_failures: end the sweep after so many trials failed by a bug.
    """

    url: str
    name: str
    sweep: dict[str, Any]
    base: Recipe
    space: Space
    references: tuple[Reference, ...]
    trials: int
    grid_points: int = 3
    max_failures: int = 5
