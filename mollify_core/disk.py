"""Files on a local disk: what has to be there, and not only in memory, before something else is done; what is none."""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

_READING = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))  # as far as a system has them


def sync(path: Path | str) -> None:
    """Waits until a file, or the names in a folder, would survive a loss of power.

    Raises:
        OSError: the disk failed.
    """
    if os.name == "nt":  # it opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def regular(path: Path | str | os.PathLike[str]) -> BufferedReader:
    """A file opened to be read; what is none, a pipe or a device, is not waited for.

    Raises:
        OSError: it cannot be opened, or is no file.
    """
    handle = os.open(path, os.O_RDONLY | _READING)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("it is no file")
        return open(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
