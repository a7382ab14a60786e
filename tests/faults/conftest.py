"""What fault tests share: sweeps that end with the test, the unbroken ones, a server, and the figures measured."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Sweep
from servers import free_port, listening

_figures: list[str] = []


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Makes sweeps in folders of their own and ends what is left of them."""
    made: list[Sweep] = []

    def make(*options: str, **more: str) -> Sweep:
        made.append(Sweep(tmp_path / f"sweep-{len(made)}", *options, **more))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sweep]]:
    """The finished sweep of some options that nobody disturbed; each is run once."""
    made: dict[tuple[str, ...], Sweep] = {}

    def get(*options: str) -> Sweep:
        if options not in made:
            made[options] = Sweep(tmp_path_factory.mktemp("unbroken"), *options)
            made[options].start().finish()
            made[options].sound()
        return made[options]

    yield get
    for one in made.values():
        one.end()


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that speaks S3, in a process of its own, with a bucket named `bucket`; the environment points to it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with open(tmp_path / "s3.log", "wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    keys = {"ACCESS_KEY_ID": "mollify", "SECRET_ACCESS_KEY": "mollify-secret", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**keys, "ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    try:
        listening(server, port, log=tmp_path / "s3.log")
        bucket().create()
        yield server
    finally:
        server.kill()
        server.wait()


def bucket():
    import boto3

    return boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).Bucket("bucket")


@pytest.fixture
def figure() -> Callable[[str], None]:
    """Keeps a line about what was measured; all are shown at the end."""
    return _figures.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("measured")
        for line in _figures:
            terminalreporter.write_line(line)
