"""How a sweep is stopped from outside, and gone on with."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import sys
import time
from pathlib import Path

import mollify_sweeps
from mollify_core.errors import ConfigError, SweepError
from mollify_core.hiding import MASK
from mollify_core.program import shell_command
from mollify_sweeps.inspection.state import PROGRAMS, SweepStatus
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study import claim

_STOP_PATIENCE = 120.0


def stop(sweep: SweepStatus, patience: float = _STOP_PATIENCE) -> None:
    """Asks the driver of a sweep to stop, as Ctrl-C does, and waits until it has, for so many seconds.

    Raises:
        ConfigError: no driver runs, or it is not a process of this machine or this user.
        SweepError: it has not stopped in time; it still may.
    """
    if sweep.state != "running" or sweep.beside is None:
        raise ConfigError(f"Expected a running sweep to stop, but {sweep.name!r} is {sweep.state}")
    folder = Path(sweep.beside)
    if sweep.pid is None or sweep.host != socket.gethostname() or not _has_open(sweep.pid, folder / "driver.lock"):
        where = f"on {sweep.host}" if sweep.host and sweep.host != socket.gethostname() else "on another machine"
        process = f"process {sweep.pid}" if sweep.pid else "its driver"
        raise ConfigError(f"Sweep {sweep.name!r} runs {where}; stop {process} there")
    try:
        os.kill(sweep.pid, signal.SIGTERM)
    except PermissionError:
        raise ConfigError(f"Sweep {sweep.name!r} is run by process {sweep.pid} of another user") from None
    deadline = time.monotonic() + patience
    while claim.driver_of(folder) is not None:
        if time.monotonic() > deadline:
            raise SweepError(f"Process {sweep.pid} was asked to stop and has not yet after {patience:.0f} s")
        time.sleep(0.2)


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open: it may be of another machine or container, whose numbers mean nothing here."""
    if not Path("/proc/self/fd").is_dir():
        return True
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if entry.samefile(path):
                    return True
    return False


def command_of(sweep: SweepStatus) -> str:
    """The command that goes on with a sweep where it lies now, to be typed.

    Raises:
        ConfigError: it was not kept, or would not find the sweep.
    """
    typed = shell_command(sweep.program, _words(sweep), sweep.folder)
    return f"cd {shlex.quote(sweep.folder)} && {typed}" if sweep.folder else typed


def _words(sweep: SweepStatus) -> list[str]:
    """The arguments of that command: those that were kept, with the storage in which the sweep was found."""
    if sweep.command is None or sweep.program not in PROGRAMS:
        raise ConfigError(f"The command of sweep {sweep.name!r} was not kept; repeat the one that started it")
    if sweep.storage == sweep.kept_as or not sweep.kept_as:
        return sweep.command
    found = Store(sweep.storage, opened=False)
    if found.name != sweep.name:
        raise ConfigError(f"Sweep {sweep.name!r} lies in {found.uri!r}: give the folder its name back to continue it")
    return [*sweep.command, "--storage", found.parent]


def go_on(sweep: SweepStatus) -> None:
    """Becomes the command that goes on with a sweep; does not return.

    What a sweep says of itself may come from elsewhere: it chooses neither the folder in which this process works nor
    a cluster that it connects to. The user does, by typing the command.

    Raises:
        ConfigError: it was not kept, is not whole, is only for a user to type, cannot be run here, or runs already.
    """
    typed, words = command_of(sweep), _words(sweep)
    if sweep.state == "running":
        process = f"process {sweep.pid}" if sweep.pid else "a process elsewhere"
        raise ConfigError(f"Expected a sweep that does not run, but {sweep.name!r} is being run by {process}")
    if MASK in typed:
        raise ConfigError("The password in the command, as in --study-url, was not kept; type the command with it")
    if sweep.folder and not Path(sweep.folder).is_dir():
        raise ConfigError(f"Sweep {sweep.name!r} was started in {sweep.folder!r}, which is not on this machine")
    if sweep.folder and not Path(sweep.folder).samefile(Path()):
        raise ConfigError(f"Sweep {sweep.name!r} was started in {sweep.folder!r}: type the command, or --run it there")
    for option in ("--address", "--submit"):
        if any(word.partition("=")[0] == option for word in words):
            raise ConfigError(f"Expected a command that runs on this machine for --run, but got {option}: type it")
    script = Path(mollify_sweeps.__path__[0]).resolve().parents[1] / sweep.program
    module = ["-P", "-m", mollify_sweeps.__name__, script.stem]  # of an installation without scripts
    os.execv(sys.executable, [sys.executable, *([str(script)] if script.is_file() else module), *words])
