"""Cells of the calibration error against `calibration.ece`, and its variance against new images."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mollify_core.errors import DataError
from mollify_core.measure.bootstrap import ece_cells
from mollify_core.measure.calibration import ece
from mollify_core.measure.comparison import crossed
from mollify_core.measure.validation import image_values, validation_means


def models(rng: np.random.Generator, images: int, seeds: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """(confidence, correct) of cells of which those with the method on are far better calibrated."""
    confidence = rng.beta(4, 1, size=(1, 1, images)) * np.ones((4, seeds, 1))
    slope = np.array([0.75, 0.9, 0.75, 0.9])[:, None, None] + rng.normal(0, 0.01, size=(4, seeds, 1))
    return confidence, (rng.uniform(size=(1, 1, images)) < confidence * slope).astype(np.float64)


def test_the_means_are_the_pooled_ece() -> None:
    confidence, correct = models(np.random.default_rng(0), 200)
    confidence[0, 0, :3] = (0.0, 0.2, 1.0)
    cells = ece_cells(confidence, correct, np.random.default_rng(1), draws=5)
    for cell in range(4):
        for seed in range(3):
            one = ece(torch.from_numpy(confidence[cell, seed]), torch.from_numpy(correct[cell, seed]))
            assert cells.means[cell, seed] == pytest.approx(one)


def test_its_image_variance_is_that_of_new_images() -> None:
    rng = np.random.default_rng(2)
    found = crossed(ece_cells(*models(rng, 400), np.random.default_rng(3)))
    again = [crossed(ece_cells(*models(rng, 400), rng, draws=2)) for _ in range(100)]
    seen = math.sqrt(np.var([one.method.value for one in again], ddof=1))
    stated = math.sqrt(found.method.image_variance / 400 + 0.01**2 * 0.8**2 / 3)
    assert seen == pytest.approx(stated, rel=0.25)
    assert found.method.high < 0


@pytest.mark.slow
def test_without_an_effect_few_confirmations_say_that_calibration_changed() -> None:
    """Cells of two other settings whose seeds differ: 400 confirmations with three seeds and 500 images."""
    rng, claimed, covered = np.random.default_rng(1), 0, 0
    for _ in range(400):
        settings = 0.85 + rng.normal(0, 0.03, 2)[[0, 0, 1, 1], None, None] + rng.normal(0, 0.02, (4, 3, 1))
        confidence = np.clip(rng.beta(3, 1.2, 500) + rng.normal(0, 0.03, (4, 3, 500)), 0, 1)
        correct = rng.uniform(size=500) < np.clip(confidence * settings, 0, 1)
        method = crossed(ece_cells(confidence, correct, rng, draws=300)).method
        claimed += method.high < 0
        covered += method.low <= 0 <= method.high
    assert claimed / 400 < 0.035
    assert covered / 400 > 0.94


def test_under_several_conditions_it_is_their_mean_over_the_same_images() -> None:
    rng = np.random.default_rng(4)
    pairs = [models(rng, 150) for _ in range(3)]
    confidence, correct = (np.stack(arrays, axis=2) for arrays in zip(*pairs, strict=True))
    cells = ece_cells(confidence, correct, np.random.default_rng(5), draws=300)
    alone = [ece_cells(*pair, np.random.default_rng(5), draws=300) for pair in pairs]
    np.testing.assert_allclose(cells.means, np.mean([one.means for one in alone], axis=0))
    assert cells.images == 150
    copies = (np.repeat(array[:, :, None], 4, axis=2) for array in pairs[0])  # of one image are one image
    same = ece_cells(*copies, np.random.default_rng(5), draws=300)
    np.testing.assert_allclose(same.covariance, alone[0].covariance)


def test_what_a_trial_keeps_gives_its_calibration_error() -> None:
    rng = torch.Generator().manual_seed(0)
    values = torch.rand(5, 200, 5, generator=rng)
    values[..., 1] = (values[..., 1] < 0.3).float()
    labels = torch.arange(200) % 7
    kept = image_values(values, labels)
    sure, right = (np.tile(kept[name], (2, 2, 1, 1)) for name in ("confidence", "correct"))
    means = validation_means(values, labels)
    for metric, of in (("clean_ece", slice(1)), ("corrupted_ece", slice(1, None))):
        cells = ece_cells(sure[:, :, of], right[:, :, of], np.random.default_rng(0), draws=2)
        assert cells.means == pytest.approx(np.full((2, 2), means[metric]), rel=1e-5)


def test_draws_follow_the_generator() -> None:
    confidence, correct = models(np.random.default_rng(0), 50)
    one, same, other = (
        ece_cells(confidence, correct, np.random.default_rng(s), draws=150).covariance for s in (1, 1, 2)
    )
    assert (one == same).all()
    assert not np.allclose(one, other, rtol=1e-6)


def test_what_has_no_calibration_is_one_sentence() -> None:
    confidence, correct = models(np.random.default_rng(0), 50)
    rng = np.random.default_rng(0)
    for first, second, says in ((confidence[0], correct[0], "two or more"), (confidence * 2, correct, "in .0, 1.")):
        with pytest.raises(DataError, match=says):
            ece_cells(first, second, rng)
