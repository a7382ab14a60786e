"""What `sweeps/evaluate.py` does: find the models and the images, measure what is not yet, and report.

<out>/cells/                                   every finished cell, see `cells`
<out>/evaluation.parquet, summary.md, classes.csv, plots/
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from mollify_core import provenance
from mollify_core.augment.names import softens
from mollify_core.corruptions.benchmark import BENCHMARK
from mollify_core.errors import ConfigError, nearest
from mollify_core.foreign import clean
from mollify_core.measure.evaluation import CHUNK, Cell, cells, summarise
from mollify_sweeps.display.console import Terminal, styled, table
from mollify_sweeps.display.text import NONE, label, scale
from mollify_sweeps.evaluation import report, uses
from mollify_sweeps.evaluation.cells import digest, measure_cells
from mollify_sweeps.evaluation.evaluator import CONSTANTS, Measurement
from mollify_sweeps.evaluation.images import TestData, test_data
from mollify_sweeps.evaluation.models import Model, find
from mollify_sweeps.evaluation.options import SOURCES, Evaluation
from mollify_sweeps.evaluation.rows import summaries, to_table
from mollify_sweeps.storage.store import Store

if TYPE_CHECKING:  # slow to import
    import pandas as pd


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What an evaluation has found.

    Attributes:
        folder: of its table, summary and plots.
        rows: one a model and cell.
        metadata: what was measured on what, by which versions.
    """

    folder: str
    rows: list[dict[str, Any]]
    metadata: dict[str, Any]

    @property
    def cells(self) -> pd.DataFrame:
        """One row a model and cell (clean, a corruption of one severity, a distortion of one level), as in
        evaluation.parquet: error, NLL, calibration.
        """
        return to_table(self.rows, self.metadata).to_pandas()

    @property
    def models(self) -> pd.DataFrame:
        """One row a model: its numbers clean and under corruption, as in the summary."""
        import pandas as pd

        return pd.DataFrame.from_dict(summaries(self.rows, self.metadata), orient="index").rename_axis("model")


def evaluate(
    options: Evaluation, console: Console | None = None, progress: Callable[[int, int], Any] | None = None
) -> Evaluated:
    """Measures models side by side, as `sweeps/evaluate.py` is told to.

    Args:
        options: which models, on which images, how.
        console: hears of it; None is the terminal.
        progress: is called with how many cells are measured, and how many there are.

    Raises:
        MollifyError: they cannot be measured.
    """
    console = console or Terminal()
    levels = _check(options)
    how = Measurement(options.distortions, options.published, options.precision, options.batch, options.seed)
    models = find(options.models, lambda text: console.print(f"! {text}"), options.study_url)
    reference = _reference(options.reference, models)
    test = dataclasses.replace(options.test, seed=options.seed)
    data = test_data(test, options.data, models, console, options.place.threads)
    types = data.corrupted.types if data.corrupted else ()
    chosen = cells([name for name in types if name in BENCHMARK or test.extra], levels)
    digests = [digest(model, data, how) for model in models]
    store = Store(options.out or f"runs/evaluate-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:8]}")
    store.check_writable()
    _show(console, models, data, chosen, store)
    rows = measure_cells(models, data, chosen, how, store, digests, options.place, console, progress)
    metadata = _metadata(models, data, how, reference)
    report.write(rows, metadata, Path(store.root), notice=console.print)
    _print(console, rows, metadata)
    console.print(f"\ntable, summary and plots: {store.root}", soft_wrap=True, highlight=False)
    return Evaluated(store.root, rows, metadata)


def _check(options: Evaluation) -> list[float]:
    """The levels; raises a ConfigError for what is wrong in itself."""
    test, place = options.test, options.place
    for flag, value, known in (
        ("--corruptions", test.corruptions, SOURCES),
        ("--distortions", options.distortions, tuple(CONSTANTS)),
        ("--precision", options.precision or "bf16", ("float32", "bf16")),
    ):
        if value not in known:
            raise ConfigError(f"Unknown {flag} {value!r}{nearest(value, known)}")
    if not 1 <= options.batch <= CHUNK:
        raise ConfigError(f"Expected --batch-size to be from 1 to {CHUNK}, but got {options.batch}")
    if test.images is not None and test.images < 1:
        raise ConfigError(f"Expected --images to be at least 1, but got {test.images}")
    if place.threads is not None and place.threads < 1:
        raise ConfigError(f"Expected --threads to be at least 1, but got {place.threads}")
    if place.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Expected a CUDA device for --device cuda, but there is none")
    if options.out and "://" in options.out:
        raise ConfigError(f"Expected --out to be a folder on this machine, but got {options.out!r}")
    if options.levels == "none":
        return []
    try:
        levels = [float(text) for text in options.levels.split(",")]
    except ValueError:
        raise ConfigError(f"Expected --levels to be numbers, as in 0,0.5,1, but got {options.levels!r}") from None
    outside = [level for level in levels if not 0 <= level <= 1]
    if outside:
        raise ConfigError(f"Expected --levels to be in [0, 1], but got {outside[0]:g}")
    return levels


def _show(console: Console, models: Sequence[Model], data: TestData, chosen: Sequence[Cell], store: Store) -> None:
    spec, corrupted = data.prepared.spec, data.corrupted
    console.print(
        styled(f"Evaluation on {spec.name}", "bold", f": {len(data.clean)} test images, {len(chosen)} cells a model")
    )
    if not data.verified:
        console.print(styled("UNVERIFIED DATA", "bold red", ": not the official files"))
    if corrupted is not None:
        where = "the published arrays" if corrupted.source == "official" else "made here, not the published arrays"
        console.print(f"corruptions: {len(corrupted.types)} types, {where}")
    if (other := data.foreign) is not None:
        left = f", {other.left_out:,} could not be read and are left out" if other.left_out else ""
        console.print(f"foreign images: {len(other.images):,} of {clean(other.name, keep='')}{left}", highlight=False)
    for model in models:
        console.print(f"  {model.label}: {model.uri}", soft_wrap=True, highlight=False)
    console.print(f"results: {store.uri}\n", soft_wrap=True, highlight=False)


def _print(console: Console, rows: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """The main figures of every model; the rest stands in the summary."""
    found = {name: [row for row in rows if row["model"] == name] for name in metadata["models"]}
    columns = [f"{scope}_{metric}" for metric in ("error", "nll", "ece") for scope in ("clean", "corrupted")]
    lines = []
    for model, own in found.items():
        values = summarise(own, found[metadata["reference"]])
        shown = [f"{scale(name) * values[name]:#.4g}" if name in values else NONE for name in columns]
        lines.append([model, *shown, f"{100 * values['mce']:#.4g}" if "mce" in values else NONE])
    console.print(table("Measured on the test set", ["model", *map(label, columns), "mCE (%)"], lines))
    if any(row["kind"] == "corruption" for row in rows):
        console.print(f"mCE: relative to {metadata['reference']}", highlight=False)
    numbers = summaries(rows, metadata)
    for title, metrics in (("Selective risk", uses.SELECTIVE), (f"Told from {metadata['ood']}", uses.DETECTION)):
        if keys := [f"{scope}_{metric}" for scope in uses.scopes(rows, metrics[0]) for metric in metrics]:
            console.print(table(title, *uses.table(numbers, keys)))
    if not all(math.isfinite(row["aurc"]) for row in rows):
        console.print("cells that an earlier version measured have no AURC; a new --out measures them", highlight=False)
    if uses.unequal(rows):
        console.print(table("Classes with the highest clean error", *uses.worst(rows, metadata)))


def _metadata(models: Sequence[Model], data: TestData, how: Measurement, reference: str) -> dict[str, Any]:
    manifest, corrupted = data.prepared.manifest, data.corrupted
    return {
        "dataset": data.prepared.spec.name,
        "fingerprint": data.prepared.fingerprint,
        "verified": data.verified,
        "class_names": manifest["class_names"],
        "groups": data.groups or None,
        "models": {
            model.label: {
                "checkpoint": model.uri,
                "epochs": model.state.epoch,
                "recipe": model.recipe.changed(),
                "seed": model.recipe.seed,
                "git_commit": model.state.meta.get("commit"),
                "versions": model.state.meta.get("versions"),
                "mollified": _mollified(model),
            }
            for model in models
        },
        "reference": reference,
        "corruption_source": corrupted.source if corrupted else None,
        "corruption_fingerprint": corrupted.fingerprint if corrupted else None,
        "ood": clean(data.foreign.name, keep="") if data.foreign else None,
        "ood_fingerprint": data.foreign.fingerprint if data.foreign else None,
        "ood_images": len(data.foreign.images) if data.foreign else None,
        "distortions": how.distortions,
        "published_distortions": how.published,
        "precision": how.precision,
        "seed": how.seed,
        "versions": provenance.versions(),
        "git_commit": provenance.commit(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _reference(wanted: str | None, models: Sequence[Model]) -> str:
    """The label that others are compared with: by default the first model that was not mollified, else the first."""
    labels = [model.label for model in models]
    if wanted is not None and wanted not in labels:
        raise ConfigError(f"Unknown --reference {wanted!r}{nearest(wanted, labels)}")
    return wanted or next((model.label for model in models if not _mollified(model)), labels[0])


def _mollified(model: Model) -> bool:
    """Whether its labels followed the degradation of its images."""
    recipe = model.recipe
    degraded = recipe.method == "matching" or (recipe.method == "mollification" and recipe.mollify.p_clean < 1)
    return (degraded or softens(recipe.augmentations)) and recipe.label == "coupled"
