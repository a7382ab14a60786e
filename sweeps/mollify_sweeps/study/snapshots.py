"""Copies of a live SQLite study on a storage that is not local: written while a sweep runs, compared when it starts."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from mollify_core.errors import StorageError, first_line
from mollify_sweeps.storage.patience import reason
from mollify_sweeps.storage.store import STUDY, Store
from mollify_sweeps.study.database import Location, progress
from mollify_sweeps.study.reading import copy_study

_EVERY = 30.0  # seconds between copies while nothing ends
_PAUSE = 1.0  # seconds between attempts at the end

Progress = tuple[int, int, int]


def live_file(store: Store, location: Location) -> Path | None:
    """The file of a live study that has its snapshots in `store`; None where there are none."""
    return location.file if store.local is None else None


def restore(store: Store, location: Location, name: str, claim: Callable[[], AbstractContextManager]) -> str | None:
    """Takes the study's snapshot in `store` for the live one, where that is gone, damaged or older.

    Args:
        store: of the sweep.
        location: of the live study.
        name: of the study.
        claim: holds the sweep while its study is exchanged.

    Returns:
        What was done, in one sentence; None when nothing was.

    Raises:
        StorageError: the storage cannot be read.
    """
    live = live_file(store, location)
    if live is None:
        return None
    try:
        data = store.read(STUDY)
    except OSError as error:
        raise StorageError(f"Cannot read storage {store.uri!r}: {first_line(error)}") from None
    exists = live.exists()
    here = _progress(live, name) if exists else None
    with tempfile.TemporaryDirectory() as folder:
        there = _progress_of(data, Path(folder), name)
    if data is None or there is None or (here is not None and here >= there):
        return None
    live.parent.mkdir(parents=True, exist_ok=True)
    with claim():
        aside = live.with_name(f"{STUDY}.older")
        for suffix in ("-journal", "-wal", "-shm"):  # of the old file: they must not be applied to the new one
            live.with_name(live.name + suffix).unlink(missing_ok=True)
        if exists:
            os.replace(live, aside)
        draft = live.with_name(f"{live.name}.{os.getpid()}.tmp")
        draft.write_bytes(data)
        os.replace(draft, live)
    if not exists:
        return f"the study was restored from its snapshot in {store.uri}"
    why = "damaged" if here is None else "older than its snapshot"
    return f"the study on this machine was {why}; it goes on from the one in {store.uri} (the other is kept as {aside})"


class Snapshots:
    """Keeps the snapshot of a live study new, in a thread: a slow storage delays nothing.

    Args:
        store: of the sweep.
        location: of the live study.
        name: of the study.
        notice: takes one line for the user, from another thread.
    """

    def __init__(self, store: Store, location: Location, name: str, notice: Callable[[str], None]) -> None:
        self._live, self._store, self._name, self._notice = live_file(store, location), store, name, notice
        self._ours: tuple | None = None  # the snapshot on storage, as we left it
        self._told = self._failed = self._ended = False
        self._wanted = threading.Event()
        self._thread = threading.Thread(target=self._work, name="snapshots", daemon=True)
        if self._live is not None:
            self._thread.start()

    def ask(self) -> None:
        """A trial has ended: the next copy is due."""
        self._wanted.set()

    def close(self, seconds: float) -> None:
        """Makes a last copy, for which it waits so long."""
        if self._live is None:
            return
        self._ended = True
        self._wanted.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._notice(f"the last snapshot of the study could not be stored; the study itself is in {self._live}")

    def _work(self) -> None:
        while not self._ended:
            self._wanted.wait(_EVERY)
            self._wanted.clear()
            stored = self._try()
        while not stored:
            time.sleep(_PAUSE)
            stored = self._try()

    def _try(self) -> bool:
        assert self._live is not None
        if not self._live.exists():
            return True
        try:
            self._copy(self._live)
        except OSError as error:
            self._store.renew()
            self._tell(f"the study's snapshot cannot be stored for now; the sweep goes on ({reason(error)})")
            self._failed = True
            return False
        if self._failed:
            self._notice("the study's snapshot is stored again")
            self._told = self._failed = False
        return True

    def _copy(self, live: Path) -> None:
        """A consistent state of the study, as SQLite's own backup gives it; never in the place of a newer one."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / STUDY
            wrong = copy_study(live, copy)
            if wrong:
                raise StorageError(wrong)
            found = self._found()
            if found is not None and found != self._ours:
                there = _progress_of(self._store.read(STUDY), Path(folder), self._name)
                if there is not None and there > (_progress(copy, self._name) or (0, 0, 0)):
                    self._tell(
                        f"{(self._store / STUDY).uri} is newer than this sweep's study and stays; is it run elsewhere?"
                    )
                    return
            self._store.write(STUDY, copy.read_bytes())
            self._ours = self._found()

    def _found(self) -> tuple | None:
        info = self._store.fs.get_file_info(f"{self._store.root}/{STUDY}")
        return (info.mtime_ns, info.size) if info.is_file else None

    def _tell(self, text: str) -> None:
        if not self._told:
            self._notice(text)
        self._told = True


def _progress_of(data: bytes | None, folder: Path, name: str) -> Progress | None:
    if data is None:
        return None
    path = folder / "other.sqlite"
    path.write_bytes(data)
    return _progress(path, name)


def _progress(path: Path, name: str) -> Progress | None:
    """How far the study in a file has come; None when it cannot be read."""
    try:
        study = Location.of_file(path).load(name)
        return (0, 0, 0) if study is None else progress(study)
    except Exception:  # SQLite, SQLAlchemy and Optuna each have their own for a damaged file
        return None
