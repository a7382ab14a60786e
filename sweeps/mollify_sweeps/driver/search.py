"""What `sweeps/search.py` does: settle the sweep, carry it out, report, and confirm what it found."""

from __future__ import annotations

from rich.console import Console

from mollify_sweeps.comparison import confirmation, confirmed
from mollify_sweeps.driver.carry_out import announce, carry_out
from mollify_sweeps.driver.publishing import Publication, per_image
from mollify_sweeps.plan import settle
from mollify_sweeps.plan.options import Search
from mollify_sweeps.study.database import quiet_optuna
from mollify_sweeps.study.results import Results


def search(options: Search) -> int:
    """Runs a search; returns the exit code.

    Raises:
        MollifyError: it cannot be run, or it broke.
    """
    console = Console(stderr=False)
    quiet_optuna()
    confirmation.check(options.confirm)
    dry_run = options.running.dry_run
    announce(console, options.running.resources)
    sweep = settle.search(options)
    carried = carry_out(console, sweep, dry_run=dry_run, confirm=confirmation.announced(sweep, options.confirm))
    if carried.code is not None:
        return carried.code
    assert carried.study is not None
    with Publication(carried.sweep, carried.study) as report:
        if report.build(console) is None:
            return 1
        return 0 if options.confirm.best is None else _confirm(console, options, report)


def _confirm(console: Console, options: Search, report: Publication) -> int:
    """Trains what tells the methods from the other settings, with further seeds, and says what that shows."""
    results = Results(report.study)
    plan = confirmation.planned(report.sweep, results, options.confirm)
    if not plan.runs:
        console.print("\nThere is nothing to confirm: no trial of plain training, or none of a method, has completed.")
        return 0
    seen = per_image(report.sweep.store, results.compared.values())
    console.print(f"\n{confirmation.outlook(results, seen, options.confirm)}", highlight=False, markup=False)
    carried = carry_out(console, confirmation.settle_again(report.sweep, plan, options), dry_run=False)
    if carried.code is not None:
        return carried.code
    assert carried.study is not None
    measured = per_image(carried.sweep.store, Results(carried.study).completed)
    found = confirmation.read(carried.study, plan, options.confirm, measured)
    told = confirmation.verdicts(found)
    report.add(confirmed.section(found), "confirmation.md", confirmed.summary(found), answer=told[0])
    console.print("\n[bold]Confirmed with further seeds[/]")
    for text in [*told, *confirmation.advice(found), confirmation.note(found)]:
        console.print(text, highlight=False, markup=False)
    console.print(f"Report: {report.page}", soft_wrap=True, highlight=False)
    return 0
