"""Any of the nineteen corruptions, batched: the algorithms and strengths of CIFAR-C and TinyImageNet-C."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mollify_core.corruptions import blur, digital, noise, weather
from mollify_core.corruptions.benchmark import check_cell
from mollify_core.corruptions.draws import CHUNK, stream
from mollify_core.corruptions.frost import find_photographs, frost
from mollify_core.corruptions.spatter import spatter
from mollify_core.corruptions.strengths import strength
from mollify_core.errors import DataError

SMALLEST = 8
"""Fewest pixels a side."""

_FIXED: dict[str, Callable[..., Tensor]] = {
    "defocus_blur": blur.defocus_blur,
    "zoom_blur": blur.zoom_blur,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "gaussian_blur": blur.gaussian_blur,
    "saturate": digital.saturate,
}
_RANDOM: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "snow": weather.snow,
    "fog": weather.fog,
    "elastic_transform": digital.elastic_transform,
    "speckle_noise": noise.speckle_noise,
    "spatter": spatter,
}


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0, frost_dir: str | Path | None = None) -> Tensor:
    """Corrupted copies of images.

    The algorithms and constants are those of the published sets: CIFAR-C's for images of up to 48 pixels on their
    longer side, TinyImageNet-C's for larger ones; see `strengths`. How each relates to the published arrays stands with
    its function. What is random is a function of (seed, name, severity, row) and the image's shape only: the first k
    rows corrupted alone are the first k rows of the whole, on any number of threads.

    Args:
        images: (n, channels, height, width) uint8 on the CPU, 1 or 3 channels (RGB), at least 8 pixels a side.
        name: one of `benchmark.CORRUPTIONS`.
        severity: 1 to 5.
        seed: any integer; picks other noise.
        frost_dir: folder of photographs for frost; see `frost.find_photographs` for what else is tried.

    Returns:
        (n, channels, height, width) uint8, contiguous.

    Raises:
        ConfigError: there is no such corruption or severity, or there are no photographs for frost.
        DataError: `images` are not as said.
    """
    check(images, name, severity)
    folder = find_photographs(frost_dir) if name == "frost" else None
    corrupted = torch.empty(images.shape, dtype=torch.uint8)
    for number, start in enumerate(range(0, len(images), CHUNK)):
        chunk = corrupt_chunk(images, name, severity, number, seed=seed, frost_folder=folder)
        corrupted[start : start + CHUNK] = chunk
    return corrupted


def corrupt_chunk(
    images: Tensor, name: str, severity: int, number: int, *, seed: int, frost_folder: Path | None
) -> Tensor:
    """Rows number * CHUNK to (number + 1) * CHUNK of what `corrupt` returns; arguments are not checked."""
    rows = images[number * CHUNK : (number + 1) * CHUNK]
    return corrupt_rows(rows, name, severity, number, seed=seed, frost_folder=frost_folder)


def corrupt_rows(
    rows: Tensor, name: str, severity: int, number: int, *, seed: int, frost_folder: Path | None = None
) -> Tensor:
    """What `corrupt` makes of the rows from number * CHUNK on, CHUNK of them at most; arguments are not checked."""
    rows = rows.contiguous()
    arguments = strength(name, severity, max(rows.shape[2:]))
    if name in _FIXED:
        return _FIXED[name](rows, *arguments)
    generator = stream(seed, name, severity, number)
    if name == "frost":
        assert frost_folder is not None
        return frost(rows, generator, *arguments, folder=frost_folder)
    return _RANDOM[name](rows, generator, *arguments)


def check(images: Tensor, name: str, severity: int) -> None:
    """Raises as `corrupt` does for its images, name and severity."""
    check_cell(name, severity)
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            "Expected images to be uint8 of shape (n, 1 or 3 channels, height, width), but got "
            f"{images.dtype} of shape {tuple(images.shape)}"
        )
    if images.device.type != "cpu":
        raise DataError(f"Expected images to be on the CPU, but got {images.device}")
    if min(images.shape[2:]) < SMALLEST:
        raise DataError(
            f"Expected images of at least {SMALLEST} pixels a side, but got {images.shape[2]} x {images.shape[3]}"
        )
