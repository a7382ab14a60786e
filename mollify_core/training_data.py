"""What a model is trained on: which rows of a data set fit, which validate, and all of them on a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mollify_core import rng
from mollify_core.datasets import Prepared
from mollify_core.datasets.load import ImageSet
from mollify_core.datasets.split import judging_rows, stratified_split, stratified_subset
from mollify_core.measure.metrics import balanced
from mollify_core.measure.validation import ValidationSet
from mollify_core.recipe import Recipe


@dataclass(frozen=True)
class TrainingData:
    """What a model is trained on.

    Attributes:
        fit: the images to fit, on the worker's device; the same on every worker.
        validation: held-out images, clean and corrupted, on the device; None where all are fitted.
        classes: number of classes.
        mean, std: per channel, of images in [0, 1].
        fingerprint: of the data set's content; a resumed run must see the same.
    """

    fit: ImageSet
    validation: ValidationSet | None
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def final(self) -> bool:
        """Whether the model is for use: no image is held out."""
        return self.validation is None

    def order(self, recipe: Recipe, epoch: int) -> Tensor:
        """(fit images,) rows of an epoch, on the CPU; one order for all workers, so that a step's images are the same
        however many share them.
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


def split_rows(labels: np.ndarray, recipe: Recipe, prepared: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """(fit, validation): sorted row numbers of the training images that a recipe trains and validates on.

    A data set with a split of its own to validate on has it as its last rows; else a share is held out, stratified.
    """
    config, fingerprint = recipe.data, prepared.fingerprint
    if prepared.validation:
        fit, validation = np.split(np.arange(len(labels)), [len(labels) - prepared.validation])
    else:
        fit, validation = stratified_split(labels, config.validation_fraction, config.split_seed, fingerprint)
    subset = stratified_subset(labels[fit], config.train_fraction, config.split_seed, fingerprint)
    return fit[subset], validation


def training_data(
    recipe: Recipe, prepared: Prepared, device: torch.device | str = "cpu", *, final: bool = False
) -> TrainingData:
    """All images that a recipe trains and validates on, resident on `device`.

    Args:
        recipe: its `data` section counts.
        prepared: the data set.
        device: where the images are to be.
        final: fit the validation images too, for a model to be used; none is held out then.
    """
    images, config = prepared.tensors("train"), recipe.data
    fit, validation = split_rows(images.labels.numpy(), recipe, prepared)
    chosen = images.select(np.union1d(fit, validation) if final else fit)
    held_out, spec = None, prepared.spec
    if not final:
        part, seed = images.select(validation), config.split_seed
        judging = judging_rows(part.labels.numpy(), config.judging_fraction, seed, prepared.fingerprint)
        held_out = ValidationSet.make(part, seed=seed, device=device, judging=judging)
    return TrainingData(
        fit=type(images)(chosen.images.to(device), chosen.labels.to(device)),
        validation=held_out,
        classes=spec.classes,
        mean=spec.mean,
        std=spec.std,
        fingerprint=prepared.fingerprint,
    )
