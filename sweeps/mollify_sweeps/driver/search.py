"""What `sweeps/search.py` does: settle the sweep, carry it out, report, and confirm what it found."""

from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from mollify_sweeps.comparison import confirmation
from mollify_sweeps.comparison.outlook import outlook
from mollify_sweeps.display.console import Terminal, styled
from mollify_sweeps.driver.carry_out import announce, carry_out
from mollify_sweeps.driver.publishing import Publication, per_image, read_confirmation, searching
from mollify_sweeps.plan import settle
from mollify_sweeps.plan.options import Search
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.storage.store import SWEEP
from mollify_sweeps.study.database import quiet_optuna
from mollify_sweeps.study.reading import kept, told_of
from mollify_sweeps.study.results import Results


def search(options: Search) -> int:
    """Runs a search, as `sweeps/search.py` is told to; returns the exit code.

    Raises:
        MollifyError: it cannot be run, or it broke.
    """
    return run(options, Terminal(stderr=False))[0]


def run(options: Search, console: Console) -> tuple[int, Sweep]:
    """The same, told on any console: (the exit code, the sweep)."""
    quiet_optuna()
    confirmation.check(options.confirm)
    dry_run = options.running.dry_run
    announce(console, options.running.resources)
    sweep = settle.search(options)
    announced = confirmation.announced(sweep, options.confirm)
    carried = carry_out(console, sweep, dry_run=dry_run, confirm=announced, page=searching(sweep))
    if carried.code is not None and not carried.failed:
        return carried.code, sweep
    assert carried.study is not None
    with Publication(carried.sweep, carried.study) as report:
        if report.build(console) is None or carried.failed:
            return 1, sweep
        return 0 if options.confirm.best is None else _confirm(console, options, report), sweep


def _confirm(console: Console, options: Search, report: Publication) -> int:
    """Trains what tells the methods from the other settings, with further seeds, and says what that shows."""
    results = Results(report.study)
    plan = confirmation.planned(report.sweep, results, options.confirm)
    if not plan.runs:
        console.print("\nThere is nothing to confirm: no trial of plain training, or none of a method, has completed.")
        return 0
    sweep, matters = confirmation.settle_again(report.sweep, plan, options), options.confirm.matters
    with kept(sweep.store, options.running.keeping.study_url) as (_, reading):
        earlier = None if reading.study is None else read_confirmation(reading.study, plan, matters, sweep.store)
    seen = per_image(report.sweep.store, results.anchors)
    console.print(f"\n{outlook(results, seen, plan, options.confirm, earlier)}", highlight=False, markup=False)
    keep_matters(sweep)
    carried = carry_out(console, sweep, dry_run=False, page=report.confirming(sweep, plan, matters))
    if carried.code is not None:
        return carried.code
    assert carried.study is not None
    found = read_confirmation(carried.study, plan, matters, sweep.store)
    report.add(found)
    console.print(styled("\nConfirmed with further seeds", "bold"))
    for text in [*confirmation.sentences(found), confirmation.note(found)]:
        console.print(text, highlight=False, markup=False)
    console.print(f"Report: {report.page}", soft_wrap=True, highlight=False)
    return 0


def keep_matters(sweep: Sweep) -> None:
    """Puts into the sweep.json of a confirmation which difference matters now, for those who look at it later."""
    known = told_of(sweep.store)
    if known is not None and known.matters != sweep.setup.description.matters:
        sweep.store.write(SWEEP, replace(known, matters=sweep.setup.description.matters).to_json())
