"""A trial whose number of workers follows the cluster: it grows when a machine comes, and shrinks when one goes."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from harness import DIGITS, Sweep, in_trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
Make = Callable[..., Sweep]
EPOCHS = 240  # about 80 of them pass until the second change, on two cores


def test_a_machine_comes_and_one_goes(sweep: Make, figure):
    """Set-up: `--workers-per-trial 1:2` on a head without CPUs and a machine of one CPU; while the only trial trains, a
    second machine is added, and after it has joined in, the first one is lost.

    Ray Train looks for more workers once a minute. Minimum time: 4 min.

    1. The trial starts with one worker, goes on with two, and then with one again; the user is told each time.
    2. Each of its epochs is told once, in order, and the trial ends well: it is one trial, that never failed.
    3. The checker finds nothing.
    """
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        first = cluster.add_node(num_cpus=1)
        shape = ("--trials", "2", "--epochs", str(EPOCHS), "--workers-per-trial", "1:2", "--pruner", "none")
        one = sweep(*DIGITS, *shape, "--address", cluster.address).start()
        one.wait(in_trial(0, epochs=2))
        cluster.add_node(num_cpus=1)
        grown = one.wait(lambda _: one.said("trial 0 goes on with 2 workers (1 before)"))
        reported = one.epochs()
        one.wait(lambda p: sum(e for _, e in p.values()) >= reported + 3)
        cluster.remove_node(first, allow_graceful=False)
        shrunk = one.wait(lambda _: one.said("trial 0 goes on with 1 worker (2 before)"))
        lost = one.epochs()
        assert lost < EPOCHS - 1, "too few epochs for what is to happen in them"
        one.finish(seconds=3600)  # as long as two minutes of training may take on a machine that does much else
        figure(f"a machine more: two workers after {grown:.0f} s; one less: training again after {shrunk:.0f} s")
        trial = one.trials()[0]
        assert trial.state.name == "COMPLETE"
        assert sorted(trial.intermediate_values) == list(range(EPOCHS))
        assert trial.user_attrs["workers"] == 1
        one.sound()
    finally:
        cluster.shutdown()
