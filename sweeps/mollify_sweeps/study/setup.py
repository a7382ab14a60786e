"""What a sweep settles about its study before Ray starts."""

from __future__ import annotations

from dataclasses import dataclass

from mollify_core.recipe import Recipe
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.space import Reference, Space


@dataclass(frozen=True)
class Setup:
    """What the study needs to know about its sweep.

    Attributes:
        location: where the study is kept.
        description: what the sweep is.
        base: the recipe that every trial varies.
        space: what is searched.
        references: trials that are run whatever the search finds, the first ones.
        trials: how many trials there shall be in all.
        grid_points: values of each range in a grid search.
        max_failures: end the sweep after so many trials failed by a bug.
    """

    location: Location
    description: Description
    base: Recipe
    space: Space
    references: tuple[Reference, ...]
    trials: int
    grid_points: int = 3
    max_failures: int = 5

    @property
    def name(self) -> str:
        """Of the sweep and of its study."""
        return self.description.name
