"""The Ray that a process is connected to: started on this machine, or a running cluster; and what machines have."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mollify_sweeps
from mollify_core import granted
from mollify_core.errors import ConfigError, first_line
from mollify_core.foreign import expanded, shown
from mollify_sweeps.cluster import environment

LOOPBACK = "127.0.0.1"
NAMESPACE = "mollify"  # of our actors in Ray
_STORE_SHARE = 0.3  # of memory that is the object store's, as is Ray's own default
_SOCKET = 107  # bytes of a Unix socket's path, by Linux; macOS has fewer
_INSIDE = len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")


@dataclass(frozen=True)
class Node:
    """One machine's resources."""

    cpus: float
    gpus: float


def connect(address: str | None, *, dashboard: bool = False) -> None:
    """Starts Ray on this machine, with its dashboard on loopback when asked, or connects to a running cluster.

    Raises:
        ConfigError: there is no such cluster, or Ray cannot be started here.
    """
    environment.set_defaults()
    os.environ["PYTHONPATH"] = environment.python_path()  # workers import the very code that the driver runs
    if address is None:
        _check_temporary(_temporary())
        os.environ[_SEVERAL] = "0"
    import ray
    import ray._private.ray_constants
    import torch

    if ray.is_initialized():
        return
    for logger in ("ray", "ray.data", "ray.train"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that failed or died is told by the study
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"address": "local", "num_cpus": granted.cores(), "num_gpus": torch.cuda.device_count()}
        options |= {"include_dashboard": dashboard, "dashboard_host": LOOPBACK}
        if (memory := granted.memory()) < granted.installed():  # Ray looks at the whole machine, but for a container
            options["object_store_memory"] = int(_STORE_SHARE * memory)
        ray._private.ray_constants.ENABLE_RAY_CLUSTER = False  # where Ray had been imported before
        (token := expanded("~/.ray/auth_token")).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        options |= {"address": address}
        if variables := environment.of_workers():
            options["runtime_env"] = {"env_vars": variables}
        if address.startswith("ray://"):  # elsewhere Ray looks itself; a cluster without one would lose its actors
            from ray._private.authentication.authentication_token_setup import (
                maybe_enable_token_auth_if_token_available,
            )

            maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.chdir(Path(mollify_sweeps.__path__[0]).parent):  # workers import from the current folder first
            ray.init(**options)
        if address is None and token.is_file() and stat.S_IMODE(token.stat().st_mode) & 0o077:
            token.chmod(0o600)  # who has it may run what he likes as this user; Ray leaves that to the umask
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process at once
    except Exception as error:  # Ray raises plain ones too, as when this machine is too busy to start it
        what = "start Ray on this machine" if address is None else f"connect to a Ray cluster at {address!r}"
        raise ConfigError(f"Cannot {what}: {first_line(error)}") from None


_SEVERAL = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Without clusters, on any system, Ray's processes hear nothing but this machine, its ports of metrics included."""


def _temporary() -> Path:
    """Where Ray keeps its sessions; it asks the environment in this order."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"  # nosec B108


def _check_temporary(folder: Path) -> None:
    """Checks that Ray can keep its sockets in a folder.

    Raises:
        ConfigError: its path is too long for them, or it is another user's.
    """
    named = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    most, length = _SOCKET - _INSIDE - len("/ray"), len(os.fsencode(folder.parent))
    if length > most:
        raise ConfigError(
            f"Expected ${named} to be a path of at most {most} bytes, since Ray puts sockets below it, but got "
            f"{length}: {shown(str(folder.parent))}; set RAY_TMPDIR to a shorter one"
        )
    place = folder if folder.exists() else folder.parent
    if not os.access(place, os.W_OK | os.X_OK):
        whose = f", which is user {place.stat().st_uid}'s" if place.exists() else ", which is not there"
        raise ConfigError(
            f"Expected to write into {shown(str(place))}{whose}: Ray keeps its sockets there; set RAY_TMPDIR to a "
            "folder of your own, with a short path"
        )


def cluster_nodes(address: str) -> list[Node]:
    """The resources of every live machine of a running cluster."""
    connect(address)
    import ray

    found = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return [Node(r.get("CPU", 0), r.get("GPU", 0)) for r in found]
