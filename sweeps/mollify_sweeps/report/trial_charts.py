"""The figures of report.html that show a study's trials; their data is that of `views`, as in the PNGs.

Each function takes the results of a sweep and returns figures, none where there are too few trials to show anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mollify_sweeps.display.charts import bars, legend, parallel, plot
from mollify_sweeps.display.page import Html, figure, figures, paragraph
from mollify_sweeps.display.text import label
from mollify_sweeps.report import views
from mollify_sweeps.report.views import Picture
from mollify_sweeps.study.results import Results

_SMALL = (172, 150)


def pictures(results: Results, shown: Sequence[Picture]) -> list[Html]:
    """Pictures with their notes, side by side, and what their marks mean."""
    drawn = [figure(_plot(one, one.labels), one.note) for one in shown]
    return [figures(*drawn), legend(views.legend(results, *shown).items())] if drawn else []


def expected(results: Results) -> list[Html]:
    """The best that each method's search expects after so many trials, or epochs."""
    shown = views.expected(results)
    if not shown:
        return []
    text = (
        "What the best of k trials of a method is expected to be, with 5 and 95 % quantiles: whether one was better, "
        "or only tried more often. Exact for random search; of a sampler that learns it describes this search. Pruned "
        "trials count as the worst that finished."
    )
    drawn = [figure(_plot(one, one.labels), one.name) for one in shown]
    return [figures(*drawn), legend((views.methods(results) | views.beyond(*shown)).items()), paragraph(text, "note")]


def importances(results: Results) -> list[Html]:
    """The share of each searched parameter in the variance of the ranks."""
    if not results.importances:
        return []
    rows = [(name, 100 * share) for name, share in results.importances.items()]
    chart = bars("Importance of the searched parameters", rows, "share of the variance of the ranks (%)")
    note = f"fANOVA on the ranks of the trials in {label(results.metric, unit=False)}; a rough guide."
    return [figures(figure(chart, note))]


def slices(results: Results) -> list[Html]:
    """The first objective over each searched parameter by itself."""
    shown = views.slices(results)
    drawn = [figure(_plot(one, ("", one.labels[0]), size=_SMALL)) for one in shown]
    return [figures(*drawn, kind="small"), legend(views.legend(results, *shown).items())] if drawn else []


def coordinates(results: Results) -> list[Html]:
    """Parallel coordinates over the searched parameters."""
    view = views.coordinates(results)
    if view is None:
        return []
    chart = parallel("Parameters of all trials", view.axes, view.lines)
    note = f"A line is a trial; the stronger, the lower its {label(view.metric, unit=False)}."
    return [figure(chart, note, wide=True), legend(views.legend(results, view).items())]


def _plot(one: Picture, labels: tuple[str, str], **options: Any) -> Html:
    return plot(one.name, one.x, one.y, labels=labels, lines=one.lines, marks=one.marks, **options)
