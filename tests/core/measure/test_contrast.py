"""Contrasts over seeds and images, against hand arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mollify_core.errors import DataError
from mollify_core.measure.contrast import CROSSED, contrast


def test_a_difference_of_two_cells_by_hand() -> None:
    off = np.array([[1.0, 1.2, 0.9, 1.1], [1.3, 1.3, 1.0, 1.2], [1.1, 1.0, 0.8, 1.3]])
    on = off - np.array([[0.1, 0.3, 0.2, 0.0], [0.2, 0.2, 0.1, 0.1], [0.0, 0.4, 0.1, 0.2]])
    found = contrast(np.stack([off, on]), (-1, 1))
    by_seed, by_image = (on - off).mean(axis=1), (on - off).mean(axis=0)
    of_seeds, of_images = by_seed.var(ddof=1) / 3, by_image.var(ddof=1) / 4
    degrees = (of_seeds + of_images) ** 2 / (of_seeds**2 / 2 + of_images**2 / 3) * 2 / 4
    half = stats.t.ppf(0.975, max(degrees, 2)) * math.sqrt(of_seeds + of_images)
    assert found.value == pytest.approx((on - off).mean())
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert (found.count, found.images) == (3, 4)
    assert (found.p < 0.05) == (found.high < 0)


def test_what_all_cells_share_and_what_the_other_settings_do_cancels() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 5, 50))
    shared = rng.normal(size=(1, 5, 50)) + np.array([0.0, 0.0, 0.7, 0.7])[:, None, None]
    plain, moved = (contrast(v, CROSSED) for v in (values, values + shared))
    assert moved.value == pytest.approx(plain.value)
    assert (moved.high - moved.low) == pytest.approx(plain.high - plain.low)


def test_a_crossed_contrast_by_hand() -> None:
    values = np.random.default_rng(2).normal(size=(4, 3, 20))
    found = contrast(values, CROSSED)
    means = values.mean(axis=-1)
    residual = means - means.mean(axis=0) - means.mean(axis=1, keepdims=True) + means.mean()
    assert found.seed_variance == pytest.approx((residual**2).sum() / 6)
    images = (values[1] - values[0] + values[3] - values[2]).mean(axis=0) / 2
    assert found.image_variance == pytest.approx(images.var(ddof=1))
    of_seeds, of_images = found.seed_variance / 3, found.image_variance / 20
    degrees = (of_seeds + of_images) ** 2 / (of_seeds**2 / 6 + of_images**2 / 19) * 6 / 8
    half = stats.t.ppf(0.975, max(degrees, 6)) * math.sqrt(of_seeds + of_images)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert (found.count, found.images, found.freedom) == (3, 20, 6)


def test_a_contrast_of_some_cells_takes_the_larger_variance_and_the_degrees_of_two_cells() -> None:
    values = np.random.default_rng(3).normal(size=(5, 4, 30))
    for noisy, own_is_larger in ((3, True), (1, False)):
        means = values.copy()
        means[noisy] += np.array([2.0, -2.0, 1.0, -1.0])[:, None]
        found = contrast(means, (0, 0, 0, -1, 1))
        own = (means[4] - means[3]).mean(axis=-1).var(ddof=1)
        assert (found.seed_variance == pytest.approx(own)) == own_is_larger
        assert found.seed_variance >= own * (1 - 1e-9)
        assert found.freedom == 6


def test_seeds_without_variance_claim_nothing() -> None:
    likes = np.random.default_rng(4).normal(size=50)
    values = np.tile(np.stack([np.zeros(50), likes - 1]), (3, 1, 1)).swapaxes(0, 1)
    seeds = np.array([0.1, 0.7, 0.3])[None, :, None]  # all cells share it
    for found in (contrast(values, (-1, 1)), contrast(values + seeds, (-1, 1))):
        assert found.value == pytest.approx(likes.mean() - 1)
        assert all(map(math.isnan, (found.p, found.low, found.high)))


@pytest.mark.parametrize(
    ("values", "weights", "says"),
    [
        (np.zeros((2, 3)), (-1, 1), "two or more"),
        (np.zeros((2, 1, 3)), (-1, 1), "two or more"),
        (np.zeros((2, 3, 3)), (-1, 0.5, 0.5), "a weight for each of 2 cells"),
        (np.zeros((2, 3, 3)), (1, 1), "sum 0"),
        (np.zeros((2, 3, 3)), (0, 0), "not all of them 0"),
        (np.full((2, 3, 3), np.nan), (-1, 1), "finite"),
    ],
)
def test_what_is_no_contrast_is_one_sentence(values: np.ndarray, weights: tuple[float, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        contrast(values, weights)
