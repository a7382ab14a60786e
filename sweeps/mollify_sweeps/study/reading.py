"""A study as its readers see it: from a copy, so that looking never disturbs the driver, wherever it is kept."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mollify_core.errors import ConfigError, DataError, StorageError, first_line
from mollify_sweeps.storage.store import STUDY, SWEEP, Store
from mollify_sweeps.study.database import Location, quiet_optuna, study_errors
from mollify_sweeps.study.description import Description, described
from mollify_sweeps.study.ledger import Ledger


@dataclass(frozen=True)
class Reading:
    """A study that was found.

    Attributes:
        study: its ledger; None where there is none yet.
        live: its file beside the driver; None when it is on a database server.
        copied: seconds since 1970 when the copy in storage was made that it is read from; None: from the study itself.
    """

    study: Ledger | None
    live: Path | None
    copied: float | None = None


@contextlib.contextmanager
def kept(store: Store, given: str | None = None) -> Iterator[tuple[Description | None, Reading]]:
    """What the sweep.json of a kept sweep says, and its study; arguments and errors as of `opened`."""
    description = told_of(store)
    with opened(store, description, given) as reading:
        yield description, reading


def told_of(store: Store) -> Description | None:
    """What the sweep.json of a kept sweep says; None where there is none.

    Raises:
        StorageError: it says something else; where it is, and what.
        OSError: the storage failed.
    """
    text = store.read(SWEEP)
    try:
        return None if text is None else Description.from_json(text)
    except DataError as error:
        raise StorageError(f"Cannot read {(store / SWEEP).uri}: {error}") from None


@contextlib.contextmanager
def opened(store: Store, description: Description | None, given: str | None = None) -> Iterator[Reading]:
    """The study of a kept sweep, for as long as the context lasts.

    Args:
        store: the sweep's folder.
        description: what its sweep.json says; None where there is none.
        given: the study's URL, from the user.

    Raises:
        ConfigError: its URL has a password and was not given.
        StorageError: the study or the storage cannot be read.
        DataError: the study describes its sweep in a way that cannot be read.
    """
    quiet_optuna()
    location, copied = locate(store, description, given), None
    live = location.file
    with tempfile.TemporaryDirectory(prefix="mollify-study-") as scratch, study_errors():
        if live is not None:
            copy = Path(scratch) / STUDY
            if live.is_file():
                wrong = copy_study(live, copy)
                if wrong:
                    raise StorageError(f"Cannot read the study {str(live)!r}: {wrong}")
            elif (data := store.read(STUDY)) is not None:
                copied = store.fs.get_file_info(f"{store.root}/{STUDY}").mtime.timestamp()
                copy.write_bytes(data)
            else:
                yield Reading(None, live)
                return
            location = Location.of_file(copy)
        try:
            study = location.load(name_of(store, description))
        except DataError as error:
            raise DataError(f"Cannot read the study of {store.uri}: {error}") from None
        if study is not None and described(study) is None:  # it is being made just now
            study = None
        yield Reading(study, live, copied)


def locate(store: Store, description: Description | None, given: str | None = None) -> Location:
    """Where the live study of a kept sweep is, or would be; arguments as for `opened`.

    Raises:
        ConfigError: its URL has a password and was not given.
    """
    own = Location.of_file((store.local or Path()) / STUDY)
    location = Location(given or (description.study_url if description else "") or own.url)
    if location.incomplete:
        name = name_of(store, description)
        raise ConfigError(f"The study of sweep {name!r} is at {location.url}; give its address by --study-url")
    if given or not store.local or location.file is None:
        return location
    # A sweep's own comes first, and alone where it was in the sweep's folder: that may have been moved or copied.
    elsewhere = description is not None and str(location.file.parent) != description.storage
    return location if elsewhere and not (own.file and own.file.is_file()) else own


def name_of(store: Store, description: Description | None) -> str:
    """A kept sweep's name, which its study has too."""
    return description.name if description else store.root.rpartition("/")[2]


def copy_study(source: Path, target: Path, *, thorough: bool = False) -> str | None:
    """Copies an SQLite study in a consistent state, also while it is written; what is wrong with it, or None.

    Args:
        source: the study's file; it is only read.
        target: no file yet.
        thorough: look at every page.
    """
    try:
        try:
            _backup(source, target)
        except sqlite3.OperationalError:
            # What a killed writer had begun must be undone before anything can be read: in the copy.
            if not source.with_name(f"{source.name}-journal").exists():
                raise
            for suffix in ("", "-journal"):
                shutil.copyfile(source.with_name(source.name + suffix), target.with_name(target.name + suffix))
        with contextlib.closing(sqlite3.connect(target)) as copy:
            (verdict,) = copy.execute("PRAGMA integrity_check(1)" if thorough else "SELECT 'ok'").fetchone()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return first_line(error)
    return None if verdict == "ok" else verdict.splitlines()[-1]


def _backup(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True, timeout=60)) as study:
        with contextlib.closing(sqlite3.connect(target)) as copy:
            study.backup(copy)
