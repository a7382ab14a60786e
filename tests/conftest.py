"""Shared fixtures: the golden vectors, and real handwritten digits in a cache of the test run's own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores: tests that start workers must not fight over them

import numpy as np
import pytest

from places import FIXTURES


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Vectors computed by the authors' own code."""
    with np.load(FIXTURES / "golden.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data cache for this run, also for the processes that tests start."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["MOLLIFY_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def digits(cache: Path):
    from mollify_core.datasets import prepare

    return prepare("digits")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
