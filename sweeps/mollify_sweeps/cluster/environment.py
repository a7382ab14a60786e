"""What Ray and its workers find in the environment; set before Ray is imported, since it reads some of it then."""

from __future__ import annotations

import os
from pathlib import Path

import mollify_core
import mollify_sweeps

_ENVIRONMENT = {
    # Ray would otherwise build every worker's environment anew when the driver was started by `uv run`.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # Tune's thread must not start a Ray of its own while ours shuts down
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # Tune's own state is never restored: the study is the truth
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # Training allocates the same buffers at every step; glibc would give them back to the system each time.
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
}


# What a driver says of its store, and no secret: a cluster's machines need to know it too.
_STORE = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REQUEST_CHECKSUM_CALCULATION")


def of_workers() -> dict[str, str]:
    """What processes on other machines get of this one's environment."""
    return {name: os.environ[name] for name in _STORE if "@" not in os.environ.get(name, "@")}


def set_defaults() -> None:
    """Sets what the user has not set."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["MPLBACKEND"] = "agg"  # matplotlib cannot even be imported where somebody's other one is not there


def python_path() -> str:
    """A PYTHONPATH by which another process imports the very packages that this one has imported."""
    ours = (str(Path(package.__path__[0]).resolve().parent) for package in (mollify_core, mollify_sweeps))
    return os.pathsep.join(dict.fromkeys([*ours, *filter(None, [os.environ.get("PYTHONPATH")])]))
