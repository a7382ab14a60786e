"""Hands a command to a Ray cluster as a job and follows its log; the job outlives the terminal that submitted it.

The job runs the very same command where `ray up` has put the project, with the cluster's own data and keys. The small
files that the command names (a space, a recipe) go along and are kept there, under a name made of their content, so
that the same command finds its sweep again.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import logging
import os
import re
import secrets
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mollify_core.errors import ConfigError, SweepError, first_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_SENT = ("space", "recipe")  # options that name a small file, which goes along
_THERE = ("data_dir", "cache_dir", "storage")  # options that name a place, which the cluster must have
_SECRET = re.compile(r"://[^/?#\s]*:[^/?#@\s]*@|[?&][^=&]*(password|secret|signature|token)[^=&]*=", re.IGNORECASE)
_LEAVE = 60  # seconds that a job which is stopped gets to leave; Ray's own are 3
_LOST = 75  # exit code where the job's end was not seen: "try again later" (sysexits.h)


def submit(args: argparse.Namespace) -> int:
    """Submits the command line `args.argv` of `args.program` and follows it to its end.

    Returns:
        The job's own exit code; 130 when following was ended by Ctrl-C, 75 when the connection was lost.

    Raises:
        ConfigError: the command cannot work on a cluster, or would show a password there; or there is no cluster.
        SweepError: the cluster refused the job.
    """
    words, files = portable(args)
    address = _address(args.address)
    client = _connect(address)
    job = f"{args.name or Path(args.program).stem}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory(prefix="mollify-job-") as folder:
        for name, path in files.items():
            shutil.copyfile(path, Path(folder) / name)
        try:
            client.submit_job(
                entrypoint=entrypoint(args.submit, [args.program, *words], list(files)),
                submission_id=job,
                runtime_env={
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(_LEAVE)},
                    **({"working_dir": folder} if files else {}),
                },
            )
        except Exception as error:  # requests', or Ray's plain RuntimeError
            raise SweepError(f"The cluster at {address} has not taken the job: {first_line(error)}") from None
    print(f"job {job} runs on {address}; Ctrl-C stops following it, not the job", flush=True)
    ray = "RAY_AUTH_MODE=token ray" if os.environ.get("RAY_AUTH_MODE") == "token" else "ray"  # its CLI does not look
    at = f"--address {address} {job}"
    later = f"the job goes on\n  look again: {ray} job logs --follow {at}\n  stop it:    {ray} job stop {at}"
    try:
        return _follow(client, job)
    except KeyboardInterrupt:
        print(f"\n{later}")
        return 130
    except Exception as error:  # aiohttp's or requests': a network, or this machine, was away
        print(f"\nlost the connection ({first_line(error)}); {later}")
        return _LOST


def portable(args: argparse.Namespace) -> tuple[list[str], dict[str, Path]]:
    """The words of the command as the cluster runs it, and the files that go along, by their names there.

    Raises:
        ConfigError: a word holds a password, or names a place that only this machine can mean.
    """
    if any(_SECRET.search(word) for word in args.argv):
        raise ConfigError(
            "Expected no password in a command with --submit, but got one, which the cluster would show with its jobs; "
            "keep it on the head, for PostgreSQL in ~/.pgpass"
        )
    for option in _THERE:
        _check_there(option, getattr(args, option))
    for option in ("dataset", "data"):  # names, or folders of images
        for name in (getattr(args, option, None) or "").split(","):
            if "/" in name:
                _check_there(option, name)
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--submit", nargs="?")
    for option in ("--address", *(f"--{option}" for option in _SENT)):
        own.add_argument(option)
    words = own.parse_known_args(args.argv)[1]
    files = {}
    for option in _SENT:
        path = getattr(args, option)
        if path is None:
            continue
        try:
            digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]
        except OSError as error:
            raise ConfigError(f"Cannot read --{option} {path!r}: {error.strerror}") from None
        name = f"{option}-{digest}{Path(path).suffix}"
        files[name] = Path(path)
        words += [f"--{option}", f"runs/{name}"]
    return [*words, "--address", "auto"], files


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


def _check_there(option: str, value: str | None) -> None:
    if value is None or "://" in value or Path(value).is_absolute():
        return
    flag = f"--{option.replace('_', '-')}"
    what = "a path from / that all machines of the cluster have" + (" or s3://…" if option == "storage" else "")
    raise ConfigError(f"Expected {flag} with --submit to be {what}, but got {value!r}, which is on this one")


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
