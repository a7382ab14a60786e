"""Intervals of images that come in groups: a group counts as one image, however many it has."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mollify_core.errors import DataError
from mollify_core.measure.bootstrap import ece_cells
from mollify_core.measure.comparison import crossed
from mollify_core.measure.contrast import Cells, contrast
from mollify_core.measure.statistics import by_group, paired_interval


def clustered(rng: np.random.Generator, groups: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of groups, values) of images of which those of one group are much alike; groups of 1 to 12 images."""
    of = np.repeat(np.arange(groups), rng.integers(1, 13, groups))
    return of, rng.normal(0, 1, groups)[of] + rng.normal(0, 0.5, len(of))


def test_groups_of_one_image_change_nothing_and_copies_of_an_image_are_one_image() -> None:
    rng = np.random.default_rng(0)
    first, second, values = rng.normal(size=50), rng.normal(size=50), rng.normal(size=(4, 3, 50))
    sure, right = rng.random((4, 3, 50)), rng.integers(0, 2, (4, 3, 50))
    alone, twice = rng.permutation(50), np.repeat(rng.permutation(50), 4)

    def near(one: object, other: object) -> None:
        found = [np.concatenate([np.ravel(v) for v in vars(of).values()]).astype(float) for of in (one, other)]
        np.testing.assert_allclose(*found, rtol=1e-9, atol=1e-12)

    near(paired_interval(first, second, alone), paired_interval(first, second))
    near(paired_interval(np.repeat(first, 4), np.repeat(second, 4), twice), paired_interval(first, second))
    near(Cells.of(values, alone), Cells.of(values))
    near(Cells.of(np.repeat(values, 4, axis=-1), twice), Cells.of(values))
    again = [np.random.default_rng(1) for _ in range(3)]
    plain = ece_cells(sure, right, again[0], 200)
    near(ece_cells(sure, right, again[1], 200, groups=np.arange(50)), plain)
    copied = (np.repeat(v, 4, axis=-1) for v in (sure, right))
    near(ece_cells(*copied, again[2], 200, groups=np.repeat(np.arange(50), 4)), plain)


def test_the_variance_is_that_of_the_formula() -> None:
    of, values = clustered(np.random.default_rng(2))
    sums = [(values[of == group] - values.mean()).sum() for group in range(80)]
    half = 1.959964 * math.sqrt(80 / 79 * np.square(sums).sum()) / len(values)
    found = paired_interval(values, np.zeros_like(values), of)
    assert found.count == 80
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(half, rel=1e-6)
    assert by_group(values, of).mean() == pytest.approx(values.mean())


def test_intervals_over_groups_hold_the_truth_where_those_over_images_do_not() -> None:
    rng, held = np.random.default_rng(3), {True: 0, False: 0}
    for _ in range(400):
        of, values = clustered(rng)
        for known in held:
            found = paired_interval(values, np.zeros_like(values), of if known else None)
            held[known] += found.low <= 0 <= found.high
    assert held[True] / 400 > 0.92
    assert held[False] / 400 < 0.7


def test_a_contrast_over_groups_has_their_variance_and_number() -> None:
    rng = np.random.default_rng(4)
    of, values = clustered(rng)
    cells = rng.normal(0, 0.1, (4, 3, 1)) + values * np.array([0.0, 1, 0, 1])[:, None, None]
    found, images = contrast(Cells.of(cells, of), (-0.5, 0.5, -0.5, 0.5)), contrast(cells, (-0.5, 0.5, -0.5, 0.5))
    assert found.images == 80
    assert found.value == pytest.approx(images.value)
    assert found.image_variance / 80 > 3 * images.image_variance / images.images


def test_the_variance_of_the_ece_is_that_of_new_groups() -> None:
    rng = np.random.default_rng(5)

    def models() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        of = np.repeat(np.arange(60), rng.integers(1, 13, 60))
        easy = rng.uniform(0.5, 1, 60)[of]
        sure = np.array([0.75, 0.9, 0.75, 0.9])[:, None, None] * np.ones((1, 3, len(of)))
        return sure, np.broadcast_to(rng.uniform(size=len(of)) < easy, sure.shape), of

    def method(draws: int) -> tuple[float, float]:
        sure, right, of = models()
        found = crossed(ece_cells(sure, right, rng, draws, groups=of)).method
        assert found.images == 60
        return found.value, found.image_variance / 60

    seen = np.var([method(2)[0] for _ in range(300)], ddof=1)
    stated = np.mean([method(300)[1] for _ in range(20)])
    assert stated == pytest.approx(seen, rel=0.25)


@pytest.mark.parametrize("groups", [np.zeros(6, int), np.arange(5)])
def test_one_group_or_others_are_refused(groups: np.ndarray) -> None:
    values = np.random.default_rng(6).normal(size=(4, 3, 6))
    with pytest.raises(DataError, match=r"two or more groups|a group for each"):
        Cells.of(values, groups)
    with pytest.raises(DataError, match=r"two or more groups|a group for each"):
        paired_interval(values[0, 0], values[1, 0], groups)
    with pytest.raises(DataError, match=r"two or more groups|a group for each"):
        ece_cells(np.full_like(values, 0.5), np.ones_like(values), np.random.default_rng(), 2, groups=groups)
