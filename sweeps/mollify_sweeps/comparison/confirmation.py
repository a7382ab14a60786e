"""`--confirm`: what each method of a search does, told with seeds and images that the search has not used.

The best of a search is the best on its own images with one seed, so part of its advantage is luck, and part of it the
other settings, which another search found. `crossing` says which recipes take these apart; here they are trained as a
sweep of their own, and put into words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from optuna.trial import FrozenTrial

from mollify_core import rng
from mollify_core.amount import IMAGES, mean_strength
from mollify_core.errors import ConfigError
from mollify_core.measure import comparison, contrast, statistics
from mollify_core.measure.bootstrap import ece_cells
from mollify_core.measure.comparison import Claim, Crossed, Parts
from mollify_core.measure.power import DEFAULT_SEEDS
from mollify_core.measure.statistics import Mean
from mollify_core.measure.validation import BY_IMAGE, GROUP
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe
from mollify_core.training_data import training_data
from mollify_sweeps.comparison import crossing
from mollify_sweeps.comparison.crossing import Cells, Plan
from mollify_sweeps.display.text import label, points, shown
from mollify_sweeps.plan import runs, settle
from mollify_sweeps.plan.options import Confirm, Search
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.report.words import METRICS, PerImage
from mollify_sweeps.study.ledger import Ledger
from mollify_sweeps.study.results import Results

SUFFIX = "-confirm"
MEASURED = ("corrupted_nll", "corrupted_error", "clean_nll", "clean_error", "corrupted_ece", "clean_ece")
"""Metrics that a confirmation has intervals of, beside its objective."""


def check(confirm: Confirm) -> None:
    """Raises a ConfigError when the options of a confirmation are wrong."""
    if confirm.best is not None and confirm.best < 0:
        raise ConfigError(f"Expected --confirm to be at least 0, but got {confirm.best}")
    if confirm.seeds is not None and confirm.seeds < 2:
        raise ConfigError(
            f"Expected --seeds to be at least 2, but got {confirm.seeds}: one seed says nothing of chance"
        )
    if confirm.best is None and confirm.parts:
        raise ConfigError("Expected --confirm with --parts, but got --parts alone")


def seeds_of(confirm: Confirm) -> int:
    """How many seeds each recipe is trained with."""
    return DEFAULT_SEEDS if confirm.seeds is None else confirm.seeds


def announced(sweep: Sweep, confirm: Confirm) -> str:
    """What comes after a search, for its plan."""
    if confirm.best is None:
        return ""
    count, seeds = crossing.most(confirm, list(sweep.setup.description.methods)), seeds_of(confirm)
    proposed = " (proposed; --seeds says otherwise)" if confirm.seeds is None else ""
    return f"then at most {count} recipes with {seeds} seeds each{proposed}: at most {count * seeds} trainings more"


def planned(sweep: Sweep, results: Results, confirm: Confirm) -> Plan:
    """What a confirmation of a search trains."""
    return crossing.plan(results, sweep.base, confirm, partial(_mean_strength, sweep))


def settle_again(sweep: Sweep, plan: Plan, options: Search) -> Sweep:
    """The sweep `<name>-confirm`: the planned recipes, with seeds that the search has not seen."""
    first = sweep.base.seed + 1
    search = runs.search(plan.runs, range(first, first + seeds_of(options.confirm)))
    settled = settle.sweep(
        options.running,
        sweep.base,
        sweep.prepared.spec,
        objectives=sweep.setup.description.objectives,
        searches=(search,),
        trials=len(search.references),
        name=sweep.name + SUFFIX,
    )
    description = replace(settled.setup.description, matters=options.confirm.matters)
    return replace(settled, setup=replace(settled.setup, description=description))


def _mean_strength(sweep: Sweep, recipe: Recipe) -> float:
    data = training_data(recipe, sweep.prepared, final=False)
    normalise = Normalise.make(recipe.data.scaling, data.mean, data.std, "cpu")
    return mean_strength(recipe, data.sample(IMAGES).images, data.classes, normalise)


def metric_of(results: Results) -> str:
    """The first objective, or the NLL of the same images where that has no value per image."""
    return results.metric if results.metric in BY_IMAGE else f"{results.metric.partition('_')[0]}_nll"


@dataclass(frozen=True)
class Told:
    """What one method does.

    Attributes:
        cells: the runs that tell it.
        crossed: metric -> the estimates; without the metrics whose values are missing.
        parts: the same of its parts.
        claim: what it does to the metric that is judged by, in a word; None where values are missing.
        coupling: the same of the coupling.
    """

    cells: Cells
    crossed: dict[str, Crossed]
    parts: dict[str, Parts]
    claim: Claim | None
    coupling: Claim | None


@dataclass(frozen=True)
class Confirmation:
    """What further seeds show.

    Attributes:
        results: of the confirming sweep.
        metric: what methods are judged by.
        margin: smallest difference that matters, in the unit of the metric.
        found: run -> seed -> its completed trial, of the planned runs.
        told: of each method.
    """

    results: Results
    metric: str
    margin: float
    found: dict[str, dict[int, FrozenTrial]]
    told: tuple[Told, ...]


def read(study: Ledger, plan: Plan, matters: float, per_image: PerImage) -> Confirmation:
    """What a confirming sweep says; it may still run.

    Args:
        study: the confirming sweep's.
        plan: what it trains.
        matters: the smallest difference that matters, see `Confirm`.
        per_image: trial number -> metric -> (images,) values, as of `build.build`.
    """
    results, trained = Results(study), runs.completed(study)
    found = {run.name: trained[run.name] for run in plan.runs if run.name in trained}
    estimates = {cells.words: _estimates(cells, found, per_image, metric_of(results)) for cells in plan.cells}
    known = [crossed for crossed, _ in estimates.values() if crossed]
    metric = results.metric if all(results.metric in crossed for crossed in known) else metric_of(results)
    claimed: dict[str, contrast.Contrast | Crossed] = {}
    for words, (crossed, parts) in estimates.items():
        claimed |= {words: crossed[metric]} if metric in crossed else {}
        claimed |= {f"{words}, coupling": parts[metric].coupling} if metric in parts else {}
    off = [_mean(found[c.crossed[0]], metric) for c in plan.cells if c.crossed[0] in found]
    margin = matters * abs(off[0]) if off else math.nan
    claims = comparison.words(claimed, dict.fromkeys(claimed, margin))
    told = tuple(
        Told(cells, *estimates[cells.words], claims.get(cells.words), claims.get(f"{cells.words}, coupling"))
        for cells in plan.cells
    )
    return Confirmation(results, metric, margin, found, told)


def _estimates(
    cells: Cells, found: dict[str, dict[int, FrozenTrial]], per_image: PerImage, objective: str
) -> tuple[dict[str, Crossed], dict[str, Parts]]:
    crossed, parts = {}, {}
    for metric in dict.fromkeys((*MEASURED, objective)):
        values = _values(cells.crossed, found, per_image, metric)
        if values is not None:
            crossed[metric] = comparison.crossed(values)
        values = _values(cells.parts, found, per_image, metric) if cells.parts else None
        if values is not None:
            parts[metric] = comparison.parts(values)
    return crossed, parts


def _values(
    names: tuple[str, ...], found: dict[str, dict[int, FrozenTrial]], per_image: PerImage, metric: str
) -> contrast.Cells | None:
    """The metric of runs with the same seeds on the same images, as `comparison` takes it; None below two seeds."""
    together = _arrays(names, found, per_image, GROUP)
    groups = None if together is None else together[0, 0]
    if metric in BY_IMAGE:
        values = _arrays(names, found, per_image, metric)
        return None if values is None else contrast.Cells.of(values, groups)
    sure, right = (_arrays(names, found, per_image, name) for name in ("confidence", "correct"))
    if sure is None or right is None:
        return None
    # The clean images come first, then those under each corruption. All draw the same: one page is as another.
    of = slice(1, None) if metric.startswith("corrupted") else slice(1)
    generator = np.random.default_rng(rng.derive("images drawn again"))
    return ece_cells(sure[:, :, of], right[:, :, of], generator, groups=groups)


def _arrays(
    names: tuple[str, ...], found: dict[str, dict[int, FrozenTrial]], per_image: PerImage, array: str
) -> np.ndarray | None:
    """(runs, seeds, ..., images) over the seeds that all have; None below two, or where values are missing."""
    seeds = sorted(set.intersection(*(set(found.get(name, {})) for name in names)))
    values = [[per_image.get(found[name][seed].number, {}).get(array) for seed in seeds] for name in names]
    if len(seeds) < 2 or any(v is None for cell in values for v in cell):
        return None
    return np.array(values)


def _mean(trials: dict[int, FrozenTrial], metric: str) -> float:
    measured = [trial.user_attrs.get("metrics", {}).get(metric, math.nan) for trial in trials.values()]
    return statistics.mean(measured).value


# ---- in words


def sentences(confirmation: Confirmation) -> list[str]:
    """All that it says in sentences: the verdicts, what becomes of the calibration, which recipe to use."""
    return [*verdicts(confirmation), *calibrations(confirmation), *advice(confirmation)]


def verdicts(confirmation: Confirmation) -> list[str]:
    """What each method does, in a sentence or two each; the page's answer is the first."""
    return [_verdict(confirmation, told) for told in confirmation.told] or [
        "There is no method to confirm: the search has no completed trial of one beside plain training."
    ]


_SAYS = {
    "better": "{} makes this classifier better",
    "worse": "{} makes this classifier worse",
    "no difference that matters": "{} makes no difference that matters",
    "cannot be told": "What {} does cannot be told from this",
    "depends on the other settings": "What {} does depends on the other settings",
}


def _verdict(confirmation: Confirmation, told: Told) -> str:
    metric, claim, units = confirmation.metric, told.claim, confirmation.results.sweep.units
    if claim is None:
        return f"There is no answer about {told.cells.words}: fewer than two seeds of its recipes have completed."
    found = claim.contrast
    said = _SAYS[claim.word].format(told.cells.words)
    text = f"{said[0].upper()}{said[1:]}: at the same other settings it changes the {label(metric, unit=False)} by "
    text += f"{interval(metric, found, '+')}{points(metric)}, over {found.count} seeds and {found.images:,} {units}."
    if claim.word == "depends on the other settings":
        rows = [f"{interval(metric, row, '+')}{points(metric)}" for row in told.crossed[metric].rows]
        text += f" At the settings of plain training's best it is {rows[0]}, at its own {rows[1]}."
    if claim.needed is not None:
        more = f"{claim.needed.seeds} seeds and {claim.needed.images:,} {units}"
        text += f" If it came out the same, {more} would be likely to tell."
    if told.coupling is not None:
        text += f" {_coupling(confirmation, told.coupling)}"
    return text


_COUPLED = {
    "better": "The coupling of label and image is part of it",
    "worse": "The coupling of label and image harms",
    "no difference that matters": "The coupling of label and image makes no difference that matters",
    "cannot be told": "Whether the coupling of label and image matters cannot be told",
}


def _coupling(confirmation: Confirmation, claim: Claim) -> str:
    metric = confirmation.metric
    change = f"{interval(metric, claim.contrast, '+')}{points(metric)}"
    return f"{_COUPLED[claim.word]}: coupled less uncoupled is {change}."


def advice(confirmation: Confirmation) -> list[str]:
    """Which recipe to use, a sentence for each method."""
    metric, sentences = confirmation.metric, []
    for told in confirmation.told:
        if metric not in told.crossed:
            continue
        found = told.crossed[metric].diagonal
        one, other = f"trial {told.cells.best} ({told.cells.words})", f"trial {told.cells.plain} (plain training)"
        change = f"{interval(metric, found, '+')}{points(metric)}"
        if found.spans_zero or math.isnan(found.low):
            sentences.append(
                f"Which recipe to use, these seeds and images cannot tell: {one} less {other} is {change}."
            )
        else:
            use, rest = (one, other) if found.high < 0 else (other, one)
            sentences.append(f"Of the two best recipes use {use} rather than {rest}: {one} less {other} is {change}.")
    return sentences


def calibrations(confirmation: Confirmation) -> list[str]:
    """What each method does to the calibration error, a sentence for each that has been measured."""
    said = []
    for told in confirmation.told:
        found = {
            metric: told.crossed[metric].method for metric in ("corrupted_ece", "clean_ece") if metric in told.crossed
        }
        changes = [f"the {label(m, unit=False)} by {interval(m, c, '+')}{points(m)}" for m, c in found.items()]
        if changes:
            said.append(
                f"Calibration: at the same other settings {told.cells.words} changes {' and '.join(changes)}; these "
                "intervals are not corrected for being several."
            )
    return said


def interval(metric: str, mean: Mean, sign: str = "") -> str:
    """A mean, with its interval when it has one."""
    text = shown(metric, mean.value, sign)
    if math.isnan(mean.low):
        return text
    return f"{text} ({shown(metric, mean.low, sign)} to {shown(metric, mean.high, sign)})"


def note(confirmation: Confirmation) -> str:
    """What the intervals cover, and what not."""
    matters = f"{shown(confirmation.metric, confirmation.margin)}{points(confirmation.metric)}"
    judged = confirmation.results.sweep.base_recipe.get("data", {}).get("judging_fraction", 0) > 0
    images = "judging images, which chose nothing," if judged else "validation images, those of the search,"
    if confirmation.results.sweep.groups:
        images += " of which a group counts as one,"
    again = (
        " For the ECE, which no single image has, images are drawn again; that of few images is too high, most for "
        "well calibrated models, so that what makes it better is understated."
    )
    return (
        f"Intervals (95 %) cover the training seeds and the {images} but not which recipes the searches happened to "
        f"try.{again if calibrations(confirmation) else ''} A difference matters from {matters} on (1 % of the best "
        "plain recipe's value unless --matters says otherwise). A word is given after Holm's correction for all "
        "methods and couplings. Less is better everywhere."
    )


def means(confirmation: Confirmation) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every recipe's metrics, over its seeds."""
    first = [confirmation.metric]
    metrics = [*first, *(m for m in METRICS if m not in first and not m.endswith(("top5_error", "brier")))]
    rows = []
    for name, trials in confirmation.found.items():
        measured = [trial.user_attrs.get("metrics", {}) for trial in trials.values()]
        cells = [
            interval(m, statistics.mean([a[m] for a in measured])) if all(m in a for a in measured) else "–"
            for m in metrics
        ]
        rows.append([name, str(len(measured)), *cells])
    return ["", "seeds", *map(label, metrics)], rows


def estimates(told: Told, metric: str) -> dict[str, contrast.Contrast]:
    """What is estimated of a method, in words -> the contrast; the first two add up to the third."""
    found = told.crossed[metric]
    rows = {f"{told.cells.words} itself": found.method}
    if found.settings is not None:
        rows["the other settings"] = found.settings
        rows["both: best against best"] = found.diagonal
    return rows


def parts(told: Told, metric: str) -> dict[str, contrast.Contrast]:
    """The parts of a method, in words -> the contrast; the last two but one add up to the last."""
    found = told.parts[metric]
    return {
        "degraded images, hard labels": found.image,
        "clean images, soft labels": found.label,
        "both, uncoupled": found.uncoupled,
        "the coupling": found.coupling,
        "both, coupled": found.whole,
    }
