"""Held-out corruptions: what hyper-parameters may be tuned on.

The benchmark of Hendrycks and Dietterich (ICLR 2019, arXiv 1903.12261) measures robustness with fifteen corruptions and
provides four more for validation. These are the four; none of the fifteen is here, so that tuning never sees the
benchmark.
"""

from __future__ import annotations

from torch import Tensor

from mollify_core.corruptions import suite
from mollify_core.corruptions.benchmark import EXTRA, SEVERITIES
from mollify_core.errors import ConfigError, nearest

__all__ = ["HELDOUT", "SEVERITIES", "corrupt"]

HELDOUT = EXTRA


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0) -> Tensor:
    """Corrupted copies of images, as `suite.corrupt` makes them, by a held-out corruption only.

    Args:
        images: (n, channels, height, width) uint8 on the CPU, 1 or 3 channels, at least 8 pixels a side.
        name: one of `HELDOUT`.
        severity: 1 to 5.
        seed: any integer; picks other noise.

    Returns:
        (n, channels, height, width) uint8.

    Raises:
        ConfigError: there is no such held-out corruption or severity.
        DataError: `images` are not as said.
    """
    if name not in HELDOUT:
        raise ConfigError(f"Unknown held-out corruption {name!r}{nearest(name, HELDOUT)}")
    return suite.corrupt(images, name, severity, seed=seed)
