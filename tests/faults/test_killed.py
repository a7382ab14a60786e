"""Processes killed by SIGKILL and SIGTERM, whole machines lost: the same command continues, and nothing differs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from harness import LONG, QUIET, SHORT, Process, Sweep, descendants, in_trial, stopped
from mollify_core.program import shell_command
from servers import bucket

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
KILLS = int(os.environ.get("MOLLIFY_KILLS", "20"))  # fewer, to try it out
Make = Callable[..., Sweep]


def test_driver_killed_at_random_moments(sweep: Make, unbroken: Make, figure):
    """Set-up: a sweep with one trial at a time; its driver is killed by SIGKILL 20 times, at seeded random moments.

    Half of the moments lie in the start-up, the others after the next one or two epochs. Every third time the command
    is repeated at once, while processes of the one before may still be dying. Minimum time: 21 starts of the driver,
    6 min on a quiet machine.

    1. The same command continues each time, until the sweep has all its trials.
    2. At most one epoch of the running trial is trained again after a kill.
    3. Parameters, values, every epoch's value, the pruner's answers and the weights equal those of an unbroken sweep.
    4. No training process outlives its driver.
    5. The checker finds nothing.
    """
    whole = unbroken(*LONG)
    one = sweep(*LONG)
    rand = random.Random(5)
    begun = time.monotonic()
    startup = one.start().wait(in_trial(0))
    seconds = one.wait(in_trial(0, epochs=2))
    killed: dict[int, dict[int, int]] = {}  # life -> trial -> epochs reported when it was killed
    behind: list[int] = []  # epochs of a running trial that no checkpoint had then
    for life in range(KILLS):
        if life:
            one.start()
        before, more = one.epochs(), rand.choice((0, 0, 1, 2))
        if more:
            one.wait(lambda p, goal=before + more: sum(e for _, e in p.values()) >= goal)
            one.pause(rand.uniform(0, 1.5 * seconds), epochs=before + more + 2)
        else:
            one.pause(rand.uniform(0, startup), epochs=before + 1)
        at_once = life % 3 == 2
        one.kill(linger=at_once)
        if not at_once:
            killed[life] = {n: epochs for n, (state, epochs) in one.progress().items() if state == "RUNNING"}
            behind += [epochs - one.newest(number) for number, epochs in killed[life].items()]
            assert max(behind, default=0) <= 1
    one.start().finish()
    assert one.told() == whole.told()
    one.sound()
    one.gone()

    assert behind
    first = one.trained()  # of lives long enough to have logged an epoch, which a driver does once a second
    redone = [e - first[i + 1][n] for i, live in killed.items() for n, e in live.items() if n in first.get(i + 1, {})]
    assert max(redone, default=0) <= 1
    figure(
        f"driver killed {KILLS} times: equal to the unbroken sweep; {sum(e > 0 for e in behind)} of {len(behind)} "
        f"running trials had to train one epoch again; {time.monotonic() - begun:.0f} s in all"
    )


def imports(one: Sweep) -> float:
    """Seconds that a fresh training process needs for its imports, now."""
    started = time.monotonic()
    code = "import ray, ray.train.torch, ray.tune, mollify_sweeps.trial.actor"
    subprocess.run([sys.executable, "-c", code], cwd=one.folder, check=True)
    return time.monotonic() - started


def trains_again(one: Sweep, workers: list[Process], hurt: Callable[[], object]) -> float:
    """Seconds from `hurt`, of which `workers` die, until one more epoch is reported than they had told to the last."""
    assert workers
    started = time.monotonic()
    hurt()
    one.wait(lambda _: not any(worker.alive for worker in workers))
    time.sleep(0.5)  # what they said last is written
    reported = one.epochs()
    one.wait(lambda p: sum(e for _, e in p.values()) > reported)
    return time.monotonic() - started


def test_training_process_killed_in_mid_epoch(sweep: Make, unbroken: Make, figure):
    """Set-up: a sweep; the process that trains is killed by SIGKILL in the middle of an epoch, in two trials.

    Minimum time: 1 min.

    1. The trial goes on from its last good checkpoint in a new process, under the same driver.
    2. It trains again within 5 s on a quiet machine, imports not counted.
    3. No trial fails, and the result equals that of an unbroken sweep, bit for bit.
    4. The checker finds nothing.
    """
    one = sweep(*SHORT).start()
    again = []
    for number in (0, 1):
        one.wait(in_trial(number))
        seconds = one.wait(in_trial(number, epochs=2))
        time.sleep(seconds / 2)
        (worker,) = one.workers()
        again.append(trains_again(one, [worker], worker.kill) - seconds)
    one.finish()
    longest = max(again) - imports(one)
    figure(f"training process killed: training again after {longest:.1f} s, imports not counted")
    assert not QUIET or longest < 5
    assert one.told() == unbroken(*SHORT).told()
    one.sound()


def test_node_lost(sweep: Make, unbroken: Make, figure, monkeypatch):
    """Set-up: a cluster of a head without CPUs and two nodes of one CPU; the node that trains is killed, all of it.

    Ray looks after its nodes as often as the files in clusters/ tell it to. Minimum time: 1 min 30 s.

    1. The trial goes on from its last good checkpoint on the other node, under the same driver.
    2. It trains again within 15 s on a quiet machine, imports not counted.
    3. No trial fails, and the result equals that of an unbroken sweep, bit for bit.
    4. The checker finds nothing.
    """
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    monkeypatch.setenv("RAY_health_check_timeout_ms", "2000")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        one = sweep(*SHORT, "--address", cluster.address).start()
        one.wait(in_trial(0))
        seconds = one.wait(in_trial(0, epochs=2))
        time.sleep(seconds / 2)
        ((lost, workers),) = [(node, found) for node in nodes if (found := training(node))]
        again = trains_again(one, workers, lambda: cluster.remove_node(lost, allow_graceful=False)) - seconds
        one.finish()
        again -= imports(one)
        figure(f"node lost: training again after {again:.1f} s, imports not counted")
        assert not QUIET or again < 15
        assert one.told() == unbroken(*SHORT).told()
        one.sound()
    finally:
        cluster.shutdown()


def training(node) -> list[Process]:
    """The processes of a Ray node that train."""
    (raylet,) = node.all_processes["raylet"]
    return [p for p in descendants(raylet.process.pid) if p.trains]


def test_driver_told_to_end(sweep: Make, unbroken: Make, figure):
    """Set-up: a sweep gets SIGTERM, as from a batch system or on a spot notice, in mid-epoch. Minimum time: 45 s.

    1. It ends within 20 s with exit code 130 and says how to continue; no training process is left.
    2. The same command continues it to the result of an unbroken sweep, bit for bit.
    3. The checker finds nothing.
    """
    one = sweep(*SHORT).start()
    one.wait(in_trial(1))
    started = time.monotonic()
    one.kill(signal.SIGTERM)
    seconds = time.monotonic() - started
    figure(f"SIGTERM on the driver: ended after {seconds:.1f} s")
    assert not QUIET or seconds < 20
    assert one.driver is not None
    assert one.driver.returncode == 130
    again = shell_command("sweeps/search.py", ["--dataset", "digits"], one.folder)
    assert one.said(f"continue with the same command: {again}") == 1
    one.start().finish()
    assert one.told() == unbroken(*SHORT).told()
    one.sound()


def test_training_process_told_to_end(sweep: Make, unbroken: Make):
    """Set-up: the process that trains gets SIGTERM, as on a spot notice, four times. Minimum time: 1 min 30 s.

    1. It is not counted as a failure, however often: the trial goes on from its last checkpoint.
    2. The result equals that of an unbroken sweep, bit for bit.
    3. The checker finds nothing.
    """
    one = sweep(*SHORT).start()
    for epochs in (1, 2, 3, 4):
        one.wait(in_trial(0, epochs))
        (worker,) = one.workers()
        worker.kill(signal.SIGTERM)
    one.finish()
    assert one.told() == unbroken(*SHORT).told()
    one.sound()


def test_two_drivers(sweep: Make, unbroken: Make):
    """Set-up: the command is started twice, then the first driver is killed. Minimum time: 45 s.

    1. The second one is refused with exit code 2 and one sentence that names the first; the first goes on.
    2. A dead driver's claim lapses at once.
    3. The result equals that of an unbroken sweep, bit for bit.
    """
    first = sweep(*SHORT).start()
    first.wait(in_trial(0))
    second = Sweep(first.folder, *SHORT)
    assert first.driver is not None
    try:
        with stopped(first.driver, 0):  # it must not come to its end before the second one has looked
            output = second.start().finish(2)
    finally:
        second.end()
    assert output.splitlines()[-1].startswith("error: This sweep is being run already, by process ")
    assert str(first.driver.pid) in output.splitlines()[-1]
    first.kill()
    first.start().finish()
    assert first.told() == unbroken(*SHORT).told()
    first.sound()


def test_two_drivers_in_object_storage(sweep: Make, unbroken: Make, s3):
    """Set-up: a sweep in object storage with its study beside the driver; the command is started again in another
    folder, as on another machine, then the first driver is killed. Minimum time: 1 min 30 s.

    1. The second one is refused with exit code 2 and one sentence that names the first; the first goes on.
    2. When the first was killed, the second takes the sweep after half a minute without a sign of it.
    3. The result equals that of an unbroken sweep, and the checker finds nothing.
    """
    first, second = (sweep(*LONG, storage="s3://bucket/sweeps") for _ in range(2))
    first.start().wait(in_trial(0))
    assert first.driver is not None
    told = second.start().finish(2).splitlines()[-1]
    assert told.startswith(f"error: This sweep is being run already, by process {first.driver.pid} on ")
    first.wait(in_trial(2))
    first.kill()
    second.start().finish()
    assert second.said(f"whether process {first.driver.pid} on ") == 2  # when it was refused, and when it took over
    assert second.told() == unbroken(*LONG).told()
    second.sound()


def test_head_lost(sweep: Make, unbroken: Make, s3):
    """Set-up: a sweep in object storage; the machine of its driver is lost with all its files, the live study too.

    Trials have gone on since the last snapshot of the study in storage. Minimum time: 1 min 30 s.

    1. The same command restores the study from the snapshot and continues.
    2. What the snapshot did not know yet is trained or reported again: the result equals that of an unbroken sweep.
    3. The checker finds nothing.
    """
    one = sweep(*LONG, storage="s3://bucket/sweeps").start()

    def is_kept(_) -> bool:
        return any(entry.key.endswith("s/study.sqlite") for entry in bucket().objects.all())

    one.wait(is_kept)
    reported = one.epochs()
    one.wait(lambda p: sum(e for _, e in p.values()) >= reported + 3)
    one.kill()
    known = one.epochs()
    shutil.rmtree(one.folder / "runs")
    one.start()
    one.wait(lambda p: bool(p))
    assert one.epochs() < known
    one.finish()
    assert one.told() == unbroken(*LONG).told()
    one.sound()
