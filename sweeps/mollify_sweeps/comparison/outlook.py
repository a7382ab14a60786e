"""What a confirmation can tell, before it is trained: from seeds that are there, or from the search's first trials."""

from __future__ import annotations

import math

import numpy as np

from mollify_core.measure.power import DEFAULT_SEEDS, detectable
from mollify_core.measure.statistics import by_group
from mollify_core.measure.validation import GROUP
from mollify_sweeps.comparison.confirmation import Confirmation, metric_of, seeds_of
from mollify_sweeps.comparison.crossing import Plan
from mollify_sweeps.display.text import label, points, shown
from mollify_sweeps.plan.options import Confirm
from mollify_sweeps.report.words import PerImage
from mollify_sweeps.study.results import Results

_UNKNOWN = (
    "How much seeds differ is known from nothing, since each recipe was trained with one: "
    f"{DEFAULT_SEEDS} seeds are proposed."
)


def outlook(
    results: Results, per_image: PerImage, plan: Plan, confirm: Confirm, earlier: Confirmation | None = None
) -> str:
    """What can be told with so many seeds, as far as it is known before they are trained.

    Args:
        results: of the search.
        per_image: of its `Results.anchors`, as of `build.build`.
        plan, confirm: what is trained.
        earlier: what seeds say that an earlier command has trained.
    """
    seeds, metric = seeds_of(confirm), metric_of(results) if earlier is None else earlier.metric
    claims = sum(1 + bool(cells.parts) for cells in plan.cells)
    told = () if earlier is None else earlier.told
    known = [one.crossed[metric].method for one in told if metric in one.crossed]
    if known and known[0].seed_variance > 0:
        spread, images = math.sqrt(known[0].seed_variance), known[0].images
        least = detectable(spread, math.sqrt(known[0].image_variance), seeds, images, claims)
        since = f"as the {known[0].count} seeds that are there differ"
        rest = ""
    else:
        metric = metric_of(results)
        values = [per_image.get(trial.number, {}).get(metric) for trial in results.anchors]
        if len(values) < 2 or any(value is None for value in values):
            return f"What {seeds} seeds can tell comes from nothing that was measured. {_UNKNOWN}"
        difference = np.diff(np.array(values, dtype=np.float64), axis=0)[0]
        groups = per_image[results.anchors[0].number].get(GROUP)
        difference = difference if groups is None else by_group(difference, groups)
        images, least = difference.size, detectable(0.0, float(difference.std(ddof=1)), seeds, difference.size, claims)
        since = "if no seed differed from another, and images as they do between the first trials with default settings"
        rest = f" {_UNKNOWN}"
    return (
        f"{seeds} seeds and {images:,} judging {results.sweep.units}: {since}, an effect on the "
        f"{label(metric, unit=False)} of {shown(metric, least)}{points(metric)} would be told in four of five "
        f"confirmations.{rest}"
    )
