"""Cells of the calibration error, which has no value per image: images are drawn again with replacement instead.

Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics 1979. Seeds are not drawn again:
of three to nine of them a percentile interval is much too narrow, so their variance is taken as of every contrast.
Where images come in groups, groups are drawn instead, each with all its images.
"""

from __future__ import annotations

import numpy as np
import torch

from mollify_core.errors import DataError
from mollify_core.measure.contrast import Cells
from mollify_core.measure.metrics import ECE_BINS, bin_index
from mollify_core.measure.statistics import numbered

_AT_ONCE = 100  # draws; bounds the memory


def ece_cells(
    confidence: np.ndarray,
    correct: np.ndarray,
    generator: np.random.Generator,
    draws: int = 1000,
    groups: np.ndarray | None = None,
) -> Cells:
    """Cells of the pooled ECE (`metrics.Metrics`), for `contrast`, `crossed` and `parts`.

    The ECE of few images is too high, the more so the better a model is calibrated. Between cells that are calibrated
    alike this cancels; what makes calibration better is understated, never overstated.

    Args:
        confidence: (cells, seeds, images) float in [0, 1]; or (cells, seeds, conditions, images), of which the mean of
            the ECE over conditions is taken, as over corruptions: an image is drawn with all its copies.
        correct: of the same shape, 0 or 1.
        generator: draws the images, the same for all cells and seeds.
        draws: number of times that they are drawn.
        groups: (images,) integers, two or more; those of one are drawn together.

    Raises:
        DataError: the two are of different or other shapes, or out of range; or there are no two groups.
    """
    from scipy import sparse  # slow to import

    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    shape = sure.shape
    if sure.ndim not in (3, 4) or min((*shape[:2], shape[-1])) < 2 or 0 in shape or shape != right.shape:
        raise DataError(
            "Expected confidence and correct (cells, seeds, images), or with conditions before the images, of two or "
            f"more each, but got shapes {shape} and {right.shape}"
        )
    if not all(((v >= 0) & (v <= 1)).all() for v in (sure, right)):
        raise DataError("Expected confidence and correct in [0, 1], but got others")
    cells, seeds, images = *shape[:2], shape[-1]
    index = bin_index(torch.from_numpy(sure.reshape(-1)), ECE_BINS).clamp_(max=ECE_BINS - 1).numpy()
    place, gaps = (v.reshape(cells * seeds, -1, images) for v in (index, right - sure))
    conditions = place.shape[1]
    columns = place + ECE_BINS * np.arange(conditions)[:, None]
    of, units = (np.arange(images), images) if groups is None else numbered(groups, images)
    sizes = np.bincount(of)
    rows = np.broadcast_to(of, columns.shape[1:])
    size = (units, conditions * ECE_BINS)
    models = [
        sparse.csr_matrix((gap.ravel(), (rows.ravel(), column.ravel())), size)
        for gap, column in zip(gaps, columns, strict=True)
    ]

    def ece(counts: np.ndarray) -> np.ndarray:
        """(n, cells, seeds) of groups (n, units) that count so often, each an image where there are none."""
        drawn = conditions * (counts @ sizes)
        found = [np.abs(counts @ model).sum(axis=-1) / drawn for model in models]
        return np.stack(found, axis=-1).reshape(len(counts), cells, seeds)

    again = [
        ece(generator.multinomial(units, np.full(units, 1 / units), size=min(_AT_ONCE, draws - start)))
        for start in range(0, draws, _AT_ONCE)
    ]
    covariance = np.cov(np.concatenate(again).mean(axis=2), rowvar=False) * units
    return Cells(ece(np.ones((1, units)))[0], covariance, units)
