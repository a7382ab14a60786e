"""A confirmation as a section of the sweep's page, and as confirmation.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mollify_core.measure.contrast import Contrast
from mollify_sweeps.comparison.confirmation import (
    SUFFIX,
    Confirmation,
    Told,
    estimates,
    interval,
    means,
    note,
    parts,
    sentences,
)
from mollify_sweeps.display.charts import difference_row, interval_chart
from mollify_sweeps.display.page import Html, Section, bullets, details, figure, figures, paragraph, table
from mollify_sweeps.display.text import UNVERIFIED, label, markdown

_MEANS = "On the images that choose, as the search's values. In brackets: 95 % intervals over seeds (Student's t)."


def summary(confirmation: Confirmation) -> str:
    """The text of confirmation.md."""
    sweep = confirmation.results.sweep
    lines = [] if sweep.verified else [f"> **{UNVERIFIED}.**", ""]
    lines += [f"# Confirmation of {sweep.name.removesuffix(SUFFIX)}", ""]
    lines += [f"- {text}" for text in sentences(confirmation)]
    for told in confirmation.told:
        if told.crossed:
            lines += ["", f"## What {told.cells.words} does", "", markdown(*_rows(told, estimates))]
        if told.parts:
            lines += ["", f"## Which part of {told.cells.words} does it", "", markdown(*_rows(told, parts))]
    lines += ["", "## Means over seeds", "", markdown(*means(confirmation)), "", _MEANS, "", note(confirmation), ""]
    return "\n".join(lines)


def on_page(confirmation: Confirmation, trainings: int = 0) -> dict[str, Any]:
    """What `page.page` takes to show a confirmation as far as it has gone.

    The first verdict is the page's answer as soon as there is one.

    Args:
        confirmation: may still run.
        trainings: how many it shall have in all, as far as that is known.
    """
    trials = confirmation.results.trials
    ended, total = sum(trial.state.is_finished() for trial in trials), max(trainings, len(trials))
    told = sentences(confirmation)
    answer = told.pop(0) if any(one.claim is not None for one in confirmation.told) else ""
    return {
        "extra": [section(confirmation, told)],
        "answer": answer,
        "warning": f"Unfinished: {ended} of {total} trainings of the confirmation have ended." * (ended < total),
    }


def section(confirmation: Confirmation, said: Sequence[str]) -> Section:
    """The same, as a section of the page that says these sentences first."""
    metric = confirmation.metric
    made: list[Html] = [bullets(said)] if said else []
    for told in confirmation.told:
        charts = []
        if metric in told.crossed:
            what = f"What {told.cells.words} does: change in {label(metric, difference=True)}"
            charts.append(_chart(what, metric, estimates(told, metric)))
        if metric in told.parts:
            what = f"Which part of {told.cells.words} does it: change in {label(metric, difference=True)}"
            charts.append(_chart(what, metric, parts(told, metric)))
        made += [figures(*charts)] if charts else []
    made.append(paragraph(note(confirmation), "note"))
    for told in confirmation.told:
        if told.crossed:
            made.append(details(f"What {told.cells.words} does, in numbers", table(*_rows(told, estimates))))
        if told.parts:
            made.append(details(f"The parts of {told.cells.words}, in numbers", table(*_rows(told, parts))))
    made.append(details("Every recipe with every seed", table(*means(confirmation), _MEANS)))
    return Section("What the method itself does, with further seeds", made)


def _chart(name: str, metric: str, rows: Mapping[str, Contrast]) -> Html:
    drawn = [difference_row(words, metric, found, f"s{i}") for i, (words, found) in enumerate(rows.items())]
    return figure(interval_chart(name, drawn, label(metric, difference=True)), f"{name}; left of the line is better.")


def _rows(told: Told, of: Callable[[Told, str], Mapping[str, Contrast]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the estimates, or the parts, of a method on every metric."""
    metrics = list(told.crossed if of is estimates else told.parts)
    found = {metric: of(told, metric) for metric in metrics}
    rows = [[name, *(interval(m, found[m][name], "+") for m in metrics)] for name in found[metrics[0]]]
    return ["change (95 % interval)", *(label(m, difference=True) for m in metrics)], rows
