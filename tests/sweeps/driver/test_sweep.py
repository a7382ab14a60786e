"""Whole sweeps as a user runs them: real processes, real digits, real Ray, SIGKILL."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pyarrow.parquet as pq
import pytest
import safetensors.torch
from optuna.trial import TrialState

import mollify_sweeps
from mollify_core import checkpoint
from mollify_core.errors import ConfigError
from mollify_core.recipe import Recipe
from mollify_core.train import main as train_main
from mollify_sweeps.plan.options import Following, RecipeOptions, Resources, Running, Search
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.description import Description
from mollify_sweeps.study.ledger import Ledger
from mollify_sweeps.study.results import Results
from places import ROOT
from search import main as search_main
from servers import bucket, environment_of, juicefs, moto

TINY = (
    *("--dataset", "digits", "--trials", "5", "--epochs", "3", "--train-fraction", "0.1", "--name", "s"),
    *("--network", "resnet8", "--set", "validation_fraction=0.05", "--max-concurrent", "1"),
)

SHELL = "/usr/bin:/bin"  # a shell that does not know this environment's programs


def start(folder: Path, *argv: str) -> subprocess.Popen[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(ROOT / "sweeps/search.py"), *argv],
        cwd=folder,
        env={**os.environ, "PATH": SHELL},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # As in a user's terminal: a process group of its own, which Ctrl-C reaches as a whole.
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def finish(process: subprocess.Popen[str], code: int = 0, timeout: float = 300) -> str:
    out, _ = process.communicate(timeout=timeout)
    assert process.returncode == code, out
    assert "Traceback" not in out, out
    return out


def study_of(file: Path, name: str = "s") -> Ledger:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = Location.of_file(file).load(name)
    if found is None:
        raise KeyError(name)
    return found


def wait_for(path: Path, reached: Callable[[Ledger], bool], process: subprocess.Popen[str]) -> None:
    """Until the study has reached a state."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[0]
        try:
            if path.exists() and reached(study_of(path)):
                return
        except (KeyError, optuna.exceptions.StorageInternalError):
            pass  # it is being made just now
        time.sleep(0.05)
    raise AssertionError("the sweep did not get there in time")


def in_mid_trial(after: int) -> Callable[[Ledger], bool]:
    """Whether a trial later than `after` has reported an epoch and is still running."""

    def reached(study: Ledger) -> bool:
        return any(t.state == TrialState.RUNNING and t.intermediate_values for t in study.trials[after + 1 :])

    return reached


def told(study: Ledger) -> list[tuple]:
    """What a study says, less everything that measures time."""
    return [(t.number, t.state, t.params, t.values, t.intermediate_values) for t in study.trials]


pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An unbroken sweep with everything on: (its folder, what it printed)."""
    folder = tmp_path_factory.mktemp("sweep")
    out = finish(start(folder, *TINY, "--wandb", "offline"))
    return folder / "runs/s", out


def test_a_user_sees_a_plan_the_result_and_where_to_look(sweep):
    _, out = sweep
    plan, _, result = out.partition("5/5 trials")
    for text in (
        "fit and 70 validation images",
        "5; the methods take turns",
        "mollification: also max_noise",
        "1 trial (by --max-concurrent)",
    ):
        assert text in plan
    for text in (
        "Does mollification make this classifier better?",
        "What each method was given",
        "paper",
        "plain",
        "optuna-dashboard sqlite",
        "tensorboard --logdir",
        "mollify_core.train",
    ):
        assert text in result
    assert len(out.splitlines()) < 120
    assert out.isprintable() or "\x1b" not in out


@pytest.mark.slow
def test_every_command_that_it_prints_can_be_typed(sweep):
    """In the folder in which the sweep was started, which is not the project's, with a shell that knows no Python."""
    folder, out = sweep
    asked = {
        "look at the study": ("--help", "Storage"),
        "look at the curves": ("--version_tb", "2."),
        "train the best again, alone (with `--final`": (
            "--help",
            "--final",
        ),  # the rest of the line has a colon of its own
        "measure it on the test set; the sweep's command then shows that too": (
            "--images 20 --levels none --corruptions none",
            "table, summary and plots",
        ),
        "search on": ("--dry-run", "Sweep s"),
    }
    for what, (more, says) in asked.items():
        (line,) = (line for line in out.splitlines() if line.startswith(what))
        typed = line.split(": ", 2 if "`" in what else 1)[-1]
        done = subprocess.run(
            f"{typed} {more}",
            shell=True,
            capture_output=True,
            text=True,
            cwd=folder.parents[1],
            env={**os.environ, "PATH": SHELL},
        )
        assert done.returncode == 0, (typed, done.stderr)
        assert says in done.stdout + done.stderr, (typed, done.stdout)


def test_the_study_holds_everything(sweep):
    folder, _ = sweep
    study = study_of(folder / "study.sqlite")
    assert len(study.trials) == 5
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in study.trials:
        attrs = trial.user_attrs
        recipe = Recipe.from_dict(attrs["recipe"])
        assert {name: recipe.get(name) for name in trial.params} == trial.params
        assert sorted(trial.intermediate_values) == list(range(attrs["epochs_done"]))
        store = Store(attrs["folder"])
        state = checkpoint.load(store.fs, Store(attrs["checkpoint"]).root)
        assert state.epoch == attrs["epochs_done"]
        lines = [json.loads(line) for line in (store.read("metrics.jsonl") or b"").splitlines()]
        assert [line["epoch"] for line in lines] == list(range(attrs["epochs_done"]))
        assert [line["corrupted_nll"] for line in lines] == list(trial.intermediate_values.values())
        if trial.state == TrialState.COMPLETE:
            with np.load(folder / f"trials/{trial.number:05d}/validation.npz") as arrays:
                assert 30 <= len(arrays["corrupted_nll"]) <= 40, "half of the 70 images only judge"
                assert arrays["corrupted_nll"].mean() == pytest.approx(trial.value, rel=0.5)
    assert [trial.user_attrs["method"] for trial in study.trials] == ["plain", "mollification"] * 2 + ["plain"]
    first = [Recipe.from_dict(trial.user_attrs["recipe"]) for trial in study.trials[:2]]
    assert [(recipe.method, recipe.label) for recipe in first] == [("none", "hard"), ("mollification", "coupled")]


def test_the_report_and_the_trackers_are_there(sweep):
    folder, _ = sweep
    table = pq.read_table(folder / "report/trials.parquet").to_pydict()
    assert table["number"] == list(range(5))
    summary = (folder / "report/summary.md").read_text()
    assert "plain" in summary
    assert "Does mollification make this classifier better?" in (folder / "report/report.html").read_text()
    assert {"history.png", "parallel.png"} <= {p.name for p in (folder / "report/plots").iterdir()}
    names = sorted(p.name for p in (folder / "tensorboard").iterdir())
    assert [name[:5] for name in names] == [f"{n:05d}" for n in range(5)]
    assert names[:3] == ["00000-plain-default", "00001-mollification-default", "00002-plain"]
    runs = {path.stem.rpartition("-")[2] for path in folder.glob("wandb/offline-run-*/run-*.wandb")}
    assert runs == {"report", *(f"{n:05d}" for n in range(5))}


def test_the_best_recipe_trains_alone_to_the_same_bits(sweep, tmp_path, capsys):
    folder, _ = sweep
    best = folder / "report/best_recipe.json"
    assert train_main([str(best), "--out", str(tmp_path)]) == 0
    assert "equal to the sweep's trial" in capsys.readouterr().out
    study = study_of(folder / "study.sqlite")
    alone = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert alone == Results(study).completed[0].user_attrs["metrics"]


def test_a_finished_sweep_says_so(sweep, tmp_path, monkeypatch, capsys):
    shutil.copytree(sweep[0].parent, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert search_main(list(TINY)) == 0
    out = capsys.readouterr().out
    assert "is finished: it has all its 5 trials" in out
    assert "Does mollification make this classifier better?" in out


def of_python(trials: int) -> Search:
    """What `TINY` says, from Python."""
    recipe = RecipeOptions("resnet8", epochs=3, train_fraction=0.1, settings=("validation_fraction=0.05",))
    running = Running(resources=Resources(at_most=1), following=Following(wandb="off"))
    return Search("digits", recipe, trials=trials, name="s", running=running)


def test_it_is_finished_from_python_too(sweep, tmp_path, monkeypatch, capsys):
    shutil.copytree(sweep[0].parent, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    found = mollify_sweeps.search(of_python(5))
    assert len(found.trials) == 5
    assert "5 (5 finished, 0 to go)" in mollify_sweeps.dry_run(of_python(5))
    with pytest.raises(ConfigError, match="Expected no dry run"):
        mollify_sweeps.search(replace(of_python(5), running=Running(dry_run=True)))
    with pytest.raises(ConfigError, match="Unknown method 'mollifcation'"):
        mollify_sweeps.search(replace(of_python(5), methods=("plain", "mollifcation")))
    assert capsys.readouterr() == ("", "")
    assert environment == dict(os.environ)


@pytest.mark.slow
def test_a_finished_sweep_goes_on_with_more_trials_and_from_python_with_others(sweep, tmp_path, monkeypatch, capfd):
    folder = tmp_path / "w"
    shutil.copytree(sweep[0].parent, folder / "runs")
    grown = [a if a != "5" else "6" for a in TINY]
    out = finish(start(folder, *grown))
    assert "6 (5 finished, 1 to go)" in out
    heard = []
    monkeypatch.chdir(folder)
    found = mollify_sweeps.search(of_python(7), progress=heard.append)
    assert capfd.readouterr() == ("", "")
    assert (heard[-1].finished, heard[-1].trials) == (7, 7)
    assert len(found.epochs) >= 6 * 3
    study = study_of(folder / "runs/s/study.sqlite")
    assert len(study.trials) == 7
    assert told(study)[:5] == told(study_of(sweep[0] / "study.sqlite"))
    kept = Description.from_json((folder / "runs/s/sweep.json").read_bytes())
    assert kept.started is not None
    assert set(kept.started.command) >= {"--dataset", "digits", "--trials", "7", "--network", "resnet8"}

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="the same call continues it"):
        mollify_sweeps.search(of_python(8), progress=stop)
    assert len(mollify_sweeps.search(of_python(8)).trials) == 8
    measured = mollify_sweeps.evaluate(
        mollify_sweeps.Evaluation((str(folder / "runs/s"),), levels="none", test=mollify_sweeps.TestOptions("none"))
    )
    assert list(measured.cells["kind"]) == ["clean"] * len(measured.models)
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_stopped_and_killed_it_ends_as_if_unbroken(sweep, tmp_path):
    """Set-up: a sweep with one trial at a time is stopped by Ctrl-C, then killed by SIGKILL, each in mid-trial.

    1. Ctrl-C ends it within 20 s with exit code 130 and says how to continue.
    2. The same command goes on after SIGKILL; no trial is lost or run twice.
    3. Parameters, values, every epoch's value and prune decisions equal those of an unbroken sweep, bit for bit.
    """
    path = tmp_path / "runs/s/study.sqlite"
    process = start(tmp_path, *TINY)
    wait_for(path, in_mid_trial(after=0), process)
    asked = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    out = finish(process, 130)
    assert time.monotonic() - asked < 20
    assert "Nothing is lost; continue with the same command:" in out
    assert "sweeps/search.py --dataset digits --trials 5" in out

    process = start(tmp_path, *TINY)
    while True:  # a trial may end while this looks, so the driver has to stand still
        wait_for(path, in_mid_trial(after=1), process)
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(optuna.exceptions.StorageInternalError):  # it may hold the file just then
            if in_mid_trial(after=1)(study_of(path)):
                break
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.communicate()
    assert TrialState.RUNNING in [t.state for t in study_of(path).trials]

    finish(start(tmp_path, *TINY))
    assert told(study_of(path)) == told(study_of(sweep[0] / "study.sqlite"))


@pytest.fixture
def rays() -> Iterator[Path]:
    """A folder for Ray's sessions, with a path that is short enough for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="m", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_two_workers_a_trial(tmp_path, monkeypatch, rays):
    """Data-parallel over gloo: the trial's curve is one curve, and its checkpoint a whole one.

    One worker group trains them all, also after a trial whose loss was no number. Nothing of it stays in the machine's
    folder for temporary files, where another user could have foreseen its name.
    """
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("RAY_TMPDIR", str(rays))
    (tmp_path / "space.yaml").write_text("lr: [1e30, 0.02]\nweight_decay: 0\n")
    argv = ["--dataset", "digits", "--epochs", "2", "--train-fraction", "0.1", "--name", "s", "--trials", "8"]
    argv += [
        "--space",
        str(tmp_path / "space.yaml"),
        "--methods",
        "plain,smoothing",
        "--set",
        "validation_fraction=0.05",
    ]
    out = finish(start(tmp_path, *argv, "--workers-per-trial", "2"))
    assert "2 workers on CPU, 1 CPU each" in out
    study = study_of(tmp_path / "runs/s/study.sqlite")
    assert {(t.state.name, t.user_attrs.get("failure")) for t in study.trials} == {("COMPLETE", None), ("FAIL", "nan")}
    for trial in (t for t in study.trials if t.state == TrialState.COMPLETE):
        assert sorted(trial.intermediate_values) == [0, 1]
        store = Store(trial.user_attrs["checkpoint"])
        assert checkpoint.load(store.fs, store.root).epoch == 2
    logs = rays.glob("ray/session_2*/logs/worker-*.err")
    assert sum(":actor_name:RayTrainWorker" in log.read_text(errors="replace") for log in logs) == 2
    assert not [path for name in ("trial-*", "group-*", "mollify-*") for path in (tmp_path / "tmp").glob(name)]


NETWORK = """
from torch import nn


def net(num_classes, width=8):
    head = nn.Linear(width, num_classes)
    body = [nn.Conv2d(3, width, 3, 2), nn.GroupNorm(2, width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, head)
"""


@pytest.mark.slow
def test_a_network_of_ones_own_from_weights_of_ones_own(tmp_path, monkeypatch, capsys):
    """Killed and continued; its code and weights lie beside the sweep.

    A machine that does not know the code runs it only when told to.
    """
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK)
    scope: dict = {}
    exec(NETWORK, scope)
    safetensors.torch.save_file(scope["net"](7).state_dict(), "w.safetensors")
    argv = ["--dataset", "digits", "--trials", "4", "--epochs", "3", "--train-fraction", "0.1", "--name", "s"]
    argv += ["--network", "./net.py:net", "--network-kwargs", "width=8", "--weights", "w.safetensors"]
    argv += ["--set", "frozen_epochs=1", "--set", "validation_fraction=0.05", "--max-concurrent", "1"]
    process = start(tmp_path, *argv)
    wait_for(tmp_path / "runs/s/study.sqlite", in_mid_trial(after=0), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    out = finish(start(tmp_path, *argv))
    starts = ("starts from weights w.safetensors", "5, which they lack", "the last layer alone for 1 epoch")
    for line in ("net.py:net, up to 3 epochs", "with width=8", "its code: sha256", *starts):
        assert line in " ".join(out.split())  # lines of a table break
    assert Path("runs/s/network.py").read_text() == NETWORK
    monkeypatch.setenv("MOLLIFY_CACHE", str(tmp_path / "elsewhere"))
    best, tail = "runs/s/report/best_recipe.json", ["--threads", "1", "--out", "alone"]
    assert train_main([best, *tail]) == 2
    assert "--network-code net.py" in capsys.readouterr().err
    assert train_main([best, *tail, "--network-code", "runs/s/network.py"]) == 2
    assert "name their file by --weights" in capsys.readouterr().err
    assert train_main([best, *tail, "--weights", "runs/s/weights.safetensors"]) == 0
    assert "equal to the sweep's trial" in capsys.readouterr().out
    Path("net.py").write_text(NETWORK + "\n")
    out = finish(start(tmp_path, *argv), code=2)
    assert "The code of network 'net.py:net' has changed since sweep 's' began" in " ".join(out.split())


@pytest.mark.slow
def test_s3(tmp_path, s3):
    """Everything is in the bucket; with the local files gone, the study comes back from there."""
    argv = ["--dataset", "digits", "--trials", "2", "--epochs", "1", "--train-fraction", "0.1", "--name", "s"]
    argv += ["--set", "validation_fraction=0.05", "--storage", "s3://bucket/some/prefix"]
    finish(start(tmp_path / "a", *argv))
    study = study_of(tmp_path / "a/runs/s/study.sqlite")
    keys = {entry.key for entry in bucket().objects.all()}
    prefix = "some/prefix/s"
    assert {
        f"{prefix}/{n}" for n in ("sweep.json", "study.sqlite", "report/summary.md", "report/best_recipe.json")
    } <= keys
    assert f"{prefix}/trials/00001/checkpoints/epoch-0001/manifest.json" in keys
    assert study.trials[1].user_attrs["checkpoint"] == "s3://bucket/some/prefix/s/trials/00001/checkpoints/epoch-0001"
    out = finish(start(tmp_path / "b", *argv))
    assert "is finished: it has all its 2 trials" in out


@pytest.fixture(params=["moto", "juicefs"])
def s3(request, tmp_path, monkeypatch):
    """A store on loopback that speaks S3, where the environment points to: moto, or JuiceFS's gateway on a real disk
    (`uv sync --group faults`)."""
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    if request.param == "moto":
        with moto():
            yield
    else:
        with juicefs(tmp_path) as endpoint, environment_of(endpoint):
            yield
