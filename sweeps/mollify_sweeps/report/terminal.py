"""How a sweep ends in the terminal."""

from __future__ import annotations

import optuna
from rich.console import Console
from rich.text import Text

from mollify_sweeps.display.console import table
from mollify_sweeps.display.text import NONE, UNVERIFIED, label, setting
from mollify_sweeps.report import words
from mollify_sweeps.study.ledger import Ledger
from mollify_sweeps.study.results import Results


def print_result(
    console: Console, study: Ledger | optuna.Study, *, report_uri: str, commands: list[tuple[str, str]]
) -> None:
    """Prints how a sweep ended: the answer, the best recipe, the top trials, and how to look closer.

    Args:
        console: where to.
        study: a sweep's study.
        report_uri: where the report lies.
        commands: (description, command) pairs.
    """
    results = Results(study)
    sweep, best = results.sweep, results.best
    if not sweep.verified:
        console.print(Text(UNVERIFIED, style="bold red"))
    console.rule(Text(f"{sweep.name}: {sweep.dataset}, {sweep.network}"))
    if results.leaders:
        console.print(table("Pareto front: trials that no other beats on all objectives", *words.front(results)))
        console.print(Text(words.trade_off(results)))
    if best is not None:
        columns = {n: results.effective(t) for n, t in results.compared.items() if n != "plain" or results.fair}
        names = words.union(columns.values())
        rows = [[name, *(setting(c[name]) if name in c else NONE for c in columns.values())] for name in names]
        on = f" for the {label(results.metric, unit=False)}" if results.leaders else ""
        console.print(table(f"Best recipe{on} (trial {best.number})", ["setting", *columns], rows))
        room = max(0, (console.width - 70) // 14)  # the rest of the parameters is in the report
        console.print(table("Best trials", *words.top_trials(results, list(sweep.space)[:room])))
        console.print(table(words.question(results), *words.comparison(results)))
    console.print(Text(f"\n{words.verdict(results)}"))
    if results.fair and best is not None:
        console.print(table("What each method was given", *words.efforts(results)))
        console.print(Text(words.unproven(results)))
    if best is not None:
        console.print(Text(words.caveat(results), style="dim"))
    for kind, failed in words.failed_trials(results).items():
        console.print(Text(f"Failed ({kind}): trial {words.numbers(failed)}", style="red"))
    for description, command in [("Report", report_uri), *commands]:
        console.print(Text.assemble((f"{description}: ", "bold"), command), soft_wrap=True)
