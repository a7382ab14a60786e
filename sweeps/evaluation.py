"""Evaluates models cell by cell, here or on a Ray cluster, and keeps every finished cell.

<out>/cells/<digest of a model and of what it is measured on>/
  temperature.json      fitted on the model's own validation images
  <cell>.json           one row of the table
<out>/evaluation.parquet, summary.md, plots/
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mollify_core.corruptions import made
from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, CorruptedSet
from mollify_core.datasets import Prepared, prepare
from mollify_core.datasets.corrupted import OFFICIAL, open_corrupted
from mollify_core.datasets.load import ImageSet
from mollify_core.datasets.split import stratified_subset
from mollify_core.errors import ConfigError, DataError, StorageError, first_line, nearest
from mollify_core.evaluation import CHUNK, Cell, cells, summarise
from mollify_core.training import split_rows
from sweeps import evaluation_report, provenance
from sweeps.evaluator import CONSTANTS, Pool, Protocol, local_pool
from sweeps.models import Model, find
from sweeps.report import NONE
from sweeps.results import label, scale
from sweeps.store import Store

SOURCES = ("auto", "official", "made", "none")


@dataclass(frozen=True, eq=False)
class TestData:
    """What models are measured on.

    Attributes:
        prepared: the data set.
        clean: its test images, or a stratified part of them.
        corrupted: the same or other images under corruptions; None measures none.
        rows: of `corrupted` that are used; None for all.
    """

    prepared: Prepared
    clean: ImageSet
    corrupted: CorruptedSet | None
    rows: torch.Tensor | None

    @property
    def identity(self) -> dict[str, Any]:
        """Equal where all images are."""
        return {
            "data": self.prepared.fingerprint,
            "images": len(self.clean),
            "corrupted": self.corrupted.fingerprint if self.corrupted else None,
        }

    def images(self, cell: Cell) -> tuple[torch.Tensor, torch.Tensor]:
        """(images, labels) of a cell; a distortion's are clean."""
        if cell.kind != "corruption":
            return self.clean.images, self.clean.labels
        assert self.corrupted is not None
        images, labels = self.corrupted.cell(cell.name, cell.severity), self.corrupted.labels
        return (images, labels) if self.rows is None else (images[self.rows], labels[self.rows])

    def source(self, cell: Cell) -> str:
        return self.corrupted.source if self.corrupted and cell.kind == "corruption" else "test set"


def run(args: argparse.Namespace) -> int:
    """Does what the command line of `sweeps/evaluate.py` says; returns the exit code."""
    console = Console()
    levels = _check(args)
    protocol = Protocol(args.distortions, args.published_distortions, args.precision, args.batch_size, args.seed)
    models = find(args.models, lambda text: console.print(f"! {text}"))
    reference = _reference(args.reference, models)
    data = test_data(args, models, console)
    types = data.corrupted.types if data.corrupted else ()
    chosen = cells([name for name in types if name in BENCHMARK or not args.no_extra], levels)
    digests = [digest(model, data, protocol) for model in models]
    store = Store(args.out or f"runs/evaluate-{hashlib.sha256(''.join(digests).encode()).hexdigest()[:8]}")
    store.check_writable()
    _show(console, models, data, chosen, store)
    rows = evaluate(models, data, chosen, protocol, store, digests, args, console)
    metadata = _metadata(models, data, protocol, reference)
    evaluation_report.write(rows, metadata, Path(store.root))
    _print(console, rows, metadata)
    console.print(f"\ntable, summary and plots: {store.root}", soft_wrap=True, highlight=False)
    return 0


def _check(args: argparse.Namespace) -> list[float]:
    """The levels; raises a ConfigError for what is wrong in itself."""
    for flag, value, known in (
        ("--corruptions", args.corruptions, SOURCES),
        ("--distortions", args.distortions, tuple(CONSTANTS)),
        ("--precision", args.precision or "bf16", ("float32", "bf16")),
    ):
        if value not in known:
            raise ConfigError(f"Unknown {flag} {value!r}{nearest(value, known)}")
    if not 1 <= args.batch_size <= CHUNK:
        raise ConfigError(f"Expected --batch-size to be from 1 to {CHUNK}, but got {args.batch_size}")
    if args.images is not None and args.images < 1:
        raise ConfigError(f"Expected --images to be at least 1, but got {args.images}")
    if args.threads is not None and args.threads < 1:
        raise ConfigError(f"Expected --threads to be at least 1, but got {args.threads}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("Expected a CUDA device for --device cuda, but there is none")
    if args.out and "://" in args.out:
        raise ConfigError(f"Expected --out to be a folder on this machine, but got {args.out!r}")
    if args.levels == "none":
        return []
    try:
        levels = [float(text) for text in args.levels.split(",")]
    except ValueError:
        raise ConfigError(f"Expected --levels to be numbers, as in 0,0.5,1, but got {args.levels!r}") from None
    outside = [level for level in levels if not 0 <= level <= 1]
    if outside:
        raise ConfigError(f"Expected --levels to be in [0, 1], but got {outside[0]:g}")
    return levels


def test_data(args: argparse.Namespace, models: Sequence[Model], console: Console) -> TestData:
    """The test images, and those of the benchmark."""
    first = models[0]
    prepared = prepare(
        first.recipe.data.dataset,
        image_size=first.recipe.data.image_size,
        data_dir=args.data_dir,
        cache_dir=args.cache_dir,
        mirrors=tuple(args.mirror),
        allow_unverified=args.allow_unverified,
    )
    for model in models:
        fingerprint = model.state.meta["fingerprint"]
        if fingerprint != prepared.fingerprint:
            raise DataError(
                f"Expected the data set {fingerprint} that {model.label!r} was trained on, but got "
                f"{prepared.fingerprint} ({prepared.spec.name})"
            )
    images = prepared.tensors("test")
    corrupted, clean = None, images
    if args.images is not None and args.images < len(images):
        clean = _part(images, args.images, prepared)
    if args.corruptions != "none":
        corrupted = _corrupted(args, prepared, clean, console)
    rows = None
    if corrupted is not None and len(corrupted.labels) > len(clean):
        share = len(clean) / len(corrupted.labels)
        rows = torch.from_numpy(stratified_subset(corrupted.labels.numpy(), share, 0, corrupted.fingerprint))
    return TestData(prepared, clean, corrupted, rows)


def _part(images: ImageSet, count: int, prepared: Prepared) -> ImageSet:
    return images.select(stratified_subset(images.labels.numpy(), count / len(images), 0, prepared.fingerprint))


def _corrupted(args: argparse.Namespace, prepared: Prepared, clean: ImageSet, console: Console) -> CorruptedSet:
    """The official arrays where they are wanted and to be had, else what is made here from the clean images."""
    name = prepared.spec.name
    if args.corruption_dir and args.corruptions == "made":
        raise ConfigError("Expected --corruption-dir with --corruptions official or auto, but got made")
    wanted = args.corruptions == "official" or args.corruption_dir is not None
    if wanted or (args.corruptions == "auto" and name in OFFICIAL):
        found = open_corrupted(
            name,
            data_dir=args.corruption_dir,
            cache_dir=args.cache_dir,
            mirrors=tuple(args.mirror),
            allow_unverified=args.allow_unverified,
            download=args.corruptions == "official",
        )
        if found is not None:
            return found
    with _progress(console) as bar:
        task = bar.add_task("making corruptions", total=None)
        return made.make(
            clean,
            fingerprint=prepared.fingerprint,
            verified=prepared.verified,
            cache_dir=prepared.folder.parent,
            seed=args.seed,
            types=[t for t in CORRUPTIONS if t in BENCHMARK or not args.no_extra],
            frost_dir=args.frost_dir,
            threads=args.threads,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            warn=lambda text: console.print(f"! {text}"),
        )


def evaluate(
    models: Sequence[Model],
    data: TestData,
    chosen: Sequence[Cell],
    protocol: Protocol,
    store: Store,
    digests: Sequence[str],
    args: argparse.Namespace,
    console: Console,
) -> list[dict[str, Any]]:
    """The rows of all models and cells; those that `store` holds are not measured again."""
    kept = {(i, cell): _read(store, digest, cell.key) for i, digest in enumerate(digests) for cell in chosen}
    todo = [(cell, [i for i in range(len(models)) if kept[i, cell] is None]) for cell in chosen]
    todo = [(cell, which) for cell, which in todo if which]
    if todo:
        if args.address:
            from sweeps.evaluation_cluster import cluster_pool
        spec = data.prepared.spec
        packed = {
            "models": [model.state for model in models],
            **{name: getattr(spec, name) for name in ("classes", "image_shape", "mean", "std")},
            "protocol": protocol,
        }
        pool = cluster_pool(args.address, packed) if args.address else local_pool(packed, args.device, args.threads)
        needed = sorted({i for _, which in todo for i in which})
        temperatures = _temperatures(models, data, store, digests, needed, pool)
        tasks = ((cell, *data.images(cell), {i: temperatures[i] for i in which}) for cell, which in todo)
        with _progress(console) as bar:
            task = bar.add_task("measuring", total=sum(len(which) for _, which in todo))
            for cell, found in pool(tasks, "rows"):
                for i, values in found.items():
                    kept[i, cell] = values
                    _write(store, digests[i], cell.key, values)
                    bar.advance(task)
    return [
        {"model": model.label, **(kept[i, cell] or {}), "source": data.source(cell)}
        for i, model in enumerate(models)
        for cell in chosen
    ]


def _temperatures(
    models: Sequence[Model], data: TestData, store: Store, digests: Sequence[str], needed: Sequence[int], pool: Pool
) -> dict[int, float]:
    """Fitted on the validation images that each model's recipe holds out from training."""
    known = {i: _read(store, digests[i], "temperature") for i in needed}
    missing = [i for i, value in known.items() if value is None]
    if missing:
        train = data.prepared.tensors("train")

        def tasks() -> Iterator[tuple]:
            for i in missing:
                _, held_out = split_rows(train.labels.numpy(), models[i].recipe, data.prepared.fingerprint)
                part = train.select(held_out)
                yield i, part.images, part.labels

        for i, temperature in pool(tasks(), "temperature"):
            fitted = known[i] = {"temperature": temperature}
            _write(store, digests[i], "temperature", fitted)
    return {i: value["temperature"] for i, value in known.items() if value is not None}


def digest(model: Model, data: TestData, protocol: Protocol) -> str:
    """Of everything that a row depends on, apart from the cell."""
    how = {k: v for k, v in dataclasses.asdict(protocol).items() if k != "batch"}
    text = json.dumps([1, model.digest, data.identity, how], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(store: Store, digest: str, name: str) -> dict[str, Any] | None:
    """A kept result; None when there is none, or a damaged one."""
    try:
        text = store.read(f"cells/{digest}/{name}.json")
        return None if text is None else json.loads(text)
    except ValueError:
        return None
    except OSError as error:
        raise StorageError(f"Cannot read {store.uri!r}: {first_line(error)}") from None


def _write(store: Store, digest: str, name: str, values: dict[str, Any]) -> None:
    try:
        store.write(f"cells/{digest}/{name}.json", json.dumps(values).encode())
    except OSError as error:
        raise StorageError(f"Cannot write {store.uri!r}: {first_line(error)}") from None


def _show(console: Console, models: Sequence[Model], data: TestData, chosen: Sequence[Cell], store: Store) -> None:
    spec, corrupted = data.prepared.spec, data.corrupted
    console.print(f"[bold]Evaluation on {spec.name}[/]: {len(data.clean)} test images, {len(chosen)} cells a model")
    if not (data.prepared.verified and (corrupted is None or corrupted.verified)):
        console.print("[bold red]UNVERIFIED DATA[/]: not the official files")
    if corrupted is not None:
        where = "the published arrays" if corrupted.source == "official" else "made here, not the published arrays"
        console.print(f"corruptions: {len(corrupted.types)} types, {where}")
    for model in models:
        console.print(f"  {model.label}: {model.uri}", soft_wrap=True, highlight=False)
    console.print(f"results: {store.uri}\n", soft_wrap=True, highlight=False)


def _print(console: Console, rows: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> None:
    """The main figures of every model; the rest stands in the summary."""
    found = {name: [row for row in rows if row["model"] == name] for name in metadata["models"]}
    columns = [f"{scope}_{metric}" for metric in ("error", "nll", "ece") for scope in ("clean", "corrupted")]
    table = Table(box=None, pad_edge=False)
    table.add_column("model", overflow="fold")
    for name in (*columns, "mce"):
        table.add_column("mCE (%)" if name == "mce" else label(name).replace(" ", "\n", 1), justify="right")
    for model, own in found.items():
        values = summarise(own, found[metadata["reference"]])
        shown = [f"{scale(name) * values[name]:#.4g}" if name in values else NONE for name in columns]
        table.add_row(model, *shown, f"{100 * values['mce']:#.4g}" if "mce" in values else NONE)
    console.print(table)
    if any(row["kind"] == "corruption" for row in rows):
        console.print(f"mCE: relative to {metadata['reference']}", highlight=False)


def _metadata(models: Sequence[Model], data: TestData, protocol: Protocol, reference: str) -> dict[str, Any]:
    manifest, corrupted = data.prepared.manifest, data.corrupted
    return {
        "dataset": data.prepared.spec.name,
        "fingerprint": data.prepared.fingerprint,
        "verified": data.prepared.verified and (corrupted is None or corrupted.verified),
        "class_names": manifest["class_names"],
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
        "distortions": protocol.distortions,
        "published_distortions": protocol.published,
        "precision": protocol.precision,
        "seed": protocol.seed,
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
    return recipe.matching.arm == "matching" or (recipe.matching.arm == "off" and recipe.mollify.p_clean < 1)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)
