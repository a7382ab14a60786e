"""report.html: what a sweep found, as one page that opens anywhere: answer, pictures, recipe, where it comes from.

Words and numbers are those of `words`; here they are arranged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna.trial import FrozenTrial

from mollify_core.measure.statistics import Mean
from mollify_core.measure.validation import BY_IMAGE
from mollify_sweeps.display.axes import MINUS
from mollify_sweeps.display.charts import difference_row, interval_chart
from mollify_sweeps.display.page import (
    Html,
    Section,
    bullets,
    code,
    details,
    document,
    download,
    figure,
    figures,
    paragraph,
    table,
    tiles,
)
from mollify_sweeps.display.text import NONE, UNVERIFIED, label, points, scale, setting, shown
from mollify_sweeps.evaluation.rows import read
from mollify_sweeps.report import model_charts, trial_charts, views, words
from mollify_sweeps.report.words import PerImage
from mollify_sweeps.study.results import MIN_FOR_IMPORTANCE, Results

Differences = Mapping[str, Mapping[tuple[str, str], Mean | None]]
_PAIRED = ("corrupted_nll", "corrupted_error", "clean_nll", "clean_error")


def page(
    results: Results,
    *,
    per_image: PerImage | None = None,
    evaluation: Path | None = None,
    commands: Sequence[tuple[str, str]] = (),
    extra: Sequence[Section] = (),
    answer: str = "",
    warning: str = "",
) -> str:
    """The page of a sweep, as an HTML document that loads nothing.

    Args:
        results: of the sweep; it may still run.
        per_image, evaluation, commands: see `build.build`.
        extra: sections that stand right after the answer.
        answer: in place of what the search alone suggests, which then stands below.
        warning: stands above everything.

    Raises:
        DataError: see `build.build`.
        StorageError: `evaluation` cannot be read.
    """
    sweep, per_image = results.sweep, per_image or {}
    metrics = dict.fromkeys([results.metric, *_PAIRED])
    differences = {metric: words.paired(results, per_image, metric) for metric in metrics if metric in BY_IMAGE}
    cells = model_charts.validation(results, per_image)
    tested = read(evaluation) if evaluation else None
    suggested = _opening(results, differences, model_charts.test_tiles(results, *tested) if tested else [])
    sections = [
        *extra,
        Section("What the search alone suggests", suggested if answer else []),
        Section("Was one method better, or only tried more often?", trial_charts.expected(results)),
        Section("What changed", _changes(results, differences)),
        Section("On the test set", model_charts.test_set(results, *tested) if tested else []),
        Section("Calibration on validation images", model_charts.calibration(cells)),
        Section("Corruption by corruption, on validation images", model_charts.corruption_maps(cells, "plain")),
        Section("Pareto front", _fronts(results)),
        Section("How the search went", _search(results)),
        Section("Importance of the parameters", _parameters(results)),
        Section("Parameters of all trials", trial_charts.coordinates(results)),
        Section("Best recipe, and how to train it again", _recipe(results, commands)),
        Section("All trials", _trials(results)),
        Section("Provenance", [table([], words.provenance(sweep), kind="facts")]),
    ]
    return document(
        words.question(results),
        [paragraph(answer, "answer")] if answer else suggested,
        [section for section in sections if section.parts],
        above=f"Sweep {sweep.name}: {sweep.dataset}, {sweep.network}",
        warning=" ".join(filter(None, [warning, "" if sweep.verified else f"{UNVERIFIED}."])),
    )


def _opening(results: Results, differences: Differences, tested: Sequence[tuple[str, str, str]]) -> list[Html]:
    parts = [paragraph(words.trade_off(results), "answer"), table(*words.front(results))] if results.leaders else []
    parts.append(paragraph(_answer(results, differences), "answer"))
    own = differences.get(results.metric, {})
    price = "clean_error" if results.metric.startswith("corrupted") else "corrupted_error"
    who = "best" if ("best", "plain") in own else "paper"
    told = [(pair, results.metric, interval) for pair, interval in own.items() if pair[0] == who]
    told += [((who, "plain"), price, differences[price].get((who, "plain")))]
    numbers = [_tile(results, pair, metric, interval) for pair, metric, interval in told if interval is not None]
    parts += [tiles([*numbers, *tested[: 4 - len(numbers)]])] if numbers or tested else []
    charts = [chart for metric, found in differences.items() for chart in _intervals(metric, found)]
    if results.fair:
        note = "Trials and epochs that each method was given; the methods were searched alike, in studies of their own."
        parts.append(table(*words.efforts(results), note))
    if charts:
        note = "Differences, image by image on the validation images, with 95 % intervals; left of the line is better."
        parts += [figures(*charts), paragraph(f"{note} {words.paired_note(results)}", "note")]
    if results.completed:
        parts.append(paragraph(words.caveat(results), "note"))
    return parts


def _answer(results: Results, differences: Differences) -> str:
    """The question's answer in a sentence or two."""
    compared, metric = results.compared, results.metric
    if "best" not in compared:
        return (
            "There is no answer: no trial has completed."
            if not results.completed
            else ("There is no answer: no trial of a method, to compare with plain training, has completed.")
        )
    if "plain" not in compared:
        return "There is no answer: plain training, to compare with, has no result."
    name = label(metric, unit=False)
    if compared["best"].number == compared["plain"].number:
        return f"No: no trial of this sweep has a lower {name} than plain training."
    if results.fair:
        return _fair_answer(results, differences.get(metric, {}).get(("best", "plain")))
    found = differences.get(metric, {}).get(("best", "plain"))
    if found is None:
        below = f"the best trial's {name} is below plain training's; how surely is not known."
        return f"It seems so: {below} {words.unproven(results)}".strip()
    mean, low, high = _rounded(metric, Mean(-found.value, -found.high, -found.low, found.count), "")
    below = f"the best trial's {name} is {mean}{points(metric)} (95 % interval {low} to {high}) below plain training's."
    if found.spans_zero:
        return f"These images cannot tell: {below}"
    text = f"These validation images suggest so: {below} {words.unproven(results)}".strip()
    search = differences[metric].get(("best", "paper"))
    if search is not None and search.spans_zero:
        text += " Whether the search found anything better than the paper's schedule, they cannot tell."
    return text


def _tile(results: Results, pair: tuple[str, str], metric: str, found: Mean) -> tuple[str, str, str]:
    mean, low, high = _rounded(metric, found)
    sure = "the images cannot tell the two apart" if found.spans_zero else "the images tell them apart"
    name = f"{label(metric, unit=False)}, {results.names[pair[0]]} against {results.names[pair[1]]}"
    return name, mean + points(metric), f"95 % interval {low} to {high}: {sure}"


def _fair_answer(results: Results, found: Mean | None) -> str:
    """The answer where plain training was searched like the others: best against best."""
    compared, metric, name = results.compared, results.metric, label(results.metric, unit=False)
    one, other = results.names["best"], results.names["plain"]
    if found is None:
        lower = compared["best"].values[0] < compared["plain"].values[0]
        first, second = (one, other) if lower else (other, one)
        seems = f"It seems {'so' if lower else 'not'}"
        return f"{seems}: {first} has a lower {name} than {second}; how surely is not known."
    first, second = (one, other) if found.value < 0 else (other, one)
    upright = found if found.value > 0 else Mean(-found.value, -found.high, -found.low, found.count)
    mean, low, high = _rounded(metric, upright, "")
    below = f"{first} is {mean}{points(metric)} (95 % interval {low} to {high}) below {second} in {name}."
    if found.spans_zero:
        return f"These images cannot tell: {below}"
    suggest = f"These validation images suggest {'so' if found.value < 0 else 'not'}"
    return f"{suggest}: {below} {words.unproven(results)}"


def _rounded(metric: str, mean: Mean, sign: str = "+") -> list[str]:
    """A mean and the ends of its interval with as many digits as its width has a meaning for."""
    half = scale(metric) * (mean.high - mean.low) / 2
    digits = max(0, 1 - math.floor(math.log10(half))) if half > 0 else 4
    values = (scale(metric) * value for value in (mean.value, mean.low, mean.high))
    return [f"{value:{sign}z.{digits}f}".replace("-", MINUS) if math.isfinite(value) else NONE for value in values]


def _intervals(metric: str, found: Mapping[tuple[str, str], Mean | None]) -> list[Html]:
    rows = [
        difference_row(f"{one} {MINUS} {other}", metric, mean, one, _rounded(metric, mean)[0])
        for (one, other), mean in found.items()
        if mean is not None
    ]
    title = label(metric, difference=True)
    return [figure(interval_chart(f"Differences in {title}", rows, title))] if rows else []


def _changes(results: Results, differences: Differences) -> list[Html]:
    parts = [paragraph(words.verdict(results))]
    if results.completed:
        parts.append(table(*words.comparison(results)))
    rows = [
        [
            f"{label(metric)}: {one} {MINUS} {other}",
            shown(metric, mean.value, "+"),
            f"{shown(metric, mean.low, '+')} to {shown(metric, mean.high, '+')}",
        ]
        for metric, found in differences.items()
        for (one, other), mean in found.items()
        if mean is not None
    ]
    if rows:
        header = ["paired over validation images", "mean difference", "95 % interval"]
        parts.append(details("The intervals in numbers", table(header, rows, words.paired_note(results))))
    return parts


def _fronts(results: Results) -> list[Html]:
    text = "What robustness costs on clean images: the completed trials, and the line of those that no other beats."
    if len(results.sweep.objectives) > 1:
        text = (
            "The completed trials on the objectives; those on the Pareto front are beaten by no other on all of them."
        )
    drawn = trial_charts.pictures(results, views.fronts(results))
    return [paragraph(text), *drawn] if drawn else []


def _search(results: Results) -> list[Html]:
    failures = words.failures(results)
    told = [paragraph(words.tally(results)), *([bullets(failures)] if failures else [])]
    return [*told, *trial_charts.pictures(results, [*views.history(results), *views.curves(results)])]


def _parameters(results: Results) -> list[Html]:
    few = f"Cannot be computed: it takes {MIN_FOR_IMPORTANCE} completed trials that differ in value."
    slices = trial_charts.slices(results)
    text = paragraph(f"The {label(results.metric)} over each searched parameter by itself:")
    return [*(trial_charts.importances(results) or [paragraph(few)]), *([text, *slices] if slices else [])]


def _recipe(results: Results, commands: Sequence[tuple[str, str]]) -> list[Html]:
    best = results.best
    parts = []
    if best is not None:
        columns = {name: results.effective(trial) for name, trial in results.compared.items()}
        searched = words.union(columns.values())
        rows = [[name, *(setting(c[name]) if name in c else NONE for c in columns.values())] for name in searched]
        trials = ", ".join(f"{name}: trial {trial.number}" for name, trial in results.compared.items())
        whole = json.dumps(words.best_recipe(results, best), indent=2) + "\n"
        parts += [table(["searched setting", *columns], rows, trials)] if rows else []
        parts += [
            details("The whole recipe, with its metrics and where it comes from", code(whole)),
            download("best_recipe.json", whole),
        ]
    for description, command in commands:
        parts += [paragraph(f"To {description}:"), code(command)]
    return parts


def _trials(results: Results) -> list[Html]:
    objectives, names = results.sweep.objectives, list(results.sweep.space)
    measured = [*objectives, *(m for m in ("clean_error", "corrupted_error") if m not in objectives)]
    header = ["trial", "state", *map(label, measured), "epochs", "minutes", *names]
    order = {trial.number: place for place, trial in enumerate(results.completed)}
    trials = sorted(results.trials, key=lambda trial: (order.get(trial.number, math.inf), trial.number))
    rows = [_row(results, trial, measured, names) for trial in trials]
    caption = "The best first; the value of a pruned trial is its last. A click on a column's name sorts by it."
    return [table(header, rows, caption, kind="sortable")] if rows else []


def _row(results: Results, trial: FrozenTrial, measured: Sequence[str], names: Sequence[str]) -> list[str]:
    attrs, used = trial.user_attrs, results.effective(trial)
    marks = list(filter(None, [words.mark(results, trial)]))
    marks += ["Pareto"] * (trial.number in results.front)
    known = attrs.get("metrics", {}) | dict(zip(results.sweep.objectives, trial.values or [], strict=False))
    minutes = f"{attrs['seconds'] / 60:.1f}" if "seconds" in attrs else NONE
    epochs = str(attrs.get("epochs_done", NONE))
    values = [shown(metric, known.get(metric)) for metric in measured]
    settings = [setting(used[name]) if name in used else NONE for name in names]
    return [" ".join([str(trial.number), *marks]), trial.state.name.lower(), *values, epochs, minutes, *settings]
