"""Automatic augmentation policies: which operations each row of a batch gets, and how strongly.

Drawing is apart from applying: a policy returns `Steps`, and `apply_steps` is a pure function of them. Magnitude
ranges and numbers of bins are torchvision's.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mollify_core.augment import affine
from mollify_core.augment.operations import CODE, OPERATIONS, apply_operations
from mollify_core.settings import MAGNITUDES

IMAGENET_POLICY = """
    Posterize .4 8, Rotate .6 9; Solarize .6 5, AutoContrast .6 -; Equalize .8 -, Equalize .6 -;
    Posterize .6 7, Posterize .6 6; Equalize .4 -, Solarize .2 4; Equalize .4 -, Rotate .8 8;
    Solarize .6 3, Equalize .6 -; Posterize .8 5, Equalize 1 -; Rotate .2 3, Solarize .6 8;
    Equalize .6 -, Posterize .4 6; Rotate .8 8, Color .4 0; Rotate .4 9, Equalize .6 -;
    Equalize 0 -, Equalize .8 -; Invert .6 -, Equalize 1 -; Color .6 4, Contrast 1 8;
    Rotate .8 8, Color 1 2; Color .8 8, Solarize .8 7; Sharpness .4 7, Invert .6 -;
    ShearX .6 5, Equalize 1 -; Color .4 0, Equalize .6 -; Equalize .4 -, Solarize .2 4;
    Solarize .6 5, AutoContrast .6 -; Invert .6 -, Equalize 1 -; Color .6 4, Contrast 1 8;
    Equalize .8 -, Equalize .6 -"""
"""AutoAugment's 25 pairs of (operation, probability, magnitude bin) for ImageNet: Cubuk et al. 2019, table 9."""

CIFAR10_POLICY = """
    Invert .1 -, Contrast .2 6; Rotate .7 2, TranslateX .3 9; Sharpness .8 1, Sharpness .9 3;
    ShearY .5 8, TranslateY .7 9; AutoContrast .5 -, Equalize .9 -; ShearY .2 7, Posterize .3 7;
    Color .4 3, Brightness .6 7; Sharpness .3 9, Brightness .7 9; Equalize .6 -, Equalize .5 -;
    Contrast .6 7, Sharpness .6 5; Color .7 7, TranslateX .5 8; Equalize .3 -, AutoContrast .4 -;
    TranslateY .4 3, Sharpness .2 6; Brightness .9 6, Color .2 8; Solarize .5 2, Invert 0 -;
    Equalize .2 -, AutoContrast .6 -; Equalize .2 -, Equalize .6 -; Color .9 9, Equalize .6 -;
    AutoContrast .8 -, Solarize .2 8; Brightness .1 3, Color .7 0; Solarize .4 5, AutoContrast .9 -;
    TranslateY .9 9, TranslateY .7 9; AutoContrast .9 -, Solarize .8 3; Equalize .8 -, Invert .1 -;
    TranslateY .7 9, AutoContrast .9 -"""
"""The same for CIFAR-10: Cubuk et al. 2019, table 7."""


@dataclass(frozen=True)
class Steps:
    """The operations that the rows of a batch go through, step after step.

    Attributes:
        operation: (steps, rows) int64 codes, see `OPERATIONS`; a row that rests in a step has "Identity".
        magnitude: (steps, rows) float64, in the unit of each operation; 0 for operations that have none.
    """

    operation: Tensor
    magnitude: Tensor


def apply_steps(images: Tensor, steps: Steps, resample: Callable[[Tensor, Tensor], Tensor] = affine.nearest) -> Tensor:
    """Applies `steps` to images (rows, channels, height, width) uint8; the arguments of `apply_operations`."""
    for operation, magnitude in zip(steps.operation, steps.magnitude, strict=True):
        images = apply_operations(images, operation, magnitude, resample)
    return images


@functools.cache
def magnitudes(
    bins: int, *, shear: float, shift_x: float, shift_y: float, angle: float, strength: float, bits: tuple[int, int]
) -> Tensor:
    """(operations, bins) float64 table of magnitudes, evenly spaced; rows follow `OPERATIONS`.

    Args:
        bins: number of magnitudes per operation.
        shear: largest tangent.
        shift_x, shift_y: largest translation in pixels (whole pixels are used).
        angle: largest rotation in degrees.
        strength: largest magnitude of Brightness, Color, Contrast and Sharpness.
        bits: bits that Posterize keeps in the first and in the last bin.
    """
    ends = {
        **dict.fromkeys(("ShearX", "ShearY"), (0, shear)),
        "TranslateX": (0, shift_x),
        "TranslateY": (0, shift_y),
        "Rotate": (0, angle),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (0, strength)),
        "Posterize": bits,
        "Solarize": (1, 0),
    }
    table = torch.zeros(len(OPERATIONS), bins, dtype=torch.float64)
    for name, (first, last) in ends.items():
        table[CODE[name]] = torch.linspace(first, last, bins)
    table[[CODE["TranslateX"], CODE["TranslateY"]]] = table[[CODE["TranslateX"], CODE["TranslateY"]]].trunc()
    table[CODE["Posterize"]].round_()
    return table


def _standard(bins: int, height: int, width: int) -> Tensor:
    """The ranges that AutoAugment and RandAugment share."""
    largest = 150 / 331  # of the side: 150 pixels of the 331-pixel images that AutoAugment was found on
    return magnitudes(
        bins, shear=0.3, shift_x=largest * width, shift_y=largest * height, angle=30, strength=0.9, bits=(8, 4)
    )


def with_random_sign(operation: Tensor, magnitude: Tensor, generator: torch.Generator) -> Steps:
    """Steps with the sign of each magnitude drawn, where an operation has two directions (ShearX to Sharpness)."""
    negative = torch.randint(2, operation.shape, generator=generator).bool()
    return Steps(operation, torch.where(negative & (operation <= CODE["Sharpness"]), -magnitude, magnitude))


def draw_trivialaugment(batch: int, height: int, width: int, generator: torch.Generator) -> Steps:
    """TrivialAugmentWide: one of 14 operations (all but Invert) with one of 31 magnitudes, all equally likely.

    Source: Müller and Hutter, ICCV 2021 (arXiv 2103.10158), the "wide" augmentation space.

    Args:
        batch: number of rows.
        height, width: image size in pixels.
        generator: a CPU generator.
    """
    operation = torch.randint(CODE["Invert"], (1, batch), generator=generator)
    level = torch.randint(MAGNITUDES, (1, batch), generator=generator)
    return with_random_sign(operation, trivialaugment_magnitudes()[operation, level], generator)


def trivialaugment_magnitudes() -> Tensor:
    """(operations, MAGNITUDES) float64 magnitudes of the wide space, see `magnitudes`."""
    return magnitudes(MAGNITUDES, shear=0.99, shift_x=32, shift_y=32, angle=135, strength=0.99, bits=(8, 2))


def draw_randaugment(
    batch: int, height: int, width: int, generator: torch.Generator, steps: int = 2, level: int = 9
) -> Steps:
    """RandAugment: `steps` times one of 14 operations (all but Invert), all at the same magnitude bin out of 31.

    Source: Cubuk et al., NeurIPS 2020 (arXiv 1909.13719).

    Args:
        batch: number of rows.
        height, width: image size in pixels.
        generator: a CPU generator.
        steps: operations per row.
        level: magnitude bin, in [0, 30].
    """
    operation = torch.randint(CODE["Invert"], (steps, batch), generator=generator)
    return with_random_sign(operation, _standard(31, height, width)[operation, level], generator)


@functools.cache
def parse_policy(text: str) -> tuple[Tensor, Tensor, Tensor]:
    """(operation, probability, magnitude bin), each (2, pairs), of a policy in the notation above ("-" is bin 0)."""
    pairs = [[item.split() for item in pair.split(",")] for pair in text.split(";")]
    operation = torch.tensor([[CODE[name] for name, _, _ in pair] for pair in pairs]).T
    probability = torch.tensor([[float(p) for _, p, _ in pair] for pair in pairs]).T
    level = torch.tensor([[int(bin_.replace("-", "0")) for _, _, bin_ in pair] for pair in pairs]).T
    return operation, probability, level


def draw_autoaugment(
    batch: int, height: int, width: int, generator: torch.Generator, policy: str = IMAGENET_POLICY
) -> Steps:
    """AutoAugment: one of the policy's 25 pairs, each of its two operations applied with its own probability.

    Source: Cubuk et al., CVPR 2019 (arXiv 1805.09501). Heinonen et al. 2025 used ImageNet's policy on every data set.

    Args:
        batch: number of rows.
        height, width: image size in pixels.
        generator: a CPU generator.
        policy: `IMAGENET_POLICY` or `CIFAR10_POLICY`.
    """
    operation, probability, level = parse_policy(policy)
    pair = torch.randint(operation.shape[1], (batch,), generator=generator)
    applied = torch.rand(2, batch, generator=generator) < probability[:, pair]
    operation = torch.where(applied, operation[:, pair], CODE["Identity"])
    return with_random_sign(operation, _standard(10, height, width)[operation, level[:, pair]], generator)
