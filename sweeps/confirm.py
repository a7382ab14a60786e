"""`--confirm K --seeds S`: the best recipes of a search and its two references, trained again with further seeds.

The best of a search is the best on its own validation images with one seed, so part of its advantage is luck. Seeds
that the search has not seen show what is left of it. The validation images are the same as before; only an evaluation
on the test set is free of that choice too.
"""

from __future__ import annotations

import argparse
import math

import optuna

from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from sweeps import runs, statistics
from sweeps.report import METRICS, UNVERIFIED
from sweeps.results import REFERENCES, Results, label, scale
from sweeps.runs import Run
from sweeps.settle import Sweep
from sweeps.settle import settle as settle_sweep
from sweeps.text import NONE, markdown, shown


def check(args: argparse.Namespace) -> None:
    """Raises a ConfigError when the options of a confirmation are wrong."""
    if args.confirm is not None and args.confirm < 1:
        raise ConfigError(f"Expected --confirm to be at least 1, but got {args.confirm}")
    if args.seeds < 2:
        raise ConfigError(f"Expected --seeds to be at least 2, but got {args.seeds}: one seed says nothing of chance")


def settle(sweep: Sweep, study: optuna.Study, args: argparse.Namespace) -> Sweep:
    """The sweep `<name>-confirm`: the best recipes of a search and its references, with seeds that it has not seen."""
    base, first = sweep.base, sweep.base.seed + 1
    references = runs.references(chosen(sweep, study, args.confirm), range(first, first + args.seeds))
    return settle_sweep(
        args,
        base,
        objectives=tuple(sweep.setup.sweep["objectives"]),
        searched=runs.NOTHING,
        references=references,
        trials=len(references),
        sampler="random",
        pruner="none",
        name=f"{sweep.name}-confirm",
    )


def chosen(sweep: Sweep, study: optuna.Study, count: int) -> list[Run]:
    """The references and the `count` best recipes that the search found, as many as it has, the best first."""
    base = sweep.base
    found = [Run(r.name, _settings(base, base.with_({**r.params, **r.settings}))) for r in sweep.setup.references]
    for trial in Results(study).completed:
        run = Run(f"trial {trial.number}", _settings(base, Recipe.from_dict(trial.user_attrs["recipe"])))
        if len(found) < count + len(sweep.setup.references) and run.settings not in [other.settings for other in found]:
            found.append(run)
    return found


def _settings(base: Recipe, recipe: Recipe) -> dict[str, object]:
    """What a recipe sets otherwise than the base."""
    return {name: recipe.get(name) for name in {**base.changed(), **recipe.changed()} if name != "seed"}


def summary(study: optuna.Study) -> str:
    """The text of confirmation.md: which recipes are better than the references, as far as seeds tell."""
    results, found = Results(study), runs.completed(study)
    sweep, metric = results.sweep, results.metric
    values = {name: {seed: t.values[0] for seed, t in of.items()} for name, of in found.items()}
    means = {name: statistics.mean(list(of.values())) for name, of in values.items()}
    others = sorted((n for n in found if n not in REFERENCES), key=lambda n: means[n].value)
    pairs = [(n, r) for n in others for r in REFERENCES if r in found]
    pairs += [("paper", "plain")] if REFERENCES.keys() <= found.keys() else []
    compared = statistics.compare(values, pairs)
    lines = [] if sweep["verified"] else [f"> **{UNVERIFIED}.**", ""]
    lines += [f"# Confirmation of {sweep['name'].removesuffix('-confirm')}", ""]
    lines += [_verdict(metric, name, means, compared) for name in others] or ["No recipe has completed."]
    lines += ["", "## Means over seeds", "", *_means(results, found, [*others, *(r for r in REFERENCES if r in found)])]
    lines += ["", f"## Differences in {label(metric)}, paired by seed", "", *_differences(metric, compared)]
    return "\n".join([*lines, "", _note(found), ""])


def _verdict(
    metric: str,
    name: str,
    means: dict[str, statistics.Mean],
    compared: dict[tuple[str, str], statistics.Difference],
) -> str:
    words = []
    for reference, text in REFERENCES.items():
        difference = compared.get((name, reference))
        if difference is None:
            words.append(f"there is no seed to compare it with {text}")
        elif math.isnan(difference.p):
            words.append(f"one seed cannot tell it from {text}")
        elif difference.told:
            better = "better" if difference.mean.value < 0 else "worse"
            words.append(f"it is {better} than {text} (corrected p = {difference.corrected:.2g})")
        else:
            words.append(f"these seeds cannot tell it from {text} (corrected p = {difference.corrected:.2g})")
    return f"- **{name}**: {label(metric)} {interval(metric, means[name])}; {'; '.join(words)}."


def interval(metric: str, mean: statistics.Mean, sign: str = "") -> str:
    """A mean, with its interval when it has one."""
    text = shown(metric, mean.value, sign)
    if math.isnan(mean.low):
        return text
    return f"{text} ({shown(metric, mean.low, sign)} to {shown(metric, mean.high, sign)})"


def _means(results: Results, found: dict, names: list[str]) -> list[str]:
    metrics = [results.metric, *(m for m in METRICS if m != results.metric and not m.endswith(("top5_error", "brier")))]
    rows = []
    for name in names:
        attrs = [trial.user_attrs.get("metrics", {}) for trial in found[name].values()]
        cells = [
            interval(m, statistics.mean([a[m] for a in attrs])) if all(m in a for a in attrs) else NONE for m in metrics
        ]
        rows.append([name, str(len(attrs)), *cells])
    return [markdown(["", "seeds", *map(label, metrics)], rows), "", "In brackets: 95 % intervals over seeds."]


def _differences(metric: str, compared: dict[tuple[str, str], statistics.Difference]) -> list[str]:
    rows = []
    for (first, second), d in compared.items():
        p = [NONE, NONE] if math.isnan(d.p) else [f"{d.p:.2g}", f"{d.corrected:.2g}"]
        rows.append(
            [f"{first} - {second}", str(d.mean.count), interval(metric, d.mean, "+"), *p, "yes" if d.told else "no"]
        )
    unit = " (points)" if scale(metric) == 100 else ""
    header = ["", "seeds", f"mean{unit} (95 % interval)", "p", "corrected p", "told apart"]
    return [markdown(header, rows), "", "Student's paired t test, Holm's correction for all rows of this table."]


def _note(found: dict) -> str:
    few = min((len(of) for of in found.values()), default=0)
    return (
        f"With {few} seeds only large differences can be told; that two are not told apart does not mean that they are "
        "equal. Validation images are those of the search: `python sweeps/evaluate.py` on this sweep measures the same "
        "on the test set."
    )
