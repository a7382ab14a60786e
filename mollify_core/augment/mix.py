"""MixUp and CutMix: each image of a batch is combined with the one before it, and so are their labels.

One share lambda ~ Beta(1, 1), the uniform distribution, holds for the whole batch. The partner of row i is row i - 1,
that of row 0 is the last row; rows must be exchangeable, i.e. come from a shuffled order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mollify_core.augment.names import BATCH_AUGMENTATIONS
from mollify_core.errors import ConfigError, DataError, nearest
from mollify_core.labels import one_hot


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed.

    Attributes:
        share: of a row's own label, in [0, 1].
        box: top, left, bottom and right in pixels (the last two exclusive) of what CutMix takes from the partner;
            None is MixUp.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def draw_mix(name: str, height: int, width: int, generator: torch.Generator) -> Mix:
    """The mix of one batch.

    Sources: "mixup", Zhang et al., ICLR 2018 (arXiv 1710.09412), equation 1; "cutmix", Yun et al., ICCV 2019
    (arXiv 1905.04899), section 3.1: a box of area 1 - lambda around a uniform centre, clipped at the image, after which
    lambda is recomputed from the area that is left.

    Args:
        name: "mixup" or "cutmix".
        height, width: image size in pixels.
        generator: a CPU generator.

    Raises:
        ConfigError: there is no such augmentation.
    """
    if name not in BATCH_AUGMENTATIONS:
        raise ConfigError(f"Unknown batch augmentation {name!r}{nearest(name, BATCH_AUGMENTATIONS)}")
    share = float(torch.rand((), generator=generator))
    if name == "mixup":
        return Mix(share)
    y, x = (int(torch.randint(side, (), generator=generator)) for side in (height, width))
    half = 0.5 * (1 - share) ** 0.5
    tall, wide = int(half * height), int(half * width)
    top, left, bottom, right = max(y - tall, 0), max(x - wide, 0), min(y + tall, height), min(x + wide, width)
    return Mix(1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right))


def mix_batch(
    images: Tensor, labels: Tensor, classes: int, drawn: Mix, strength: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixed copies of the images of a batch, and their soft labels.

    Labels of different strength are smoothed each by its own, (1 - g) y + g / C, and then mixed. What comes out is
    the label and the strength that say the same: a mean of labels weighted by 1 - g too, and the mean strength.

    Args:
        images: (batch, channels, height, width) floating, or of any type for CutMix.
        labels: (batch,) int64 classes.
        classes: number of classes.
        drawn: see `draw_mix`.
        strength: (batch,) label strengths g in [0, 1]; None is 0 for all.

    Returns:
        (batch, channels, height, width) images, (batch, classes) float32 labels, whose rows sum to 1, and their
        (batch,) strengths.

    Raises:
        DataError: MixUp meets images of whole numbers.
    """
    targets = one_hot(labels, classes)
    if strength is None:
        strength = torch.zeros(len(images), device=images.device)
        targets = torch.lerp(targets.roll(1, 0), targets, drawn.share)
    else:
        own, partners = drawn.share * (1 - strength), (1 - drawn.share) * (1 - strength.roll(1))
        share = (own / (own + partners)).nan_to_num(drawn.share).float()  # where nothing is left of both
        targets = torch.lerp(targets.roll(1, 0), targets, share[:, None])
        strength = torch.lerp(strength.roll(1), strength, drawn.share)
    if drawn.box is None:
        if not images.is_floating_point():
            raise DataError(f"Expected floating images for mixup, but got {images.dtype}")
        return torch.lerp(images.roll(1, 0), images, drawn.share), targets, strength
    top, left, bottom, right = drawn.box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].roll(1, 0)
    return mixed, targets, strength
