"""From images to network input, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mollify_core.errors import ConfigError
from mollify_core.settings import CONSTANTS


@dataclass(frozen=True)
class Normalise:
    """Images -> network input, by the data set's constants, to [-1, 1] (scaling "uniform") or by `CONSTANTS`; and back.

    Attributes:
        mean, std: (1, channels, 1, 1) of images in [0, 1].
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def make(
        cls, scaling: str, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device | str
    ) -> Normalise:
        """The constants of a scaling, on `device`.

        Raises:
            ConfigError: the scaling is of colour images, and these are none.
        """
        if scaling in CONSTANTS and len(mean) != 3:
            raise ConfigError(f"Expected images of 3 channels for scaling {scaling!r}, but got {len(mean)}")
        values = CONSTANTS.get(scaling) or [(0.5,) * len(v) if scaling == "uniform" else v for v in (mean, std)]
        return cls(*(torch.tensor(v, device=device).view(1, -1, 1, 1) for v in values))

    def to(self, device: torch.device | str) -> Normalise:
        """The same constants on another device."""
        return Normalise(self.mean.to(device), self.std.to(device))

    def __call__(self, images: Tensor) -> Tensor:
        """float32 network input from uint8 images, or from float images in [0, 1]."""
        unit = 255 if images.dtype == torch.uint8 else 1
        return torch.addcmul(-self.mean / self.std, images.float(), 1 / (unit * self.std))

    def undo(self, x: Tensor) -> Tensor:
        """Images in [0, 1], as a camera would give them, from network input."""
        return torch.addcmul(self.mean, x, self.std).clamp_(0, 1)
