"""What a person is told of sweeps: while a driver runs, after it is gone, from this machine and from a bucket."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from rich.console import Console

from mollify_core.errors import ConfigError, StorageError
from mollify_core.recipe import Recipe
from mollify_sweeps.cli.program import interrupt
from mollify_sweeps.inspection.check_trial import Finding, TrialCheck
from mollify_sweeps.inspection.control import stop
from mollify_sweeps.inspection.state import find, look, look_at_all
from mollify_sweeps.inspection.status import show_sweep, show_sweeps
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study import claim, space
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.setup import Setup
from mollify_sweeps.study.study import SweepStudy
from places import ROOT
from programs import refused
from servers import forked, moto
from setups import make_setup, study_of
from status import main

BASE = Recipe().with_(epochs=3, network="resnet20", dataset="digits")
COMMAND = ["--dataset", "a b", "--help"]


def setup_in(place: Path) -> Setup:
    changes = {"sampler": "random", "pruner": "none", "created": "2026-01-02T03:04:05+00:00"}
    return make_setup(place, BASE, 6, **changes)


def description_of(place: Path) -> dict[str, Any]:
    return setup_in(place).description.to_dict()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Two sweeps of six trials by the project's own study, whose trial 2 failed and 3 was pruned: one went through,
    the other was cut off in its last trial."""
    places = {}
    for cut in (False, True):
        place = places[cut] = tmp_path_factory.mktemp("made")
        study = SweepStudy(setup_in(place))
        for number in range(6):
            assert study.next() is not None
            study.begin(number)
            study.report(number, 0, {"corrupted_nll": 2.0 - number / 10, "seconds": 1.5})
            if cut and number == 5:
                break
            if number == 2:
                study.fail(number, "nan", "Expected a finite loss, but got nan in epoch 1")
            elif number == 3:
                study.prune(number, {})
            else:
                study.complete(number, {}, {"corrupted_nll": 1.0 - number / 10})
    return places


@pytest.fixture
def sweep_in(made: dict[bool, Path]) -> Callable[..., Path]:
    """A function that puts such a sweep into a storage, with a sweep.json in which something else may stand."""

    def put(folder: Path, *, cut: bool = False, **more: Any) -> Path:
        place = folder / "s"
        shutil.copytree(made[cut], place)
        description = {**description_of(place), **more}
        storage = description["storage"]
        (Store(storage) if "://" in storage else Store(str(place))).write(
            "sweep.json", json.dumps(description).encode()
        )
        return place

    return put


@contextlib.contextmanager
def driver(place: Path, host: str = "") -> Iterator[Any]:
    """A process that holds the sweep as a driver does, and leaves when it is asked to."""

    def hold(ready: Callable[[], None]) -> None:
        signal.signal(signal.SIGTERM, interrupt)
        with contextlib.suppress(KeyboardInterrupt), claim.locked(place):
            if host:
                (place / "driver.lock").write_text(f"{os.getpid()} {host}")
            ready()
            time.sleep(120)

    with forked(hold) as process:
        yield process


def shown(*argv: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(list(argv)) == 0
    return capsys.readouterr().out


def test_a_stopped_sweep(sweep_in, tmp_path):
    sweep = look(Store(str(sweep_in(tmp_path, cut=True))))
    assert (sweep.name, sweep.dataset, sweep.network, sweep.verified) == ("s", "digits", "resnet20", True)
    assert (sweep.state, sweep.pid, sweep.copied) == ("stopped", None, None)
    assert {state: count for state, count in sweep.counts.items() if count} == {
        "complete": 3,
        "pruned": 1,
        "fail": 1,
        "cut off": 1,
    }
    assert sweep.best == {"number": 4, "value": 0.6}
    assert [trial.state for trial in sweep.trials] == ["complete", "complete", "fail", "pruned", "complete", "cut off"]
    assert [trial.reference for trial in sweep.trials[:3]] == ["paper", "plain", None]
    assert sweep.trials[5].value == 1.5  # of its last epoch
    assert [(t.epoch, t.epochs, t.seconds) for t in sweep.trials] == [(1, 3, 1.5)] * 6
    assert "got nan in epoch 1" in (sweep.trials[2].failure or "")
    assert set(sweep.trials[4].params) == set(space.load(None, BASE, 32).searched)
    assert sweep.created == 1767323045.0
    assert abs((sweep.changed or 0) - time.time()) < 60


def test_a_clean_stop_is_sound_and_called_stopped(tmp_path):
    """After Ctrl-C nothing is lost; after SIGKILL a trial was cut off. Until it goes on."""
    store = Store(str(tmp_path / "s"))
    (tmp_path / "s").mkdir()
    setup = setup_in(tmp_path / "s")
    store.write("sweep.json", setup.description.to_json())
    for clean in (False, True, False):
        study = SweepStudy(setup)
        assignment = study.next()
        assert assignment is not None
        if clean:
            study.stop()
        word = "stopped" if clean else "cut off"
        sweep = look(store)
        assert sweep.trials[assignment["number"]].state == word
        console = Console(width=160, file=io.StringIO(), record=True)
        console.print(show_sweep(sweep))
        text = console.export_text()
        assert f"1 {word}" in text
        assert "running" not in text
        found: list[Finding] = []
        (trial,) = (t for t in study_of(setup).get_trials() if t.state == TrialState.RUNNING)
        TrialCheck(store, setup.description, trial, {}, found).check(driven=False)
        says = "note: was stopped after 0 epochs; the sweep's command" if clean else "is left running, and no driver"
        assert [str(finding).startswith(f"trial 0: {says}") for finding in found] == [True]


@pytest.mark.parametrize(
    ("cut", "total", "report", "state"),
    [
        (False, 6, False, "finished"),
        (False, 7, True, "stopped"),  # its budget was raised
        (False, None, True, "finished"),
        (False, None, False, "stopped"),
        (True, 6, True, "stopped"),
    ],
)
def test_state_without_a_driver(sweep_in, cut, total, report, state, tmp_path):
    place = sweep_in(tmp_path, cut=cut, **({} if total is None else {"trials": total}))
    if report:
        Store(str(place)).write("report/summary.md", b"#")
    assert look(Store(str(place))).state == state


def test_a_running_sweep_is_read_and_stopped(sweep_in, tmp_path, capsys):
    place = sweep_in(tmp_path, cut=True)
    with driver(place) as process:
        assert claim.driver_of(place) == (process.pid, socket.gethostname())
        sweep = look(Store(str(place)))
        assert (sweep.state, sweep.pid) == ("running", process.pid)
        assert f"running by process {process.pid}" in shown(str(place), capsys=capsys)
        assert "is being run by" in refused_to_go_on(place, capsys)
        assert "nothing is lost" in shown(str(place), "--stop", capsys=capsys)
        process.join(10)
        assert process.exitcode == 0
    assert look(Store(str(place))).state == "stopped"
    assert "but 's' is stopped" in refused(main, str(place), "--stop", capsys=capsys)


def refused_to_go_on(place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    description = json.loads((place / "sweep.json").read_text())
    (place / "sweep.json").write_text(json.dumps({**description, "command": COMMAND}))
    return refused(main, str(place), "--continue", "--run", capsys=capsys)


def test_a_driver_elsewhere_is_not_touched(sweep_in, tmp_path, capsys):
    place = sweep_in(tmp_path)
    with driver(place, host="somewhere") as process:
        assert f"running by process {process.pid} on somewhere" in shown(str(place), capsys=capsys)
        assert f"runs on somewhere; stop process {process.pid} there" in refused(
            main, str(place), "--stop", capsys=capsys
        )
        (place / "driver.lock").write_text("1")  # a number that is another process here
        with pytest.raises(ConfigError, match="another machine; stop process 1 there"):
            stop(look(Store(str(place))))
        assert process.is_alive()


def test_looking_leaves_a_study_that_is_being_written_alone(sweep_in, tmp_path):
    place = sweep_in(tmp_path, cut=True)
    with contextlib.closing(sqlite3.connect(place / "study.sqlite", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")  # as in the middle of a driver's transaction
        writer.execute("UPDATE trials SET state = 'COMPLETE'")
        assert look(Store(str(place))).counts["cut off"] == 1
        writer.execute("ROLLBACK")
    before = (place / "study.sqlite").read_bytes()
    look(Store(str(place)))
    assert (place / "study.sqlite").read_bytes() == before
    assert not list(place.glob("study.sqlite-*"))


def test_all_sweeps_of_a_storage(sweep_in, tmp_path, capsys, monkeypatch):
    sweep_in(tmp_path / "runs")
    shutil.copytree(tmp_path / "runs/s", tmp_path / "runs/moved")
    (tmp_path / "runs/broken").mkdir()
    (tmp_path / "runs/broken/sweep.json").write_text("{")
    (tmp_path / "runs/other").mkdir()  # not a sweep
    single, stores = find(str(tmp_path / "runs"))
    assert not single
    assert [Path(store.root).name for store in stores] == ["broken", "moved", "s"]
    assert [sweep.state for sweep in look_at_all(stores)][1:] == ["stopped"] * 2
    monkeypatch.chdir(tmp_path)
    lines = shown(capsys=capsys).splitlines()
    assert lines[0].split() == ["sweep", "state", "trials", "best", "age", "data", "network"]
    assert lines[1].split() == ["broken", "unreadable", "0"]
    told = " ".join(lines[4:])
    assert told.startswith("broken: Cannot read ")
    assert "sweep.json: Expected a sweep's description to be JSON: it is not valid JSON" in told
    assert "6, 4 complete, 1 pruned, 1 failed" in lines[2]
    assert "corrupted_nll 0.5 (trial 5)" in lines[2]
    assert find("s")[0]  # by its name in runs
    assert "Sweep s" in shown("s", capsys=capsys)
    machine = json.loads(shown("--json", capsys=capsys))
    assert [sweep["state"] for sweep in machine] == ["unreadable", "stopped", "stopped"]
    assert json.loads(shown("s", "--json", capsys=capsys))["trials"][4]["value"] == 0.6


@pytest.mark.slow
def test_continue_says_and_runs_the_command(sweep_in, tmp_path, capsys):
    place = sweep_in(tmp_path, command=COMMAND, cwd=str(tmp_path))
    out = shown(str(place), "--continue", capsys=capsys)
    assert out.startswith(f"cd {tmp_path} && ")
    assert out.endswith("sweeps/search.py --dataset 'a b' --help\n")
    typed = subprocess.run(out, shell=True, capture_output=True, text=True, cwd="/")
    assert "usage: sweeps/search.py" in typed.stdout, typed.stderr
    program = [sys.executable, str(ROOT / "sweeps/status.py"), str(place), "--continue", "--run"]
    ran = subprocess.run(program, capture_output=True, text=True, cwd="/")
    assert ran.returncode == 2, "the folder that a file names is not changed into"
    assert f"was started in '{tmp_path}': type the command" in ran.stderr
    ran = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(out)
    assert "usage: sweeps/search.py" in ran.stdout


def test_a_sweep_that_was_moved_goes_on_where_it_is(sweep_in, tmp_path, capsys):
    place = sweep_in(tmp_path / "a", command=COMMAND, storage=str(tmp_path / "a/s"))
    assert "--storage" not in shown(str(place), "--continue", capsys=capsys)
    (tmp_path / "b").mkdir()
    shutil.copytree(place, tmp_path / "b/s")
    assert shown(str(tmp_path / "b/s"), "--continue", capsys=capsys).endswith(f" --help --storage {tmp_path}/b\n")
    (tmp_path / "b/s").rename(tmp_path / "b/t")
    assert "give the folder its name back" in refused(main, str(tmp_path / "b/t"), "--continue", capsys=capsys)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({}, "was not kept"),
        ({"command": [*COMMAND, "--address", "ray://elsewhere:10001"]}, "got --address: type it"),
        ({"command": [*COMMAND, "--submit=x"]}, "got --submit: type it"),
        ({"command": [*COMMAND, "--study-url", "postgresql://u:***@h/d"]}, "as in --study-url, was not kept"),
        ({"command": COMMAND, "cwd": "/nowhere"}, "'/nowhere', which is not on this machine"),
    ],
)
def test_what_cannot_be_continued(sweep_in, more, says, tmp_path, capsys):
    place = sweep_in(tmp_path, **more)
    assert says in refused(main, str(place), "--continue", "--run", capsys=capsys)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("nowhere",), "holds none"),
        (("ftp://x/y",), "Cannot use storage 'ftp://x/y'"),
        (("--run",), "--continue with --run"),
        (("--watch", "0"), "a positive number of seconds, but got 0"),
        (("--stop", "--continue"), "not allowed with"),
        (("runs", "--stop"), "one sweep, but 'runs' is a storage"),
    ],
)
def test_refused_in_one_sentence(sweep_in, argv, says, tmp_path, capsys, monkeypatch):
    sweep_in(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert says in refused(main, *argv, capsys=capsys)


def test_damaged_and_hidden_studies(sweep_in, tmp_path):
    place = sweep_in(tmp_path)
    (place / "study.sqlite").write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(StorageError, match="Cannot read the study"):
        look(Store(str(place)))
    (place / "study.sqlite").unlink()
    assert look(Store(str(place))).counts["complete"] == 0  # a driver has just begun
    elsewhere = sweep_in(tmp_path / "b", study_url="postgresql://u:***@h/d")
    with pytest.raises(ConfigError, match="give its address by --study-url"):
        look(Store(str(elsewhere)))
    given = f"sqlite:///{elsewhere}/study.sqlite"
    assert look(Store(str(elsewhere)), given).counts["complete"] == 4


def test_in_a_bucket(sweep_in, tmp_path, monkeypatch, capsys):
    """The live study where there is one, else its copy; a copy that is fresh is of a driver that runs."""
    with moto():
        place = sweep_in(tmp_path, cut=True, storage="s3://bucket/sweeps/s", host="node7")
        store = Store("s3://bucket/sweeps") / "s"
        assert (look(store).state, look(store).copied) == ("stopped", None)
        server_of_study = f"sqlite+pysqlite:///{place}/study.sqlite"  # to us, an address like any database server's
        assert server_of_study not in str(look(store, server_of_study))
        other = {"pid": 7, "host": "node7", "folder": "/a/s", "id": "x", "time": time.time()}
        Location(server_of_study).load("s").set_user_attr("driver", other)
        sweep = look(store, server_of_study)
        assert (sweep.state, sweep.pid, sweep.host, sweep.beside) == ("running", 7, "node7", "/a/s")
        Location(server_of_study).load("s").set_user_attr("driver", None)
        with driver(place) as process:
            assert look(store).pid == process.pid
        store.write("study.sqlite", (place / "study.sqlite").read_bytes())
        shutil.rmtree(place)  # another machine sees the copy only
        sweep = look(store)
        assert (sweep.state, sweep.pid, sweep.host) == ("running", None, "node7")
        assert "running on node7" in shown("s3://bucket/sweeps", capsys=capsys)
        assert "runs on node7; stop its driver there" in refused(main, "s3://bucket/sweeps/s", "--stop", capsys=capsys)
        monkeypatch.setattr("mollify_sweeps.study.claim.FRESH", -1.0)
        assert look(store).state == "stopped"
        assert "the copy in the storage" in shown("s3://bucket/sweeps/s", capsys=capsys)


def test_tables_show_what_is_in_them(sweep_in, tmp_path):
    sweep = look(Store(str(sweep_in(tmp_path, cut=True, verified=False, trials=8))))
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(show_sweeps([sweep]))
    console.print(show_sweep(sweep))
    text = console.export_text()
    for part in (
        "(unverified)",
        "5/8, 3 complete, 1 pruned, 1 failed, 1 cut off",
        "the paper's default schedule",
        "1/3",
        "lr=",
    ):
        assert part in text, part
