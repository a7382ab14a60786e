"""A small set of corrupted images."""

from pathlib import Path
from typing import Any

import torch

from mollify_core.corruptions.benchmark import CorruptedSet
from mollify_core.corruptions.draws import CHUNK
from mollify_core.datasets.corrupted_made import make
from mollify_core.datasets.load import ImageSet

N = CHUNK + 30


TYPES = ("contrast", "gaussian_noise", "speckle_noise")  # not in the benchmark's order


def images(n: int = N) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(n) % 10)


def made(cache: Path, types: tuple[str, ...] = TYPES, **options: Any) -> CorruptedSet:
    settings = {"fingerprint": "0123456789abcdef", "verified": True, "cache_dir": cache, "types": types, **options}
    return make(settings.pop("images", None) or images(), **settings)
