"""What reading a hostile file may not do: take long or much, start anything, connect, unpickle, or leave its folder."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mollify_core.errors import MollifyError
from mollify_core.program import guarded
from places import ROOT

SECONDS, BYTES = 5.0, 1 << 30
_MINE = tuple(
    {str(ROOT), os.path.realpath(sys.prefix), sys.base_prefix, "/proc", "/sys", "/dev", "/usr", "/lib", "/etc"}
)
_STARTS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "socket.connect",
    "pickle.find_class",
}
_watch: tuple[list[str], tuple[str, ...]] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _watch is None or (event not in _STARTS and event != "open"):
        return
    seen, folders = _watch
    if event != "open":
        seen.append(f"{event} {args!r:.200}")
        return
    path, mode, flags = args
    if isinstance(path, int):
        return
    place = os.path.realpath(os.fsdecode(path))
    writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if mode is None else any(c in mode for c in "wax+")
    if not place.startswith(folders if writes else (*folders, *_MINE)):
        seen.append(f"{'written' if writes else 'read'}: {place}")


@contextlib.contextmanager
def watched(*folders: Path) -> Iterator[None]:
    """Fails where what is done inside starts a process, connects, unpickles, opens a file outside `folders` (to read:
    also outside of Python's and the project's own), takes 5 s or 1 GB.
    """
    global _watch
    if not getattr(sys, "_mollify_watched", False):
        sys.addaudithook(_hook)
        sys._mollify_watched = True  # type: ignore[attr-defined]
    seen: list[str] = []
    _watch = seen, tuple(os.path.realpath(f) for f in folders)
    before, used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    old = signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, 2 * SECONDS)  # of this process's own time: the machine may be busy
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)
        _watch = None
    assert not seen, seen
    assert time.process_time() - used < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES


def _too_long(*_: object) -> None:
    pytest.fail("it hangs")


def read(action: Callable[[], object], *folders: Path) -> MollifyError | None:
    """Reads something hostile by `action`: None when it can be read, else the error that says why not, in one sentence.

    Any other exception, and whatever `watched` forbids, fails the test.
    """
    with watched(*folders):
        try:
            action()
        except MollifyError as error:
            said = str(error)
            assert said.strip(), "an error without a sentence"
            assert len(said) < 600, said
            assert "\n" not in said, said
            return error
    return None


def told(main: Callable[[list[str]], int], argv: list[str], *folders: Path) -> int:
    """Runs a program in this process: its exit code, 0, 1 or 2."""
    with watched(*folders):
        code = guarded(lambda: main(argv))
    assert code in (0, 1, 2)
    return code
