"""What a model is trained on: which rows of a data set fit, which validate, and all of them on a device."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mollify_core import rng
from mollify_core.datasets import Prepared
from mollify_core.datasets.load import ImageSet
from mollify_core.datasets.shards import Sharded
from mollify_core.datasets.split import judging_rows, stratified_split, stratified_subset
from mollify_core.errors import ConfigError
from mollify_core.measure.metrics import balanced
from mollify_core.measure.validation import ValidationSet
from mollify_core.recipe import Recipe
from mollify_core.steps import Steps
from mollify_core.stream import Stream, StreamedValidation
from mollify_core.worker import Worker


@dataclass(frozen=True)
class TrainingData:
    """What a model is trained on.

    Attributes:
        fit: the images to fit, the same on every worker: on its device, or streamed.
        validation: held-out images, clean and corrupted, on the device or streamed; None where all are fitted.
        classes: number of classes.
        mean, std: per channel, of images in [0, 1].
        fingerprint: of the data set's content; a resumed run must see the same.
        names: of the classes.
    """

    fit: ImageSet | Stream
    validation: ValidationSet | StreamedValidation | None
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    names: tuple[str, ...] = ()

    @property
    def about(self) -> dict[str, object]:
        """What a model of these images has to know of them, ready for JSON."""
        known = {"classes": self.classes, "names": self.names, "mean": self.mean, "std": self.std}
        return {**known, "image_shape": self.image_shape}

    @property
    def final(self) -> bool:
        """Whether the model is for use: no image is held out."""
        return self.validation is None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        if isinstance(self.fit, Stream):
            return self.fit.shards.image_shape
        channels, height, width = self.fit.images.shape[1:]
        return channels, height, width

    @property
    def feed(self) -> str:
        """How the images get to a step: "resident" or "stream"; their order differs."""
        return "stream" if isinstance(self.fit, Stream) else "resident"

    def batches(self, recipe: Recipe, epoch: int, steps: Steps, worker: Worker, first: int = 0) -> Generator[ImageSet]:
        """A worker's images of each step of an epoch, on its device.

        Args:
            recipe: what is trained.
            epoch: index, from 0.
            steps: of an epoch.
            worker: whose images.
            first: step to begin with.

        Raises:
            ConfigError: streamed images cannot be drawn by their class.
        """
        if isinstance(self.fit, Stream):
            check_feed(recipe, "stream")
            epochs, rank = recipe.optim.epochs, worker.rank
            for images in self.fit.batches(recipe.seed, epochs, epoch, steps, rank, first):
                yield (images.pinned() if worker.device.type == "cuda" else images).to(worker.device)
            return
        order = self.order(recipe, epoch).to(worker.device, non_blocking=True)
        for step in range(first, len(steps)):
            share = steps.share(step, worker.rank)
            rows = order[share.start : share.stop : share.step]
            yield ImageSet(self.fit.images[rows], self.fit.labels[rows])

    def sample(self, count: int) -> ImageSet:
        """All images to fit where they are resident, else so many of them, on the CPU."""
        return self.fit.sample(count, 0) if isinstance(self.fit, Stream) else self.fit

    def order(self, recipe: Recipe, epoch: int) -> Tensor:
        """(fit images,) rows of an epoch of resident images, on the CPU; one order for all workers, so that a step's
        images are the same however many share them.
        """
        total, generator = len(self.fit), rng.generator(recipe.seed, epoch, 0, "order")
        if recipe.data.balance == "sampling":
            return torch.multinomial(balanced(self.fit.labels), total, replacement=True, generator=generator)
        return torch.randperm(total, generator=generator)

    def halves(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Splits values of all validation images, of which there are some.

        Args:
            values: (cells, n, …) as of `ValidationSet.measure`, or labels (1, n).

        Returns:
            Those of the images that choose, and those of the images that judge: all where none only judges.
        """
        assert self.validation is not None
        choosing = self.validation.choosing
        return values[:, :choosing], values[:, choosing:] if choosing < len(self.validation) else values

    @property
    def judged_groups(self) -> np.ndarray | None:
        """(m,) int64 groups of the images that judge; None where there are no groups."""
        if self.validation is None or self.validation.groups is None:
            return None
        return self.halves(self.validation.groups[None])[1][0].cpu().numpy()


def split_rows(labels: np.ndarray, recipe: Recipe, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """(fit, validation): sorted row numbers of the training images that a recipe trains and validates on.

    A data set with a split of its own to validate on has it as its last rows; else a share is held out, stratified and
    by whole groups of images where there are such.
    """
    config, fingerprint = recipe.data, prepared.fingerprint
    if prepared.validation:
        fit, validation = np.split(np.arange(len(labels)), [len(labels) - prepared.validation])
    else:
        groups, names = prepared.groups.get("train"), prepared.manifest["class_names"]
        share, seed = config.validation_fraction, config.split_seed
        fit, validation = stratified_split(labels, share, seed, fingerprint, groups, names=names)
    subset = stratified_subset(labels[fit], config.train_fraction, config.split_seed, fingerprint)
    return fit[subset], validation


def groups_of(prepared: Prepared, rows: np.ndarray) -> np.ndarray | None:
    """(m,) int64 groups of the training images in some rows (m,); None where there are no groups."""
    groups = prepared.groups.get("train")
    return None if groups is None else groups[rows]


def judging_of(labels: np.ndarray, validation: np.ndarray, recipe: Recipe, prepared: Prepared) -> np.ndarray:
    """Which of the `validation` rows of the training images (n,) only judge: (k,) sorted numbers of these rows."""
    config, groups = recipe.data, groups_of(prepared, validation)
    return judging_rows(labels[validation], config.judging_fraction, config.split_seed, prepared.fingerprint, groups)


def training_data(
    recipe: Recipe, prepared: Prepared, device: torch.device | str = "cpu", *, final: bool = False
) -> TrainingData:
    """All images that a recipe trains and validates on, on `device` or streamed to it.

    Args:
        recipe: its `data` section counts.
        prepared: the data set.
        device: where the images are to be.
        final: fit the validation images too, for a model to be used; none is held out then.
    """
    if isinstance(prepared, Sharded):
        return streamed_data(recipe, prepared, device, final=final, threads=torch.get_num_threads())
    images, config = prepared.tensors("train"), recipe.data
    labels = images.labels.numpy()
    fit, validation = split_rows(labels, recipe, prepared)
    chosen = images.select(np.union1d(fit, validation) if final else fit)
    held_out, spec = None, prepared.spec
    if not final:
        judging, groups = judging_of(labels, validation, recipe, prepared), groups_of(prepared, validation)
        part = images.select(validation)
        held_out = ValidationSet.make(part, seed=config.split_seed, device=device, judging=judging, groups=groups)
    return TrainingData(
        fit=type(images)(chosen.images.to(device), chosen.labels.to(device)),
        validation=held_out,
        classes=spec.classes,
        mean=spec.mean,
        std=spec.std,
        fingerprint=prepared.fingerprint,
        names=tuple(prepared.manifest["class_names"]),
    )


def streamed_data(
    recipe: Recipe,
    prepared: Sharded,
    device: torch.device | str,
    *,
    final: bool = False,
    threads: int = 1,
) -> TrainingData:
    """The same of images that are streamed; of these only what an epoch measures is in memory.

    Args:
        recipe, prepared, device, final: see `training_data`.
        threads: that decode images.
    """
    labels, places, shards = prepared.labels("train"), prepared.places("train"), prepared.shards("train")
    fit, validation = split_rows(labels, recipe, prepared)
    held_out, spec, seed = None, prepared.spec, recipe.data.split_seed
    if final:
        fit = np.union1d(fit, validation)
    else:
        judging = judging_of(labels, validation, recipe, prepared)
        held_out = StreamedValidation.make(
            shards,
            places[validation],
            labels[validation],
            judging,
            len(fit),
            seed=seed,
            device=device,
            groups=groups_of(prepared, validation),
        )
    stream = Stream(shards, torch.from_numpy(labels[fit]), places[fit], threads)
    names = tuple(prepared.manifest["class_names"])
    return TrainingData(stream, held_out, spec.classes, spec.mean, spec.std, prepared.fingerprint, names)


def check_feed(recipe: Recipe, feed: str) -> None:
    """Raises a ConfigError where a recipe cannot be trained on images that come in some way."""
    if feed == "stream" and recipe.data.balance == "sampling":
        raise ConfigError(
            "Expected --feed resident for `balance` sampling, which draws any image at any step; `balance` loss weighs "
            "classes without it"
        )
