"""Augmentations that know how sure one may still be of the label: soft crop, erasing, patch noise, TrivialAugment.

Sources: Liu et al., "Soft Augmentation for Image Classification", CVPR 2023 (arXiv 2211.04625), and Siedel et al.,
"Combined Image Data Augmentations diminish the benefits of Adaptive Label Smoothing", 2025 (arXiv 2507.16427), with
the constants of the latter's released code. What an augmentation takes of an image, m in [0, 1], leaves the confidence
1 - (1 - floor) m^power of its label; the others share the rest evenly. The confidences of several augmentations
multiply.

Each function takes a uint8 batch and gives `(images, kept)`: the augmented copies and the (batch,) float64 confidences
on the CPU. All that decides is drawn there, from a CPU generator, also the seed of the noise.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from mollify_core import compiled
from mollify_core.augment.names import SOFT
from mollify_core.augment.operations import CODE
from mollify_core.augment.policies import Steps, apply_steps, draw_trivialaugment, trivialaugment_magnitudes
from mollify_core.errors import ConfigError
from mollify_core.settings import MAGNITUDES, TRIVIALAUGMENT, Soft, parse_confidences

Kept = tuple[Tensor, Tensor]
"""Images, and the (batch,) float64 confidences that are left of their labels."""
NOISE_FLOOR = 0.3
"""Confidence under noise of deviation 1 over the whole image (released code)."""
_AREA, _ASPECT, _TRIES = 0.02, (0.3, 3.3), 10


def soften(images: Tensor, names: Iterable[str], soft: Soft, classes: int, generator: torch.Generator) -> Kept:
    """The augmentations of this module out of `names`, in that order.

    Args:
        images: (batch, channels, height, width) uint8.
        names: as `canonical` gives them; a plain form leaves a confidence of 1.
        soft: the settings of all.
        classes: number of classes C: no confidence is below 1 / C.
        generator: a CPU generator.

    Returns:
        The images, and the (batch,) float64 products of the confidences, at least 1 / C.
    """
    kept = torch.ones(len(images), dtype=torch.float64)
    for name in names:
        if name in _FUNCTIONS:
            images, left = _FUNCTIONS[name](images, soft, 1 / classes, generator)
            kept = kept * left if name in SOFT else kept
    return images, kept.clamp_(min=1 / classes)


def crop(images: Tensor, soft: Soft, chance: float, generator: torch.Generator) -> Kept:
    """Moves each image by offsets from a normal law, cut off at the side: a part leaves the frame, black comes in.

    An offset is a normal draw of deviation `crop_deviation` sides, drawn again while beyond a side, without its
    fraction. m is the share of the image that left.
    """
    height, width = images.shape[2:]
    sides = torch.tensor([[height], [width]], dtype=torch.float64)
    edge = _phi(1 / soft.crop_deviation)
    u = torch.rand((2, len(images)), generator=generator, dtype=torch.float64)
    offset = torch.special.ndtri(1 - edge + u * (2 * edge - 1)).mul_(soft.crop_deviation * sides)
    offset = torch.minimum(torch.maximum(offset, -sides), sides).trunc_()
    visible = (1 - offset.abs() / sides).prod(0)
    return shift(images, offset.long()), _confidence(1 - visible, soft.crop_power, soft, chance)


def erasing(images: Tensor, soft: Soft, chance: float, generator: torch.Generator) -> Kept:
    """Puts noise in place of a rectangle of some images.

    Source of the rectangle: Zhong et al., AAAI 2020 (arXiv 1708.04896), as torchvision draws it: 2 % of the area to
    `erasing_area`, aspect ratio log-uniform from 0.3 to 3.3, the first of ten draws that fits. The noise is standard
    normal in units of white, cut to what an image can hold (the released code leaves it beyond). m is the share of the
    image that is erased.
    """
    n, _, height, width = images.shape
    u = torch.rand((5, _TRIES, n), generator=generator, dtype=torch.float64)
    area = height * width * (_AREA + (soft.erasing_area - _AREA) * u[1])
    low, high = (math.log(ratio) for ratio in _ASPECT)
    aspect = torch.exp(low + (high - low) * u[2])
    tall, wide = (area * aspect).sqrt_().round_(), (area / aspect).sqrt_().round_()
    fits = (tall < height) & (wide < width)
    first = fits.int().argmax(0, keepdim=True)
    tall, wide, y, x, fitting = (value.gather(0, first)[0] for value in (tall, wide, u[3], u[4], fits))
    erased = fitting & (u[0, 0] < soft.erasing_probability)
    tall, wide = tall * erased, wide * erased
    top, left = (y * (height - tall + 1)).floor_(), (x * (width - wide + 1)).floor_()
    box = torch.stack([top, left, top + tall, left + wide]).long()
    kept = _confidence(tall * wide / (height * width), soft.erasing_power, soft, chance)
    return _noise(images, box, None, generator), kept


def patch_noise(images: Tensor, soft: Soft, chance: float, generator: torch.Generator) -> Kept:
    """Adds Gaussian noise to a window around a random centre, cut at the borders, or to the whole image.

    Source: Lopes et al. 2019 (arXiv 1906.02611). The deviation is uniform in [0, `patch_deviation`] of white, the
    window of `patch_side` sides, of whole pixels. m is the share of the image under noise times the deviation.
    """
    n, _, height, width = images.shape
    deviation = soft.patch_deviation * torch.rand(n, generator=generator, dtype=torch.float64)
    u = torch.rand((2, n), generator=generator, dtype=torch.float64)
    sides = torch.tensor([[height], [width]], dtype=torch.float64)
    window = (soft.patch_side * sides).floor_().clamp_(min=1)
    centre = (u * (sides + 1 - window % 2)).floor_()  # an even window is centred between pixels
    start = centre - (window / 2).floor()
    start, end = start.clamp(min=0), torch.minimum(start + window, sides)
    if soft.patch_side == 1:
        start, end = torch.zeros_like(u), sides.expand_as(u)
    box = torch.cat([start, end]).long()
    covered = (end - start).prod(0) / (height * width)
    kept = _confidence(covered * deviation, soft.patch_power, soft, NOISE_FLOOR).clamp_(min=chance)
    return _noise(images, box, deviation, generator), kept


def trivialaugment(images: Tensor, soft: Soft, chance: float, generator: torch.Generator) -> Kept:
    """TrivialAugment, see `mollify_core.augment.policies.draw_trivialaugment`. m is the operation's magnitude."""
    if images.shape[1] not in (1, 3):
        raise ConfigError(f"Expected images of 1 or 3 channels for soft-trivialaugment, but got {images.shape[1]}")
    height, width = images.shape[2:]
    steps = draw_trivialaugment(len(images), height, width, generator)
    return apply_steps(images, steps), trivialaugment_confidence(steps, soft, chance, (height, width))


def trivialaugment_confidence(steps: Steps, soft: Soft, chance: float, size: tuple[int, int]) -> Tensor:
    """(batch,) confidences after one operation a row: from the table where it has the operation, else by the rule.

    The rule's m, as the released code has it: the tangent of a shear, the share of the image that a translation moves
    out of it (of whole pixels; there with a fraction that is not moved), degrees of 135, the share of the bits that
    Posterize drops and of the levels that Solarize inverts, and what Brightness, Color, Contrast and Sharpness add or
    take; 0 for the other three.

    Args:
        steps: of one step.
        soft: the rule's power and floor, and the table.
        chance: 1 / C.
        size: height and width in pixels.
    """
    operation, magnitude = steps.operation[0], steps.magnitude[0]
    m = _taken(operation, magnitude.abs(), size)
    kept = _confidence(m, soft.trivialaugment_power, soft, chance)
    if soft.confidence_table:
        known, values, levels = _table(soft.confidence_table, size)
        level = (levels[operation] - magnitude.abs()[:, None]).abs().argmin(1)
        backwards = (magnitude < 0).long()
        kept = torch.where(known[backwards, operation], values[backwards, operation, level], kept)
    return kept.clamp(min=chance)


def shift(images: Tensor, offset: Tensor) -> Tensor:
    """Each image through a frame that is moved by `offset` (2, batch) whole pixels down and right; black outside."""
    if compiled.takes(images, offset.T) and images.dtype == torch.uint8:
        from mollify_core.compiled import soft as kernel

        return kernel.shift(images, offset)
    height, width = images.shape[2:]
    y, x = (
        move[:, None] + torch.arange(side, device=images.device)
        for move, side in zip(offset.to(images.device, non_blocking=True), (height, width), strict=True)
    )
    inside = ((y >= 0) & (y < height))[:, :, None] & ((x >= 0) & (x < width))[:, None]
    index = y.clamp(0, height - 1)[:, :, None] * width + x.clamp(0, width - 1)[:, None]
    seen = images.flatten(2).gather(2, index.flatten(1)[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return seen * inside[:, None]


def _phi(x: float) -> float:
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def _confidence(taken: Tensor, power: float, soft: Soft, floor: float) -> Tensor:
    """1 - (1 - floor) m^power."""
    floor = floor if soft.min_confidence is None else soft.min_confidence
    return 1 - (1 - floor) * taken.pow(power)


def _taken(operation: Tensor, magnitude: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    m = torch.where(operation == CODE["Rotate"], magnitude / 135, magnitude)
    m = torch.where(operation == CODE["TranslateX"], (magnitude / width).clamp(max=1), m)
    m = torch.where(operation == CODE["TranslateY"], (magnitude / height).clamp(max=1), m)
    m = torch.where(operation == CODE["Posterize"], 1 - magnitude / 8, m)
    m = torch.where(operation == CODE["Solarize"], 1 - magnitude, m)
    for name, directions in TRIVIALAUGMENT.items():
        if not directions:
            m = torch.where(operation == CODE[name], 0, m)
    return m


def _noise(images: Tensor, box: Tensor, deviation: Tensor | None, generator: torch.Generator) -> Tensor:
    """Copies with noise in a box of each row: added to what is there with a deviation, in place of it without.

    Args:
        images: (batch, channels, height, width) uint8.
        box: (4, batch) int64 top, left, bottom and right (the last two exclusive) on the CPU.
        deviation: (batch,) of white, on the CPU.
        generator: gives the seed of the noise, which is a function of it, the same on every device, to 16 bits.
    """
    channels, height, width = images.shape[1:]
    seed = int(torch.randint(2**63 - 1, (), generator=generator))
    if compiled.takes(images, box.T) and images.dtype == torch.uint8:
        from mollify_core.compiled import soft as kernel

        return kernel.noise(images, box, deviation, seed, _quantiles(images.device))
    count = channels * int(((box[2] - box[0]) * (box[3] - box[1])).sum())
    noise = _quantiles(images.device)[_words(seed, count, images.device)]
    top, left, bottom, right = box.to(images.device, non_blocking=True)[:, :, None]
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((y >= top) & (y < bottom))[:, None, :, None] & ((x >= left) & (x < right))[:, None, None]
    inside = inside.expand_as(images)
    if deviation is None:
        return images.masked_scatter(inside, (255 * noise).clamp_(0, 255).round_().to(torch.uint8))
    spread = torch.zeros(images.shape, device=images.device).masked_scatter_(inside, noise)
    level = (255 * deviation).float().to(images.device, non_blocking=True)[:, None, None, None]
    return spread.mul_(level).add_(images).clamp_(0, 255).round_().to(torch.uint8)


@functools.lru_cache(maxsize=4)
def _quantiles(device: torch.device) -> Tensor:
    """(65536,) quantiles of the standard normal law: what 16 random bits become."""
    return torch.special.ndtri((torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16).float().to(device)


def _words(seed: int, count: int, device: torch.device) -> Tensor:
    """(count,) int64 of 16 random bits, four out of each word of SplitMix64 (Steele et al., OOPSLA 2014)."""

    def right(x: Tensor, bits: int) -> Tensor:
        return (x >> bits) & ((1 << (64 - bits)) - 1)  # without the sign

    z = seed + (torch.arange(-(-count // 4), device=device) + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ right(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ right(z, 31)
    return torch.stack([right(z, shift) & 0xFFFF for shift in (0, 16, 32, 48)], dim=1).flatten()[:count]


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


@functools.lru_cache(maxsize=16)
def _table(table: tuple[str, ...], size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """((2, operations) bool, (2, operations, 31) confidences, (operations, 31) magnitudes) of a confidence table."""
    levels = trivialaugment_magnitudes()
    known, values = torch.zeros(2, len(levels), dtype=torch.bool), torch.zeros(2, len(levels), MAGNITUDES).double()
    for name, row in parse_confidences(table).items():
        backwards, code = int(name.startswith("-")), CODE[name.removeprefix("-")]
        known[backwards, code] = True
        values[backwards, code] = torch.tensor(row, dtype=torch.float64)
    return known, values, levels


_FUNCTIONS: dict[str, Callable[[Tensor, Soft, float, torch.Generator], Kept]] = {
    "soft-trivialaugment": trivialaugment,
    "soft-crop": crop,
    "soft-erasing": erasing,
    "soft-noise": patch_noise,
    "erasing": erasing,
    "patch_noise": patch_noise,
}
