"""A study's database server that is gone without a word."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from pathlib import Path

import pytest
from optuna.study import StudyDirection
from sqlalchemy import create_engine

from mollify_core.errors import StorageError
from mollify_sweeps.study import claim, database
from mollify_sweeps.study.database import Location
from mollify_sweeps.study.reading import copy_study
from servers import PostgreSQL


def test_the_driver_of_postgresql_is_one_that_is_installed():
    """SQLAlchemy 2.1 takes another one than 2.0 where the URL names none."""
    pytest.importorskip("psycopg", reason="needs `uv run --group faults`")
    engine = create_engine(Location("postgresql://me:p%40ss@h/db?host=/tmp").engine)
    assert engine.url.password == "p@ss"
    assert Location("postgresql+pg8000://h/db").engine.drivername == "postgresql+pg8000"


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg2", "postgresql+psycopg"])
def test_a_postgresql_that_is_gone_is_given_up_before_the_claim_lapses(driver):
    found = Location(f"{driver}://me@h/db").timeouts
    silent = found["keepalives_idle"] + found["keepalives_interval"] * found["keepalives_count"]
    # A connection of the pool is tried, given up, and another one made.
    assert max(silent, found["tcp_user_timeout"] / 1000) + found["connect_timeout"] < claim._LAPSE
    assert "connect_timeout" not in Location(f"{driver}://me@h/db?connect_timeout=3").timeouts


def test_drivers_that_have_no_such_words_get_none():
    assert Location("sqlite:////tmp/x.sqlite").timeouts == {"timeout": 60}
    assert Location("mssql+pyodbc://h/db").timeouts == {}


def test_a_server_that_takes_a_connection_and_says_nothing(monkeypatch):
    """Without a timeout the driver of PostgreSQL waits for ever."""
    pytest.importorskip("psycopg", reason="needs `uv run --group faults`")
    monkeypatch.setitem(database._LIBPQ, "connect_timeout", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"Cannot open the study .*timeout expired"):
            Location(f"postgresql://me:x@127.0.0.1:{silent.getsockname()[1]}/db").open()
        assert time.monotonic() - started < 20


ODD = ("a b", "a?b=c", "a#b", "a%41b", "a%", ":memory:", "{x}", "[red]", "a'\"b", "a\nb", "a&b;c", "é猫", "a@b:c", "~")


@pytest.mark.parametrize("name", ODD)
def test_a_study_is_where_its_folder_says(name: str, tmp_path: Path) -> None:
    file = tmp_path / name / "study.sqlite"
    file.parent.mkdir()
    location = Location.of_file(file)
    assert location.file == file
    location.open().create_new_study([StudyDirection.MINIMIZE], "s")
    assert [p.name for p in tmp_path.rglob("*")] == [name, "study.sqlite"], "and nothing is elsewhere"
    assert [s.study_name for s in Location(location.url).open().get_all_studies()] == ["s"], "its address says the same"
    assert copy_study(file, tmp_path / "copy") is None


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_study_in_memory_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="Expected a study in a file"):
        Location(url).open()


@pytest.mark.slow
def test_a_connection_has_them():
    """As the kernel knows them: of a real connection over TCP to a real server."""
    folder = Path(tempfile.mkdtemp(prefix="m-pg-", dir="/tmp"))  # a short path: a socket lies in it
    folder.chmod(0o755)
    server = PostgreSQL(folder / "data", address="127.0.0.1", password="x")
    try:
        with Location(server.url).open().engine.connect() as connection:
            handle = connection.connection.dbapi_connection
            assert handle is not None
            with socket.socket(fileno=os.dup(handle.fileno())) as tcp:
                assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
                assert tcp.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
