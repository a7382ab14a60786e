"""Who runs a sweep: one driver at a time.

On its machine a lock on a file says so, which ends with its process, however that ends. A study in a database server
and an object store are reached from other machines and folders too: there its driver signs every few seconds, and is
taken for dead when it has not for a while. No clock is compared for that: whoever comes looks whether the signature
changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from optuna.exceptions import StorageInternalError

from mollify_core.documents import json_of
from mollify_core.errors import ConfigError, DataError, StorageError, SweepError, first_line
from mollify_core.foreign import clean
from mollify_core.kinds import Number, Record, Text, Whole, fits
from mollify_sweeps.storage.store import Store
from mollify_sweeps.study.ledger import Ledger

FRESH = 90.0  # seconds for which what a driver left is a sign that it runs, to those who only look
DRIVER = "driver.json"  # in an object store: the signature
_KEY = "driver"  # attribute of a study: the signature
_AWAY = (StorageInternalError, OSError)  # of a study's database, and of a store
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
        StorageError: there can be no such file.
    """
    try:
        lock = open(folder / "driver.lock", "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise StorageError(f"Cannot write {str(folder / 'driver.lock')!r}: {error.strerror}") from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = clean(" on ".join(file.read(1000).split()), 200, "") or "unknown"
            raise ConfigError(f"This sweep is being run already, by process {owner}") from None
        file.truncate(0)
        file.write(f"{os.getpid()} {socket.gethostname()}")
        file.flush()
        yield


def driver_of(folder: Path) -> Driver | None:
    """The driver that holds the sweep whose lock is in `folder`, or None when none does."""
    try:
        with open(folder / "driver.lock", encoding="utf-8", errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pid, _, host = file.read(1000).strip().partition(" ")
                return int(pid) if re.fullmatch("[1-9][0-9]{0,8}", pid) else None, host or socket.gethostname()
    except FileNotFoundError:
        pass
    return None


# ---- on several


class Board(Protocol):
    """Where a driver signs."""

    def read(self) -> dict[str, Any] | None:
        """The signature, where there is one."""

    def write(self, signature: dict[str, Any] | None) -> None:
        """Puts a signature in the place of whatever is there, or none."""


_SIGNATURE = Record(
    {"pid": Whole(1, 2**31 - 1), "host": Text(1000), "folder": Text(), "id": Text(100), "time": Number(0, 1e12)}
)


def _signature(tree: Any) -> dict[str, Any] | None:
    return {name: tree[name] for name in _SIGNATURE.required} if fits(tree, _SIGNATURE) else None


class InStudy:
    """An attribute of the first study of a sweep, on a database server."""

    def __init__(self, study: Ledger) -> None:
        self._study = study

    def read(self) -> dict[str, Any] | None:
        """See `Board`; what is no signature is none."""
        return _signature(self._study.user_attrs.get(_KEY))

    def write(self, signature: dict[str, Any] | None) -> None:
        """See `Board`."""
        self._study.set_user_attr(_KEY, signature)


class InStore:
    """A small file in the folder of a sweep, in an object store; these show at once what was written last.

    Each method raises a StorageError when the store does not do it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def read(self) -> dict[str, Any] | None:
        """See `Board`; what is no signature is none."""
        with self._told():
            data = self._store.read(DRIVER)
        with contextlib.suppress(DataError):
            return _signature(json_of(data or b""))
        return None

    def write(self, signature: dict[str, Any] | None) -> None:
        """See `Board`."""
        with self._told():
            if signature is None:
                self._store.fs.delete_file(f"{self._store.root}/{DRIVER}")
            else:
                self._store.write(DRIVER, json.dumps(signature).encode())

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"Cannot use storage {self._store.uri!r}: {first_line(error)}") from None


def boards(store: Store, served: Ledger | None) -> list[Board]:
    """Where the driver of a sweep signs: wherever another machine, or another folder of this one, may come from.

    Args:
        store: the sweep's folder.
        served: its study, where that is on a database server.
    """
    found: list[Board] = [] if store.local else [InStore(store)]
    return found if served is None else [*found, InStudy(served)]


def signer(places: Sequence[Board]) -> tuple[Driver | None, Path | None]:
    """(driver, its folder) of another machine that has signed of late; the folder also when it has not."""
    for signature in filter(None, (place.read() for place in places)):
        fresh = signature["host"] != socket.gethostname() and abs(time.time() - signature["time"]) < FRESH
        return (signature["pid"], signature["host"]) if fresh else None, Path(signature["folder"])
    return None, None


@contextlib.contextmanager
def signed(places: Sequence[Board], folder: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Holds a sweep for this process, which holds the lock in `folder`, by a signature in each of some places.

    Args:
        places: see `boards`.
        folder: where this driver keeps its files.
        say: takes one line for the user, while it waits.

    Yields:
        A function that raises a SweepError once another driver has taken the sweep: this one was cut off for too long.

    Raises:
        ConfigError: a driver on another machine, or in another folder, holds it.
    """
    own = {"pid": os.getpid(), "host": socket.gethostname(), "folder": str(folder), "id": uuid.uuid4().hex}
    _wait_for_silence(places, own, say)
    for place in places:
        _sign(place, own)
    if places:
        time.sleep(_SETTLE)
    for place in places:
        _refuse(place.read(), own)
    ended, taken = threading.Event(), threading.Event()

    def keep() -> None:
        while places and not ended.wait(_EVERY):
            for place in places:
                with contextlib.suppress(*_AWAY):  # the study's and the storage's own operations tell the user
                    found = place.read()
                    if not found or found["id"] != own["id"]:
                        taken.set()
                        return
                    _sign(place, own)

    def check() -> None:
        if taken.is_set():
            raise SweepError("Another driver has taken this sweep over, since this one was cut off from its storage")

    thread = threading.Thread(target=keep, name="claim", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        ended.set()
        thread.join(_EVERY)
        for place in places if not taken.is_set() else ():
            with contextlib.suppress(*_AWAY):
                place.write(None)


def _wait_for_silence(places: Sequence[Board], own: dict[str, Any], say: Callable[[str], None]) -> None:
    """Returns once nobody signs; at once where the last who did had our lock, so that it must be dead."""

    def others() -> list[dict[str, Any]]:
        found = filter(None, (place.read() for place in places))
        return [one for one in found if (one["host"], one["folder"]) != (own["host"], own["folder"])]

    last = others()
    if not last:
        return
    say(f"looking for {_LAPSE:.0f} s whether {_named(last[0])} still runs this sweep")
    until = time.monotonic() + _LAPSE
    while time.monotonic() < until:
        time.sleep(_EVERY / 5)
        now = others()
        if not now:
            return
        for one in now:
            if one not in last:
                _refuse(one, own)


def _refuse(signature: dict[str, Any] | None, own: dict[str, Any]) -> None:
    if signature is not None and signature["id"] != own["id"]:
        raise ConfigError(f"This sweep is being run already, by {_named(signature)}")


def _sign(place: Board, own: dict[str, Any]) -> None:
    place.write({**own, "time": time.time()})


def _named(signature: dict[str, Any]) -> str:
    return f"process {signature['pid']} on {clean(signature['host'], 200, '')}"
