"""What the plan says of the job that it runs in."""

from __future__ import annotations

import re

import pytest

from mollify_sweeps.plan.table import _jobs

DAY = 86400


@pytest.mark.parametrize(
    ("seconds", "environment", "said"),
    [
        (3600, {}, ""),
        (3600, {"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": "0", "SLURM_JOB_END_TIME": "x"}, ""),
        (3600, {"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": "0", "SLURM_JOB_END_TIME": str(DAY)}, "job 7 .* left$"),
        (DAY, {"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": "0", "SLURM_JOB_END_TIME": str(DAY)}, "1 more like it"),
        (4 * DAY, {"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": "0", "SLURM_JOB_END_TIME": str(DAY)}, "4 more like it"),
        (9, {"SLURM_JOB_ID": "7", "SLURM_JOB_START_TIME": "0", "SLURM_JOB_END_TIME": "50"}, ""),
    ],
)
def test_jobs_that_a_sweep_takes(seconds: float, environment: dict[str, str], said: str) -> None:
    found = _jobs(seconds, 100.0, environment)
    assert (found == "") if not said else re.search(said, found), found
