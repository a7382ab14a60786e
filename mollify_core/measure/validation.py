"""The validation set, clean and under the held-out corruptions, and the objectives measured on it.

Tuning never touches the test set or the fifteen corruptions of the benchmark: it sees only training images that were
held out, and corruptions that are not among the fifteen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mollify_core import rng
from mollify_core.corruptions.heldout import HELDOUT, SEVERITIES, corrupt
from mollify_core.datasets.load import ImageSet
from mollify_core.errors import ConfigError, nearest
from mollify_core.measure import calibration
from mollify_core.measure.metrics import COLUMNS, Metrics, per_image

OBJECTIVES = tuple(f"{kind}_{metric}" for kind in ("corrupted", "clean") for metric in ("nll", "error", "ece"))
CELLS = 1 + len(HELDOUT) * len(SEVERITIES)
BATCH = 512
_EPOCH_SHARE = 0.05
_EPOCH_MINIMUM = 64


def check_objectives(names: tuple[str, ...]) -> tuple[str, ...]:
    """`names` unchanged.

    Raises:
        ConfigError: none, a repeated or an unknown objective; the nearest known one is named.
    """
    for name in names:
        if name not in OBJECTIVES:
            raise ConfigError(f"Unknown objective {name!r}{nearest(name, OBJECTIVES)}")
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"Expected one or several different objectives, but got {list(names)}")
    return names


def epoch_images(n_fit: int, n_validation: int) -> int:
    """How many validation images an epoch's value is measured on.

    A forward pass costs a third of a training step, so this many images in each cell cost about 5 % of an epoch;
    but at least 64 images (less is mostly chance), and never more than there are.
    """
    return min(n_validation, max(_EPOCH_MINIMUM, int(3 * _EPOCH_SHARE * n_fit / CELLS)))


@dataclass(frozen=True)
class ValidationSet:
    """Validation images in a fixed random order, so that the first k rows are a fair subsample of any size.

    Attributes:
        cells: (cells, n, channels, height, width) uint8: clean, then every held-out corruption at every severity.
        labels: (n,) int64.
    """

    cells: Tensor
    labels: Tensor

    @classmethod
    def make(cls, images: ImageSet, *, seed: int, device: torch.device | str = "cpu") -> ValidationSet:
        """Corrupts `images` (on the CPU, so that every device sees the same pixels) and moves all to `device`."""
        order = torch.randperm(len(images), generator=rng.generator(seed, "validation order"))
        clean = images.images[order]
        cells = [clean]
        cells += [corrupt(clean, name, severity, seed=seed) for name in HELDOUT for severity in SEVERITIES]
        return cls(torch.stack(cells).to(device), images.labels[order].to(device))

    def __len__(self) -> int:
        return len(self.labels)

    def measure(self, forward: Callable[[Tensor], Tensor], rows: range) -> Tensor:
        """(cells, n, 5) values of `metrics.per_image` for the rows of `rows`, zero elsewhere, on the CPU.

        Args:
            forward: uint8 images (batch, channels, height, width) -> logits (batch, classes).
            rows: which images to measure; the others belong to other workers, or to nobody.
        """
        values = torch.zeros(len(self.cells), len(self), len(COLUMNS))
        index = torch.tensor(rows, dtype=torch.int64)
        for i, cell in enumerate(self.cells):
            for part in index.split(BATCH):
                on_device = part.to(cell.device)
                values[i, part] = per_image(forward(cell[on_device]), self.labels[on_device]).cpu()
        return values


def validation_means(values: Tensor) -> dict[str, float]:
    """Metrics named clean_* and corrupted_* from the values of `ValidationSet.measure` (cells, n, 5).

    Corrupted metrics are unweighted means over the corruption cells, as the benchmark's are; ECE is pooled over the
    images of a cell.
    """
    cells = [Metrics().update(cell).compute() for cell in values]
    names = ("nll", "error", "top5_error", "brier", "ece")
    result = {f"clean_{name}": cells[0][name] for name in names}
    result |= {f"corrupted_{name}": float(np.mean([c[name] for c in cells[1:]])) for name in names}
    return result


def image_values(values: Tensor) -> dict[str, np.ndarray]:
    """What comparisons and pictures need, from the values of `ValidationSet.measure` (cells, n, 5).

    Per-image NLL and error (n,), clean and as the mean over the corruption cells; and "bins" (cells, 3, bins) float64:
    number of images, accuracy and mean confidence by confidence, see `calibration.reliability`.
    """
    nll, error = values[..., 0].numpy(), values[..., 1].numpy()
    bins = [torch.stack(calibration.reliability(cell[:, 4], 1 - cell[:, 1])) for cell in values]
    return {
        "clean_nll": nll[0],
        "clean_error": error[0],
        "corrupted_nll": nll[1:].mean(axis=0),
        "corrupted_error": error[1:].mean(axis=0),
        "bins": torch.stack(bins).numpy(),
    }
