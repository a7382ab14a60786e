"""The Ray that a process is connected to: started on this machine, or a running cluster; and what machines have."""

from __future__ import annotations

import logging
import os
import signal
from dataclasses import dataclass
from typing import Any

from mollify_core.errors import ConfigError, first_line
from mollify_sweeps.cluster import environment

LOOPBACK = "127.0.0.1"
NAMESPACE = "mollify"  # of our actors in Ray


@dataclass(frozen=True)
class Node:
    """One machine's resources."""

    cpus: float
    gpus: float


def connect(address: str | None, *, dashboard: bool = False) -> None:
    """Starts Ray on this machine, with its dashboard on loopback when asked, or connects to a running cluster.

    Raises:
        ConfigError: there is no such cluster.
    """
    environment.set_defaults()
    os.environ["PYTHONPATH"] = environment.python_path()  # workers import the very code that the driver runs
    import ray
    import torch

    if ray.is_initialized():
        return
    for logger in ("ray", "ray.data", "ray.train"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that failed or died is told by the study
    options: dict[str, Any] = {"namespace": NAMESPACE, "log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"address": "local", "num_cpus": cores(), "num_gpus": torch.cuda.device_count()}
        options |= {"include_dashboard": dashboard, "dashboard_host": LOOPBACK}
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
        ray.init(**options)
        signal.signal(signal.SIGTERM, handler)  # Ray's own would end this process at once
    except Exception as error:  # Ray raises plain ones too, as when this machine is too busy to start it
        what = "start Ray on this machine" if address is None else f"connect to a Ray cluster at {address!r}"
        raise ConfigError(f"Cannot {what}: {first_line(error)}") from None


def cluster_nodes(address: str) -> list[Node]:
    """The resources of every live machine of a running cluster."""
    connect(address)
    import ray

    found = [n["Resources"] for n in ray.nodes() if n["Alive"]]
    return [Node(r.get("CPU", 0), r.get("GPU", 0)) for r in found]


def cores() -> int:
    """CPU cores that this process may use, also in a container."""
    import joblib

    return joblib.cpu_count()
