"""The images that models are measured on: the test set, and the same under corruptions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console

from mollify_core.corruptions.benchmark import BENCHMARK, CORRUPTIONS, CorruptedSet
from mollify_core.datasets import DATASETS, Prepared, corrupted_made
from mollify_core.datasets.corrupted_official import OFFICIAL, open_corrupted
from mollify_core.datasets.load import ImageSet
from mollify_core.datasets.options import DataOptions
from mollify_core.datasets.split import stratified_subset
from mollify_core.errors import ConfigError, DataError
from mollify_core.measure.evaluation import Cell
from mollify_sweeps.display.console import progress
from mollify_sweeps.evaluation.foreign_images import Foreign, foreign_images
from mollify_sweeps.evaluation.models import Model
from mollify_sweeps.evaluation.options import TestOptions


@dataclass(frozen=True, eq=False)
class TestData:
    """What models are measured on.

    Attributes:
        prepared: the data set.
        clean: its test images, or a stratified part of them.
        corrupted: the same or other images under corruptions; None measures none.
        rows: of `corrupted` that are used; None for all.
        foreign: images of another data set; None measures no detection of them.
        groups: in how many groups the clean images come; 0 where nobody has said which belong together.
    """

    prepared: Prepared
    clean: ImageSet
    corrupted: CorruptedSet | None
    rows: torch.Tensor | None
    foreign: Foreign | None = None
    groups: int = 0

    @property
    def verified(self) -> bool:
        """Whether all images are what they are said to be."""
        return all(part is None or part.verified for part in (self.prepared, self.corrupted, self.foreign))

    @property
    def identity(self) -> dict[str, Any]:
        """Equal where all images are."""
        return {
            "data": self.prepared.fingerprint,
            "images": len(self.clean),
            "corrupted": self.corrupted.fingerprint if self.corrupted else None,
            **({"ood": self.foreign.fingerprint} if self.foreign else {}),  # what was kept without stays valid
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


def test_data(
    test: TestOptions, data: DataOptions, models: Sequence[Model], console: Console, threads: int | None
) -> TestData:
    """The test images, and those of the benchmark.

    Args:
        test: which.
        data: where the data set comes from.
        models: all of one data set, which these name.
        console: for progress and warnings.
        threads: to make corruptions with.

    Raises:
        MollifyError: they cannot be had, or are of another data set than a model was trained on.
    """
    first = models[0].recipe.data
    prepared = data.prepare(first.dataset, first.image_size, first.background)
    for model in models:
        fingerprint = model.state.meta["fingerprint"]
        if fingerprint != prepared.fingerprint:
            raise DataError(
                f"Expected the data set {fingerprint} that {model.label!r} was trained on, but got "
                f"{prepared.fingerprint} ({prepared.spec.name})"
            )
    clean, groups = prepared.tensors("test"), prepared.groups.get("test", np.empty(0, np.int64))
    if test.images is not None and test.images < len(clean):
        share = test.images / len(clean)
        part = stratified_subset(clean.labels.numpy(), share, 0, prepared.fingerprint)
        clean, groups = clean.select(part), groups[part] if len(groups) else groups
    corrupted, rows = None, None
    if test.corruptions != "none":
        corrupted = _corrupted(test, data, prepared, clean, console, threads)
        if len(corrupted.labels) > len(clean):
            share = len(clean) / len(corrupted.labels)
            rows = torch.from_numpy(stratified_subset(corrupted.labels.numpy(), share, 0, corrupted.fingerprint))
    foreign = None
    if test.ood_dir is not None and test.ood not in DATASETS:
        raise ConfigError("Expected --ood-dir with --ood and a known data set, but got none")
    if test.ood is not None:
        foreign = foreign_images(test.ood, test.ood_dir, prepared, data, first.background, test.images)
    return TestData(prepared, clean, corrupted, rows, foreign, len(np.unique(groups)))


def _corrupted(
    test: TestOptions, data: DataOptions, prepared: Prepared, clean: ImageSet, console: Console, threads: int | None
) -> CorruptedSet:
    """The official arrays where they are wanted and to be had, else what is made here from the clean images."""
    name = prepared.spec.name
    if test.corruption_dir and test.corruptions == "made":
        raise ConfigError("Expected --corruption-dir with --corruptions official or auto, but got made")
    wanted = test.corruptions == "official" or test.corruption_dir is not None
    if wanted or (test.corruptions == "auto" and name in OFFICIAL):
        found = open_corrupted(
            name,
            data_dir=test.corruption_dir,
            cache_dir=data.cache_dir,
            mirrors=data.mirrors,
            allow_unverified=data.allow_unverified,
            download=test.corruptions == "official",
        )
        if found is not None:
            return found
    with progress(console) as bar:
        task = bar.add_task("making corruptions", total=None)
        return corrupted_made.make(
            clean,
            fingerprint=prepared.fingerprint,
            verified=prepared.verified,
            cache_dir=prepared.folder.parent,
            seed=test.seed,
            types=[t for t in CORRUPTIONS if t in BENCHMARK or test.extra],
            frost_dir=test.frost_dir,
            threads=threads,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
            warn=lambda text: console.print(f"! {text}"),
        )
