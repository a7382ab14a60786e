"""`--confirm K --seeds S`: the best recipes of a search, their controls and its references, with further seeds.

The best of a search is the best on its own validation images with one seed, so part of its advantage is luck. Seeds
that the search has not seen show what is left of it. A control has all settings of its recipe but the method: the two
differ in nothing that the search has tuned for one of them alone, as the references do. The validation images are the
same as before; only an evaluation on the test set is free of that choice too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from mollify_core.errors import ConfigError
from mollify_core.measure import statistics
from mollify_core.measure.comparison import Claim, words
from mollify_core.measure.contrast import Contrast, contrast
from mollify_core.measure.statistics import Difference, Mean
from mollify_core.recipe import Recipe
from mollify_sweeps.display.charts import difference_row, interval_chart
from mollify_sweeps.display.page import Section, bullets, figure, paragraph, table
from mollify_sweeps.display.text import NONE, UNVERIFIED, label, markdown, points, shown
from mollify_sweeps.plan import runs, settle
from mollify_sweeps.plan.options import Confirm, Search
from mollify_sweeps.plan.runs import Run
from mollify_sweeps.plan.sweep import Sweep
from mollify_sweeps.report.words import METRICS, PerImage
from mollify_sweeps.study.results import REFERENCES, Results

SUFFIX = "-confirm"
_CONTROL = ", method off"  # behind the name of the recipe that it controls
_OFF = {"p_clean": 1.0, "arm": "off"}
_MATTERS = 0.01  # smallest difference that matters, as a share of the control's value


def check(confirm: Confirm) -> None:
    """Raises a ConfigError when the options of a confirmation are wrong."""
    if confirm.best is not None and confirm.best < 1:
        raise ConfigError(f"Expected --confirm to be at least 1, but got {confirm.best}")
    if confirm.seeds < 2:
        raise ConfigError(
            f"Expected --seeds to be at least 2, but got {confirm.seeds}: one seed says nothing of chance"
        )


def settle_again(sweep: Sweep, study: optuna.Study, options: Search) -> Sweep:
    """The sweep `<name>-confirm`: the best recipes of a search and its references, with seeds that it has not seen."""
    base, first = sweep.base, sweep.base.seed + 1
    assert options.confirm.best is not None
    references = runs.references(
        chosen(sweep, study, options.confirm.best), range(first, first + options.confirm.seeds)
    )
    return settle.sweep(
        options.running,
        base,
        sweep.prepared.spec,
        objectives=sweep.setup.description.objectives,
        searched=runs.NOTHING,
        references=references,
        trials=len(references),
        name=sweep.name + SUFFIX,
    )


def chosen(sweep: Sweep, study: optuna.Study, count: int) -> list[Run]:
    """The references, and the `count` best recipes that the search found, as many as it has, the best first.

    Each of these is followed by its control, unless that is the recipe itself or plain training.
    """
    base = sweep.base
    found = [Run(r.name, _settings(base, base.with_({**r.params, **r.settings}))) for r in sweep.setup.references]
    best = 0
    for trial in Results(study).completed:
        recipe = Recipe.from_dict(trial.user_attrs["recipe"])
        run = Run(f"trial {trial.number}", _settings(base, recipe))
        if best < count and run.settings not in [other.settings for other in found]:
            best += 1
            control = Run(run.name + _CONTROL, _settings(base, recipe.with_(_OFF)))
            found += [one for one in (run, control) if one.settings not in [other.settings for other in found]]
    return found


def _settings(base: Recipe, recipe: Recipe) -> dict[str, object]:
    """What a recipe sets otherwise than the base."""
    return {name: recipe.get(name) for name in {**base.changed(), **recipe.changed()} if name != "seed"}


@dataclass(frozen=True)
class Confirmation:
    """What further seeds show, on the first objective.

    Attributes:
        results: of the confirming sweep.
        found: recipe's name -> seed -> its completed trial; the search's recipes first, the best of them first.
        values: the same, with the objective's final value in place of the trial.
        compared: (recipe, control or reference) -> their paired difference over seeds, also of the two references.
        method: recipe -> what the method does to it, the other settings kept: over seeds and images; without those
            that have no value per image.
    """

    results: Results
    found: dict[str, dict[int, FrozenTrial]]
    values: dict[str, dict[int, float]]
    compared: dict[tuple[str, str], Difference]
    method: dict[str, Contrast]


def read(study: optuna.Study, per_image: PerImage | None = None) -> Confirmation:
    """What the study of a confirming sweep says; it may still run.

    Args:
        study: the confirming sweep's.
        per_image: trial number -> metric -> (images,) values, as of `build.build`.
    """
    found = runs.completed(study)
    values = {name: {seed: t.values[0] for seed, t in of.items()} for name, of in found.items()}
    others = sorted(
        (n for n in found if n not in REFERENCES and not n.endswith(_CONTROL)),
        key=lambda n: statistics.mean([*values[n].values()]).value,
    )
    pairs = [(n, r) for n in others for r in (n + _CONTROL, *REFERENCES) if r in found]
    pairs += [("paper", "plain")] if REFERENCES.keys() <= found.keys() else []
    names = [n for n in (*(m for o in others for m in (o, o + _CONTROL)), *REFERENCES) if n in found]
    compared = statistics.compare(values, pairs)
    results = Results(study)
    method = {name: _part(found, name, results.metric, per_image or {}) for name in others if name + _CONTROL in found}
    return Confirmation(
        results,
        {n: found[n] for n in names},
        {n: values[n] for n in names},
        compared,
        {name: part for name, part in method.items() if part is not None},
    )


def _part(found: dict[str, dict[int, FrozenTrial]], name: str, metric: str, per_image: PerImage) -> Contrast | None:
    """A recipe less its control, over the seeds and the images that both have."""
    seeds = sorted(found[name].keys() & found[name + _CONTROL].keys())
    values = [[per_image.get(found[c][s].number, {}).get(metric) for s in seeds] for c in (name + _CONTROL, name)]
    if len(seeds) < 2 or any(v is None for cell in values for v in cell):
        return None
    return contrast(np.array(values), (-1, 1))


def summary(confirmation: Confirmation) -> str:
    """The text of confirmation.md: which recipes are better than the references, as far as seeds tell."""
    sweep, metric = confirmation.results.sweep, confirmation.results.metric
    lines = [] if sweep.verified else [f"> **{UNVERIFIED}.**", ""]
    lines += [f"# Confirmation of {sweep.name.removesuffix(SUFFIX)}", ""]
    lines += [f"- {text}" for text in verdicts(confirmation)]
    lines += ["", "## Means over seeds", "", markdown(*_means(confirmation)), "", _MEANS]
    lines += ["", f"## Differences in {label(metric, difference=True)}, paired by seed", ""]
    lines.append(markdown(*_differences(confirmation)))
    return "\n".join([*lines, "", _TEST, "", note(confirmation), ""])


def section(confirmation: Confirmation) -> Section:
    """The same, as a section of the sweep's page."""
    metric = confirmation.results.metric
    rows = [difference_row(f"{one} - {other}", metric, d.mean) for (one, other), d in confirmation.compared.items()]
    parts = [bullets(verdicts(confirmation))]
    if rows:
        what = f"difference in {label(metric, difference=True)}"
        chart = interval_chart("Differences between recipes", rows, what, width=620)
        parts.append(figure(chart, "Mean over seeds and its 95 % interval; left of the line is better."))
    parts += [table(*_means(confirmation), _MEANS), table(*_differences(confirmation), _TEST)]
    return Section("Confirmed with further seeds", [*parts, paragraph(note(confirmation), "note")])


def verdicts(confirmation: Confirmation) -> list[str]:
    """A sentence for each recipe of the search: its value, and whether control and references are told from it."""
    metric, found, sentences = confirmation.results.metric, confirmation.values, []
    margins = {n: _MATTERS * abs(statistics.mean([*found[n + _CONTROL].values()]).value) for n in confirmation.method}
    claims = words(confirmation.method, margins)
    for name, values in confirmation.values.items():
        if name in REFERENCES or name.endswith(_CONTROL):
            continue
        sayings: dict[str, list[str]] = {}
        control = name + _CONTROL in found and name not in confirmation.method  # seeds alone can tell of it
        held = {name + _CONTROL: "its own other settings without the method"} if control else {}
        for reference, text in {**held, **REFERENCES}.items():
            difference = confirmation.compared.get((name, reference))
            p = "" if difference is None or math.isnan(difference.p) else f" (corrected p = {difference.corrected:.2g})"
            if difference is None:
                said = "there is no common seed to compare it with"
            elif math.isnan(difference.p):
                said = f"{'one seed' if difference.mean.count < 2 else 'seeds without variance'} cannot tell it from"
            elif difference.told:
                said = f"it is {'better' if difference.mean.value < 0 else 'worse'} than"
            else:
                said = "these seeds cannot tell it from"
            sayings.setdefault(said, []).append(text + p)
        parts = [_told(metric, claims[name])] if name in claims else []
        told = "; ".join([*parts, *(f"{said} {' or '.join(texts)}" for said, texts in sayings.items())])
        mean = statistics.mean([*values.values()])
        sentences.append(f"{name}: {label(metric)} {interval(metric, mean)}; {told}.")
    return sentences or ["No recipe of the search has completed."]


def _told(metric: str, claim: Claim) -> str:
    """What the method does to a recipe, in words."""
    part, said = claim.contrast, {"better": "the method makes it better", "worse": "the method makes it worse"}
    text = said.get(claim.word, f"what the method does: {claim.word}")
    over = f"over {part.count} seeds and {part.images} images"
    return f"its other settings kept, {text}, {interval(metric, part, '+')} {over}"


def interval(metric: str, mean: Mean, sign: str = "") -> str:
    """A mean, with its interval when it has one."""
    text = shown(metric, mean.value, sign)
    if math.isnan(mean.low):
        return text
    return f"{text} ({shown(metric, mean.low, sign)} to {shown(metric, mean.high, sign)})"


_MEANS = "In brackets: 95 % intervals over seeds (Student's t)."
_TEST = "Student's paired t test, with Holm's correction for all rows of this table."


def _means(confirmation: Confirmation) -> tuple[list[str], list[list[str]]]:
    metric = confirmation.results.metric
    metrics = [metric, *(m for m in METRICS if m != metric and not m.endswith(("top5_error", "brier")))]
    rows = []
    for name, trials in confirmation.found.items():
        measured = [trial.user_attrs.get("metrics", {}) for trial in trials.values()]
        cells = [
            interval(m, statistics.mean([a[m] for a in measured])) if all(m in a for a in measured) else NONE
            for m in metrics
        ]
        rows.append([name, str(len(measured)), *cells])
    return ["", "seeds", *map(label, metrics)], rows


def _differences(confirmation: Confirmation) -> tuple[list[str], list[list[str]]]:
    metric, rows = confirmation.results.metric, []
    for (first, second), d in confirmation.compared.items():
        p = [NONE, NONE] if math.isnan(d.p) else [f"{d.p:.2g}", f"{d.corrected:.2g}"]
        told = "yes" if d.told else "no"
        rows.append([f"{first} - {second}", str(d.mean.count), interval(metric, d.mean, "+"), *p, told])
    unit = " (points)" if points(metric) else ""
    return ["", "seeds", f"mean{unit} (95 % interval)", "p", "corrected p", "told apart"], rows


def note(confirmation: Confirmation) -> str:
    """What the seeds cannot say."""
    few = min(map(len, confirmation.found.values()), default=0)
    return (
        f"With {few} seeds only large differences can be told; that two are not told apart does not mean that they are "
        "equal. What the method does is told by a recipe against its control, which has the same learning rate and "
        "other settings; the references have settings that were not searched. Validation images are those of the "
        "search: `python sweeps/evaluate.py` on this sweep measures the same on the test set."
    )
