"""A real SLURM on this machine, of Debian's slurm-wlm and munge: two nodes, a partition that another one preempts."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from servers import free_port

TOOLS = ("slurmctld", "slurmd", "munged", "sbatch", "runuser")
_CONFIGURATION = """
ClusterName=t
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPort={port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
SchedulerType=sched/backfill
SchedulerParameters=requeue_delay=1,sched_interval=2,bf_interval=2
OverTimeLimit=0
MailProg=/bin/true
SlurmdParameters=config_overrides
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{second}] CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes=n[1-2] Default=YES PriorityTier=1 GraceTime={grace} MaxTime=INFINITE State=UP
PartitionName=high Nodes=n[1-2] PriorityTier=10 MaxTime=INFINITE State=UP
"""


class Slurm:
    """A running cluster.

    Attributes:
        env: with which its commands are called.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def __call__(self, *command: str, cwd: Path | None = None) -> str:
        """What one of SLURM's commands prints."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=self.env, cwd=cwd)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def _of(self, job: str, name: str) -> str:
        found = re.search(rf"\b{name}=(\S+)", self("scontrol", "show", "job", job))
        assert found
        return found[1]

    def restarts(self, job: str) -> int:
        """How often a job was started again."""
        return int(self._of(job, "Restarts"))

    def wait(self, job: str, *states: str, timeout: float = 300, hurry: bool = False) -> str:
        """Waits until a job is in one of these states, as RUNNING, COMPLETED, FAILED, CANCELLED or TIMEOUT.

        Args:
            job: its number.
            states: that are waited for.
            timeout: in seconds.
            hurry: a job that is requeued starts at once, not two minutes later.
        """
        deadline = time.monotonic() + timeout
        while (state := self._of(job, "JobState")) not in states:
            assert time.monotonic() < deadline, f"job {job} is {state}"
            if hurry and state == "PENDING":
                command = ["scontrol", "update", f"JobId={job}", "StartTime=now"]
                subprocess.run(command, env=self.env, capture_output=True, timeout=60)  # it may have started already
            time.sleep(0.5)
        return state


@contextlib.contextmanager
def slurm(folder: Path, cpus: int = 2, grace: int = 60) -> Iterator[Slurm]:
    """A cluster whose daemons end with the context.

    Args:
        folder: of its own.
        cpus: that each node pretends to have.
        grace: seconds that a preempted job has to leave.
    """
    host, first = socket.gethostname().partition(".")[0], free_port()
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir(parents=True)
    folder.chmod(0o755)
    configuration = folder / "slurm.conf"
    ports = {"port": free_port(), "first": first, "second": first + 1}
    configuration.write_text(_CONFIGURATION.format(host=host, folder=folder, cpus=cpus, grace=grace, **ports))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    munge = folder / "munge"
    munge.mkdir()
    for path in (key, munge):
        shutil.chown(path, "munge", "munge")
    private = [f"--{name}={munge}/{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    env = {**os.environ, "SLURM_CONF": str(configuration)}
    munged = ["runuser", "-u", "munge", "--", "munged", f"--key-file={key}", *private]
    subprocess.run(munged, check=True, timeout=30, capture_output=True)
    cluster = Slurm(env)
    try:
        cluster("slurmctld", "-c", "-f", str(configuration))
        for node in ("n1", "n2"):
            cluster("slurmd", "-N", node, "-f", str(configuration))
        ready = "sinfo --noheader --Node --format=%t | grep -c idle | grep -q 4"  # two nodes in two partitions
        cluster("timeout", "50", "sh", "-c", f"until {ready}; do sleep 0.5; done")
        yield cluster
    finally:
        for pid in (*folder.glob("*.pid"), munge / "pid-file"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)
        time.sleep(1)
