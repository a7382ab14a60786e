"""The corruption `frost`, and the photographs of frost that it lays over an image.

The photographs are not part of this project. They come with the package `imagecorruptions-imaug` (which the extra
`corruptions` installs), or from a folder that the user names.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mollify_core.corruptions import draws
from mollify_core.corruptions.strengths import LARGEST_CIFAR
from mollify_core.datasets.files import LARGEST, quoted
from mollify_core.datasets.images import opened
from mollify_core.disk import regular
from mollify_core.errors import ConfigError, DataError
from mollify_core.foreign import expanded

PHOTOGRAPHS = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The published program has a sixth, and never draws it."""
VARIABLE = "MOLLIFY_FROST_DIR"


def find_photographs(folder: str | Path | None = None) -> Path:
    """The folder of `PHOTOGRAPHS`: `folder`, else $MOLLIFY_FROST_DIR, else that of the package imagecorruptions.

    Raises:
        ConfigError: there is none, or one of the photographs is missing in it.
    """
    named = folder or os.environ.get(VARIABLE)
    if named:
        place = expanded(named)
    else:
        package = importlib.util.find_spec("imagecorruptions")  # finds it without running it
        if package is None or package.origin is None:
            raise ConfigError(
                "Expected photographs for the corruption frost, but there are none: install mollify[corruptions], "
                f"which brings them, or name a folder with {', '.join(PHOTOGRAPHS)} in {VARIABLE}"
            )
        place = Path(package.origin).parent / "frost"
    missing = [name for name in PHOTOGRAPHS if not (place / name).is_file()]
    if missing:
        raise ConfigError(
            f"Expected {str(place)!r} to hold the photographs {', '.join(PHOTOGRAPHS)}, but it lacks "
            f"{', '.join(missing)}"
        )
    return place


def digest(folder: Path) -> str:
    """Sixteen hexadecimal digits of the photographs in `folder`."""
    total = hashlib.sha256()
    for name in PHOTOGRAPHS:
        total.update(hashlib.sha256(_content(folder / name)).digest())
    return total.hexdigest()[:16]


def _content(photograph: Path) -> bytes:
    with regular(photograph) as file:
        return file.read(LARGEST)


def frost(images: Tensor, generator: torch.Generator, keep: float, add: float, *, folder: Path) -> Tensor:
    """keep * image + add * frost, clipped, truncated to whole levels.

    The published algorithm with other draws: a random part of a random photograph, which is made smaller first, by 0.2
    (CIFAR-C) or 0.3 (TinyImageNet-C), and not smoothed. Sums are in float64, as published, since many are whole. The
    linear interpolation for 0.3 rounds once, OpenCV's twice: up to 6 % of values differ by one level.

    Args:
        images: (n <= CHUNK, channels, height, width) uint8.
        generator: of the parts.
        keep, add: factors.
        folder: of the photographs.

    Raises:
        ConfigError: a photograph cannot be read.
    """
    height, width = images.shape[2:]
    textures = _textures(folder, images.shape[1], max(height, width))
    parts = torch.empty_like(images)
    for i, (which, y, x) in enumerate(draws.uniform(len(images), (3,), generator).tolist()):
        texture = textures[int(which * len(textures))]
        top, left = int(y * (texture.shape[1] - height)), int(x * (texture.shape[2] - width))
        parts[i] = texture[:, top : top + height, left : left + width]
    return (images.double().mul_(keep) + parts.double().mul_(add)).clamp_(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=4)
def _textures(folder: Path, channels: int, side: int) -> list[Tensor]:
    """The photographs (channels, height, width) uint8, small, but larger than `side` pixels on both axes."""
    scale = 0.2 if side <= LARGEST_CIFAR else 0.3 * max(1, side / 64)
    textures = []
    for name in PHOTOGRAPHS:
        try:
            with opened(_content(folder / name), quoted(folder / name)) as photograph:
                pixels = np.asarray(photograph.convert("L" if channels == 1 else "RGB"), dtype=np.float64)
        except (OSError, DataError) as error:
            raise ConfigError(f"Cannot read the photograph {quoted(folder / name)}: {error}") from None
        for axis in (0, 1):
            pixels = _shrink(pixels, axis, scale)
        texture = np.rint(pixels).astype(np.uint8).reshape(*pixels.shape[:2], channels)
        if min(texture.shape[:2]) <= side:
            raise ConfigError(
                f"Expected the photograph {str(folder / name)!r} to be larger than {side / scale:.0f} pixels on both "
                f"axes, but got {pixels.shape[1] / scale:.0f} x {pixels.shape[0] / scale:.0f}"
            )
        textures.append(torch.from_numpy(texture).movedim(2, 0).contiguous())
    return textures


def _shrink(pixels: np.ndarray, axis: int, scale: float) -> np.ndarray:
    """Linear interpolation at the centres of the new pixels."""
    length = pixels.shape[axis]
    at = np.clip((np.arange(round(length * scale)) + 0.5) / scale - 0.5, 0, length - 1)
    low = np.floor(at + 1e-9).astype(np.int64)  # 1 / 0.2 is not quite 5
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(pixels.ndim)])
    high = np.minimum(low + 1, length - 1)
    return pixels.take(low, axis) * (1 - share) + pixels.take(high, axis) * share
