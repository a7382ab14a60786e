"""Sweeps that search nothing: recipes that are given, each trained with several seeds.

They run on the same engine as a search, as a study of references only, so they stop, continue and are looked at alike.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from mollify_core.errors import ConfigError, DataError
from mollify_core.foreign import shown
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.study.ledger import Ledger
from mollify_sweeps.study.methods import Search
from mollify_sweeps.study.space import Reference, Space

SEED = ", seed "
"""Between the name of a run and its seed, in the name of its trial."""


@dataclass(frozen=True)
class Run:
    """A recipe that is trained with several seeds.

    Attributes:
        name: what it is called in tables.
        settings: what differs from the base recipe.
    """

    name: str
    settings: dict[str, Any]


def search(runs: Sequence[Run], seeds: Sequence[int]) -> Search:
    """A search of nothing: a trial for each run and seed, all runs of one seed before those of the next.

    Raises:
        ConfigError: two runs have one name.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ConfigError(f"Expected runs of different names, but got {max(names, key=names.count)!r} twice")
    made = (Reference(f"{r.name}{SEED}{seed}", {}, {**r.settings, "seed": seed}) for seed in seeds for r in runs)
    return Search("", {}, Space({}, {}), tuple(made))


def widened(sweep: Sweep, study: Ledger | None) -> Sweep:
    """A sweep of runs that also counts those which an earlier command asked for; they were promised too."""
    if sweep.setup.searched:
        return sweep
    asked = {reference.name for reference in sweep.setup.references}
    known = set() if study is None else {t.user_attrs["reference"] for t in study.get_trials()}
    return dataclasses.replace(sweep, setup=dataclasses.replace(sweep.setup, trials=len(asked | known)))


def completed(study: Ledger) -> dict[str, dict[int, FrozenTrial]]:
    """Run -> seed -> its completed trial."""
    found: dict[str, dict[int, FrozenTrial]] = {}
    for trial in study.get_trials((TrialState.COMPLETE,)):
        name, _, seed = trial.user_attrs["reference"].rpartition(SEED)
        if not re.fullmatch(r"[0-9]{1,19}", seed):
            raise DataError(f"Expected trial {trial.number} to be a run and its seed, but got {shown(seed)}")
        found.setdefault(name, {})[int(seed)] = trial
    return found
