"""What has to be on a local disk, and not only in the machine's memory, before something else is done."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path | str) -> None:
    """Waits until a file, or the names in a folder, would survive a loss of power.

    Raises:
        OSError: the disk failed.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
