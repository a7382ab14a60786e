"""Numbers as readers see them."""

from __future__ import annotations

import numpy as np

from mollify_core.measure.statistics import Mean
from mollify_sweeps.display.axes import short
from mollify_sweeps.display.charts import heat_map
from mollify_sweeps.display.text import shown
from mollify_sweeps.report.page import _rounded


def test_nothing_is_minus_zero() -> None:
    assert short(-0.0) == "0"
    assert shown("clean_nll", -0.0, "+") == "+0.000"
    assert _rounded("clean_nll", Mean(-0.0004, -0.02, 0.02, 9)) == ["+0.000", "−0.020", "+0.020"]
    drawn = heat_map("m", ["a"], ["b", "c"], np.array([[-0.04, -0.06]]), (-1, 1), "points", diverging=True)
    assert "+0.0<" in drawn
    assert "−0.0<" not in drawn
    assert "−0.1<" in drawn


def test_what_has_no_interval_shows_none() -> None:
    assert _rounded("clean_nll", Mean(0.5, float("nan"), float("nan"), 1), "") == ["0.5000", "–", "–"]
