"""summary.md: what a sweep found, as a text."""

from __future__ import annotations

from mollify_sweeps.display.text import NONE, UNVERIFIED, label, markdown, shown
from mollify_sweeps.report import words
from mollify_sweeps.report.words import PerImage
from mollify_sweeps.study.results import MIN_FOR_IMPORTANCE, Results


def summary(results: Results, per_image: PerImage) -> str:
    """The text of summary.md."""
    sweep = results.sweep
    lines = [] if sweep.verified else [f"> **{UNVERIFIED}.**", ""]
    lines += [f"# Sweep {sweep.name}: {sweep.dataset}, {sweep.network}", "", f"## {words.question(results)}", ""]
    if results.leaders:
        lines += [words.trade_off(results), "", markdown(*words.front(results)), ""]
    lines += [words.verdict(results), ""]
    if results.completed:
        lines += [markdown(*words.comparison(results)), ""]
        lines += _paired(results, per_image) if per_image else []
        lines += [words.unproven(results), "", markdown(*words.efforts(results)), ""] if results.fair else []
        lines += [
            words.caveat(results),
            "",
            "## Best trials",
            "",
            markdown(*words.top_trials(results, list(sweep.space))),
            "",
        ]
    lines += ["## Trials", "", words.tally(results), "", *(f"- {line}" for line in words.failures(results))]
    lines += ["", "## Importance of the parameters", ""]
    if results.importances:
        rows = [[name, f"{100 * share:.1f}"] for name, share in results.importances.items()]
        lines += ["Share of the variance of the trials' ranks on the first objective (fANOVA); a rough guide.", ""]
        lines += [markdown(["parameter", "share (%)"], rows), ""]
    else:
        few = f"It takes {MIN_FOR_IMPORTANCE} completed trials inside the searched ranges that differ in value."
        lines += [f"Cannot be computed. {few}", ""]
    return "\n".join([*lines, "## Provenance", "", markdown(["", "value"], words.provenance(sweep)), ""])


def _paired(results: Results, per_image: PerImage) -> list[str]:
    """Markdown lines: the paired differences on the first objective, or why there are none."""
    metric = results.metric
    if metric.endswith("_ece"):
        return ["The ECE has no value per image, so there is no paired interval.", ""]
    rows = []
    for (one, other), interval in words.paired(results, per_image, metric).items():
        cells = ["no per-image values", NONE, NONE]
        if interval is not None:
            ends = f"{shown(metric, interval.low, '+')} to {shown(metric, interval.high, '+')}"
            cells = [shown(metric, interval.value, "+"), ends, "no" if interval.spans_zero else "yes"]
        rows.append([f"{one} - {other}", *cells])
    header = [f"{label(metric)}, paired over images", "mean difference", "95 % interval", "excludes 0"]
    return [markdown(header, rows), "", words.paired_note(results), ""] if rows else []
