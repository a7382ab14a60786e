"""Contrasts over seeds and images: against hand arithmetic, and over whole simulated sweeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from mollify_core.errors import DataError
from mollify_core.measure.contrast import CROSSED, contrast, estimate


def test_a_difference_of_two_cells_by_hand() -> None:
    off = np.array([[1.0, 1.2, 0.9, 1.1], [1.3, 1.3, 1.0, 1.2], [1.1, 1.0, 0.8, 1.3]])
    on = off - np.array([[0.1, 0.3, 0.2, 0.0], [0.2, 0.2, 0.1, 0.1], [0.0, 0.4, 0.1, 0.2]])
    found = contrast(np.stack([off, on]), (-1, 1))
    by_seed, by_image = (on - off).mean(axis=1), (on - off).mean(axis=0)
    of_seeds, of_images = by_seed.var(ddof=1) / 3, by_image.var(ddof=1) / 4
    degrees = (of_seeds + of_images) ** 2 / (of_seeds**2 / 2 + of_images**2 / 3)
    half = stats.t.ppf(0.975, degrees) * math.sqrt(of_seeds + of_images)
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


def test_words() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(0, 0.01, size=(2, 5, 200))
    for shift, word in ((-0.1, "better"), (0.1, "worse"), (0.0, "no difference that matters")):
        moved = values + np.array([0.0, shift])[:, None, None]
        assert contrast(moved, (-1, 1)).word(margin=0.01) == word
    assert contrast(values, (-1, 1)).word(margin=1e-6) == "cannot be told"
    nothing = contrast(np.zeros((2, 2, 3)) + np.array([0.0, 1.0])[:, None, None], (-1, 1))
    assert math.isnan(nothing.p)
    assert nothing.word(margin=10) == "cannot be told", "no variance, no claim"


@pytest.mark.parametrize(
    ("values", "weights", "says"),
    [
        (np.zeros((2, 3)), (-1, 1), "shapes"),
        (np.zeros((2, 1, 3)), (-1, 1), "two or more"),
        (np.zeros((2, 3, 3)), (-1, 0.5, 0.5), "a weight for each cell"),
        (np.zeros((2, 3, 3)), (1, 1), "sum 0"),
        (np.full((2, 3, 3), np.nan), (-1, 1), "finite"),
    ],
)
def test_what_is_no_contrast_is_one_sentence(values: np.ndarray, weights: tuple[float, ...], says: str) -> None:
    with pytest.raises(DataError, match=says):
        contrast(values, weights)


def sweeps(
    rng: np.random.Generator, count: int, seeds: int, effect: float = 0.0, wider: float = 1.0, images: int = 2000
) -> np.ndarray:
    """Whole sweeps: two searches of 12 trials each over two shared settings, then a crossed confirmation.

    A trial's value is a bowl over the settings, the method's effect, and the noise of its seed (sd 0.02, `wider` with
    the method on) and of its images; an image likes the method by 0.3 (sd), other settings by 0.1.

    Returns:
        (count, 4, seeds, images) values of the cells off a, on a, off b, on b.
    """
    noise = 0.02

    def search(method: bool) -> np.ndarray:
        """The bowl at the settings of the best trial."""
        bowl = 0.1 * (rng.uniform(-1, 1, size=(count, 12, 2)) ** 2).sum(axis=-1)
        seen = bowl + method * effect + rng.normal(0, noise * (wider if method else 1), size=bowl.shape)
        seen += rng.normal(0, 0.3 / math.sqrt(images), size=bowl.shape)
        return np.take_along_axis(bowl, seen.argmin(axis=1)[:, None], axis=1)[:, 0]

    other = np.stack([search(False), search(True)], axis=1)  # (count, 2): of a, of b
    on = np.array([0.0, 1.0, 0.0, 1.0])
    centre = other[:, [0, 0, 1, 1]] + effect * on
    spread = noise * np.where(on > 0, wider, 1.0)[:, None]
    values = rng.standard_normal((count, 4, seeds, images), dtype=np.float32) * 0.2
    values += (rng.normal(0, 1, size=(count, 4, seeds)) * spread)[..., None] + centre[:, :, None, None]
    values += rng.normal(0, noise, size=(count, 1, seeds))[..., None]  # of the block
    liking = rng.normal(0, 0.3, size=(count, 1, 1, images)) * on[:, None, None]
    settings = rng.normal(0, 0.1, size=(count, 1, 1, images)) * np.array([0.0, 0.0, 1.0, 1.0])[:, None, None]
    return values + liking + settings + rng.normal(0, 0.5, size=(count, 1, 1, images))


def told(count: int, seeds: int, **settings: float) -> tuple[float, float]:
    """(share of simulated sweeps that say "better", coverage of the true contrast)."""
    rng = np.random.default_rng([seeds, count])
    better = covered = 0
    for _ in range(count // 50):
        _, low, high, _ = estimate(sweeps(rng, 50, seeds, **settings), np.array(CROSSED))
        better += int((high < 0).sum())
        effect = settings.get("effect", 0.0)
        covered += int(((low <= effect) & (effect <= high)).sum())
    return better / count, covered / count


@pytest.mark.slow
@pytest.mark.parametrize("wider", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("seeds", [3, 5, 9])
def test_without_an_effect_hardly_any_sweep_says_better(seeds: int, wider: float) -> None:
    better, coverage = told(2000, seeds, wider=wider)
    assert better <= 0.03 + 0.005
    assert 0.93 <= coverage <= 0.975


@pytest.mark.slow
def test_an_effect_of_two_seed_deviations_is_told_with_five_seeds() -> None:
    better, coverage = told(2000, 5, effect=-0.04)
    assert better >= 0.85
    assert 0.93 <= coverage <= 0.975


def test_few_simulated_sweeps_behave_as_the_many_of_the_slow_test() -> None:
    better, coverage = told(200, 3)
    assert better <= 0.08
    assert coverage >= 0.9
    assert told(200, 5, effect=-0.04)[0] >= 0.75
