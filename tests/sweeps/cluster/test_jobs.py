"""Submitting to a real Ray head on this machine; and what is refused before anything is sent."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from mollify_core.errors import ConfigError
from mollify_sweeps.cli.program import job
from mollify_sweeps.cluster import environment
from mollify_sweeps.cluster.jobs import entrypoint
from mollify_sweeps.study.client import actor_name, sweep_of
from places import ROOT
from search import main, parser
from servers import free_port

SECRET = "hunter2"


def arguments(*argv: str) -> argparse.Namespace:
    words = ["--dataset", "digits", "--storage", "s3://bucket/sweeps", "--submit", *argv]
    return parser().parse_args(words, argparse.Namespace(words=words))


def test_the_command_is_the_same_less_what_says_where_it_runs(tmp_path: Path) -> None:
    space, recipe = tmp_path / "my space.yaml", tmp_path / "r.json"
    space.write_text("lr: {low: 0.01, high: 0.2}\n")
    recipe.write_text("{}")
    args = arguments("--address=http://head:8265", "--set", "lr=0.1", "--space", str(space), f"--recipe={recipe}")
    made = job(args)
    words, files = made.words, made.files
    assert list(words[:6]) == ["--dataset", "digits", "--storage", "s3://bucket/sweeps", "--set", "lr=0.1"]
    sent = dict(zip(words[6::2], words[7::2], strict=True))
    assert sent.pop("--address") == "auto"
    assert sent == {f"--{path.name.split('-')[0]}": str(path) for path in map(Path("runs").joinpath, files)}
    assert list(files.values()) == [space, recipe]
    assert job(args).words == words, "the same command finds its sweep again"
    space.write_text("lr: {low: 0.02, high: 0.2}\n")
    assert job(args).words != words


def test_a_networks_code_and_weights_go_along(tmp_path: Path) -> None:
    code, weights = tmp_path / "net.py", tmp_path / "w.safetensors"
    code.write_text("def net(num_classes): ...\n")
    weights.write_bytes(b"weights")
    made = job(arguments("--network", f"{code}:net", "--network-kwargs", "width=2", "--weights", str(weights)))
    names = list(made.files)
    assert list(made.files.values()) == [code, weights]
    sent = ["--network", f"runs/{names[0]}:net", "--weights", f"runs/{names[1]}", "--address", "auto"]
    assert list(made.words[4:]) == ["--network-kwargs", "width=2", *sent]
    plain = job(arguments("--network", "timm/resnet18", "--weights", "default"))
    assert list(plain.words[4:8]) == ["--network", "timm/resnet18", "--weights", "default"]
    assert not plain.files


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--network", "/nowhere/net.py:net"], "Cannot read --network '/nowhere/net.py'"),
        (["--storage", "runs"], "--storage with --submit to be a path from /"),
        (["--storage", "../nfs"], "--storage"),
        (["--data-dir", "data"], "--data-dir"),
        (["--cache-dir=cache"], "--cache-dir"),
        (["--dataset", "./photos"], "--dataset"),
        (["--space", "/nowhere/space.yaml"], "Cannot read --space '/nowhere/space.yaml'"),
        (["--study-url", f"postgresql://me:{SECRET}@db/studies"], "no password"),
        ([f"--study-url=postgresql://db/studies?user=me&password={SECRET}"], "no password"),
        (["--mirror", f"https://mirror.example.org/cifar?X-Signature={SECRET}"], "no password"),
    ],
)
def test_what_a_cluster_cannot_have_or_must_not_show_is_refused(argv: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(expected)) as error:
        job(arguments(*argv))
    assert SECRET not in str(error.value)


def test_addresses_without_a_password_pass() -> None:
    words = job(arguments("--study-url", "postgresql://me@db:5432/studies", "--mirror", "https://m.org/a:b@c")).words
    assert "postgresql://me@db:5432/studies" in words


def test_the_entry_point_finds_the_project_and_keeps_the_files(tmp_path: Path) -> None:
    """Run by a shell as Ray runs it, in the job's own folder, with a `python` that says what it was given."""
    home, given = tmp_path / "home", tmp_path / "given"
    for folder in (home / "my project", home / "mollify-env/bin", given):
        folder.mkdir(parents=True)
    (given / "space-1.yaml").write_text("lr: search\n")
    python = home / "mollify-env/bin/python"
    python.write_text('#!/bin/sh\npwd\ncat runs/space-1.yaml\nprintf "%s\\n" "$@"\nexit 3\n')
    python.chmod(0o700)
    command = entrypoint("my project", ["sweeps/search.py", "--set", "a=it's; $HOME"], ["space-1.yaml"])
    environment = {**os.environ, "HOME": str(home)}
    done = subprocess.run(command, shell=True, cwd=given, env=environment, capture_output=True, text=True)
    expected = [str(home / "my project"), "lr: search", "sweeps/search.py", "--set", "a=it's; $HOME"]
    assert (done.stdout.splitlines(), done.returncode) == (expected, 3), done.stderr


def test_no_cluster_is_one_sentence(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
    common = ["--dataset", "digits", "--storage", "/sweeps", "--submit"]
    for address, text in (("ray://head:10001", "http://…"), (f"http://127.0.0.1:{free_port()}", "Cannot reach a Ray")):
        assert main([*common, "--address", address]) == 2
        error = capsys.readouterr().err
        assert text in error
        assert error.count("\n") == 1


def test_ray_client_needs_a_study_that_both_sides_reach(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "digits", "--address", "ray://head:10001"]) == 2
    assert "Expected --study-url with --address ray://" in capsys.readouterr().err


# ---- a real head


class Head:
    """A Ray head of this test's own, by the ports that matter."""

    def __init__(self, home: Path, temp: str) -> None:
        self.dashboard, self.metrics = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        bin_folder = str(Path(sys.executable).parent)
        self.environment = {
            **environment,
            "HOME": str(home),
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
        }
        subprocess.run(
            [f"{bin_folder}/ray", "get-auth-token", "--generate"], env=self.environment, check=True, stdout=-3
        )
        options = {
            "port": free_port(),
            "dashboard-host": "127.0.0.1",
            "dashboard-port": self.dashboard,
            "dashboard-agent-listen-port": free_port(),
            "dashboard-agent-grpc-port": free_port(),
            "metrics-export-port": self.metrics,
            "ray-client-server-port": free_port(),
            "temp-dir": temp,
            "num-cpus": 2,
            "include-dashboard": "true",
        }
        flags = [f"--{name}={value}" for name, value in options.items()]
        self.process = subprocess.Popen(
            [f"{bin_folder}/ray", "start", "--head", "--block", "--disable-usage-stats", *flags],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def search(self, folder: Path, *argv: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "sweeps/search.py"), "--submit", str(ROOT), "--address", self.address, *argv],
            cwd=folder,
            env={**self.environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def ask(self, path: str) -> Any:
        token = (Path(self.environment["HOME"]) / ".ray/auth_token").read_text().strip()
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def figures(self) -> dict[str, float]:
        """What Prometheus would be told of sweeps: the line up to its value -> value, without Ray's own labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("ray_mollify")]
        own = re.compile(r'(sweep|state|kind|objective)="[^"]*"')
        split = [line.rpartition(" ") for line in lines]
        return {
            f"{key.partition('{')[0]} {' '.join(sorted(m.group() for m in own.finditer(key)))}": float(value)
            for key, _, value in split
        }


def until(reached: Any, seconds: float = 240.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if result := reached():
                return result
        time.sleep(0.5)
    raise AssertionError("it did not get there in time")


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    temp = tempfile.mkdtemp(prefix="mo", dir="/tmp")  # Ray's sockets allow a short path only
    started = Head(tmp_path_factory.mktemp("home"), temp)
    try:
        until(lambda: started.ask("/api/version"))
        yield started
    finally:
        started.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.process.wait(60)
        with contextlib.suppress(ProcessLookupError):  # what is left; Ray's reaper ends the rest
            os.killpg(started.process.pid, signal.SIGKILL)
        shutil.rmtree(temp, ignore_errors=True)


def complete(folder: Path, name: str) -> list[optuna.trial.FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/{name}/study.sqlite")
    return [trial for trial in study.trials if trial.state == TrialState.COMPLETE]


@pytest.mark.slow
def test_a_job_runs_the_sweep_follows_its_log_and_ends_with_its_code(head: Head, tmp_path: Path) -> None:
    """One head, one job of 2 trials with a space file; 1 to 2 minutes.

    1. The submitting process prints the job's id and the sweep's own output, and ends with code 0.
    2. The space that was sent along is the one that was searched, and the results are where --storage says.
    3. While it ran, its figures were among the metrics of the machine.
    4. The jobs that the cluster shows have a name that a person recognises.
    5. Optuna's dashboard answers on the head, at the address that the log shows.
    6. A job that cannot work ends with the command's own code.
    """
    (tmp_path / "space.yaml").write_text("lr: {low: 0.02, high: 0.03}\nmax_noise: 0.4\n")
    tiny = ("--dataset", "digits", "--trials", "3", "--epochs", "20", "--train-fraction", "0.1", "--name", "sent")
    out = tmp_path / "results"
    process = head.search(tmp_path, *tiny, "--storage", str(out), "--space", "space.yaml", "--dashboard")
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline()]
        while not (found := re.match(r"Optuna's dashboard: (\S+)", lines[-1])):
            assert process.poll() is None, lines
            lines.append(process.stdout.readline())
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        page = until(lambda: browser.open(found[1], timeout=10).read().decode())
        seen = until(lambda: (f := head.figures()).get('ray_mollify_epochs_total sweep="sent"', 0) and f)
        text = "".join(lines) + process.communicate(timeout=300)[0]
    finally:
        process.kill()
        for kept in (ROOT / "runs").glob("space-*.yaml"):
            if kept.read_text() == (tmp_path / "space.yaml").read_text():
                kept.unlink()
    assert process.returncode == 0, text
    job = re.match(r"job (sent-[0-9a-f]{6}) runs on " + re.escape(head.address), text)
    assert job, text
    assert "Was it worth it?" in text
    assert "<title>Optuna Dashboard</title>" in page
    trials = complete(out, "sent")
    assert len(trials) == 3
    assert {t.user_attrs["recipe"]["mollify"]["max_noise"] for t in trials if "reference" not in t.user_attrs} == {0.4}
    assert seen['ray_mollify_trials state="running" sweep="sent"'] >= 1
    (info,) = [info for info in head.ask("/api/jobs/") if info["submission_id"] == job[1]]
    assert info["status"] == "SUCCEEDED"
    assert f"{ROOT}" in info["entrypoint"]

    process = head.search(tmp_path, *tiny, "--storage", str(out), "--objective", "nonsense")
    text, _ = process.communicate(timeout=120)
    assert process.returncode == 2, text
    assert "error: " in text


@pytest.mark.slow
def test_a_job_outlives_the_process_that_submitted_it(head: Head, tmp_path: Path) -> None:
    """1. Ctrl-C stops following, says how to look again and to stop. 2. SIGKILL leaves the job running, too.

    3. The commands that were printed work. 4. A stopped job has kept its sweep.
    """
    out = tmp_path / "results"
    long = ("--dataset", "digits", "--trials", "40", "--epochs", "50", "--train-fraction", "0.1")
    first = head.search(tmp_path, *long, "--storage", str(out), "--name", "ctrl-c")
    assert first.stdout is not None
    until(lambda: "trials, " in first.stdout.readline())
    first.send_signal(signal.SIGINT)
    text, _ = first.communicate(timeout=30)
    assert first.returncode == 130
    commands = dict(re.findall(r"^  (look again|stop it): +(.*)$", text, re.M))

    second = head.search(tmp_path, *long, "--storage", str(out), "--name", "killed")
    assert second.stdout is not None
    line = second.stdout.readline()
    second.kill()
    second.communicate()
    killed = line.split()[1]

    def status(job: str) -> str:
        return head.ask(f"/api/jobs/{job}")["status"]

    time.sleep(3)
    assert status(killed) == "RUNNING"
    assert status(commands["stop it"].split()[-1]) == "RUNNING"
    until(lambda: (out / "ctrl-c/study.sqlite").exists())
    looking = commands["look again"].replace("--follow ", "")
    log = subprocess.run(looking, shell=True, env=head.environment, capture_output=True, text=True, timeout=60)
    assert "Sweep ctrl-c" in log.stdout, log.stderr
    for command in (commands["stop it"], commands["stop it"].replace(commands["stop it"].split()[-1], killed)):
        subprocess.run(command, shell=True, env=head.environment, capture_output=True, timeout=120, check=True)
        assert status(command.split()[-1]) == "STOPPED"
    log = subprocess.run(looking, shell=True, env=head.environment, capture_output=True, text=True, timeout=60)
    assert "Nothing is lost" in log.stdout


def test_workers_of_a_cluster_hear_of_the_store_and_of_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REQUEST_CHECKSUM_CALCULATION"):
        monkeypatch.delenv(name, raising=False)
    assert environment.of_workers() == {}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://me:{SECRET}@store:9000")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    assert environment.of_workers() == {"AWS_ENDPOINT_URL": "http://store:9000"}


def test_actors_of_equal_sweeps_have_names_of_their_own() -> None:
    first, second = actor_name("digits-resnet8-1a2b3c"), actor_name("digits-resnet8-1a2b3c")
    assert first != second
    assert sweep_of(first) == sweep_of(second) == "digits-resnet8-1a2b3c"
