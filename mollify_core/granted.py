"""What this process may use of its machine: a scheduler or a container often grants less than there is."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path


def cores() -> int:
    """CPU cores: those that a scheduler's affinity and a container's quota leave."""
    import joblib  # it knows of both

    return joblib.cpu_count()


def installed() -> int:
    """Bytes of memory of the machine."""
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def memory(root: Path = Path("/")) -> int:
    """Bytes of memory: the machine's, or the least that a control group above this process (Linux, either version)
    allows.

    Args:
        root: in which /proc and /sys are.
    """
    return min([installed(), *limits(root)])


def limits(root: Path = Path("/")) -> Iterator[int]:
    """The bytes that each control group above this process allows, where it sets a limit."""
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
    except OSError:  # no Linux
        return
    for _, controllers, group in (parts for parts in groups if len(parts) == 3):
        if controllers == "":  # version 2
            base, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        parts = Path(group.lstrip("/")).parts
        for depth in range(len(parts) + 1):  # in a container the groups' own names may not be there
            try:
                yield int((base.joinpath(*parts[:depth]) / file).read_text())
            except (OSError, ValueError):  # not there, or "max"
                continue
