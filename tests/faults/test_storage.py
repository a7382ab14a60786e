"""The storage stands still, or is full: training goes on, nothing is lost, no trial fails."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import PATIENCE, SHORT, Sweep, in_trial, injected, stopped

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
Make = Callable[..., Sweep]


@pytest.mark.parametrize("seconds", [10, 60, 300])
def test_object_store_stalled(seconds, sweep: Make, unbroken: Make, s3, figure):
    """Set-up: a sweep in object storage; the server gets SIGSTOP in mid-trial and goes on after 10, 60 or 300 s.

    Minimum time: 45 s beside that.

    1. Training goes on meanwhile.
    2. No trial fails, and none is trained again; uploads are made up for in order.
    3. The result equals that of an unbroken sweep in a local folder, bit for bit.
    4. The checker finds nothing.
    """
    one = sweep(*SHORT, storage="s3://bucket/sweeps").start()
    one.wait(in_trial(0, epochs=2))
    reported = one.epochs()
    with stopped(s3, seconds):
        waited = one.wait(lambda p: sum(e for _, e in p.values()) > reported, seconds)
    assert waited < seconds
    figure(f"object store stalled for {seconds} s: the next epoch was reported after {waited:.1f} s of it")
    one.finish()
    assert one.told() == unbroken(*SHORT).told()
    one.sound()


_CANNOT_BE_OPENED = """
import os
from pyarrow import fs


class Same(type):
    def __instancecheck__(cls, one):
        return isinstance(one, known)


class FileSystem(metaclass=Same):
    @staticmethod
    def from_uri(uri):
        if os.path.exists(os.environ["MOLLIFY_AWAY"]):
            raise OSError("When resolving region for bucket 'bucket': AWS Error NETWORK_CONNECTION: nobody answers")
        return known.from_uri(uri)


known, fs.FileSystem = fs.FileSystem, FileSystem
"""


def test_object_store_away_while_a_trial_starts_again(sweep: Make, unbroken: Make, s3, tmp_path):
    """Set-up: a sweep in object storage; the process that trains is killed, and for 20 s no process can open the store
    (said by a `sitecustomize` in all processes of the sweep). Minimum time: 1 min 15 s.

    1. The trial waits, and the storage is named; then it goes on under its own number.
    2. No trial fails, and the result equals that of an unbroken sweep, bit for bit.
    3. The checker finds nothing.
    """
    away = tmp_path / "away"
    env = {"PYTHONPATH": injected(tmp_path / "inject", _CANNOT_BE_OPENED), "MOLLIFY_AWAY": str(away)}
    one = sweep(*SHORT, storage="s3://bucket/sweeps", **env).start()
    one.wait(in_trial(0, epochs=2))
    away.touch()
    (worker,) = one.workers()
    worker.kill()
    deadline = time.monotonic() + PATIENCE
    while not one.said("the storage does not answer"):
        assert one.running, one.last
        assert time.monotonic() < deadline, one.last
        time.sleep(0.2)
    time.sleep(20)
    away.unlink()
    one.finish()
    assert one.said("the storage does not answer") == one.said("the storage takes files again") == 1
    assert one.told() == unbroken(*SHORT).told()
    one.sound()


@contextlib.contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Callable[[int], None]]:
    """A small disk of its own at a folder; gives what changes its size."""
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
    try:
        yield lambda size: subprocess.run(["mount", "-o", f"remount,size={size}m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_storage_full(sweep: Make, unbroken: Make, tmp_path):
    """Set-up: a sweep whose results go to a disk of 4 MB, which is full in the third trial or so; the study is
    elsewhere. After a while the disk grows. Minimum time: 1 min 15 s.

    1. The sweep does not end and no trial fails; one message says that the storage is full.
    2. What was finished stays readable.
    3. Once there is room the sweep goes on by itself to the result of an unbroken sweep, bit for bit.
    4. The checker finds nothing.
    """
    with disk(tmp_path / "disk", 4) as resize:
        url = f"sqlite:///{tmp_path}/study.sqlite"
        one = sweep(*SHORT, "--study-url", url, storage=str(tmp_path / "disk"))
        one.study = tmp_path / "study.sqlite"
        try:
            one.start()
            deadline = time.monotonic() + PATIENCE
            while not one.said("the storage is full"):
                assert one.running, one.last
                assert time.monotonic() < deadline, one.last
                time.sleep(0.2)
            time.sleep(60)
            assert one.running, one.last
            finished = [n for n, (state, _) in one.progress().items() if state in ("COMPLETE", "PRUNED")]
            assert finished
            assert all(one.newest(number) for number in finished)
            resize(200)
            one.finish()
            assert one.said("the storage is full") == 1
            assert one.told() == unbroken(*SHORT).told()
            one.sound()
        finally:
            one.end()


def test_everything_full(sweep: Make, unbroken: Make, tmp_path):
    """Set-up: a sweep with results and study on one disk of 4 MB; once it is full and the sweep has stopped, or a
    minute after, the disk grows. Minimum time: 1 min 15 s.

    1. If the sweep ends, then with one sentence that says why.
    2. It goes on by itself or by the same command, to the result of an unbroken sweep, bit for bit.
    3. The checker finds nothing.
    """
    with disk(tmp_path / "disk", 4) as resize:
        one = sweep(*SHORT, storage=str(tmp_path / "disk"))
        try:
            one.start()
            deadline = time.monotonic() + PATIENCE
            while one.running and not one.said("the storage is full"):
                assert time.monotonic() < deadline, one.last
                time.sleep(0.2)
            deadline = time.monotonic() + 60
            while one.running and time.monotonic() < deadline:
                time.sleep(0.2)
            if not one.running:
                assert "error: " in one.output
                assert "Traceback" not in one.output
            resize(200)
            if not one.running:
                one.start()
            one.finish()
            assert one.told() == unbroken(*SHORT).told()
            one.sound()
        finally:
            one.end()
