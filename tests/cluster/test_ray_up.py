"""`ray up` as a user does it, with clusters/onprem.yaml, and sweeps on that cluster.

The hosts are network namespaces of this machine, each with processes, a home, a /tmp and an SSH server of its own, on
a bridge that leads nowhere else. What differs from real machines: they share their disks (so the folder of the sweeps
needs no NFS), and they are given an environment that is installed already, since they reach no package registry.

Needs root, and of Debian openssh-server, rsync, iproute2 and util-linux. Run it with
    uv run --group faults pytest -m slow tests/cluster/test_ray_up.py
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from places import ROOT
from servers import KEYS, PostgreSQL, free_port, juicefs, listening

TOOLS = ("sshd", "ssh", "ssh-keygen", "rsync", "ip", "unshare", "mount")
ADDRESSES = {"head": "10.77.0.1", "worker": "10.77.0.2", "late": "10.77.0.3"}  # the last one comes in mid-sweep
HERE = "10.77.0.254"
SWEEP = (
    *("--dataset", "digits", "--trials", "3", "--epochs", "2", "--train-fraction", "0.1", "--name", "s"),
    *("--set", "validation_fraction=0.05", "--address", "auto"),
)
EPOCHS = 60
STORE = "s3://bucket/sweeps"
PASSWORD = "CanaryOfTheClustersDatabase"
STATUS = "RAY_AUTH_MODE=token ~/mollify-env/bin/ray status"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(tool) for tool in TOOLS),
        reason=f"needs root and {', '.join(TOOLS)}",
    ),
]


def run(*command: str, timeout: float = 60, **options: object) -> str:
    """Runs a command that must succeed; returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Laptop:
    """The user's machine.

    Attributes:
        folder: the hosts' disks, and what the user has at home.
        config: the cluster file.
        env: the user's environment.
        servers: the hosts' SSH servers; with it a host ends, and all that it has started.
    """

    folder: Path
    config: Path
    env: dict[str, str]
    servers: dict[str, subprocess.Popen[bytes]]

    def ray(self, *argv: str, timeout: float = 300) -> str:
        program = str(Path(sys.executable).with_name("ray"))
        return run(program, *argv, timeout=timeout, env=self.env, cwd=ROOT)

    def on_head(self, command: str, timeout: float = 300) -> str:
        return self.ray("exec", str(self.config), command, timeout=timeout)


@contextlib.contextmanager
def network(names: dict[str, str]) -> Iterator[None]:
    """Namespaces named after the hosts, on a bridge with this machine."""
    bridge = f"mollify{os.getpid()}"
    ends = {name: f"{bridge}{number}" for number, name in enumerate(names)}
    run("ip", "link", "add", bridge, "type", "bridge")
    try:
        run("ip", "address", "add", f"{HERE}/24", "dev", bridge)
        run("ip", "link", "set", bridge, "up")
        for name, space in names.items():
            run("ip", "netns", "add", space)
            end = ("master", bridge, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "link", "add", ends[name], *end)
            run("ip", "link", "set", ends[name], "up")
            inside = ("ip", "-n", space)
            run(*inside, "address", "add", f"{ADDRESSES[name]}/24", "dev", "eth0")
            run(*inside, "link", "set", "eth0", "up")
            run(*inside, "link", "set", "lo", "up")
            run(*inside, "route", "add", "default", "dev", "eth0")  # Ray asks for it to learn its own address
        yield
    finally:
        for space in names.values():
            subprocess.run(["ip", "netns", "delete", space], capture_output=True)
        for link in (*ends.values(), bridge):  # a namespace may outlive its name by its last connections
            subprocess.run(["ip", "link", "delete", link], capture_output=True)


@contextlib.contextmanager
def host(folder: Path, space: str, address: str, key: Path, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A machine in a namespace, until its SSH server is ended, and all that it has started with it.

    Args:
        folder: its disk.
        space: the namespace.
        address: its own.
        key: that lets the user in.
        env: what every process there finds in its environment.
    """
    home, tmp = folder / "home", folder / "tmp"
    for part in (home, tmp):
        part.mkdir(parents=True)
    users = Path("/etc/passwd").read_text().splitlines()
    root = [f"root:x:0:0:root:{home}:/bin/bash" if line.startswith("root:") else line for line in users]
    (folder / "passwd").write_text("\n".join(root) + "\n")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key"))
    shutil.copy(key.with_suffix(".pub"), folder / "authorized_keys")
    (folder / "sshd_config").write_text(
        f"ListenAddress {address}\nHostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nStrictModes no\nUsePAM no\nPidFile none\n"
        f"MaxStartups 100\nSubsystem sftp internal-sftp\nSetEnv {' '.join(f'{k}={v}' for k, v in env.items())}\n"
    )
    start = (
        f"mount --bind {folder}/passwd /etc/passwd && mount --bind {tmp} /tmp && mkdir -p /run/sshd && "
        f"exec {shutil.which('sshd')} -D -e -f {folder}/sshd_config"
    )
    isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", start]
    with open(folder / "sshd.log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(["ip", "netns", "exec", space, *isolated], stdout=log, stderr=log)
    try:
        listening(server, 22, address, log=folder / "sshd.log")
        yield server
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def laptop() -> Iterator[Laptop]:
    """Hosts that SSH reaches and that have nothing on them, a store on the network, and the user's own machine."""
    if any(Path(place).resolve().is_relative_to("/tmp") for place in (ROOT, sys.prefix)):
        pytest.skip("needs a clone outside /tmp: each host has a /tmp of its own, and would not see it")
    folder = Path(tempfile.mkdtemp(prefix="mollify-", dir="/var/tmp"))  # the hosts have a /tmp of their own
    spaces = {name: f"mollify-{os.getpid()}-{name}" for name in ADDRESSES}
    key = folder / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    keys = {**KEYS, "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "RAY_USAGE_STATS_ENABLED": "0"}
    env = {**os.environ, **keys, "HOME": str(folder / "laptop")}
    env = {name: value for name, value in env.items() if not name.startswith("RAY_UP_")}
    (folder / "laptop").mkdir()
    run(str(Path(sys.executable).with_name("ray")), "get-auth-token", "--generate", env=env)
    (folder / "laptop/.ray/auth_token").chmod(0o600)  # as the file says: Ray lets everybody on the machine read it
    config = yaml.safe_load((ROOT / "clusters/onprem.yaml").read_text())
    config["cluster_name"] = f"mollify-{os.getpid()}"
    config["provider"] |= {"head_ip": ADDRESSES["head"], "worker_ips": [ADDRESSES["worker"]]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    config["setup_commands"] = [f"ln -sfn {sys.prefix} ~/mollify-env"]
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(config))
    machine = Laptop(folder, path, env, {})
    try:
        with network(spaces), juicefs(folder, HERE) as endpoint, contextlib.ExitStack() as hosts:
            env["AWS_ENDPOINT_URL"] = keys["AWS_ENDPOINT_URL"] = endpoint
            for name, address in ADDRESSES.items():
                machine.servers[name] = hosts.enter_context(host(folder / name, spaces[name], address, key, keys))
            yield machine
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(laptop: Laptop) -> Iterator[Laptop]:
    """The cluster, with its worker."""
    laptop.ray("up", "--yes", "--no-config-cache", str(laptop.config), timeout=600)
    deadline = time.monotonic() + 300
    while "CPU" not in (said := laptop.on_head(STATUS)):
        assert time.monotonic() < deadline, said
        time.sleep(3)
    yield laptop
    laptop.ray("down", "--yes", str(laptop.config))


def test_code_arrives_without_data(cluster):
    there = cluster.folder / "head/home/mollify"
    assert (there / "sweeps/search.py").read_bytes() == (ROOT / "sweeps/search.py").read_bytes()
    assert not [name for name in ("runs", ".venv", ".git/config", ".mypy_cache") if (there / name).exists()]
    assert (cluster.folder / "worker/home/mollify/sweeps/search.py").exists()


def test_others_are_not_let_in(cluster):
    token = cluster.folder / "head/home/.ray/auth_token"
    assert token.stat().st_mode & 0o077 == 0
    with socket.socket() as dashboard:
        assert dashboard.connect_ex((ADDRESSES["head"], 8265))
    ask = [str(Path(sys.executable).with_name("ray")), "status", "--address", f"{ADDRESSES['head']}:6379"]
    env = {**cluster.env, "RAY_AUTH_MODE": "token"}
    wrong = subprocess.run(ask, env={**env, "RAY_AUTH_TOKEN": "0" * 64}, capture_output=True, text=True, timeout=120)
    assert wrong.returncode != 0
    assert "CPU" in run(*ask, env=env, timeout=120)


def test_a_sweep_runs_on_the_workers_and_not_on_the_head(cluster):
    """
    1. The sweep ends well, with every trial told once.
    2. Its trials ran on the worker, the driver and the study on the head.
    3. Its status can be read from the folder that all machines see.
    """
    storage = cluster.folder / "sweeps"
    python = "cd mollify && ~/mollify-env/bin/python"
    out = cluster.on_head(f"{python} sweeps/search.py {' '.join(SWEEP)} --storage {storage}", timeout=900)
    assert "Was it worth it?" in out
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{storage}/s/study.sqlite")
    assert len(study.trials) == 3
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    status = json.loads(run(sys.executable, str(ROOT / "sweeps/status.py"), f"{storage}/s", "--json", timeout=120))
    assert (status["state"], status["best"]["number"]) == ("finished", study.best_trial.number)
    assert actors(cluster, "head") == {"SweepStudy"}
    assert "s" in actors(cluster, "worker")


def actors(cluster: Laptop, name: str) -> set[str]:
    """The classes of Ray's actors that a host has run."""
    logs = (cluster.folder / name / "tmp/ray").glob("session_2*/logs/worker-*.out")
    return set(re.findall(r":actor_name:(.+)", "".join(map(Path.read_text, logs))))


@pytest.fixture
def postgresql(laptop: Laptop) -> Iterator[PostgreSQL]:
    """A database server on the network; the head knows its password, where libpq looks, and the command does not."""
    place = Path(tempfile.mkdtemp(prefix="m-pg-", dir="/tmp"))
    place.chmod(0o755)
    server = PostgreSQL(place / "data", HERE, PASSWORD)
    known = laptop.folder / "head/home/.pgpass"
    known.write_text(f"{HERE}:5432:*:postgres:{PASSWORD}\n")
    known.chmod(0o600)
    yield server
    server.stop()
    shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def dashboard(cluster: Laptop) -> Iterator[str]:
    """`ray dashboard`, as a user runs it in a terminal of its own; yields the address."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "dashboard", "-p", str(port), str(cluster.config)]
    with open(cluster.folder / "dashboard.log", "wb") as log:
        forward = subprocess.Popen(command, env=cluster.env, stdout=log, stderr=log, start_new_session=True)
    try:
        listening(forward, port, log=cluster.folder / "dashboard.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(forward.pid, signal.SIGKILL)
        forward.wait()


def test_a_sweep_while_machines_come_and_go(cluster, postgresql, tmp_path):
    """From the laptop: a Ray job, its study in PostgreSQL, its checkpoints in an S3 store; a machine is added to the
    cluster in mid-sweep (clusters/add_machines.py), and then the other one is lost with all that runs on it.

    1. The job ends well, and the laptop has followed it to there, or can see it afterwards.
    2. The added machine trained; the sweep's trials that were on the lost one went on from the store.
    3. The result is that of the same sweep on one machine, to the bit.
    4. Status and checker read it from the laptop, and the checker finds nothing.
    5. The database's password is in no output.
    """
    sweep: tuple[str, ...] = (
        "--dataset",
        "digits",
        "--train-fraction",
        "0.1",
        "--set",
        "validation_fraction=0.05",
        "--name",
        "moving",
    )
    sweep += ("--trials", "6", "--epochs", str(EPOCHS), "--sampler", "random", "--pruner", "none")
    search = [sys.executable, str(ROOT / "sweeps/search.py"), *sweep]
    study = f"postgresql://postgres@{HERE}/postgres"
    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def trials() -> list[optuna.trial.FrozenTrial]:
        with contextlib.suppress(KeyError):  # the study is not there yet
            return optuna.load_study(study_name="moving", storage=postgresql.url).trials
        return []

    with dashboard(cluster) as address, open(tmp_path / "job.log", "wb") as log:
        places = ("--storage", STORE, "--study-url", study, "--address", address)
        command = [*search, *places, "--max-concurrent", "3", "--submit"]
        job = subprocess.Popen(command, env=cluster.env, cwd=tmp_path, stdout=log, stderr=log)

        def wait(reached: Callable[[], object], seconds: float = 600) -> None:
            deadline = time.monotonic() + seconds
            while not reached():
                said = (tmp_path / "job.log").read_text()
                assert job.poll() is None, said
                assert time.monotonic() < deadline, said
                time.sleep(1)

        wait(lambda: sum(len(t.intermediate_values) for t in trials()) >= 4)
        config = yaml.safe_load(cluster.config.read_text())
        config["provider"]["worker_ips"].append(ADDRESSES["late"])
        cluster.config.write_text(yaml.safe_dump(config))
        cluster.ray("up", "--yes", "--no-config-cache", "--no-restart", str(cluster.config), timeout=600)
        added = cluster.on_head("~/mollify-env/bin/python mollify/clusters/add_machines.py")
        assert "the head knows 2 machines beside itself: 10.77.0.2, 10.77.0.3" in added
        wait(lambda: "moving" in actors(cluster, "late"))
        running = [t for t in trials() if t.state == TrialState.RUNNING]
        assert running, "too short a sweep for what is to happen in it"
        cluster.servers["worker"].kill()
        assert job.wait(900) == 0, (tmp_path / "job.log").read_text()

    done = trials()
    assert [t.state for t in done] == [TrialState.COMPLETE] * 6
    there = [f"{STORE}/moving", "--study-url", postgresql.url]
    for program, extra in (("check.py", []), ("status.py", ["--json"])):
        command = [sys.executable, str(ROOT / "sweeps" / program), *there, *extra]
        out = run(*command, timeout=300, env=cluster.env, cwd=tmp_path)
    status = json.loads(out)
    best = min(done, key=lambda trial: trial.values[0])
    assert (status["state"], status["best"]["number"]) == ("finished", best.number)
    run(*search, timeout=900, cwd=tmp_path)
    alone = optuna.load_study(study_name="moving", storage=f"sqlite:///{tmp_path}/runs/moving/study.sqlite").trials
    assert [(t.params, t.values, t.intermediate_values) for t in done] == [
        (t.params, t.values, t.intermediate_values) for t in alone
    ]
    assert PASSWORD not in (tmp_path / "job.log").read_text() + out
