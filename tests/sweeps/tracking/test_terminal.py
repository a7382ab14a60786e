"""The time that is left, as the live view tells it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mollify_sweeps.tracking.terminal import View

LIVE = {"number": 0, "seconds": 30.0, "epoch": 3, "epochs": 10, "value": None, "note": ""}
STARTING = {**LIVE, "number": 1, "epoch": 0}


def test_time_left_counts_the_start_until_a_trial_trains():
    out = io.StringIO()
    made = {"name": "s", "objective": "nll", "concurrent": 2, "seconds_per_trial": 20.0, "seconds_to_start": 15.0}
    view = View(Console(file=out, width=200), **made)
    status = {"counts": {"COMPLETE": 0, "PRUNED": 0, "FAIL": 0}, "trials": 4, "best": None, "references": {}}
    view.update({**status, "live": [], "finished_seconds": []})
    assert out.getvalue().strip().endswith("about 55 s left")
    trained = {**LIVE, "seconds": 10.0, "epoch": 5}
    line = view._line({**status, "live": [trained], "finished_seconds": []})
    assert line.endswith("about 35 s left")  # 20 s each: 10 of this one and three more, two at once


@pytest.mark.parametrize(
    ("estimate", "live", "finished", "says"),
    [
        (None, [STARTING], [], None),  # nothing is known yet
        (3600.0, [STARTING], [], "about 3 h 59 min left"),
        (3600.0, [LIVE, STARTING], [], "about 5 min 40 s left"),  # 10 s an epoch: the estimate was wrong
        (None, [LIVE, STARTING], [], "about 5 min 40 s left"),
        (3600.0, [LIVE, STARTING], [50.0, 70.0], "about 2 min left"),
    ],
)
def test_time_left(estimate, live, finished, says):
    out = io.StringIO()
    view = View(Console(file=out, width=200), name="s", objective="nll", concurrent=1, seconds_per_trial=estimate)
    counts = {"COMPLETE": len(finished), "PRUNED": 0, "FAIL": 0}
    status = {"counts": counts, "trials": 5 if finished else 4, "best": None, "live": live, "references": {}}
    view.update({**status, "finished_seconds": finished})
    line = out.getvalue().strip()
    assert line.endswith(says or "elapsed 0 s"), line
