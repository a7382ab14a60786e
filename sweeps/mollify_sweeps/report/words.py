"""What the reports of a sweep say in words and tables: the best recipe, and what the search alone suggests.

Everything is read from the study; a report of a running sweep is possible at any time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from mollify_core.hiding import hidden
from mollify_core.measure.statistics import Mean, paired_interval
from mollify_core.measure.validation import GROUP
from mollify_sweeps.display.text import NONE, label, points, scale, setting, shown
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.ledger import FROM, METHOD
from mollify_sweeps.study.methods import METHODS, OWN, PLAIN
from mollify_sweeps.study.results import Results

PerImage = Mapping[int, Mapping[str, np.ndarray]]
"""Trial number -> metric -> a value per validation image; see `build.build`."""
_DATA = ("classes", "mean", "std")  # what a loop of one's own has to know of the images
TOP = 10  # trials in the tables
_MEASURED = ("nll", "error", "balanced_error", "top5_error", "brier", "ece", "debiased_ece")
METRICS = tuple(f"{kind}_{metric}" for kind in ("clean", "corrupted") for metric in _MEASURED)


def best_recipe(results: Results, best: FrozenTrial) -> dict[str, Any]:
    """What best_recipe.json says."""
    sweep, attrs = results.sweep, best.user_attrs
    keys = ("seed", "versions", "commit", "dataset", "verified", "fingerprint", "feed")
    provenance = {"sweep": sweep.name, "trial": best.number, **{key: getattr(sweep, key) for key in keys}}
    provenance |= {key: list(value) if key != "classes" else value for key in _DATA if (value := getattr(sweep, key))}
    provenance |= {key: attrs[key] for key in ("threads", "device", "precision") if key in attrs}
    provenance["accumulate"] = attrs.get("accumulated", 1)
    return {"recipe": attrs["recipe"], "metrics": attrs.get("metrics", {}), "provenance": provenance}


def union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    """The keys of all, in the order in which they come first."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def question(results: Results) -> str:
    """What a sweep asks."""
    if not results.fair:
        return "Was mollification worth it?"
    others = [METHODS[name].words for name in results.sweep.methods if name != PLAIN]
    if len(others) == 1:
        return f"Does {others[0]} make this classifier better?"
    return f"Which makes this classifier better: {', '.join(others[:-1])} or {others[-1]}?"


def recipes(results: Results) -> dict[str, FrozenTrial]:
    """Name of a file -> the trial whose recipe is in it: the best, that of each method, and that on each objective."""
    found = {} if results.best is None else {recipe_file(): results.best}
    for name in results.sweep.methods:
        found |= {recipe_file(name): trial for trial in results.of_method(name)[:1]}
    return found | {recipe_file(metric): trial for metric, trial in results.leaders.items()}


def recipe_file(of: str = "") -> str:
    """The file of the best recipe, or of the best of a method or on an objective."""
    return f"best_recipe_{of}.json" if of else "best_recipe.json"


def trade_off(results: Results) -> str:
    """Who is best for what, and which objective decides where one has to; empty where there is only one."""
    if not results.leaders:
        return ""
    best = [f"the {label(metric, unit=False)} is lowest in trial {t.number}" for metric, t in results.leaders.items()]
    one = "One trial" if len(results.front) == 1 else "No trial"
    return (
        f"{one} is the best on all objectives: {', '.join(best[:-1])} and {best[-1]}. Where one has to be called the "
        f"best, the first objective decides, the {label(results.metric, unit=False)}."
    )


def front(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the trials that no other beats on all objectives."""
    objectives = results.sweep.objectives
    rows = []
    for trial in (t for t in results.completed if t.number in results.front):
        lowest = [
            label(metric, unit=False) for metric, first in results.leaders.items() if first.number == trial.number
        ]
        name = " ".join([str(trial.number), *filter(None, [mark(results, trial)])])
        values = [shown(metric, value) for metric, value in zip(objectives, trial.values, strict=True)]
        rows.append([name, *values, ", ".join(lowest) or NONE])
    return ["trial", *map(label, objectives), "lowest"], rows


def verdict(results: Results) -> str:
    """The best trial against what it is compared with, on the first objective, in plain sentences."""
    if not results.completed:
        return "No trial has completed, so there is nothing to compare."
    best, metric = results.best, results.metric
    assert best is not None
    unit = " %" if scale(metric) == 100 else ""
    own = [name for name, trial in results.compared.items() if trial.number == best.number and name != "best"]
    on = f" on the {label(metric, unit=False)}, the first objective" if results.leaders else ""
    text = f"Best of {len(results.completed)} completed trials{on}: trial {best.number}"
    text += f" ({results.names[own[0]]})" if own else ""
    text += f", with a {label(metric, unit=False)} of {shown(metric, best.values[0])}{unit} on the validation images."
    below = []
    for name, words in results.names.items():
        if name == "best" and not results.fair:
            continue
        other = results.compared.get(name)
        if other is None:
            reason = _why_missing(results, name)
            text += f" There is no result of {words} ({reason}), so nothing can be said against it."
        elif other.number == best.number:
            text += "" if results.fair else f" The search found nothing better than {words}."
        else:
            gain = other.values[0] - best.values[0]
            share = f" ({100 * gain / other.values[0]:.3g} %)" if other.values[0] > 0 else ""
            value = f"trial {other.number}: {shown(metric, other.values[0])}{unit}"
            below.append(f"{shown(metric, gain)}{points(metric)}{share} below {words} ({value})")
    return text + (f" That is {' and '.join(below)}." if below else "")


def _why_missing(results: Results, name: str) -> str:
    for trial in results.trials:
        if trial.user_attrs.get("reference") == name and not results.fair:
            return ", ".join(
                filter(None, [f"trial {trial.number} is {trial.state.name}", trial.user_attrs.get("failure")])
            )
    return "no trial of it has completed" if results.fair else "the sweep has no such trial"


def comparison(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every validation metric of the compared trials, and by how much they differ from plain."""
    measured = {name: trial.user_attrs.get("metrics", {}) for name, trial in results.compared.items()}
    aside = ("plain", "paper") if results.fair else ("plain",)  # a first trial is an anchor, no comparison
    others = [name for name in measured if name not in aside and "plain" in measured]
    rows = []
    for metric in sorted(union(measured.values()), key=lambda m: METRICS.index(m) if m in METRICS else len(METRICS)):
        values = {name: m.get(metric) for name, m in measured.items()}
        base = values.get("plain")
        differences = [None if base is None or values[o] is None else values[o] - base for o in others]
        row = [shown(metric, v) for v in values.values()] + [shown(metric, d, "+") for d in differences]
        rows.append([label(metric), *row])
    return ["validation", *measured, *(f"{name} - plain" for name in others)], rows


def pairs(results: Results) -> list[tuple[str, str]]:
    """The compared trials that are held against each other."""
    if not results.fair:
        return [("best", "plain"), ("best", "paper"), ("paper", "plain")]
    return [(name, "plain") for name in results.compared if name not in ("plain", "paper")]


def paired(results: Results, per_image: PerImage, metric: str) -> dict[tuple[str, str], Mean | None]:
    """Pairs of different compared trials -> first - second by `paired_interval`; None where values are missing."""
    trials = results.compared
    found: dict[tuple[str, str], Mean | None] = {}
    for pair in pairs(results):
        if set(pair) <= trials.keys() and trials[pair[0]].number != trials[pair[1]].number:
            first, second = (per_image.get(trials[name].number, {}).get(metric) for name in pair)
            groups = per_image.get(trials[pair[0]].number, {}).get(GROUP)
            found[pair] = None if first is None or second is None else paired_interval(first, second, groups)
    return found


def paired_note(results: Results) -> str:
    """What the intervals of `paired` cover."""
    together = ", a group of which counts as one" if results.sweep.groups else ""
    return f"The intervals cover the choice of the validation images{together}, not that of the training seed."


def unproven(results: Results) -> str:
    """What the comparison with plain training leaves open, and the command that tells."""
    if results.fair:
        told = sum(FROM in trial.user_attrs for trial in results.trials)
        first = f"{told} trial{'s' * (told > 1)} began with what another sweep had found. " if told else ""
        return first + (
            "Both were searched alike, but this compares two recipes, not yet the method: one search may have met with "
            "the better learning rate, and each recipe is one training. `--confirm` tells what the method does."
        )
    shared = [name for name in results.sweep.space if name not in OWN]
    if not shared:
        return ""
    searched = (
        f"{' and '.join(shared)} {'was' if len(shared) == 1 else 'were'} searched for it and not for plain training"
    )
    return (
        f"That does not prove the method: {searched}. `--confirm` trains the best recipe without the method too, and "
        "tells what is its part."
    )


def efforts(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: what each method was given."""
    rows = []
    for name, effort in results.efforts.items():
        states = (effort.counts.get(state, 0) for state in ("complete", "pruned", "fail"))
        rows.append([METHODS[name].words, *map(str, states), f"{effort.epochs:,}"])
    return ["method", "finished", "pruned", "failed", "epochs trained"], rows


def caveat(results: Results) -> str:
    """How far the figures can be trusted."""
    if results.sweep.base_recipe.get("data", {}).get("judging_fraction", 0) > 0:
        return (
            "Each figure comes from one training seed. The best was chosen among "
            f"{len(results.completed)} completed trials by the validation images that their values come from, so its "
            "advantage in these is optimistic. The paired intervals are over validation images that chose nothing: "
            "confirm them with further seeds and on the test set."
        )
    return (
        f"Each figure comes from one training seed, and the best was chosen among {len(results.completed)} completed "
        "trials by these same validation images, so its advantage is optimistic: confirm it with further seeds and on "
        "the test set."
    )


def top_trials(results: Results, params: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the best trials on the first objective; with several objectives, all of the Pareto front."""
    objectives = results.sweep.objectives
    metrics = [m for m in ("clean_error", "corrupted_error") if m not in objectives]
    rows = []
    for trial in results.completed[:TOP] + [t for t in results.completed[TOP:] if t.number in results.front]:
        attrs, used = trial.user_attrs, results.effective(trial)
        notes = [mark(results, trial), "Pareto" if trial.number in results.front else None]
        values = [*trial.values, *(attrs.get("metrics", {}).get(m) for m in metrics)]
        cells = [shown(m, v) for m, v in zip([*objectives, *metrics], values, strict=True)]
        cells.append(f"{attrs.get('seconds', math.nan) / 60:.1f}")
        cells += [setting(used[p]) if p in used else NONE for p in params]
        rows.append([" ".join([str(trial.number), *filter(None, notes)]), *cells])
    return ["trial", *map(label, [*objectives, *metrics]), "minutes", *params], rows


def mark(results: Results, trial: FrozenTrial) -> str | None:
    """What stands beside a trial's number: its method, or which reference it is."""
    return trial.user_attrs.get(METHOD) if results.fair else trial.user_attrs.get("reference")


def tally(results: Results) -> str:
    """How many trials there are, by state."""
    counts = [f"{n} {s.name}" for s in TrialState if (n := sum(trial.state == s for trial in results.trials))]
    return f"{len(results.trials)} in all: {', '.join(counts)}." if counts else "There are none yet."


def failures(results: Results) -> list[str]:
    """A line for each kind of failure: which trials, and what the first one said."""
    lines = []
    for kind, failed in failed_trials(results).items():
        message = str(failed[0].user_attrs.get("failure_message", "")).strip().partition("\n")[0][:200]
        lines.append(f"failed ({kind}): trial {numbers(failed)}" + (f"; first: {message}" if message else ""))
    return lines


def failed_trials(results: Results) -> dict[str, list[FrozenTrial]]:
    """Kind of failure -> the trials that failed so."""
    kinds: dict[str, list[FrozenTrial]] = {}
    for trial in results.trials:
        if trial.state == TrialState.FAIL:
            kinds.setdefault(trial.user_attrs.get("failure", "unknown"), []).append(trial)
    return kinds


def numbers(trials: Iterable[FrozenTrial]) -> str:
    """Their numbers, in words."""
    return ", ".join(str(trial.number) for trial in trials)


def provenance(sweep: Description) -> list[list[str]]:
    """Rows: where the sweep's numbers come from."""
    rows = {
        "objectives": ", ".join(sweep.objectives),
        "data": f"{sweep.dataset}, {'verified' if sweep.verified else 'UNVERIFIED'}, {sweep.fingerprint}, {sweep.feed}",
        "sampler, pruner, seed": f"{sweep.sampler}, {sweep.pruner}, {sweep.seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in sweep.versions.items()),
        "commit": sweep.commit,
        "created": sweep.created,
        "storage": sweep.storage,
        "study": hidden(sweep.study_url),
    }
    return [[name, setting(value)] for name, value in rows.items()]
