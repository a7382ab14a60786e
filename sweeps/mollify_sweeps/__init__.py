"""The service: searches of the settings of a method, on Ray, and what they find.

A room for every concept; ARCHITECTURE.md has them on one page. The programs turn words into typed options and make one
call each. From Python the same: `search`, `dry_run`, `evaluate`, `open_sweep`, and their options.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mollify_core.datasets.options import DataOptions
    from mollify_sweeps.cluster.workers import Workers
    from mollify_sweeps.driver.called import dry_run, evaluate, search
    from mollify_sweeps.driver.opened import OpenSweep, open_sweep
    from mollify_sweeps.evaluation.evaluate import Evaluated
    from mollify_sweeps.evaluation.options import Evaluation, Place, TestOptions
    from mollify_sweeps.plan.options import Confirm, Following, Keeping, RecipeOptions, Resources, Running, Search
    from mollify_sweeps.tracking.callback import Progress

__all__ = [
    "Confirm",
    "DataOptions",
    "Evaluated",
    "Evaluation",
    "Following",
    "Keeping",
    "OpenSweep",
    "Place",
    "Progress",
    "RecipeOptions",
    "Resources",
    "Running",
    "Search",
    "TestOptions",
    "Workers",
    "dry_run",
    "evaluate",
    "open_sweep",
    "search",
]

_FROM = {
    "mollify_core.datasets.options": ("DataOptions",),
    "mollify_sweeps.cluster.workers": ("Workers",),
    "mollify_sweeps.driver.called": ("dry_run", "evaluate", "search"),
    "mollify_sweeps.driver.opened": ("OpenSweep", "open_sweep"),
    "mollify_sweeps.evaluation.evaluate": ("Evaluated",),
    "mollify_sweeps.evaluation.options": ("Evaluation", "Place", "TestOptions"),
    "mollify_sweeps.plan.options": (
        *("Confirm", "Following", "Keeping", "RecipeOptions", "Resources", "Running", "Search"),
    ),
    "mollify_sweeps.tracking.callback": ("Progress",),
}
_MODULES = {name: module for module, names in _FROM.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)  # slow to import, so not before it is asked for
