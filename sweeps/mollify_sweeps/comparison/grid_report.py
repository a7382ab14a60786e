"""Tables and plots of a grid: means over seeds with intervals, paired differences with a test, published figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from mollify_core import provenance
from mollify_core.matching.distortions import KINDS
from mollify_core.measure import statistics
from mollify_core.measure.statistics import Difference, Mean
from mollify_core.recipe import Recipe
from mollify_sweeps.comparison import grid_plots, grids
from mollify_sweeps.comparison.tuning import FACTORS
from mollify_sweeps.display.charts import difference_row, interval_chart
from mollify_sweeps.display.figures import pngs
from mollify_sweeps.display.page import Html, Section, bullets, document, figure, figures, paragraph, table
from mollify_sweeps.display.text import NONE, UNVERIFIED, label, markdown, scale, shown
from mollify_sweeps.study.description import Description

Record = Mapping[str, Any]
ECE = {("mollification", "published"): "batch_mean_ece", ("matching", "published"): "matching_ece"}
"""The estimator in the tables; pooled where not named."""
ESTIMATOR = {
    "ece": "pooled",
    "batch_mean_ece": "mean over batches of 100",
    "matching_ece": "mean over batches and bins",
}


def write(
    records: Sequence[Record], sweeps: Sequence[Description], folder: Path, notice: Callable[[str], None] = print
) -> str:
    """Writes results.parquet, summary.md, report.html and plots/*.png; returns the text of summary.md.

    Args:
        records: one a run and seed: grid, protocol, dataset, run, seed and more, and what `evaluation.summarise` says;
            "lr" is what it was trained with, "lr_tried" and "lr_values" what was tried, None where nothing was tuned.
        sweeps: descriptions of the sweeps that trained them.
        folder: exists.
        notice: takes a sentence about plots that cannot be drawn.
    """
    pa.parquet.write_table(pa.Table.from_pylist([dict(record) for record in records]), folder / "results.parquet")
    text = summary(records, sweeps)
    (folder / "summary.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(page(records, sweeps), encoding="utf-8")
    (folder / "plots").mkdir()
    for name, png in pngs(lambda: grid_plots.draw(records), notice):
        (folder / "plots" / f"{name}.png").write_bytes(png)
    return text


@dataclass(frozen=True)
class Table:
    """A table of texts under a title."""

    title: str
    header: list[str]
    rows: list[list[str]]


def summary(records: Sequence[Record], sweeps: Sequence[Description]) -> str:
    """The text of summary.md."""
    lines = [] if _verified(records) else [f"> **{UNVERIFIED}.**", ""]
    lines += [f"# {title(records)}", ""]
    tables: list[str] = []
    for dataset, (answer, found) in write_up(records).items():
        lines += [f"**{dataset}.** {answer}", ""]
        tables += [f"## {dataset}", ""]
        for one in found:
            tables += [f"### {one.title}", "", markdown(one.header, one.rows), ""]
    tables += ["## How to read this", "", *notes(records), "", "## Set-up", ""]
    set_up = set_up_of(records, sweeps)
    tables += [markdown(set_up.header, set_up.rows), "", f"Measured at commit {provenance.commit()}.", ""]
    return "\n".join([*lines, *tables])


def page(records: Sequence[Record], sweeps: Sequence[Description]) -> str:
    """report.html: the same with pictures, as one page that loads nothing."""
    sections, opening = [], []
    for dataset, (answer, found) in write_up(records).items():
        own = [record for record in records if record["dataset"] == dataset]
        opening.append(paragraph(f"{dataset}: {answer}", "answer"))
        charts = [chart for metric in metrics(own) for chart in _charts(own, metric)]
        sections.append(Section(dataset, [figures(*charts)] if charts else []))
        sections += [Section(f"{one.title} ({dataset})", [table(one.header, one.rows)]) for one in found]
    set_up = set_up_of(records, sweeps)
    sections.append(Section("How to read this", [bullets(notes(records))]))
    sections.append(Section("Set-up", [table(set_up.header, set_up.rows)]))
    return document(
        title(records),
        opening,
        [section for section in sections if section.parts],
        above="The papers' experiments, run again",
        warning="" if _verified(records) else UNVERIFIED,
    )


def title(records: Sequence[Record]) -> str:
    """What the grid is."""
    return f"{records[0]['grid'].capitalize()}: the paper's experiments, {grids.protocol_of(records[0])}"


def write_up(records: Sequence[Record]) -> dict[str, tuple[str, list[Table]]]:
    """Data set -> the answer in a sentence, and the tables."""
    tables = {"mollification": _mollification, "matching": _matching, "soft": _soft}[records[0]["grid"]]
    found = {}
    for name in dict.fromkeys(record["dataset"] for record in records):
        own = [record for record in records if record["dataset"] == name]
        answer, parts = tables(own)
        found[name] = answer, [*parts, *_rates(own)]
    return found


def _verified(records: Sequence[Record]) -> bool:
    return all(record["verified"] for record in records)


def _charts(records: Sequence[Record], metric: str) -> Iterator[Html]:
    """Differences that the grid is about, with their intervals."""
    grid = records[0]["grid"]
    rows = []
    for (run, other), d in statistics.compare(values(records, metric), _pairs(records)).items():
        name = {"mollification": run.removesuffix(", mollified"), "soft": other}.get(grid, f"to {other}")
        rows.append(difference_row(name, metric, d.mean))
    if rows:
        what = f"difference in {label(metric, difference=True)}"
        against = {
            "mollification": "Mollified less not mollified",
            "matching": "Information matching less each baseline",
            "soft": "Soft labels less the same augmentation with other labels",
        }[grid]
        yield figure(interval_chart(what, rows, what), f"{against}; left of the line is better.")


def _pairs(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(run, the one it is held against) of what the grid is about."""
    have = {record["run"] for record in records}
    if records[0]["grid"] == "mollification":
        pairs = [(f"{name}, mollified", f"{name}, off") for name in grids.AUGMENTATIONS]
    elif records[0]["grid"] == "soft":
        pairs = [(f"{name}, soft", f"{name}, {other}") for name in grids.SOFT for other in ("hard", "fixed 0.1")]
    else:
        matched = grids.LABELS["matching"]
        pairs = [(matched, run) for run in grids.LABELS.values() if run != matched]
    return [pair for pair in pairs if have.issuperset(pair)]


def values(records: Sequence[Record], metric: str) -> dict[str, dict[int, float]]:
    """Run -> seed -> its number; runs without one are left out."""
    found: dict[str, dict[int, float]] = {}
    for record in records:
        number = record.get(metric)
        if number is not None and math.isfinite(number):
            found.setdefault(record["run"], {})[record["seed"]] = number
    return found


def metrics(records: Sequence[Record]) -> list[str]:
    """The columns of the tables: error, NLL and ECE, clean and corrupted."""
    ece = ECE.get((records[0]["grid"], records[0]["protocol"]), "ece")
    names = [f"{scope}_{metric}" for scope in ("clean", "corrupted") for metric in ("error", "nll", ece)]
    return [name for name in names if any(name in record for record in records)]


def written(metric: str, mean: Mean, sign: str = "") -> str:
    """A mean and the half width of its interval."""
    text = shown(metric, mean.value, sign)
    if math.isnan(mean.low):
        return text
    half = scale(metric) * (mean.high - mean.value)
    return f"{text} ± {half:.2g}" if half < 100 else f"{text} ± {half:.0f}"


def _mollification(records: Sequence[Record]) -> tuple[str, list[Table]]:
    """The answer in a sentence, and the tables, for one data set."""
    columns, pairs = metrics(records), _pairs(records)
    header = ["run", "seeds", *map(label, columns)]
    differences = {m: statistics.compare(values(records, m), pairs) for m in columns}
    parts: list[Table] = []
    runs = list(dict.fromkeys(record["run"] for record in records))
    compared = [run for run in runs if run.endswith((", off", ", mollified"))]
    if compared:
        compared.sort(key=lambda run: list(grids.AUGMENTATIONS).index(run.partition(", ")[0]))
        rows = []
        for run in compared:
            rows.append([run, *_means(records, run, columns), _published(records, run)])
            pair = (run, f"{run.partition(', ')[0]}, off")
            if pair in pairs:
                rows.append([f"difference ({run.partition(', ')[0]})", *_row(differences, pair), ""])
        words = "With and without mollification (blocks 1 and 2)"
        parts.append(Table(words, [*header, "published clean error (%)"], rows))
    ablated = f"{grids.ABLATED}, mollified"
    others = [run for run in runs if run not in compared]
    if others and ablated in runs:
        pairs_of = [(run, ablated) for run in others]
        against = {m: statistics.compare(values(records, m), pairs_of) for m in columns}
        rows = [[ablated, *_means(records, ablated, columns)]]
        for pair in pairs_of:
            rows.append([pair[0], *_means(records, pair[0], columns)])
            rows.append([f"difference to {ablated}", *_row(against, pair)])
        parts.append(Table("What matters in the schedule (blocks 3 to 6)", header, rows))
    elif others:
        rows = [[run, *_means(records, run, columns)] for run in others]
        parts.append(Table("Further runs", header, rows))
    return _answer("Mollification", "no mollification", differences, "augmentations"), parts


def _matching(records: Sequence[Record]) -> tuple[str, list[Table]]:
    columns = metrics(records)
    columns.insert(1, "clean_top5_error")
    runs = [run for run in grids.LABELS.values() if run in values(records, "clean_error")]
    matched, pairs = grids.LABELS["matching"], _pairs(records)
    differences = {m: statistics.compare(values(records, m), pairs) for m in columns}
    rows = []
    for run in runs:
        rows.append([run, *_means(records, run, columns)])
        published = grids.PUBLISHED.get(("matching", records[0]["dataset"], run), {})
        if published:
            cells = []
            for m in columns:
                name = m.removeprefix("clean_").replace("batch_mean_ece", "ece").replace("matching_ece", "ece")
                cells.append(shown(m, published[name]) if m.startswith("clean") and name in published else NONE)
            rows.append(["published", NONE, *cells])
        if (matched, run) in pairs:
            rows.append([f"{matched} - {run}", *_row(differences, (matched, run))])
    parts = [Table("The three labels", ["run", "seeds", *map(label, columns)], rows)]
    kinds = [kind for kind in KINDS if any(f"robust_accuracy_{kind}" in record for record in records)]
    if kinds:
        rows = []
        for run in runs:
            found = [statistics.mean(list(values(records, f"distorted_{kind}_error")[run].values())) for kind in kinds]
            rows.append([run, *(written("error", _accuracy(mean)) for mean in found)])
        strengths = "0, 0.25, 0.5, 0.75 and 1"
        parts.append(Table(f"Accuracy under distortion (%), mean over strengths {strengths}", ["run", *kinds], rows))
    return _answer("Information matching", "the baseline", differences, "baselines"), parts


def _rates(records: Sequence[Record]) -> list[Table]:
    """What every run got where learning rates were tuned."""
    own = {record["run"]: record for record in records if record.get("lr_tried")}
    if not own:
        return []
    header = ["run", *(f"untuned x {factor:g}" for factor in FACTORS), "used"]
    rows = []
    for run, record in own.items():
        tried = zip(record["lr_tried"], record["lr_values"], strict=True)
        cells = [f"{shown('corrupted_nll', value)} at {lr:g}" for lr, value in tried]
        at_end = record["lr"] in (record["lr_tried"][0], record["lr_tried"][-1])
        rows.append([run, *cells, f"{record['lr']:g}" + " (at the end)" * at_end])
    return [Table("Learning rates tried: corrupted NLL on validation images", header, rows)]


def _about_rates(records: Sequence[Record]) -> str:
    """Whether learning rates were tuned alike."""
    used = [f"{rate:g}" for rate in sorted({record["lr"] for record in records})]
    if any(record["lr_tried"] for record in records):
        return (
            f"Learning rates: each run has the best of {len(FACTORS)} multiples of its untuned one, by corrupted NLL "
            "on validation images, with a seed that is not measured: the same budget for all. Where the best is at the "
            "end of what was tried, one further out may be better. Nothing else was tuned."
        )
    if records[0]["protocol"] == "published":
        return f"Learning rates are as released ({', '.join(used)}); nothing was tuned."
    return (
        f"The learning rate ({', '.join(used)}) was tuned for no run, so part of a difference may be the learning "
        "rate's: `--tune` tunes that of each, with the same budget."
    )


def _soft(records: Sequence[Record]) -> tuple[str, list[Table]]:
    columns, pairs = metrics(records), _pairs(records)
    differences = {m: statistics.compare(values(records, m), pairs) for m in columns}
    have = values(records, "clean_error")
    rows = []
    for run in (f"{name}, {words}" for name in grids.SOFT for words in grids.SOFT_LABELS):
        if run in have:
            rows.append([run, *_means(records, run, columns)])
        rows += [[f"{run} - {pair[1]}", *_row(differences, pair)] for pair in pairs if pair[0] == run]
    parts = [Table("Each augmentation with three labels", ["run", "seeds", *map(label, columns)], rows)]
    return _answer("Soft labels", "other labels of the same augmentation", differences, "comparisons"), parts


def _accuracy(error: Mean) -> Mean:
    """The mean of 1 - error."""
    return Mean(1 - error.value, 1 - error.high, 1 - error.low, error.count)


def _means(records: Sequence[Record], run: str, columns: Sequence[str]) -> list[str]:
    found = [values(records, m).get(run, {}) for m in columns]
    cells = [written(m, statistics.mean(list(f.values()))) if f else NONE for m, f in zip(columns, found, strict=True)]
    return [str(max(map(len, found), default=0)), *cells]


def _row(differences: Mapping[str, Mapping[tuple[str, str], Difference]], pair: tuple[str, str]) -> list[str]:
    """Seeds, and the differences of one pair in all metrics; a star where the data tell the two apart."""
    cells, count = [], 0
    for metric, found in differences.items():
        if pair in found:
            count = max(count, found[pair].mean.count)
            cells.append(written(metric, found[pair].mean, "+") + " *" * found[pair].told)
        else:
            cells.append(NONE)
    return [str(count), *cells]


def _published(records: Sequence[Record], run: str) -> str:
    known = grids.PUBLISHED.get((records[0]["grid"], records[0]["dataset"], run), {})
    return f"about {shown('error', known['error'])}" if "error" in known else NONE


def _answer(name: str, other: str, differences: Mapping[str, Mapping[tuple[str, str], Difference]], among: str) -> str:
    """In how many comparisons each metric is better, worse, or not told apart."""
    parts = []
    for metric, found in differences.items():
        if found:
            told = [d for d in found.values() if d.told]
            better = sum(d.mean.value < 0 for d in told)
            counts = {"lower": better, "higher": len(told) - better, "not told apart": len(found) - len(told)}
            words = ", ".join(f"{text} with {n}" for text, n in counts.items() if n)
            parts.append(f"{label(metric, unit=False)} {words}")
    if not parts:
        return "Nothing to compare yet."
    total = max(map(len, differences.values()))
    if not any(d.told for found in differences.values() for d in found.values()):
        return f"{name} against {other}, of {total} {among}: these seeds tell them apart in no metric."
    return f"{name} against {other}, of {total} {among}: {'; '.join(parts)}."


def notes(records: Sequence[Record]) -> list[str]:
    """What a reader of the tables must know."""
    first = records[0]
    ece = ECE.get((first["grid"], first["protocol"]), "ece")
    biased = ", a biased estimator, only to compare with published numbers" if ece != "ece" else ""
    sources = ", ".join(sorted({str(record["corruptions"]) for record in records}))
    return [
        "± is half the 95 % interval over seeds (Student's t). Differences are paired by seed; a star says that the "
        "paired t test tells the two apart after Holm's correction for all comparisons of that column. Not told apart "
        "does not mean equal: with few seeds only large differences are told.",
        f"ECE: {ESTIMATOR[ece]}{biased}. Corrupted: mean over 15 corruptions at 5 severities ({sources}; "
        f"{first['corrupted_cells']} of 75 cells). Final weights are measured; nothing was chosen on the test set.",
        _about_rates(records),
        "Published figures are of the papers' full set-ups; ours compare only as far as the set-up equals them.",
    ]


def set_up_of(records: Sequence[Record], sweeps: Sequence[Description]) -> Table:
    """What was trained and measured, a row a sweep."""
    rows = []
    for sweep in sweeps:
        own = [record for record in records if record["sweep"] == sweep.name]
        if not own:
            continue
        recipe = Recipe.from_dict(sweep.base_recipe)
        named = ("network", "epochs", "batch_size", "optimizer", "lr", "train_fraction", "validation_fraction")
        rows.append(
            [
                sweep.name,
                f"{sweep.dataset} {sweep.fingerprint}",
                "yes" if own[0]["verified"] else "NO",
                str(own[0]["test_images"]),
                ", ".join(map(str, sorted({record["seed"] for record in own}))),
                ", ".join(f"{name} {recipe.get(name)}" for name in named),
                str(sweep.commit),
                ", ".join(f"{name} {version}" for name, version in sweep.versions.items()),
            ]
        )
    header = ["sweep", "data", "verified", "test images", "seeds", "base recipe", "git commit", "versions"]
    return Table("Set-up", header, rows)
