"""What a sweep settles about its study before Ray starts."""

from __future__ import annotations

from dataclasses import dataclass

from mollify_core.recipe import Recipe
from mollify_sweeps.study.budget import UNBOUNDED
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.ledger import study_name
from mollify_sweeps.study.methods import Search
from mollify_sweeps.study.space import Reference


@dataclass(frozen=True)
class Setup:
    """What the study needs to know about its sweep.

    Attributes:
        location: where the study is kept.
        description: what the sweep is.
        base: the recipe that every trial varies.
        searches: what is searched, method by method; a single one where the sweep has a single study.
        trials: how many trials there shall be in all.
        grid_points: values of each range in a grid search.
        max_failures: end the sweep after so many trials failed by a bug or by their device.
        budget: wall time in seconds; None sets no bound.
        seconds: estimated training time of a trial that is not pruned, or None.
    """

    location: Location
    description: Description
    base: Recipe
    searches: tuple[Search, ...]
    trials: int
    grid_points: int = 3
    max_failures: int = 5
    budget: float | None = None
    seconds: float | None = None

    @property
    def name(self) -> str:
        """Of the sweep and of its study."""
        return self.description.name

    @property
    def total(self) -> int | None:
        """How many trials there shall be in all; None where only the budget says when it is enough."""
        return None if self.trials >= UNBOUNDED else self.trials

    @property
    def first_study(self) -> str:
        """The name of the study that is looked at first: of the first method that is not plain training."""
        return study_name(self.name, self.searches[-1 if len(self.searches) == 1 else 1].name)

    @property
    def searched(self) -> list[str]:
        """The names of all that is searched; none where recipes are given."""
        return list(dict.fromkeys(name for search in self.searches for name in search.space.searched))

    @property
    def references(self) -> list[Reference]:
        """Trials that are run whatever is found."""
        return [reference for search in self.searches for reference in search.references]
