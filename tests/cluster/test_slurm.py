"""`sbatch clusters/slurm.sbatch` on a real SLURM: time limits, preemption, several nodes, what is wrong at once.

Needs root, and of Debian slurm-wlm and munge. Run it with
    uv run pytest -m slow tests/cluster/test_slurm.py
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from places import ROOT
from slurm import TOOLS, Slurm, slurm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.xdist_group("slurm"),
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(tool) for tool in TOOLS),
        reason=f"needs root and {', '.join(TOOLS)}",
    ),
]
SWEEP = (
    *("--dataset", "digits", "--trials", "4", "--epochs", "20", "--name", "s", "--network", "resnet8"),
    *("--train-fraction", "1", "--set", "validation_fraction=0.05", "--set", "precision=float32", "--wandb", "off"),
    *("--max-concurrent", "1", "--pruner", "none"),
)
LIMIT = ("--time=3", "--signal=B:USR1@60")  # SLURM counts limits in minutes


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    folder = Path(tempfile.mkdtemp(prefix="mollify-slurm-"))  # munge's own user reaches none of pytest's
    try:
        with slurm(folder) as cluster:
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def submit(cluster: Slurm, log: Path, *argv: str, sbatch: tuple[str, ...] = ()) -> str:
    options = ("--parsable", f"--output={log}", "--cpus-per-task=1", *sbatch)
    return cluster("sbatch", *options, "clusters/slurm.sbatch", *argv, cwd=ROOT)


def finish(cluster: Slurm, job: str, log: Path) -> int:
    """Waits until a job has ended well; returns how often it was started again."""
    state = cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", hurry=True, timeout=900)
    assert state == "COMPLETED", log.read_text()
    return cluster.restarts(job)


def told(storage: Path) -> list[tuple]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    names = [s.study_name for s in optuna.get_all_study_summaries(f"sqlite:///{storage}/s/study.sqlite")]
    found = []
    for name in sorted(names):
        for trial in optuna.load_study(study_name=name, storage=f"sqlite:///{storage}/s/study.sqlite").trials:
            found.append((name, trial.number, trial.state, trial.values, trial.intermediate_values, trial.params))
    return found


def in_mid_trial(storage: Path, after: int, timeout: float = 240) -> None:
    """Waits until a trial that is no more than begun has told an epoch, `after` others having ended."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if (storage / "s/study.sqlite").exists():
            found = told(storage)
            ended = sum(state == TrialState.COMPLETE for _, _, state, *_ in found)
            if ended >= after and any(state == TrialState.RUNNING and epochs for _, _, state, _, epochs, _ in found):
                return
        time.sleep(0.3)
    raise AssertionError("no trial is under way")


def test_time_limits_and_preemption_change_nothing(cluster: Slurm, tmp_path: Path) -> None:
    """A sweep whose jobs end before it does, one by its limit, one by a job with a higher priority, is that of one job.

    No epoch is trained twice, and `check.py` finds nothing.
    """
    whole, cut, before = tmp_path / "whole", tmp_path / "cut", set(Path("/tmp").glob("mollify-*"))
    one = submit(cluster, tmp_path / "whole.log", *SWEEP, "--storage", str(whole), sbatch=("--nodelist=n1",))
    assert finish(cluster, one, tmp_path / "whole.log") == 0
    log = tmp_path / "cut.log"
    job = submit(cluster, log, *SWEEP, "--storage", str(cut), sbatch=(*LIMIT, "--nodelist=n1"))
    in_mid_trial(cut, after=0)
    first = cluster("sbatch", "--parsable", "--partition=high", "--nodelist=n1", "--exclusive", "--wrap=sleep 1")
    cluster.wait(first, "COMPLETED")
    assert finish(cluster, job, log) >= 2
    said = log.read_text()
    assert "preempted: stopping between two steps" in said
    assert "the time limit is near: stopping between two steps" in said
    assert "Traceback" not in said
    assert told(cut) == told(whole)
    check = cluster("sh", "-c", f"cd {ROOT} && .venv/bin/python sweeps/check.py {cut}/s")
    assert "sound; 4 trials (4 complete)" in check
    assert not {path for path in Path("/tmp").glob(f"mollify-{job}-*") if path not in before}


def test_two_nodes(cluster: Slurm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    argv = ["--dataset", "digits", "--trials", "4", "--epochs", "2", "--wandb", "off", "--name", "s"]
    job = submit(cluster, log, *argv, "--storage", str(tmp_path), sbatch=("--nodes=2",))
    assert finish(cluster, job, log) == 0
    assert "2 of 2 nodes have joined" in log.read_text()
    assert "2 trials (2 CPUs and 0 GPUs on 2 nodes" in log.read_text()
    left = cluster("sh", "-c", f"pgrep -f 'mollify-{job}[-]' || true")
    assert not left, "nothing of it is left on the nodes"


def test_what_is_wrong_ends_the_job(cluster: Slurm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = submit(cluster, log, "--dataset", "nonesuch")
    assert cluster.wait(job, "FAILED", "COMPLETED", timeout=90) == "FAILED"
    assert "error: " in log.read_text()
    assert "ExitCode=2:0" in cluster("scontrol", "show", "job", job)
    assert cluster.restarts(job) == 0


def test_a_limit_that_leaves_no_time_to_train_ends_the_job(cluster: Slurm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = submit(cluster, log, *SWEEP, "--storage", str(tmp_path), sbatch=("--time=1", "--signal=B:USR1@40"))
    assert cluster.wait(job, "FAILED", "COMPLETED", "TIMEOUT", timeout=120) == "FAILED"
    assert "the time limit leaves no time to train: give sbatch a longer --time" in log.read_text()
    assert cluster.restarts(job) == 0


def test_it_is_stopped_for_good(cluster: Slurm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    job = submit(cluster, log, *SWEEP, "--storage", str(tmp_path))
    in_mid_trial(tmp_path, after=0)
    cluster("scancel", "--signal=USR2", "--batch", job)
    assert cluster.wait(job, "FAILED", "COMPLETED", timeout=60) == "FAILED"
    assert "told to end: stopping between two steps" in log.read_text()
    assert "Nothing is lost" in log.read_text()
