"""Carries out a settled sweep: finds its study, shows the plan, and runs what is left of it under a claim."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from rich.console import Console

from mollify_core.errors import DataError
from mollify_sweeps.display.console import styled
from mollify_sweeps.driver.publishing import RunningPage
from mollify_sweeps.plan import runs
from mollify_sweeps.plan.options import Resources
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.plan.table import show_plan
from mollify_sweeps.study import budget, claim, snapshots
from mollify_sweeps.study.database import check_same, finished
from mollify_sweeps.study.description import described
from mollify_sweeps.study.ledger import Ledger


@dataclass(frozen=True)
class Carried:
    """How far a sweep was carried.

    Attributes:
        sweep: as it was carried out.
        study: its study; None where there is none yet.
        code: the exit code to end with; None when the sweep has all it needs.
    """

    sweep: Sweep
    study: Ledger | None
    code: int | None

    @property
    def failed(self) -> bool:
        """Whether too many of its trials failed: it has something to report, but nothing may build on it."""
        return self.code == 1


def announce(console: Console, resources: Resources) -> None:
    """Says what takes long before the plan can be shown."""
    if resources.pack:
        console.print("Measuring how many trials train the most images together, about half a minute …")


def carry_out(
    console: Console, sweep: Sweep, *, dry_run: bool, confirm: str = "", page: RunningPage | None = None
) -> Carried:
    """Shows the plan of a sweep and runs what is left of it.

    Args:
        console: where to.
        sweep: what is run.
        dry_run: only show the plan.
        confirm: what comes after it, in words, for the plan.
        page: is kept new while it runs.

    Raises:
        MollifyError: it cannot be run, or it broke.
    """
    sweep, study = _existing(console, sweep, lambda: claim.locked(sweep.local))
    sweep = runs.widened(sweep, study)
    left, spent = sweep.setup.trials - finished(study), budget.spent(study, sweep.setup.budget)
    show_plan(console, sweep, study, confirm)
    if dry_run:
        return Carried(sweep, study, 0)
    if study is not None and (left <= 0 or spent):
        why = "its budget is spent" if spent else f"it has all its {sweep.setup.trials} trials"
        console.print(f"\nSweep {sweep.name} is finished: {why}.")
        return Carried(sweep, study, None)
    sweep.store.check_writable()
    sweep.local.mkdir(parents=True, exist_ok=True)
    with claim.locked(sweep.local):
        location = sweep.setup.location
        if location.file is None:  # its driver signs in it
            study = study or location.make(sweep.setup.description)
        places = claim.boards(sweep.store, study if location.file is None else None)
        say = functools.partial(console.print, highlight=False, soft_wrap=True)
        with claim.signed(places, sweep.local, say) as ours:
            if location.file is not None and places:  # what another driver has done until it signed off
                sweep, study = _existing(console, sweep, nullcontext)
            study = study or location.make(sweep.setup.description)
            from mollify_sweeps.driver.tune import Stopped, execute  # Ray is slow to import

            try:
                execute(sweep, console, ours, page)
            except Stopped as stop:
                console.print(styled(f"\n{stop}", "yellow", " Nothing is lost; continue with the same command:"))
                # To be copied: neither broken at the terminal's edge nor read as markup.
                console.print(f"  {sweep.command}", highlight=False, markup=False, soft_wrap=True)
                return Carried(sweep, study, stop.code)
    return Carried(sweep, study, None)


def _existing(
    console: Console, sweep: Sweep, hold: Callable[[], AbstractContextManager]
) -> tuple[Sweep, Ledger | None]:
    """The study of this sweep, when there is one; its snapshot on storage takes the place of an older or lost one.

    Args:
        console: hears of that.
        sweep: the sweep.
        hold: holds the sweep meanwhile.
    """
    location, own = sweep.setup.location, sweep.setup.description
    restored = snapshots.restore(sweep.store, location, sweep.name, hold)
    if restored:
        console.print(styled("!", "yellow", f" {restored}"), soft_wrap=True)
    if location.file is not None and not location.file.exists():
        return sweep, None
    try:
        study = location.load(sweep.name)
        if study is None:
            return sweep, None
        check_same(study, own)
    except DataError as error:
        raise DataError(f"Cannot go on with the study {location.shown}: {error}") from None
    known = described(study)
    if known is not None and known.created is not None:  # trackers know it by that
        sweep = replace(sweep, setup=replace(sweep.setup, description=replace(own, created=known.created)))
    return sweep, study
