"""Crossed comparisons, parts, and the words for claims made together."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
import pytest

from mollify_core.errors import DataError
from mollify_core.measure.comparison import Parts, crossed, parts, words
from mollify_core.measure.contrast import Contrast, contrast


def cells(*shifts: float, seeds: int = 5, images: int = 300, noise: float = 0.01) -> np.ndarray:
    """Values of cells around 1 that differ by `shifts`, with noise of seeds and images."""
    rng, shape = np.random.default_rng(len(shifts)), (len(shifts), seeds, 1)
    shared = rng.normal(size=(1, seeds, images))
    own = rng.normal(0, noise, size=shape) + rng.normal(0, noise, size=(len(shifts), 1, images))
    return 1 + np.array(shifts)[:, None, None] + shared + own


def test_best_against_best_is_the_method_and_the_other_settings() -> None:
    values = np.random.default_rng(1).normal(size=(4, 3, 20))
    found = crossed(values)
    off_a, on_a, off_b, on_b = values.mean(axis=(1, 2))
    assert found.settings is not None
    assert found.diagonal.value == pytest.approx(on_b - off_a)
    assert found.method.value == pytest.approx((on_a - off_a + on_b - off_b) / 2)
    assert found.diagonal.value == pytest.approx(found.method.value + found.settings.value)
    assert [row.value for row in found.rows] == pytest.approx([on_a - off_a, on_b - off_b])
    assert found.method.seed_variance == pytest.approx(found.settings.seed_variance)


def test_the_other_settings_alone_are_no_method() -> None:
    found = crossed(cells(0, 0, -0.2, -0.2))
    assert found.settings is not None
    assert found.diagonal.high < 0
    assert found.settings.high < 0
    assert abs(found.method.value) < 0.02


def test_the_same_other_settings_need_two_cells() -> None:
    values = cells(0, -0.1)
    found = crossed(values)
    assert found.method == found.diagonal == found.rows[0] == contrast(values, (-1, 1))
    assert found.settings is None
    assert not found.depends
    assert words({"m": found}, {"m": 0.01})["m"].word == "better"
    with pytest.raises(DataError, match="but got 3"):
        crossed(cells(0, 0, 0))


def test_parts_are_differences_and_the_uncoupled_and_the_coupling_are_the_whole() -> None:
    values = cells(0, -0.1, -0.2, -0.25, -0.4)
    found, mean = parts(values), values.mean(axis=(1, 2))
    assert [getattr(found, field.name).value for field in fields(Parts)] == pytest.approx(
        [*(mean[1:4] - mean[0]), mean[4] - mean[3], mean[4] - mean[0]]
    )
    assert found.whole.value == pytest.approx(found.uncoupled.value + found.coupling.value)
    said = words({field.name: getattr(found, field.name) for field in fields(Parts)}, dict.fromkeys(vars(found), 0.01))
    assert {claim.word for claim in said.values()} == {"better"}
    with pytest.raises(DataError, match="but got 4"):
        parts(values[:4])


@pytest.mark.parametrize(
    ("shifts", "margin", "word"),
    [
        ((0, -0.1, 0, -0.1), 0.01, "better"),
        ((0, 0.1, 0, 0.1), 0.01, "worse"),
        ((0, 0, 0.3, 0.3), 0.05, "no difference that matters"),
        ((0, 0, 0.3, 0.3), 1e-6, "cannot be told"),
        ((0, -0.2, 0.3, 0.4), 0.01, "depends on the other settings"),
        ((0, 0.1, 0.3, -0.1), 0.01, "depends on the other settings"),
    ],
)
def test_words_of_a_crossed_comparison(shifts: tuple[float, ...], margin: float, word: str) -> None:
    claim = words({"m": crossed(cells(*shifts))}, {"m": margin})["m"]
    assert claim.word == word
    assert (claim.needed is not None) <= (word == "cannot be told")


def claimed(p: float, value: float = -0.1) -> Contrast:
    """A contrast of this p; its interval leaves 0 out."""
    return Contrast(value, value * 2, value / 2, 5, 500, p, 0.01, 0.09, 12)


def test_holm_takes_back_what_many_claims_together_do_not_bear() -> None:
    claims = {"first": claimed(0.001), "second": claimed(0.02), "third": claimed(0.03), "none": claimed(math.nan)}
    said = words(claims, dict.fromkeys(claims, 0.001))
    assert [said[name].corrected for name in ("first", "second", "third")] == pytest.approx([0.003, 0.04, 0.04])
    assert math.isnan(said["none"].corrected)
    assert [claim.word for claim in said.values()] == ["better"] * 3 + ["cannot be told"]
    said = words(claims | {"fourth": claimed(0.03)}, dict.fromkeys([*claims, "fourth"], 0.001))
    assert [said[name].word for name in ("first", "second")] == ["better", "cannot be told"]
    assert said["second"].corrected == pytest.approx(0.06)
    assert words({"second": claimed(0.02)}, {"second": 0.001})["second"].word == "better"


def test_seeds_without_variance_claim_nothing() -> None:
    claim = words({"m": crossed(np.tile([[[0.0, 1.0]], [[2.0, 3.0]]], (1, 3, 1)))}, {"m": 10.0})["m"]
    assert claim.word == "cannot be told"
    assert claim.needed is None
    assert math.isnan(claim.corrected)
