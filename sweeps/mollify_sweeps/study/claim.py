"""Who runs a sweep: one driver at a time.

On its machine a lock on a file says so, which ends with its process, however that ends. A study in a database server is
reached from other machines too: there its driver signs every few seconds, and is taken for dead when it has not for a
while. No clock is compared for that: whoever comes looks whether the signature changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError

from mollify_core.errors import ConfigError, SweepError
from mollify_sweeps.study.ledger import Ledger

FRESH = 90.0  # seconds for which what a driver left is a sign that it runs, to those who only look
_KEY = "driver"  # attribute of a study: the signature
_EVERY = 5.0  # seconds between signatures
_LAPSE = 30.0  # seconds without one after which a driver is dead
_SETTLE = 1.0  # seconds in which two that came at once have both signed: the last one stays

Driver = tuple[int | None, str | None]
"""(process, machine), as far as they are known."""


# ---- on one machine


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the sweep whose driver keeps its files in `folder` for this process.

    Raises:
        ConfigError: another process holds it.
    """
    with open(folder / "driver.lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = " on ".join(file.read().split()) or "unknown"
            raise ConfigError(f"This sweep is being run already, by process {owner}") from None
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
        yield


def driver_of(folder: Path) -> Driver | None:
    """The driver that holds the sweep whose lock is in `folder`, or None when none does."""
    try:
        with open(folder / "driver.lock", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, _, host = file.read().strip().partition(" ")
                return int(pid) if pid.isdigit() else None, host or socket.gethostname()
    except FileNotFoundError:
        pass
    return None


# ---- on several


def signer(study: Ledger) -> tuple[Driver | None, Path | None]:
    """(driver, its folder) of another machine that has signed a study of late; the folder also when it has not."""
    signature = study.user_attrs.get(_KEY)
    if not signature:
        return None, None
    fresh = signature["host"] != socket.gethostname() and abs(time.time() - signature["time"]) < FRESH
    return (signature["pid"], signature["host"]) if fresh else None, Path(signature["folder"])


@contextlib.contextmanager
def signed(study: Ledger, folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Holds a sweep in its study for this process, which holds the lock in `folder`.

    Args:
        study: the sweep's, in a database server.
        folder: where this driver keeps its files.
        say: takes one line for the user, while it waits.

    Yields:
        A function that raises a SweepError once another driver has taken the sweep: this one was cut off for too long.

    Raises:
        ConfigError: a driver on another machine, or in another folder, holds it.
    """
    own = {"pid": os.getpid(), "host": socket.gethostname(), "folder": str(folder), "id": uuid.uuid4().hex}
    _wait_for_silence(study, own, say)
    _sign(study, own)
    time.sleep(_SETTLE)
    _refuse(study.user_attrs[_KEY], own)
    ended, taken = threading.Event(), threading.Event()

    def keep() -> None:
        while not ended.wait(_EVERY):
            with contextlib.suppress(StorageInternalError):  # away: the study's own operations tell the user
                found = study.user_attrs.get(_KEY)
                if not found or found["id"] != own["id"]:
                    taken.set()
                    return
                _sign(study, own)

    def check() -> None:
        if taken.is_set():
            raise SweepError("Another driver has taken this sweep over, since this one was cut off from the study")

    thread = threading.Thread(target=keep, name="claim", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join(_EVERY)
        with contextlib.suppress(StorageInternalError):
            if not taken.is_set():
                study.set_user_attr(_KEY, None)


def _wait_for_silence(study: Ledger, own: dict[str, Any], say: Callable[[str], None]) -> None:
    """Returns once nobody signs; at once where the last who did had our lock, so that it must be dead."""
    last = study.user_attrs.get(_KEY)
    if not last or (last["host"], last["folder"]) == (own["host"], own["folder"]):
        return
    say(f"looking for {_LAPSE:.0f} s whether {_named(last)} still runs this sweep")
    until = time.monotonic() + _LAPSE
    while time.monotonic() < until:
        time.sleep(_EVERY / 5)
        now = study.user_attrs.get(_KEY)
        if not now:
            return
        if now != last:
            _refuse(now, own)


def _refuse(signature: dict[str, Any], own: dict[str, Any]) -> None:
    if signature["id"] != own["id"]:
        raise ConfigError(f"This sweep is being run already, by {_named(signature)}")


def _sign(study: Ledger, own: dict[str, Any]) -> None:
    study.set_user_attr(_KEY, {**own, "time": time.time()})


def _named(signature: dict[str, Any]) -> str:
    return f"process {signature['pid']} on {signature['host']}"
