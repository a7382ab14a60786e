"""What a corruption benchmark is: nineteen corruptions in groups, five severities, and a set of images under them.

Source: Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019 (arXiv 1903.12261): fifteen corruptions that a model is judged by, and four more that it may be tuned on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from mollify_core.errors import ConfigError, nearest

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The fifteen corruptions of the benchmark by group."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four further corruptions, for tuning: models are not judged by them."""
BENCHMARK = tuple(name for names in GROUPS.values() for name in names)
CORRUPTIONS = (*BENCHMARK, *EXTRA)
SEVERITIES = (1, 2, 3, 4, 5)


def group_of(name: str) -> str:
    """The group of a corruption: a key of `GROUPS`, or "extra"."""
    return next((group for group, names in GROUPS.items() if name in names), "extra")


def check_cell(name: str, severity: int) -> None:
    """Raises a ConfigError unless there are such a corruption and severity."""
    if name not in CORRUPTIONS:
        raise ConfigError(f"Unknown corruption {name!r}{nearest(name, CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise ConfigError(f"Expected the severity to be one of {SEVERITIES}, but got {severity!r}")


@dataclass(frozen=True, eq=False)
class CorruptedSet:
    """Test images under corruptions, read cell by cell.

    Attributes:
        types: the corruptions it has, in the order of `CORRUPTIONS`.
        labels: (n,) int64, the same for every cell.
        source: "official" for the published arrays, "made" for those made here.
        verified: whether every source file was the official one; for made ones, whether the clean images were.
        fingerprint: sixteen hexadecimal digits, equal wherever the images are equal.
        read: (corruption, severity) -> (n, channels, height, width) uint8 on the CPU, not to be written to; not
            necessarily contiguous.
    """

    types: tuple[str, ...]
    labels: Tensor
    source: str
    verified: bool
    fingerprint: str
    read: Callable[[str, int], Tensor]

    def cell(self, name: str, severity: int) -> Tensor:
        """The images of one cell, (n, channels, height, width) uint8.

        Raises:
            ConfigError: there is no such corruption or severity.
            DataError: the cell cannot be read.
        """
        check_cell(name, severity)
        if name not in self.types:
            raise ConfigError(f"Expected one of the corruptions {', '.join(self.types)}, but got {name!r}")
        return self.read(name, severity)
