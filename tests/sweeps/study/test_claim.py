"""One driver runs a sweep, also where drivers of several machines reach its study or its store: real processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest

from mollify_core.errors import ConfigError, SweepError
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study import claim
from mollify_sweeps.study.ledger import Ledger
from servers import forked, moto_process

EVERY, LAPSE = 0.2, 2.0
FORK = multiprocessing.get_context("fork")


@pytest.fixture(params=["study", "store"])
def load(request, tmp_path, monkeypatch) -> Iterator[Callable[[], list[claim.Board]]]:
    """Opens the place where the drivers of a sweep sign, as each does for itself: its study, or its object store."""
    monkeypatch.setattr(claim, "_EVERY", EVERY)
    monkeypatch.setattr(claim, "_LAPSE", LAPSE)
    if request.param == "store":
        with moto_process(tmp_path / "s3.log"):
            yield lambda: claim.boards(Store("s3://bucket/sweeps/s"), None)
        return
    url = f"sqlite:///{tmp_path}/study.sqlite"
    optuna.create_study(study_name="s", storage=url)
    yield lambda: claim.boards(Store(str(tmp_path)), Ledger.of(optuna.load_study(study_name="s", storage=url)))


@contextlib.contextmanager
def driver(load: Callable[[], list[claim.Board]], folder: str) -> Iterator[Any]:
    """A process that holds the sweep, asks all the time whether it still does, and leaves with 3 when it does not."""

    def hold(ready: Callable[[], None]) -> None:
        with claim.signed(load(), Path(folder), lambda text: None) as check:
            ready()
            while True:
                try:
                    check()
                except SweepError:
                    os._exit(3)
                time.sleep(EVERY / 4)

    with forked(hold) as process:
        yield process


def take(load: Callable[[], list[claim.Board]], folder: str, said: list[str]) -> None:
    with claim.signed(load(), Path(folder), said.append) as check:
        check()


@pytest.mark.slow
def test_a_driver_elsewhere_is_refused_until_the_first_is_dead(load):
    said: list[str] = []
    with driver(load, "/a/s") as first:
        name = f"process {first.pid} on {socket.gethostname()}"
        with pytest.raises(ConfigError, match=f"is being run already, by {name}"):
            take(load, "/b/s", said)
        assert said == [f"looking for 2 s whether {name} still runs this sweep"]
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        started = time.monotonic()
        take(load, "/b/s", said)
        assert time.monotonic() - started >= LAPSE
    take(load, "/c/s", said)  # the one before has signed off
    assert len(said) == 2


def test_where_the_lock_shows_that_it_is_dead_nobody_waits(load):
    said: list[str] = []
    with driver(load, "/a/s") as first:
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        take(load, "/a/s", said)
    assert said == []


@pytest.mark.slow
def test_one_that_was_cut_off_leaves(load):
    said: list[str] = []
    with driver(load, "/a/s") as first:
        os.kill(first.pid, signal.SIGSTOP)
        with claim.signed(load(), Path("/b/s"), said.append) as check:
            os.kill(first.pid, signal.SIGCONT)
            first.join(30)
            assert first.exitcode == 3
            time.sleep(3 * EVERY)
            check()


@pytest.mark.slow
def test_of_several_that_come_at_once_one_stays(load):
    start, held = FORK.Barrier(4), FORK.Value("i", 0)

    def come(folder: str) -> None:
        start.wait(30)
        try:
            with claim.signed(load(), Path(folder), lambda text: None):
                with held.get_lock():
                    held.value += 1
                time.sleep(2 * LAPSE)
        except ConfigError:
            os._exit(2)

    several = [FORK.Process(target=come, args=(f"/{number}/s",)) for number in range(4)]
    for one in several:
        one.start()
    for one in several:
        one.join(60)
    assert held.value == 1
    assert sorted(one.exitcode for one in several) == [0, 2, 2, 2]


def test_who_only_looks_sees_a_driver_of_another_machine(load, monkeypatch):
    study = load()
    assert study
    assert claim.signer(study) == (None, None)
    with driver(load, "/a/s") as first:
        here = socket.gethostname()
        assert claim.signer(study) == (None, Path("/a/s"))  # here its lock tells
        monkeypatch.setattr(socket, "gethostname", lambda: "laptop")
        assert claim.signer(study) == ((first.pid, here), Path("/a/s"))
        monkeypatch.setattr(claim, "FRESH", -1.0)
        assert claim.signer(study) == (None, Path("/a/s"))


def test_what_is_no_signature_is_none(tmp_path):
    board = claim.InStore(Store(str(tmp_path)))
    for text in ("", "null", "[]", '{"pid": 1}', '{"pid": {}, "host": 1, "folder": 2, "id": 3, "time": "x"}', "\x00"):
        (tmp_path / "driver.json").write_text(text)
        assert board.read() is None
