"""The validation set, clean and under the held-out corruptions, and the objectives measured on it.

Tuning never touches the test set or the fifteen corruptions of the benchmark: it sees only training images that were
held out, and corruptions that are not among the fifteen. Some of these images may be set apart to judge only: the best
of many trials looks better than it is on images that chose it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mollify_core import rng
from mollify_core.corruptions.heldout import HELDOUT, SEVERITIES, corrupt
from mollify_core.datasets.load import ImageSet
from mollify_core.errors import ConfigError, nearest
from mollify_core.measure import calibration
from mollify_core.measure.metrics import COLUMNS, Metrics, balanced, per_image

_RANKED = ("nll", "error", "balanced_error", "debiased_ece")
OBJECTIVES = tuple(f"{kind}_{metric}" for kind in ("corrupted", "clean") for metric in _RANKED)
BY_IMAGE = tuple(name for name in OBJECTIVES if not name.endswith("ece"))
"""Those that are the mean of a value per image."""
BIASED = {"corrupted_ece": "corrupted_debiased_ece", "clean_ece": "clean_debiased_ece"}  # objectives of version 0.1
CELLS = 1 + len(HELDOUT) * len(SEVERITIES)
GROUP = "group"
"""Of `image_values`: which images belong together."""
BATCH = 512
_EPOCH_SHARE = 0.05
_EPOCH_MINIMUM = 64
ENOUGH = 500  # images to choose by, or to judge by
ENOUGH_TO_CALIBRATE = {"corrupted_debiased_ece": 500, "clean_debiased_ece": 2000}
"""Images of which nine of ten draws rank a calibrated model before one that is 3 points too sure, by simulation."""


def check_objectives(names: tuple[str, ...], *, kept: bool = False) -> tuple[str, ...]:
    """`names` unchanged.

    Args:
        names: of objectives.
        kept: of a sweep of version 0.1, which may have one of `BIASED`.

    Raises:
        ConfigError: none, a repeated or an unknown objective; the nearest known one is named.
    """
    for name in names:
        if name in BIASED and not kept:
            raise ConfigError(
                f"Expected an objective that few images can rank, but got {name!r}, which prefers sure models to "
                f"calibrated ones; take {BIASED[name]!r}"
            )
        if name not in OBJECTIVES and name not in BIASED:
            raise ConfigError(f"Unknown objective {name!r}{nearest(name, OBJECTIVES)}")
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"Expected one or several different objectives, but got {list(names)}")
    return names


def epoch_images(n_fit: int, choosing: int) -> int:
    """How many of the validation images that choose an epoch's value is measured on.

    A forward pass costs a third of a training step, so this many images in each cell cost about 5 % of an epoch;
    but at least 64 images (less is mostly chance), and never more than there are.
    """
    return min(choosing, max(_EPOCH_MINIMUM, int(3 * _EPOCH_SHARE * n_fit / CELLS)))


def judging_note(choosing: int, judging: int, units: str = "validation images") -> str:
    """A sentence that warns of too few validation images; empty where each half has `ENOUGH`.

    It names the difference in error that a half cannot tell from none: 1.96 s / sqrt(n), half of the 95 % interval of a
    paired difference over n images. The standard deviation s of an image's difference is taken to be 0.5: one of two
    models alone is right on a quarter of the images.

    Args:
        choosing: number of images that choose, at least 1.
        judging: number of images that only judge.
        units: what is counted, in words.
    """
    if not judging:
        return "No validation image only judges, so the answer comes from images that chose."
    told = [
        f"the {n} that {word} cannot tell apart errors closer than about {100 * 1.96 * 0.5 / math.sqrt(n):.2g} points"
        for word, n in (("choose", choosing), ("judge", judging))
        if n < ENOUGH
    ]
    reason = "where one of two models alone is right on a quarter of them"
    return f"Fewer than {ENOUGH} {units}: {' and '.join(told)}, {reason}." if told else ""


def ranking_note(objectives: Sequence[str], choosing: int, pruning: int | None = None) -> str:
    """A sentence that warns of an objective that so few images can hardly rank; empty where they can.

    Args:
        objectives: their names.
        choosing: number of images that choose.
        pruning: how many of these an epoch's value is measured on, where it prunes.
    """
    few = {
        name: [f"the {n} that {word}" for n, word in ((choosing, "choose"), (pruning, "prune")) if n and n < enough]
        for name in objectives
        if (enough := ENOUGH_TO_CALIBRATE.get(name, 0))
    }
    told = [f"{name} needs {ENOUGH_TO_CALIBRATE[name]}, against {' and '.join(n)}" for name, n in few.items() if n]
    return f"Few images rank models by their calibration: {'; '.join(told)}." if told else ""


@dataclass(frozen=True)
class ValidationSet:
    """Validation images in a fixed random order: those that choose, then those that only judge.

    So the first k rows are a fair subsample, of any size, of those that choose.

    Attributes:
        cells: (cells, n, channels, height, width) uint8: clean, then every held-out corruption at every severity.
        labels: (n,) int64.
        choosing: how many images choose, in [0, n]; with n all of them also judge.
        groups: (n,) int64 numbers of the groups that images belong to; None where there are no groups.
    """

    cells: Tensor
    labels: Tensor
    choosing: int
    groups: Tensor | None = None

    @classmethod
    def make(
        cls,
        images: ImageSet,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        judging: Sequence[int] | np.ndarray = (),
        groups: np.ndarray | None = None,
    ) -> ValidationSet:
        """Corrupts `images` (on the CPU, so that every device sees the same pixels) and moves all to `device`.

        Args:
            images: in the order of the official files.
            seed: of the order and the corruptions.
            device: where they are to be.
            judging: (m,) row numbers of the images that only judge, see `split.judging_rows`.
            groups: (n,) of the images, in their order.
        """
        # As version 0.1 drew it: its sweeps go on with the same images, and so with comparable values.
        generator = torch.Generator().manual_seed(rng.derive(seed, "validation order"))
        order = torch.randperm(len(images), generator=generator)
        judges = torch.zeros(len(images), dtype=torch.bool)
        judges[torch.as_tensor(judging, dtype=torch.int64)] = True
        order = torch.cat([order[~judges[order]], order[judges[order]]])
        clean = images.images[order]
        cells = [clean]
        cells += [corrupt(clean, name, severity, seed=seed) for name in HELDOUT for severity in SEVERITIES]
        choosing = len(images) - int(judges.sum())
        ordered = None if groups is None else torch.from_numpy(groups)[order]
        return cls(torch.stack(cells).to(device), images.labels[order].to(device), choosing, ordered)

    def __len__(self) -> int:
        return len(self.labels)

    def of_epoch(self, n_fit: int) -> int:
        """How many images an epoch measures, the first of those that choose."""
        return epoch_images(n_fit, self.choosing)

    def measure(self, forward: Callable[[Tensor], Tensor], rows: range) -> Tensor:
        """(cells, n, 5) values of `metrics.per_image` for the rows of `rows`, zero elsewhere, on the CPU.

        Args:
            forward: uint8 images (batch, channels, height, width) -> logits (batch, classes).
            rows: which images to measure; the others belong to other workers, or to nobody.
        """
        device = self.cells.device
        values = torch.zeros(len(self.cells), len(self), len(COLUMNS), device=device)
        index = torch.arange(rows.start, rows.stop, rows.step, device=device)
        for i, cell in enumerate(self.cells):
            for part in index.split(BATCH):
                values[i, part] = per_image(forward(cell[part]), self.labels[part])
        return values.cpu()


def validation_means(values: Tensor, labels: Tensor) -> dict[str, float]:
    """Metrics named clean_* and corrupted_* from the values of `ValidationSet.measure` (cells, n, 5) and labels (n,).

    A trial's are those of the images that choose. The balanced error is the mean over the classes that occur of the
    share of their images that are wrong: chance is 1 - 1 / classes however unequal they are.

    Corrupted metrics are unweighted means over the corruption cells, as the benchmark's are; ECE is pooled over the
    images of a cell. The debiased ECE is the root of the mean over cells of `calibration.debiased_square`: near 0, and
    as often below it as above, where a model is calibrated.
    """
    cells = [Metrics().update(cell).compute() for cell in values]
    names = ("nll", "error", "top5_error", "brier", "ece")
    result = {f"clean_{name}": cells[0][name] for name in names}
    result |= {f"corrupted_{name}": float(np.mean([c[name] for c in cells[1:]])) for name in names}
    even = (values[..., 1].double() * balanced(labels)).mean(dim=1)
    result |= {"clean_balanced_error": float(even[0]), "corrupted_balanced_error": float(even[1:].mean())}
    squares = [calibration.debiased_square(cell[:, 4], 1 - cell[:, 1]) for cell in values]
    result["clean_debiased_ece"] = calibration.signed_root(squares[0])
    result["corrupted_debiased_ece"] = calibration.signed_root(float(np.mean(squares[1:])))
    return result


def image_values(values: Tensor, labels: Tensor, groups: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """What comparisons and pictures need, from the values of `ValidationSet.measure` (cells, n, 5) and labels (n,).

    A trial's, in its validation.npz, are those of the images that only judge, or of all where there are none.

    Per-image NLL, error and balanced error (n,; an error times the weight of its class, see `balanced`), clean and
    as the mean over the corruption cells; "confidence" (cells, n) float32 and "correct" (cells, n) bool, see
    `calibration.predictions`; and "bins" (cells, 3, bins) float64: number of images, accuracy and mean confidence by
    confidence, see `calibration.reliability`; and "group" (n,) int64 where images come in groups (n,).
    """
    nll, error, weights = values[..., 0].numpy(), values[..., 1].numpy(), balanced(labels).float().numpy()
    bins = [torch.stack(calibration.reliability(cell[:, 4], 1 - cell[:, 1])) for cell in values]
    return {
        "clean_nll": nll[0],
        "clean_error": error[0],
        "corrupted_nll": nll[1:].mean(axis=0),
        "corrupted_error": error[1:].mean(axis=0),
        "clean_balanced_error": error[0] * weights,
        "corrupted_balanced_error": error[1:].mean(axis=0) * weights,
        "confidence": values[..., 4].numpy(),
        "correct": error == 0,
        "bins": torch.stack(bins).numpy(),
        **({} if groups is None else {GROUP: groups}),
    }
