"""The report of a sweep: the best recipe, a table of all trials, and an honest answer to "was it worth it?".

Everything is read from the study; a report of a running sweep is possible at any time.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from mollify_core.errors import DataError, StorageError
from sweeps.results import MIN_FOR_IMPORTANCE, REFERENCES, Results, label, scale, settings_of
from sweeps.study_storage import hide_password
from sweeps.text import NONE, markdown, shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sweeps.html_page import Section

    PerImage = Mapping[int, Mapping[str, np.ndarray]]
    Interval = tuple[float, float, float]

TOP = 10  # trials in the tables
METRICS = tuple(f"{k}_{m}" for k in ("clean", "corrupted") for m in ("nll", "error", "top5_error", "brier", "ece"))
UNVERIFIED = "UNVERIFIED DATA: the files of this data set were not checked against official checksums"
PAIRED_NOTE = "The intervals cover the choice of the validation images, not that of the training seed."


@dataclass(frozen=True)
class Report:
    """What `build` made.

    Attributes:
        best: number of the best trial; None when no trial has completed.
        summary: text of summary.md (Markdown).
        files: everything written.
    """

    best: int | None
    summary: str
    files: tuple[Path, ...]


def build(
    study: optuna.Study,
    out: Path,
    *,
    per_image: PerImage | None = None,
    evaluation: Path | None = None,
    commands: Sequence[tuple[str, str]] = (),
    extra: Sequence[Section] = (),
) -> Report:
    """Writes report.html, summary.md, trials.parquet, best_recipe.json and plots/*.png into `out`, each atomically.

    Args:
        study: a sweep's study.
        out: local folder; made when missing.
        per_image: trial number -> metric ("clean_nll", "clean_error", "corrupted_nll", "corrupted_error") -> (images,)
            float, one value per validation image, in the same order for all trials; for paired differences between
            the best trial and the references. Also "bins" of `validation.image_values`, for pictures.
        evaluation: evaluation.parquet of the sweep's models; the page then shows the test set too.
        commands: (description, command) pairs, shown on the page.
        extra: further sections of the page.

    Raises:
        ConfigError: the study is not a sweep's.
        DataError: per-image values of two trials differ in number, or `evaluation` is none.
        StorageError: `out` cannot be written.
    """
    from sweeps import html_report, plots  # matplotlib is slow to import

    results = Results(study)
    best = results.compared.get("best")
    summary = _summary(results, per_image or {})
    page = html_report.page(results, per_image=per_image, evaluation=evaluation, commands=commands, extra=extra)
    files: list[Path] = []

    def write(name: str, save: Callable[[Path], object]) -> None:
        path = out / name
        unfinished = path.with_name(f".{path.name}.partial")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save(unfinished)
            os.replace(unfinished, path)
        except OSError as error:
            raise StorageError(f"Cannot write {str(path)!r}: {error.strerror or error}") from None
        files.append(path)

    write("trials.parquet", partial(_write_trials, results))
    if best is not None:
        text = json.dumps(best_recipe(results, best), indent=2) + "\n"
        write("best_recipe.json", lambda path: path.write_text(text, encoding="utf-8"))
    write("summary.md", lambda path: path.write_text(summary, encoding="utf-8"))
    write("report.html", lambda path: path.write_text(page, encoding="utf-8"))
    for name, figure in plots.draw(results).items():
        write(f"plots/{name}.png", partial(figure.savefig, format="png"))
    return Report(None if best is None else best.number, summary, tuple(files))


def setting(value: Any) -> str:
    """A setting's value for readers."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "none" if value is None else ",".join(value) if isinstance(value, (list, tuple)) else str(value)


def best_recipe(results: Results, best: FrozenTrial) -> dict[str, Any]:
    """What best_recipe.json says."""
    sweep, attrs = results.sweep, best.user_attrs
    keys = ("seed", "versions", "commit", "dataset", "verified", "fingerprint")
    provenance = {"sweep": sweep["name"], "trial": best.number, **{key: sweep[key] for key in keys}}
    provenance |= {key: attrs[key] for key in ("threads", "device") if key in attrs}
    return {"recipe": attrs["recipe"], "metrics": attrs.get("metrics", {}), "provenance": provenance}


def _write_trials(results: Results, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    trials = results.trials
    attrs = [trial.user_attrs for trial in trials]
    params, recipes = [trial.params for trial in trials], [settings_of(trial) for trial in trials]
    metrics = [a.get("metrics", {}) for a in attrs]

    def column(values: Iterable[Any], kind: pa.DataType | None = None) -> pa.Array:
        values = [",".join(map(str, v)) if isinstance(v, (list, tuple)) else v for v in values]
        try:
            return pa.array(values, kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # choices of several types
            return pa.array([None if v is None else str(v) for v in values], pa.string())

    def attribute(name: str, kind: pa.DataType) -> pa.Array:
        return column((a.get(name) for a in attrs), kind)

    columns = {
        "number": column((trial.number for trial in trials), pa.int64()),
        "state": column((trial.state.name for trial in trials), pa.string()),
        "reference": attribute("reference", pa.string()),
        "epochs_done": attribute("epochs_done", pa.int64()),
        "seconds": attribute("seconds", pa.float64()),
        **{f"param_{name}": column(p.get(name) for p in params) for name in results.sweep["space"]},
        **{f"recipe_{name}": column(r.get(name) for r in recipes) for name in _union(recipes)},
        **{name: column((m.get(name) for m in metrics), pa.float64()) for name in _union(metrics)},
        **{name: attribute(name, pa.string()) for name in ("failure", "failure_message", "folder", "checkpoint")},
        "verified": column((results.sweep["verified"] for _ in trials), pa.bool_()),
    }
    pa.parquet.write_table(pa.table(columns), path)


def _union(mappings: Iterable[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def verdict(results: Results) -> str:
    """The best trial against the paper's schedule and plain training, on the first objective, in plain sentences."""
    if not results.completed:
        return "No trial has completed, so there is nothing to compare."
    best, metric = results.compared["best"], results.metric
    unit, points = (" %", " points") if scale(metric) == 100 else ("", "")
    own = best.user_attrs.get("reference")
    text = f"Best of {len(results.completed)} completed trials: trial {best.number}"
    text += f" ({REFERENCES[own]})" if own else ""
    text += f", with a {label(metric, unit=False)} of {shown(metric, best.values[0])}{unit} on the validation images."
    below = []
    for name, words in REFERENCES.items():
        other = results.compared.get(name)
        if other is None:
            reason = _why_missing(results, name)
            text += f" There is no result of {words} ({reason}), so nothing can be said against it."
        elif name == own:
            text += f" The search found nothing better than {words}."
        else:
            gain = other.values[0] - best.values[0]
            share = f" ({100 * gain / other.values[0]:.3g} %)" if other.values[0] > 0 else ""
            value = f"trial {other.number}: {shown(metric, other.values[0])}{unit}"
            below.append(f"{shown(metric, gain)}{points}{share} below {words} ({value})")
    return text + (f" That is {' and '.join(below)}." if below else "")


def _why_missing(results: Results, name: str) -> str:
    for trial in results.trials:
        if trial.user_attrs.get("reference") == name:
            return ", ".join(
                filter(None, [f"trial {trial.number} is {trial.state.name}", trial.user_attrs.get("failure")])
            )
    return "the sweep has no such trial"


def comparison(results: Results) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every validation metric of the compared trials, and by how much they differ from plain."""
    measured = {name: trial.user_attrs.get("metrics", {}) for name, trial in results.compared.items()}
    others = [name for name in measured if name != "plain" and "plain" in measured]
    rows = []
    for metric in sorted(_union(measured.values()), key=lambda m: METRICS.index(m) if m in METRICS else len(METRICS)):
        values = {name: m.get(metric) for name, m in measured.items()}
        base = values.get("plain")
        differences = [None if base is None or values[o] is None else values[o] - base for o in others]
        row = [shown(metric, v) for v in values.values()] + [shown(metric, d, "+") for d in differences]
        rows.append([label(metric), *row])
    return ["validation", *measured, *(f"{name} - plain" for name in others)], rows


def paired_interval(first: np.ndarray, second: np.ndarray) -> Interval:
    """Mean of first - second over images, and its 95 % interval by the normal approximation of paired differences.

    Args:
        first, second: (images,) float, image by image; at least two.

    Raises:
        DataError: they do not have the same images.
    """
    if first.shape != second.shape or first.ndim != 1 or first.size < 2:
        raise DataError(
            f"Expected per-image values of the same images, but got shapes {first.shape} and {second.shape}"
        )
    difference = first.astype(np.float64) - second
    half = statistics.NormalDist().inv_cdf(0.975) * difference.std(ddof=1) / math.sqrt(difference.size)
    mean = float(difference.mean())
    return mean, mean - float(half), mean + float(half)


def paired(results: Results, per_image: PerImage, metric: str) -> dict[tuple[str, str], Interval | None]:
    """Pairs of different compared trials -> first - second by `paired_interval`; None where values are missing."""
    trials = results.compared
    found: dict[tuple[str, str], Interval | None] = {}
    for pair in (("best", "plain"), ("best", "paper"), ("paper", "plain")):
        if set(pair) <= trials.keys() and trials[pair[0]].number != trials[pair[1]].number:
            first, second = (per_image.get(trials[name].number, {}).get(metric) for name in pair)
            found[pair] = None if first is None or second is None else paired_interval(first, second)
    return found


def _paired(results: Results, per_image: PerImage) -> list[str]:
    """Markdown lines: the paired differences on the first objective, or why there are none."""
    metric = results.metric
    if metric.endswith("_ece"):
        return ["The ECE has no value per image, so there is no paired interval.", ""]
    rows = []
    for (one, other), interval in paired(results, per_image, metric).items():
        cells = ["no per-image values", NONE, NONE]
        if interval is not None:
            mean, low, high = interval
            ends = f"{shown(metric, low, '+')} to {shown(metric, high, '+')}"
            cells = [shown(metric, mean, "+"), ends, "no" if low <= 0 <= high else "yes"]
        rows.append([f"{one} - {other}", *cells])
    header = [f"{label(metric)}, paired over images", "mean difference", "95 % interval", "excludes 0"]
    return [markdown(header, rows), "", PAIRED_NOTE, ""] if rows else []


def caveat(results: Results) -> str:
    """How far the figures can be trusted."""
    return (
        f"Each figure comes from one training seed, and the best was chosen among {len(results.completed)} completed "
        "trials by these same validation images, so its advantage is optimistic: confirm it with further seeds and on "
        "the test set."
    )


def _top(results: Results, params: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the best trials on the first objective; with several objectives, all of the Pareto front."""
    objectives = results.sweep["objectives"]
    metrics = [m for m in ("clean_error", "corrupted_error") if m not in objectives]
    rows = []
    for trial in results.completed[:TOP] + [t for t in results.completed[TOP:] if t.number in results.front]:
        attrs, used = trial.user_attrs, results.searched(trial)
        notes = [attrs.get("reference"), "Pareto" if trial.number in results.front else None]
        values = [*trial.values, *(attrs.get("metrics", {}).get(m) for m in metrics)]
        cells = [shown(m, v) for m, v in zip([*objectives, *metrics], values, strict=True)]
        cells += [f"{attrs.get('seconds', math.nan) / 60:.1f}", *(setting(used.get(p)) for p in params)]
        rows.append([" ".join([str(trial.number), *filter(None, notes)]), *cells])
    return ["trial", *map(label, [*objectives, *metrics]), "minutes", *params], rows


def _summary(results: Results, per_image: PerImage) -> str:
    sweep = results.sweep
    lines = [] if sweep["verified"] else [f"> **{UNVERIFIED}.**", ""]
    lines += [f"# Sweep {sweep['name']}: {sweep['dataset']}, {sweep['network']}", "", "## Was it worth it?", ""]
    lines += [verdict(results), ""]
    if results.completed:
        lines += [markdown(*comparison(results)), ""]
        lines += _paired(results, per_image) if per_image else []
        lines += [caveat(results), "", "## Best trials", "", markdown(*_top(results, list(sweep["space"]))), ""]
    lines += ["## Trials", "", tally(results), "", *(f"- {line}" for line in failures(results))]
    lines += ["", "## Importance of the parameters", ""]
    if results.importances:
        rows = [[name, f"{100 * share:.1f}"] for name, share in results.importances.items()]
        lines += ["Share of the variance of the trials' ranks on the first objective (fANOVA); a rough guide.", ""]
        lines += [markdown(["parameter", "share (%)"], rows), ""]
    else:
        few = f"It takes {MIN_FOR_IMPORTANCE} completed trials inside the searched ranges that differ in value."
        lines += [f"Cannot be computed. {few}", ""]
    return "\n".join([*lines, "## Provenance", "", markdown(["", "value"], provenance(sweep)), ""])


def tally(results: Results) -> str:
    """How many trials there are, by state."""
    counts = [f"{n} {s.name}" for s in TrialState if (n := sum(trial.state == s for trial in results.trials))]
    return f"{len(results.trials)} in all: {', '.join(counts)}." if counts else "There are none yet."


def failures(results: Results) -> list[str]:
    """A line for each kind of failure: which trials, and what the first one said."""
    lines = []
    for kind, failed in _failed(results).items():
        message = str(failed[0].user_attrs.get("failure_message", "")).strip().partition("\n")[0][:200]
        lines.append(f"failed ({kind}): trial {_numbers(failed)}" + (f"; first: {message}" if message else ""))
    return lines


def _failed(results: Results) -> dict[str, list[FrozenTrial]]:
    kinds: dict[str, list[FrozenTrial]] = {}
    for trial in results.trials:
        if trial.state == TrialState.FAIL:
            kinds.setdefault(trial.user_attrs.get("failure", "unknown"), []).append(trial)
    return kinds


def _numbers(trials: Iterable[FrozenTrial]) -> str:
    return ", ".join(str(trial.number) for trial in trials)


def provenance(sweep: Mapping[str, Any]) -> list[list[str]]:
    """Rows: where the sweep's numbers come from."""
    rows = {
        "objectives": ", ".join(sweep["objectives"]),
        "data": f"{sweep['dataset']}, {'verified' if sweep['verified'] else 'UNVERIFIED'}, {sweep['fingerprint']}",
        "sampler, pruner, seed": f"{sweep['sampler']}, {sweep['pruner']}, {sweep['seed']}",
        "versions": ", ".join(f"{name} {version}" for name, version in sweep["versions"].items()),
        "commit": sweep["commit"],
        "created": sweep["created"],
        "storage": sweep["storage"],
        "study": hide_password(sweep["study_url"]),
    }
    return [[name, setting(value)] for name, value in rows.items()]


def print_result(console: Console, study: optuna.Study, *, report_uri: str, commands: list[tuple[str, str]]) -> None:
    """Prints how a sweep ended: the answer, the best recipe, the top trials, and how to look closer.

    Args:
        console: where to.
        study: a sweep's study.
        report_uri: where the report lies.
        commands: (description, command) pairs.
    """
    from rich.text import Text

    results = Results(study)
    sweep, best = results.sweep, results.compared.get("best")
    if not sweep["verified"]:
        console.print(Text(UNVERIFIED, style="bold red"))
    console.rule(Text(f"{sweep['name']}: {sweep['dataset']}, {sweep['network']}"))
    if best is not None:
        columns = {name: results.searched(t) for name, t in results.compared.items() if name != "plain"}
        rows = [[name, *(setting(c.get(name)) for c in columns.values())] for name in columns["best"]]
        console.print(_rich_table(f"Best recipe (trial {best.number})", ["setting", *columns], rows))
        room = max(0, (console.width - 70) // 14)  # the rest of the parameters is in the report
        console.print(_rich_table("Best trials", *_top(results, list(sweep["space"])[:room])))
        console.print(_rich_table("Was it worth it?", *comparison(results)))
    console.print(Text(f"\n{verdict(results)}"))
    if best is not None:
        console.print(Text(caveat(results), style="dim"))
    for kind, failed in _failed(results).items():
        console.print(Text(f"Failed ({kind}): trial {_numbers(failed)}", style="red"))
    for description, command in [("Report", report_uri), *commands]:
        console.print(Text.assemble((f"{description}: ", "bold"), command), soft_wrap=True)


def _rich_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, name in enumerate(header):
        table.add_column(Text(name), justify="right" if index else "left", no_wrap=not index)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
