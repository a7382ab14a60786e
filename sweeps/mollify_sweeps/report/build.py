"""A sweep's report: builds all of its files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from mollify_core.errors import StorageError
from mollify_sweeps.report.summary import summary
from mollify_sweeps.report.words import PerImage, best_recipe, recipes, union
from mollify_sweeps.study.ledger import METHOD, Ledger
from mollify_sweeps.study.results import Results, settings_of

if TYPE_CHECKING:
    import pyarrow as pa


PAGE = "report.html"


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
    study: Ledger | optuna.Study,
    out: Path,
    *,
    per_image: PerImage | None = None,
    evaluation: Path | None = None,
    commands: Sequence[tuple[str, str]] = (),
    notice: Callable[[str], None] = print,
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
        notice: takes a sentence about pictures that cannot be drawn.

    Raises:
        ConfigError: the study is not a sweep's.
        DataError: per-image values of two trials differ in number, or `evaluation` is none.
        StorageError: `out` cannot be written.
    """
    results = Results(study)
    best = results.best
    text = summary(results, per_image or {})
    files = [_write(out / "trials.parquet", partial(_write_trials, results))]
    for name, first in recipes(results).items():
        recipe = json.dumps(best_recipe(results, first), indent=2) + "\n"
        files.append(_write(out / name, partial(_write_text, recipe)))
    files.append(_write(out / "summary.md", partial(_write_text, text)))
    files.append(write_page(results, out / PAGE, per_image=per_image, evaluation=evaluation, commands=commands))
    from mollify_sweeps.display.figures import pngs  # matplotlib is slow to import
    from mollify_sweeps.report import plots

    for name, png in pngs(partial(plots.draw, results), notice):
        files.append(_write(out / f"plots/{name}.png", partial(_write_bytes, png)))
    return Report(None if best is None else best.number, text, tuple(files))


def write_page(results: Results, path: Path, **shown: Any) -> Path:
    """Writes the page alone; `shown` as `page.page` takes it; raises as `build` does."""
    from mollify_sweeps.report import page  # what it shows of an evaluation is slow to import

    html = page.page(results, **shown)
    return _write(path, partial(_write_text, html))


def _write_text(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def _write_bytes(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _write(path: Path, save: Callable[[Path], object]) -> Path:
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save(unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        raise StorageError(f"Cannot write {str(path)!r}: {error.strerror or error}") from None
    return path


def _write_trials(results: Results, path: Path) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(trials_table(results), path)


def trials_table(results: Results) -> pa.Table:
    """One row a trial: number, state, method, epochs, seconds; param_* of the search, recipe_* settings, metrics."""
    import pyarrow as pa

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
        **({"method": attribute(METHOD, pa.string())} if results.fair else {}),
        "epochs_done": attribute("epochs_done", pa.int64()),
        "seconds": attribute("seconds", pa.float64()),
        **{f"param_{name}": column(p.get(name) for p in params) for name in results.sweep.space},
        **{f"recipe_{name}": column(r.get(name) for r in recipes) for name in union(recipes)},
        **{name: column((m.get(name) for m in metrics), pa.float64()) for name in union(metrics)},
        **{name: attribute(name, pa.string()) for name in ("failure", "failure_message", "folder", "checkpoint")},
        "verified": column((results.sweep.verified for _ in trials), pa.bool_()),
    }
    return pa.table(columns)
