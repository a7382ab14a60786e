"""Seeds and images that tell: against the interval itself, and against simulated comparisons."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mollify_core.measure.contrast import CROSSED, Contrast, estimate
from mollify_core.measure.power import Needed, detectable, needed, propose_seeds


def found(value: float, seed_variance: float, image_variance: float, seeds: int = 3, images: int = 500) -> Contrast:
    """A crossed contrast that came out so."""
    half = 2 * math.sqrt(seed_variance / seeds + image_variance / images)
    return Contrast(
        value, value - half, value + half, seeds, images, 0.5, seed_variance, image_variance, 3 * (seeds - 1)
    )


def half_width(contrast: Contrast, of: Needed) -> float:
    """Of a comparison with these numbers that has just the variances of the contrast."""
    noise = np.random.default_rng(0).normal(size=(4, of.seeds))
    noise -= noise.mean(axis=0) + noise.mean(axis=1, keepdims=True) - noise.mean()
    means = noise * math.sqrt(contrast.seed_variance * 3 * (of.seeds - 1) / (noise**2).sum())
    images = np.float64(contrast.image_variance)
    _, low, high, _, variance = estimate(means, images, of.images, np.array(CROSSED))
    assert variance == pytest.approx(contrast.seed_variance)
    return float(high - low) / 2


def test_the_fewest_seeds_with_the_images_at_hand() -> None:
    contrast = found(-0.02, 0.02**2, 0.04)
    enough = needed(contrast, margin=0.001)
    assert enough is not None
    assert enough.images == 500
    assert 3 < enough.seeds <= 20
    assert half_width(contrast, enough) <= 0.02 < half_width(contrast, Needed(enough.seeds - 1, 500))


def test_more_images_where_seeds_do_not_do_it() -> None:
    contrast = found(-0.02, 0.02**2, 0.16)
    enough = needed(contrast, margin=0.001)
    assert enough is not None
    assert enough.images > 500
    assert half_width(contrast, enough) <= 0.02 < half_width(contrast, Needed(enough.seeds, enough.images - 1))


def test_nothing_tells_what_seeds_hide_and_a_wide_margin_is_told_sooner() -> None:
    hidden = found(-0.001, 0.02**2, 0.04)
    assert needed(hidden, margin=0.0005) is None
    assert needed(hidden, margin=0.03) is not None
    assert needed(found(math.nan, math.nan, 0.04), margin=0.03) is None
    one, many = (needed(found(-0.02, 0.02**2, 0.04), 0.001, claims) for claims in (1, 4))
    assert one is not None
    assert many is not None
    assert many.seeds * many.images > one.seeds * one.images


def test_seeds_are_proposed_for_a_difference() -> None:
    differences = [detectable(0.02, 0.3, seeds, 2000) for seeds in (3, 5, 9)]
    assert differences == sorted(differences, reverse=True)
    assert [propose_seeds(-d, 0.02, 0.3, 2000) for d in differences] == [3, 5, 9]
    assert propose_seeds(1.0, 0.02, 0.3, 2000) == 3
    assert propose_seeds(1e-6, 0.02, 0.3, 2000) == 9
    assert propose_seeds(0.01, None, 0.3, 2000) == 5
    assert detectable(0.02, 0.3, 5, 2000, claims=3) > differences[1]
    assert detectable(0.0, 0.0, 5, 2000) == 0


@pytest.mark.parametrize("seeds", [3, 5, 9])
@pytest.mark.parametrize(("seed_sd", "images"), [(0.02, 2000), (0.05, 2000), (0.005, 500)])
def test_the_smallest_effect_is_told_in_four_of_five_comparisons(seeds: int, seed_sd: float, images: int) -> None:
    rng, count, image_sd = np.random.default_rng([seeds, images]), 4000, 0.3
    effect = detectable(seed_sd, image_sd, seeds, images)
    on = np.array([0.0, 1.0, 0.0, 1.0])[:, None]
    likes = effect + rng.normal(0, image_sd / math.sqrt(images), size=(count, 1, 1))
    means = rng.normal(0, seed_sd, size=(count, 4, seeds)) + likes * on
    of_images = image_sd**2 * rng.chisquare(images - 1, count) / (images - 1)
    _, low, *_ = estimate(means, of_images, images, np.array(CROSSED))
    assert 0.76 <= (low > 0).mean() <= 0.84
