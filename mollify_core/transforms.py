"""The methods for any training loop, with the calling convention of `torchvision.transforms.v2.MixUp`.

    mollify = Mollify.from_recipe("best_recipe.json")         # what a sweep has found
    for images, labels in loader:                              # uint8, or float in [0, 1]
        x, soft = mollify(images, labels)                      # network input, (batch, classes) soft labels
        loss = nn.CrossEntropyLoss()(network(x), soft)

As a `collate_fn` it is `lambda batch: mollify(*default_collate(batch))`. It takes the soft labels of MixUp and CutMix,
too, and then shuffles the rows: what it does to a row is told by its place, and rows that share an image stand side by
side. Its numbers are those of the sweep's own step, see `mollify_core.batch`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mollify_core import labels, rng
from mollify_core.augment.names import BATCH_AUGMENTATIONS
from mollify_core.batch import make_batch
from mollify_core.datasets.specs import DATASETS
from mollify_core.errors import ConfigError, DataError
from mollify_core.foreign import shown
from mollify_core.normalise import Normalise
from mollify_core.recipe import Recipe
from mollify_core.settings import check_mode_and_loss


class _Transform(nn.Module):
    method: ClassVar[str]

    def __init__(
        self,
        num_classes: int,
        *,
        mean: tuple[float, ...] = (0.5, 0.5, 0.5),
        std: tuple[float, ...] = (0.5, 0.5, 0.5),
        normalised: bool = False,
        generator: torch.Generator | None = None,
        uncoupled: float | None = None,
        **settings: Any,
    ) -> None:
        """The settings of the method, and in which form images come.

        Args:
            num_classes: number of classes, at least 2.
            mean, std: per channel, of images in [0, 1]; what network input is normalised by.
            normalised: images come normalised by these already; else as uint8, or as float in [0, 1].
            generator: of the CPU, which draws for each batch; None is PyTorch's global one, whose seed a `DataLoader`
                sets in each of its workers.
            uncoupled: strength in [0, 1] of all labels where the setting `label` is "uncoupled".
            **settings: of the recipe by their names, see `mollify_core.settings`, as `max_noise=0.7`.

        Raises:
            ConfigError: a setting is unknown or out of range.
        """
        super().__init__()
        if num_classes < 2:
            raise ConfigError(f"Expected `num_classes` to be at least 2, but got {num_classes!r}")
        recipe = Recipe().with_({**settings, "method": self.method})
        augment = tuple(name for name in recipe.data.augment if name not in BATCH_AUGMENTATIONS)
        self.recipe = recipe.with_(augment=augment, repeat=1)  # both are the loop's own
        if recipe.label == "uncoupled" and uncoupled is None:
            raise ConfigError("Expected `uncoupled`, the strength of uncoupled labels, but got none")
        self.num_classes, self.normalised, self.generator, self._uncoupled = (
            num_classes,
            normalised,
            generator,
            uncoupled,
        )
        self._constants = Normalise.make(recipe.data.scaling, mean, std, "cpu")
        self._looked = False  # at a batch's values, which waits for a GPU

    @classmethod
    def from_recipe(
        cls,
        path: str | Path | Recipe,
        *,
        num_classes: int | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        **more: Any,
    ) -> Self:
        """What a recipe says, as a sweep's best_recipe.json; the data's constants are in it, or those of a known set.

        Args:
            path: a recipe or its file.
            num_classes, mean, std: in place of those.
            **more: `normalised`, `generator` and `uncoupled`.

        Raises:
            ConfigError: the recipe cannot be read or is of another method, or does not say what its data are.
        """
        recipe, beside = (path, {}) if isinstance(path, Recipe) else Recipe.beside(path)
        if recipe.method != cls.method:
            raise ConfigError(f"Expected a recipe of the method {cls.method!r}, but got {recipe.method!r}")
        known, spec = beside.get("provenance", {}), DATASETS.get(recipe.data.dataset)
        if spec is not None:
            known = {"classes": spec.classes, "mean": spec.mean, "std": spec.std} | known
        constants: dict[str, Any] = {"classes": num_classes, "mean": mean, "std": std}
        found = {name: known.get(name) if value is None else value for name, value in constants.items()}
        if missing := [name for name, value in found.items() if not value]:
            words = ", ".join("num_classes" if name == "classes" else name for name in missing)
            raise ConfigError(f"Expected {words} for the data set {shown(recipe.data.dataset)}, which the recipe lacks")
        return cls(
            found["classes"],
            mean=tuple(found["mean"]),
            std=tuple(found["std"]),
            **recipe.changed(),
            **more,
        )

    @torch.compiler.disable
    @torch.no_grad()
    def forward(self, images: Tensor, label: Tensor, *, key: tuple[int, ...] | None = None) -> tuple[Tensor, Tensor]:
        """Degrades a batch and softens its labels.

        Args:
            images: (batch, channels, height, width), see `normalised`.
            label: (batch,) integers, or (batch, classes) soft labels.
            key: of the randomness, in place of the generator: a sweep's step draws by (seed, epoch, step, rank).

        Returns:
            (batch, channels, height, width) float32 network input, and (batch, classes) labels, or one column more in a
            label mode with a sink class; where soft labels came, in another order of rows.

        Raises:
            DataError: images or labels are not as said.
        """
        self._check(images, label)
        if key is None:
            key = (int(torch.randint(2**62, (), generator=self.generator)),)
        if label.ndim == 2:
            rows = torch.randperm(len(images), generator=rng.generator(*key, "rows")).to(images.device)
            images, soft = images[rows], label[rows].float()
        else:
            soft = labels.one_hot(label.long(), self.num_classes)
        normalise = self._constants.to(images.device)
        if self.normalised:
            images = normalise.undo(images.float()) if self._needs_pixels else images.float()
            normalise = normalise if self._needs_pixels else _as_it_is(images)
        recipe, hard = self.recipe, soft.argmax(dim=1)
        batch = make_batch(images, hard, self.num_classes, recipe, normalise, *key, uncoupled=self._uncoupled)
        mode, smoothing = recipe.mollify.label_mode, recipe.optim.label_smoothing
        if mode != "ls" and smoothing:
            soft = labels.smooth(soft, torch.full_like(batch.strength, smoothing))
        target = labels.soften(soft, batch.strength, mode)
        if recipe.soft.reweight:  # cross-entropy is linear in its target
            target = target * labels.confidence(batch.strength, self.num_classes).float()[:, None]
        return batch.x, target

    @property
    def _needs_pixels(self) -> bool:
        """Whether the method looks at images in [0, 1]."""
        return self.method == "matching" or self.recipe.mollify.label_source == "nmi"

    def _check(self, images: Tensor, label: Tensor) -> None:
        if images.ndim != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise DataError(
                "Expected images to be uint8 or float of shape (batch, channels, height, width), but got "
                f"{images.dtype} of shape {tuple(images.shape)}"
            )
        shape = (len(images), self.num_classes) if label.ndim == 2 else (len(images),)
        integers = not (label.is_floating_point() or label.is_complex() or label.dtype == torch.bool)
        if label.shape != shape or integers == (label.ndim == 2):
            raise DataError(
                f"Expected labels to be integers of shape {(len(images),)} or float of shape "
                f"{(len(images), self.num_classes)}, but got {label.dtype} of shape {tuple(label.shape)}"
            )
        if images.dtype == torch.uint8 and self.normalised:
            raise DataError("Expected normalised images, but got uint8")
        if not len(images) or (self._looked and images.device.type != "cpu"):
            return
        self._looked = True
        if images.is_floating_point() and not self.normalised and not 0 <= images.min() <= images.max() <= 1:
            low, high = float(images.min()), float(images.max())
            raise DataError(
                f"Expected float images in [0, 1], but got {low:.3g} to {high:.3g} (normalised ones: normalised=True)"
            )
        if label.ndim == 1 and not 0 <= label.min() <= label.max() < self.num_classes:
            low, high = int(label.min()), int(label.max())
            raise DataError(f"Expected labels in [0, {self.num_classes}), but got {low} to {high}")


class Mollify(_Transform):
    """Supervised mollification: noise or blur by a random amount and a softer label (Heinonen et al., AISTATS 2025)."""

    method = "mollification"


class Match(_Transform):
    """Information matching (Bonilla 2025): a distorted image, a label softened by the information that it has lost."""

    method = "matching"


class SoftTargetLoss(nn.Module):
    """The losses that `nn.CrossEntropyLoss` cannot express: those of the other label modes, see `mollify_core.labels`.

    Args:
        loss: "ce", "bce" or "nce".
        label_mode: "ls", "ld", "la" or "lm".

    Raises:
        ConfigError: they do not go together.
    """

    def __init__(self, loss: str = "ce", label_mode: str = "ls") -> None:
        super().__init__()
        check_mode_and_loss(label_mode, loss)
        self.loss, self.label_mode = loss, label_mode

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The mean loss of (batch, outputs) logits against the labels of a transform."""
        return labels.loss(self.loss, self.label_mode, logits, target).mean()


def _as_it_is(images: Tensor) -> Normalise:
    """What leaves normalised images as they are."""
    shape = (1, images.shape[1], 1, 1)
    return Normalise(torch.zeros(shape, device=images.device), torch.ones(shape, device=images.device))
