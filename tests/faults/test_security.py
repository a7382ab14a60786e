"""Secrets stay in the environment of the processes that need them."""

from __future__ import annotations

import base64
import gzip
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import DIGITS, PATIENCE, Sweep, descendants
from servers import bucket

CANARIES = {
    "WANDB_API_KEY": "ca0a17ca0a17ca0a17ca0a17ca0a17ca0a171111",  # wandb takes forty hexadecimal digits only
    "AWS_SECRET_ACCESS_KEY": "CanaryOfAmazonNeverToBeSeenAnywhere22222",
    "AWS_SESSION_TOKEN": "CanaryOfASessionNeverToBeSeenAnywhere333",
}


def found_in(data: bytes) -> list[str]:
    """Names of the secrets that some bytes hold, as they are, in base64 or compressed."""
    if data[:2] == b"\x1f\x8b":
        data += gzip.decompress(data)
    return [n for n, c in CANARIES.items() if c.encode() in data or base64.b64encode(c.encode()).rstrip(b"=") in data]


def found_below(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield from (f"{name} in {path}" for name in found_in(path.read_bytes()))


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short path: sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="m-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_secret_is_written_anywhere(
    sweep: Callable[..., Sweep], s3: subprocess.Popen[bytes], short: Path, monkeypatch: pytest.MonkeyPatch
):
    """Set-up: a small sweep in object storage with wandb offline, its keys for both are canaries. Minimum time: 30 s.

    Home, temporary and Ray's session folders are the sweep's own.

    1. No process of the sweep shows a canary in its command line.
    2. None is found in the storage, the sweep's local folder (study, wandb, TensorBoard, reports), in what it prints,
       in Ray's session folder with its logs, in the temporary folder and in the home folder.
    """
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    own = {"HOME": short / "home", "TMPDIR": short / "tmp", "RAY_TMPDIR": short / "ray"}
    for folder in own.values():
        folder.mkdir()
    options = (*DIGITS, "--network", "resnet8", "--trials", "2", "--epochs", "1", "--wandb", "offline")
    one = sweep(*options, storage="s3://bucket/sweeps").start(**{name: str(path) for name, path in own.items()})
    assert one.driver is not None
    deadline = time.monotonic() + PATIENCE
    commands: set[str] = set()
    while one.running:
        assert time.monotonic() < deadline
        commands |= {process.command for process in descendants(one.driver.pid)}
        time.sleep(0.2)
    output = one.finish()

    assert any("raylet" in command for command in commands)
    assert [command for command in commands if found_in(command.encode())] == []
    kept = {entry.key: entry.get()["Body"].read() for entry in bucket().objects.all()}
    assert "sweeps/s/report/summary.md" in kept
    assert {key: found_in(data) for key, data in kept.items() if found_in(data)} == {}
    assert found_in(output.encode()) == []
    assert list(one.local.glob("wandb/offline-run-*/run-*.wandb"))
    assert list(own["RAY_TMPDIR"].glob("ray/session_*/logs/*"))
    assert [*found_below(one.folder), *found_below(short)] == []

    (short / "leak").write_bytes(
        b"..." + os.environb[b"AWS_SECRET_ACCESS_KEY"]
    )  # a search that finds nothing proves nothing
    assert list(found_below(short)) == [f"AWS_SECRET_ACCESS_KEY in {short}/leak"]
