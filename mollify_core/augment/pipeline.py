"""Image augmentation of a training batch in a fixed order, drawn on the CPU and applied on the images' device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from mollify_core.augment import policies
from mollify_core.augment.affine import MAX_ANGLE, rotate, rotation
from mollify_core.augment.augmix import Mixture, apply_augmix, draw_augmix
from mollify_core.augment.geometry import CROP_PADDING, crop, flip
from mollify_core.augment.names import POLICIES, canonical, softens
from mollify_core.augment.operations import compilable
from mollify_core.augment.policies import Steps, apply_steps
from mollify_core.augment.resize import draw_boxes, resized_crop
from mollify_core.augment.soft import soften
from mollify_core.errors import ConfigError, DataError
from mollify_core.settings import Soft

_POLICIES: dict[str, Callable[[int, int, int, torch.Generator], Steps | Mixture]] = {
    "trivialaugment": policies.draw_trivialaugment,
    "randaugment": policies.draw_randaugment,
    "autoaugment": policies.draw_autoaugment,
    "autoaugment_cifar10": functools.partial(policies.draw_autoaugment, policy=policies.CIFAR10_POLICY),
    "augmix": draw_augmix,
    "augmix_reduced": functools.partial(draw_augmix, all_ops=False),
}


@dataclass(frozen=True)
class Draw:
    """What augments one batch, on the CPU; None where an augmentation was not asked for.

    Attributes:
        mirrored: (batch,) bool.
        corner: (2, batch) int64 top and left of the crop in the padded image.
        angle: (batch,) float32 degrees, counter-clockwise.
        box: (4, batch) int64 top, left, height and width of the resized crop.
        policy: the operations of an automatic augmentation.
    """

    mirrored: Tensor | None = None
    corner: Tensor | None = None
    angle: Tensor | None = None
    box: Tensor | None = None
    policy: Steps | Mixture | None = None


def draw(batch: int, height: int, width: int, names: Iterable[str], generator: torch.Generator) -> Draw:
    """Random parameters of the augmentations in `names`, drawn in the order of application.

    Args:
        batch: number of rows.
        height, width: image size in pixels.
        names: out of `AUGMENTATIONS`; those of `mollify_core.augment.mix` and of `mollify_core.augment.soft` are left
            to these.
        generator: a CPU generator: the few parameters are drawn there, so every device sees the same ones.

    Raises:
        ConfigError: see `canonical`.
    """
    names = canonical(names)
    mirrored = corner = angle = box = policy = None
    if "flip" in names:
        mirrored = torch.rand(batch, generator=generator) < 0.5
    if "crop" in names:
        corner = torch.randint(0, 2 * CROP_PADDING + 1, (2, batch), generator=generator)
    if "rotate" in names:
        angle = (2 * torch.rand(batch, generator=generator) - 1) * MAX_ANGLE
    if "resized_crop" in names:
        box = draw_boxes(batch, height, width, generator)
    for name in names:
        if name in _POLICIES:
            policy = _POLICIES[name](batch, height, width, generator)
    return Draw(mirrored, corner, angle, box, policy)


def apply(images: Tensor, drawn: Draw) -> Tensor:
    """Augmented copies of a batch; black where a pixel has no source.

    Args:
        images: (batch, channels, height, width) uint8, on any device.
        drawn: parameters for as many rows and the same size, see `draw`.

    Raises:
        DataError: `images` has another shape or type.
        ConfigError: an automatic augmentation meets images of other than 1 or 3 channels.
    """
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise DataError(
            f"Expected images to be uint8 of shape (batch, channels, height, width), but got {images.dtype} of shape "
            f"{tuple(images.shape)}"
        )
    if drawn.policy is not None and images.shape[1] not in (1, 3):
        raise ConfigError(f"Expected images of 1 or 3 channels for {', '.join(POLICIES)}, but got {images.shape[1]}")
    images = _move(images, drawn)
    if drawn.box is not None:
        images = resized_crop(images, drawn.box.to(images.device, non_blocking=True))
    if isinstance(drawn.policy, Steps):
        images = apply_steps(images, drawn.policy)
    elif isinstance(drawn.policy, Mixture):
        images = apply_augmix(images, drawn.policy)
    return images


def _move(images: Tensor, drawn: Draw) -> Tensor:
    """Flip, crop and rotation."""
    mirrored, corner, angle = (
        None if value is None else value.to(images.device, non_blocking=True)
        for value in (drawn.mirrored, drawn.corner, drawn.angle)
    )
    asked = [value for value in (mirrored, None if corner is None else corner.T, angle) if value is not None]
    if asked and compilable(images, *asked):
        from mollify_core.compiled import augment as kernel

        still = torch.zeros(len(images), 2, dtype=torch.int64)
        offset = still if corner is None else corner.T - CROP_PADDING
        inverse = rotation(still[:, 0].double() if angle is None else angle)
        return kernel.move(images, offset, still[:, 0].bool() if mirrored is None else mirrored, inverse)
    if corner is not None:
        images = crop(images, corner[0], corner[1], mirrored=mirrored)
    elif mirrored is not None:
        images = flip(images, mirrored)
    return images if angle is None else rotate(images, angle)


def augment(
    images: Tensor,
    names: Iterable[str],
    generator: torch.Generator,
    soft: Soft | None = None,
    classes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Random augmentation of a uint8 batch: `draw` and `apply` in one, and after them the soft ones.

    Args:
        images: (batch, channels, height, width) uint8, on any device.
        names: out of `AUGMENTATIONS`, applied in that order whatever the order here; those in
            `BATCH_AUGMENTATIONS` are left to `mollify_core.augment.mix`.
        generator: a CPU generator.
        soft: settings of those in `SOFT` and of their plain forms; None is the defaults.
        classes: number of classes, which those in `SOFT` need.

    Returns:
        The augmented copies, and the (batch,) float64 confidences on the CPU that are left of their labels: 1 but for
        those in `SOFT`, of which they are the product, and at least chance. See `mollify_core.batch.make_batch`.

    Raises:
        ConfigError: see `canonical`; `classes` is missing; or an automatic augmentation meets images of other than 1 or
            3 channels.
        DataError: `images` has another shape or type.
    """
    names = canonical(names)
    if classes is None and softens(names):
        raise ConfigError("Expected the number of classes for soft augmentations, but got none")
    height, width = images.shape[-2:]
    images = apply(images, draw(len(images), height, width, names, generator))
    return soften(images, names, soft or Soft(), classes or 1, generator)
