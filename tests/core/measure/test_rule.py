"""The rule for words over simulated comparisons: how often it says "better" without an effect, covers and tells.

Most are simulated by what the rule looks at: the means of cells and seeds, and the contrast's variance over images.
Some whole sweeps with their images show that this is the same.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from mollify_core.measure.contrast import CROSSED, estimate
from mollify_core.measure.statistics import holm

ON = (0, 1, 0, 1)
PAIR = (-1, 1)
COUPLING, LABEL = (0, 0, 0, -1, 1), (-1, 0, 1, 0, 0)


def simulate(
    weights: tuple[float, ...],
    seeds: int,
    *,
    noise: tuple[float, ...] | None = None,
    seed_sd: float = 0.02,
    images: int = 2000,
    effect: float = 0.0,
    count: int = 40_000,
) -> tuple[float, float]:
    """(% of comparisons that say "better", % whose interval covers the effect).

    An image likes what the contrast compares by 0.3 (sd); a cell, seed and image have noise of 0.2.

    Args:
        noise: of each cell's seeds, times `seed_sd`.
    """
    rng, of = np.random.default_rng([seeds, count, images]), np.array(weights, dtype=float)
    spread = seed_sd * np.array(noise or [1.0] * len(weights))
    shape = (count, len(weights), seeds)
    means = rng.normal(size=shape) * spread[:, None] + rng.normal(0, 0.2 / math.sqrt(images), size=shape)
    liking = effect + rng.normal(0, 0.3 / math.sqrt(images), size=count)
    means += liking[:, None, None] * (of / (of @ of))[:, None]  # constant over seeds, as what an image likes is
    of_images = (0.3**2 + 0.2**2 * (of @ of) / seeds) * rng.chisquare(images - 1, count) / (images - 1)
    _, low, high, *_ = estimate(means, of_images, images, of)
    return 100 * float((high < 0).mean()), 100 * float(((low <= effect) & (effect <= high)).mean())


NOISES = [(0.02, 2000), (0.005, 2000), (0.05, 2000), (0.02, 500), (0.005, 500), (0.05, 500)]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 7, 9])
@pytest.mark.parametrize("wider", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("seed_sd", "images"), NOISES)
def test_without_an_effect_at_most_three_per_cent_say_better(
    seeds: int, wider: float, seed_sd: float, images: int
) -> None:
    noise = tuple(wider if on else 1.0 for on in ON)
    better, coverage = simulate(CROSSED, seeds, noise=noise, seed_sd=seed_sd, images=images)
    assert better <= 3
    assert 93.5 <= coverage <= 96.5


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 9])
@pytest.mark.parametrize(("seed_sd", "images"), NOISES[:4])
def test_two_cells_and_parts_hold_too_and_are_wider_where_seeds_are_few(
    seeds: int, seed_sd: float, images: int
) -> None:
    for wider in (0.5, 1.0, 2.0):
        better, coverage = simulate(PAIR, seeds, noise=(1.0, wider), seed_sd=seed_sd, images=images)
        assert better <= 3
        assert 93.5 <= coverage <= 97.5
        degraded = (1.0, wider, 1.0, wider, wider)
        for weights in (COUPLING, LABEL):
            better, coverage = simulate(weights, seeds, noise=degraded, seed_sd=seed_sd, images=images)
            assert better <= 3
            assert coverage >= 93.5


@pytest.mark.slow
def test_an_effect_of_two_seed_deviations_is_told_with_five_seeds() -> None:
    better, coverage = simulate(CROSSED, 5, effect=-0.04)
    assert better >= 85
    assert 93.5 <= coverage <= 96.5


def families(seeds: int, methods: int = 3, count: int = 20_000, images: int = 2000) -> tuple[float, float]:
    """(% of pages that say "better" of any method, % of claims that do), with Holm, where no method does anything.

    All methods share the cell off a.
    """
    rng = np.random.default_rng([seeds, methods])
    shared = rng.normal(0, 0.02, size=(count, 1, seeds))
    p, better = np.empty((methods, count)), np.empty((methods, count), dtype=bool)
    for method in range(methods):
        means = np.concatenate([shared, rng.normal(0, 0.02, size=(count, 3, seeds))], axis=1)
        means += rng.normal(0, 0.3 / math.sqrt(images), size=(count, 1, 1)) * np.array(ON)[:, None]
        of_images = 0.3**2 * rng.chisquare(images - 1, count) / (images - 1)
        _, _, high, p[method], _ = estimate(means, of_images, images, np.array(CROSSED))
        better[method] = high < 0
    corrected = np.array([[*holm(dict(enumerate(one))).values()] for one in p.T]).T
    said = better & (corrected < 0.05)
    return 100 * float(said.any(axis=0).mean()), 100 * float(said.mean())


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 7, 9])
def test_of_three_methods_without_an_effect_hardly_any_page_says_better_of_one(seeds: int) -> None:
    any_better, of_claims = families(seeds)
    assert any_better <= 5
    assert of_claims <= 1.5


def test_few_simulated_comparisons_behave_as_the_many_of_the_slow_tests() -> None:
    better, coverage = simulate(CROSSED, 3, noise=(1, 2, 1, 2), count=10_000)
    assert better <= 3.5
    assert 93.5 <= coverage <= 96.5
    assert simulate(CROSSED, 5, effect=-0.04, count=4000)[0] >= 85
    assert families(5, count=500)[0] <= 5


def sweeps(rng: np.random.Generator, count: int, seeds: int, effect: float = 0.0, images: int = 2000) -> np.ndarray:
    """Whole sweeps: two searches of 12 trials each over two shared settings, then a crossed confirmation.

    A trial's value is a bowl over the settings, the method's effect, and the noise of its seed (sd 0.02) and of its
    images; an image likes the method by 0.3 (sd), other settings by 0.1.

    Returns:
        (count, 4, seeds, images) values of the cells off a, on a, off b, on b.
    """
    noise = 0.02

    def search(method: bool) -> np.ndarray:
        """The bowl at the settings of the best trial."""
        bowl = 0.1 * (rng.uniform(-1, 1, size=(count, 12, 2)) ** 2).sum(axis=-1)
        seen = bowl + method * effect + rng.normal(0, noise, size=bowl.shape)
        seen += rng.normal(0, 0.3 / math.sqrt(images), size=bowl.shape)
        return np.take_along_axis(bowl, seen.argmin(axis=1)[:, None], axis=1)[:, 0]

    other = np.stack([search(False), search(True)], axis=1)  # (count, 2): of a, of b
    on = np.array(ON)
    centre = other[:, [0, 0, 1, 1]] + effect * on
    values = rng.standard_normal((count, 4, seeds, images), dtype=np.float32) * 0.2
    values += (rng.normal(0, noise, size=(count, 4, seeds)) + centre[:, :, None])[..., None]
    values += rng.normal(0, noise, size=(count, 1, seeds))[..., None]  # of the block
    liking = rng.normal(0, 0.3, size=(count, 1, 1, images)) * on[:, None, None]
    settings = rng.normal(0, 0.1, size=(count, 1, 1, images)) * np.array([0.0, 0.0, 1.0, 1.0])[:, None, None]
    return values + liking + settings + rng.normal(0, 0.5, size=(count, 1, 1, images))


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "effect"), [(3, 0.0), (5, 0.0), (5, -0.04)])
def test_whole_sweeps_with_their_images_are_as_simulated(seeds: int, effect: float) -> None:
    rng, weights, count = np.random.default_rng([seeds, 7]), np.array(CROSSED), 2000
    better = covered = 0
    for _ in range(count // 50):
        values = sweeps(rng, 50, seeds, effect)
        of_images = np.einsum("c,...csi->...i", weights, values / seeds).var(axis=-1, ddof=1)
        _, low, high, *_ = estimate(values.mean(axis=-1), of_images, values.shape[-1], weights)
        better += int((high < 0).sum())
        covered += int(((low <= effect) & (effect <= high)).sum())
    expected = simulate(CROSSED, seeds, effect=effect)
    for seen, share in zip((better, covered), expected, strict=True):  # within three standard errors
        assert 100 * seen / count == pytest.approx(share, abs=3 * math.sqrt(share * (100 - share) / count))
