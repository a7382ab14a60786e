"""What all tests share: the golden vectors, real handwritten digits in a cache of the run's own, and how a run is
shared out among processes: a file stays in one of them, and so do all tests that start Ray."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two cores: tests that start workers must not fight over them

import numpy as np
import pytest
import torch
from alembic.script import ScriptDirectory
from optuna.storages._rdb.storage import _VersionManager
from sqlalchemy import Engine, event

from mollify_sweeps.cluster import environment
from places import FIXTURES

# Optuna runs its ten modules of migrations anew for each study that is opened: most of the time that opening takes.
_migrations = _VersionManager._create_alembic_script
_kept: list[ScriptDirectory] = []


def _once(manager: _VersionManager) -> ScriptDirectory:
    if not _kept:
        _kept.append(_migrations(manager))
    return _kept[0]


_VersionManager._create_alembic_script = _once  # type: ignore[method-assign]

environment.set_defaults()  # before any test imports Ray, which reads them once: as our own programs do
RAY = "ray"  # the group of the tests that start Ray


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes for the quick tests; one for the slow ones, whose sweeps take the whole machine and are timed."""
    return 2 if config.option.markexpr == "not slow" else 0


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups after us
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of a file stay together, since they share its fixtures; the longest group comes first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args != (RAY,))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line that says what was not tried, and why."""
    if missing := _not_tried(terminalreporter):
        reasons = "; ".join(f"{reason} ({count})" for reason, count in missing.items())
        terminalreporter.write_line(f"not tried here: {reasons}", yellow=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where CI installs them, tests that lack a group or an extra have failed."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and "MOLLIFY_CI" in os.environ and any("needs `" in r for r in _not_tried(reporter)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _not_tried(reporter: pytest.TerminalReporter) -> Counter[str]:
    """Reason -> number of tests that were skipped for it."""
    found = (report.longrepr[2] for report in reporter.stats.get("skipped", []) if isinstance(report.longrepr, tuple))
    return Counter(reason.removeprefix("Skipped: ") for reason in found)


@event.listens_for(Engine, "connect")
def do_not_wait_for_the_disk(connection: object, _: object) -> None:
    """No test in this process takes the power away."""
    if type(connection).__module__.startswith("sqlite3"):
        connection.execute("PRAGMA synchronous = OFF")  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch uses one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
