"""A trained model as it lies on disk: its classifier, and what belongs to its images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pyarrow import fs

from mollify_core import checkpoint
from mollify_core.classifier import Classifier
from mollify_core.datasets import Prepared
from mollify_core.datasets.options import DataOptions
from mollify_core.errors import CheckpointError, DataError
from mollify_core.recipe import Recipe


@dataclass(frozen=True)
class Trained:
    """A trained model.

    Attributes:
        classifier: in evaluation mode; the average of the weights where there is one.
        names: of its classes.
        image_shape: (channels, side, side) of its images.
        mean, std: of the data set it was trained on, per channel, of images in [0, 1].
        fingerprint: of that data set.
    """

    classifier: Classifier
    names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    def prepared(self, data: DataOptions) -> Prepared:
        """The data set it was trained on.

        Raises:
            DataError: another one is there.
        """
        return _prepared(self.classifier.recipe, self.fingerprint, data)


def load(path: str, data: DataOptions, device: torch.device | str = "cpu") -> Trained:
    """The model in a checkpoint's folder, or in the newest one below it or its `checkpoints`.

    Args:
        path: the folder: of a checkpoint, a trial, or what `mollify_core.train` leaves.
        data: where its data set is, which is prepared for a checkpoint of an earlier version only.
        device: where it runs.

    Raises:
        CheckpointError: there is none, or it is damaged.
        MollifyError: its network cannot be built, or its data set is not there.
    """
    state = newest(path)
    if "recipe" not in state.meta or "fingerprint" not in state.meta:
        raise CheckpointError(f"Expected a checkpoint of a recipe, but {path!r} names none")
    recipe, about = Recipe.from_dict(state.meta["recipe"]), state.meta.get("data")
    if about is None:  # of an earlier version
        prepared = _prepared(recipe, state.meta["fingerprint"], data)
        spec = prepared.spec
        about = {"classes": spec.classes, "names": prepared.manifest["class_names"], "mean": spec.mean, "std": spec.std}
        about["image_shape"] = spec.image_shape
    channels, height, width = about["image_shape"]
    shape, mean, std = (channels, height, width), tuple(about["mean"]), tuple(about["std"])
    classifier = Classifier.load(state, about["classes"], shape, mean, std, device)
    return Trained(classifier, tuple(about["names"]), shape, mean, std, state.meta["fingerprint"])


def _prepared(recipe: Recipe, fingerprint: str, data: DataOptions) -> Prepared:
    prepared = data.prepare(recipe.data.dataset, recipe.data.image_size, recipe.data.background)
    if prepared.fingerprint != fingerprint:
        raise DataError("Expected the data set that the checkpoint was trained on, but got another one")
    return prepared


def newest(path: str) -> checkpoint.Checkpoint:
    """The checkpoint in a folder, or the newest one below it or its `checkpoints`.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    local, folder = fs.LocalFileSystem(), Path(path).resolve()
    if (folder / checkpoint.MANIFEST).is_file():
        return checkpoint.load(local, str(folder))
    for place in (folder, folder / "checkpoints"):
        known = checkpoint.positions(local, str(place)) if place.is_dir() else []
        known = [position for position in known if (place / checkpoint.name(*position)).is_dir()]
        if known:
            return checkpoint.load(local, str(place / checkpoint.name(*known[-1])))
    raise CheckpointError(f"Expected a checkpoint in {path!r}, but found none")
