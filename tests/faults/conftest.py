"""What fault tests share: sweeps that end with the test, the unbroken ones, a server, and the figures measured."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import Sweep
from servers import moto_process

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
def s3(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server that speaks S3, in a process of its own, with a bucket named `bucket`; the environment points to it."""
    with moto_process(tmp_path / "s3.log") as server:
        yield server


@pytest.fixture
def figure() -> Callable[[str], None]:
    """Keeps a line about what was measured; all are shown at the end."""
    return _figures.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("measured")
        for line in _figures:
            terminalreporter.write_line(line)
