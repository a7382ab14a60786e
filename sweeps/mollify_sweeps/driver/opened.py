"""A sweep as a value: what it says, from Python. Nothing is printed, and nothing of it changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mollify_core.errors import ConfigError
from mollify_core.foreign import shown
from mollify_core.recipe import Recipe
from mollify_sweeps.report import build, words
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study.database import answers, quiet_optuna, study_errors
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.reading import kept
from mollify_sweeps.study.results import Results

if TYPE_CHECKING:  # slow to import
    import pandas as pd


@dataclass(frozen=True)
class OpenSweep:
    """A sweep as it was when it was opened, also while it runs.

    Attributes:
        description: what it searches, on which data.
        results: its trials and how they compare.
    """

    description: Description
    results: Results

    @property
    def name(self) -> str:
        """Of the sweep."""
        return self.description.name

    @property
    def question(self) -> str:
        """What it asks."""
        return words.question(self.results)

    @property
    def answer(self) -> str:
        """What its trials say to that so far, in sentences; a confirmation says more."""
        return words.verdict(self.results)

    @property
    def best_recipe(self) -> Recipe | None:
        """Of the best completed trial; None where none has completed."""
        best = self.results.best
        return None if best is None else Recipe.from_dict(best.user_attrs["recipe"])

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial, as in trials.parquet: state, method, parameters, settings, metrics."""
        return build.trials_table(self.results).to_pandas()

    @property
    def epochs(self) -> pd.DataFrame:
        """One row an epoch of a trial: trial, epoch (from 1), what the objectives were then, seconds."""
        import pandas as pd

        columns = ("trial", "epoch", *self.description.objectives, "seconds")
        rows = [
            (trial.number, epoch, *told["values"], told.get("seconds"))
            for trial in self.results.trials
            for epoch, told in enumerate(answers(trial), 1)
        ]
        return pd.DataFrame(rows, columns=list(columns))


def open_sweep(where: str | Path, *, study_url: str | None = None) -> OpenSweep:
    """Reads a sweep.

    Args:
        where: its folder, or s3://bucket/prefix/name.
        study_url: of its study, when that is a database with a password.

    Raises:
        ConfigError: no sweep is there, or its study has not begun.
        MollifyError: it cannot be read; one sentence.
    """
    quiet_optuna()
    store = Store(str(where))
    with study_errors(), kept(store, study_url) as (description, reading):
        if description is None or reading.study is None:
            raise ConfigError(f"Expected a sweep with a study in {shown(str(where), 200)}, but found none")
        return OpenSweep(description, Results(reading.study))
