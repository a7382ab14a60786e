"""What `sweeps/search.py` does: settle the sweep, carry it out, report, and confirm what it found."""

from __future__ import annotations

from rich.console import Console

from mollify_sweeps.comparison import confirmation
from mollify_sweeps.driver.carry_out import carry_out
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
    carried = carry_out(console, settle.search(options), dry_run=dry_run, confirm=options.confirm)
    if carried.code is not None:
        return carried.code
    assert carried.study is not None
    with Publication(carried.sweep, carried.study) as report:
        if report.build(console) is None:
            return 1
        return _confirm(console, options, report) if options.confirm.best else 0


def _confirm(console: Console, options: Search, report: Publication) -> int:
    """Trains the best recipes and the references with further seeds, and says what that shows."""
    second = confirmation.settle_again(report.sweep, report.study, options)
    carried = carry_out(console, second, dry_run=False)
    if carried.code is not None:
        return carried.code
    assert carried.study is not None
    confirmed = confirmation.read(carried.study, per_image(carried.sweep.store, Results(carried.study).completed))
    report.add(confirmation.section(confirmed), "confirmation.md", confirmation.summary(confirmed))
    console.print("\n[bold]Confirmed with further seeds[/]")
    for text in [*confirmation.verdicts(confirmed), confirmation.note(confirmed)]:
        console.print(text, highlight=False, markup=False)
    console.print(f"Report: {report.page}", soft_wrap=True, highlight=False)
    return 0
