"""How many seeds and images tell a difference: planned before a comparison starts, and after one that could not."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mollify_core.measure.contrast import Contrast, degrees
from mollify_core.measure.statistics import LEVEL

POWER = 0.8
SEEDS = range(3, 10)
"""Numbers of seeds that are proposed."""
DEFAULT_SEEDS = 5
MOST_SEEDS = 20
_MOST_IMAGES = 10**7


class Needed(NamedTuple):
    """Numbers of training seeds and of judging images."""

    seeds: int
    images: int


def detectable(seed_sd: float, image_sd: float, seeds: int, images: int, claims: int = 1) -> float:
    """The smallest true effect of a method that a crossed comparison tells with probability 0.8.

    By Student's t of known variances: (t of the level + t of the power) x standard error. In the simulation of
    tests/core/measure/test_power.py 76 to 84 % are told.

    Args:
        seed_sd: standard deviation of a recipe's mean over images, from seed to seed.
        image_sd: standard deviation of the method's effect from image to image.
        seeds: number of seeds, at least two.
        images: number of judging images, at least two.
        claims: number of claims made together; more than one are corrected for by Bonferroni, Holm's worst case.
    """
    from scipy import stats  # slow to import

    of_seeds, of_images, free = seed_sd**2 / seeds, image_sd**2 / images, 3.0 * (seeds - 1)
    if of_seeds + of_images == 0:
        return 0.0
    of = degrees(of_seeds, free, of_images, images)
    quantiles = stats.t.ppf(1 - LEVEL / claims / 2, of) + stats.t.ppf(POWER, of)
    return float(quantiles * math.sqrt(of_seeds + of_images))


def propose_seeds(difference: float, seed_sd: float | None, image_sd: float, images: int, claims: int = 1) -> int:
    """The fewest of 3 to 9 seeds with which a true effect of `difference` is told with probability 0.8.

    9 where these are too few, as `detectable` then shows; 5 where the spread of seeds is not known.

    Args:
        difference: in the unit of the measure; its sign does not matter.
        seed_sd, image_sd, images, claims: as of `detectable`; None is not known.
    """
    if seed_sd is None:
        return DEFAULT_SEEDS
    enough = (s for s in SEEDS if detectable(seed_sd, image_sd, s, images, claims) <= abs(difference))
    return next(enough, SEEDS[-1])


def needed(contrast: Contrast, margin: float, claims: int = 1) -> Needed | None:
    """Seeds and images with which a contrast would be told if it came out the same; as likely as not, it then is.

    It is told where the interval leaves 0 out, or lies within the margin; whichever takes fewer. The images at hand are
    kept if at most 20 seeds do it with them, otherwise seeds x images is the least possible. None where nothing does.

    Args:
        contrast: one that could not be told.
        margin: the smallest difference that matters.
        claims: number of claims made together; the first way is corrected for them by Bonferroni, Holm's worst case.
    """
    if not contrast.seed_variance > 0 or math.isnan(contrast.low):
        return None
    value = abs(contrast.value)
    ways = (_reach(contrast, value, LEVEL / claims), _reach(contrast, margin - value, LEVEL))
    found = [way for way in ways if way is not None]
    return min(found, key=lambda way: (way.images > contrast.images, way.seeds * way.images), default=None)


def _reach(contrast: Contrast, half: float, level: float) -> Needed | None:
    """The cheapest numbers at which the interval's half-width is at most `half`."""
    if half <= 0:
        return None
    seeds = np.arange(2, MOST_SEEDS + 1)
    at_hand = np.full(seeds.shape, contrast.images)
    enough = _half_width(contrast, seeds, at_hand, level) <= half
    if enough.any():
        return Needed(int(seeds[enough][0]), contrast.images)
    low, high = at_hand, np.full(seeds.shape, _MOST_IMAGES)
    possible = _half_width(contrast, seeds, high, level) <= half
    if not possible.any():
        return None
    while (high - low > 1).any():
        middle = (low + high) // 2
        enough = _half_width(contrast, seeds, middle, level) <= half
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    best = int(np.where(possible, seeds * high, np.inf).argmin())
    return Needed(int(seeds[best]), int(high[best]))


def _half_width(contrast: Contrast, seeds: np.ndarray, images: np.ndarray, level: float) -> np.ndarray:
    """(n,) of the interval with other numbers (n,) of seeds and images and the variances of the contrast."""
    from scipy import stats

    of_seeds, of_images = contrast.seed_variance / seeds, contrast.image_variance / images
    free = degrees(of_seeds, contrast.freedom / (contrast.count - 1) * (seeds - 1), of_images, images)
    return np.asarray(stats.t.ppf(1 - level / 2, free) * np.sqrt(of_seeds + of_images))
