"""Hands a command to a Ray cluster as a job and follows its log; the job outlives the terminal that submitted it.

The job runs the very same command where `ray up` has put the project, with the cluster's own data and keys. The small
files that the command names (a space, a recipe) go along and are kept there, under a name made of their content, so
that the same command finds its sweep again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mollify_core.errors import ConfigError, SweepError, first_line
from mollify_core.program import shell_command

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_LEAVE = 60  # seconds that a job which is stopped gets to leave; Ray's own are 3
_LOST = 75  # exit code where the job's end was not seen: "try again later" (sysexits.h)


@dataclass(frozen=True)
class Job:
    """A command that a cluster is to run.

    Attributes:
        name: what its id begins with.
        program: as in "sweeps/search.py".
        words: its arguments, as the cluster runs them.
        files: that go along: name there -> path here.
        folder: of the project on the cluster; below the home folder unless absolute.
        address: of the cluster's dashboard; None looks into the environment.
    """

    name: str
    program: str
    words: tuple[str, ...]
    files: dict[str, Path]
    folder: str
    address: str | None


def submit(job: Job) -> int:
    """Submits a job and follows it to its end.

    Returns:
        The job's own exit code; 130 when following was ended by Ctrl-C, 75 when the connection was lost.

    Raises:
        ConfigError: there is no cluster.
        SweepError: the cluster refused the job.
    """
    address = _address(job.address)
    client = _connect(address)
    name = f"{job.name}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="mollify-job-") as folder:
        for there, here in job.files.items():
            shutil.copyfile(here, Path(folder) / there)
        try:
            client.submit_job(
                entrypoint=entrypoint(job.folder, [job.program, *job.words], list(job.files)),
                submission_id=name,
                runtime_env={
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_LEAVE)},
                    **({"working_dir": folder} if job.files else {}),
                },
            )
        except Exception as error:  # requests', or Ray's plain RuntimeError
            raise SweepError(f"The cluster at {address} has not taken the job: {first_line(error)}") from None
    print(f"job {name} runs on {address}; Ctrl-C stops following it, not the job", flush=True)
    ray = shell_command("ray", [])
    if os.environ.get("RAY_AUTH_MODE") == "token":  # its CLI does not look
        ray = f"RAY_AUTH_MODE=token {ray}"
    at = f"--address {address} {name}"
    later = f"the job goes on\n  look again: {ray} job logs --follow {at}\n  stop it:    {ray} job stop {at}"
    try:
        return _follow(client, name)
    except KeyboardInterrupt:
        print(f"\n{later}")
        return 130
    except Exception as error:  # aiohttp's or requests': a network, or this machine, was away
        print(f"\nlost the connection ({first_line(error)}); {later}")
        return _LOST


def entrypoint(folder: str, command: list[str], files: list[str]) -> str:
    """The shell command of the job.

    Args:
        folder: of the project on the cluster; below the home folder unless absolute.
        command: program and its arguments.
        files: names of files in the job's own folder, which Ray removes after the job; they are kept in ``runs/``.
    """
    keep = [f'mkdir -p runs && cp "$given"/{shlex.quote(name)} runs/' for name in files]
    path = 'export PATH="$HOME/mollify-env/bin:$PATH"'  # where clusters/onprem.yaml installs
    steps = ["umask 077", "given=$PWD", path, "cd", f"cd {shlex.quote(folder)}", *keep]
    return " && ".join([*steps, f"exec python {shlex.join(command)}"])


def _address(given: str | None) -> str:
    """The address of the cluster's dashboard."""
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        given = given or os.environ.get(name)
    address = given or "http://127.0.0.1:8265"
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"Expected --address, or $RAY_ADDRESS, with --submit to be http://…, but got {address!r}")
    return address.rstrip("/")


def _connect(address: str) -> JobSubmissionClient:
    """A client of a cluster that answers."""
    from ray._private.authentication import authentication_token_setup
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of every upload and every connection
    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        return JobSubmissionClient(address)
    except Exception as error:  # requests', or Ray's plain ones
        raise ConfigError(
            f"Cannot reach a Ray cluster at {address} ({first_line(error)}); is `ray dashboard cluster.yaml` running?"
        ) from None


def _follow(client: JobSubmissionClient, job: str) -> int:
    """Prints the job's log until it ends; returns its exit code."""
    asyncio.run(_print_log(client, job))
    info = client.get_job_info(job)
    if not info.status.is_terminal():
        raise ConnectionError("its log broke off")
    if info.status != "STOPPED" and info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    print(f"the job has {info.status.lower()}: {info.message}")
    return 130 if info.status == "STOPPED" else 1


async def _print_log(client: JobSubmissionClient, job: str) -> None:
    async for text in client.tail_job_logs(job):
        print(text, end="", flush=True)
