"""The study's actor, as trials call it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

import optuna
import ray

from mollify_sweeps.cluster.connection import NAMESPACE

_ASK_AGAIN = 2.0  # seconds after which a study that could not be written is asked again


def actor_name(sweep: str) -> str:
    """A name for the study's actor of one driver: users of a cluster may have sweeps of one name."""
    return f"study-{sweep}-{uuid.uuid4().hex[:8]}"


def sweep_of(actor: str) -> str:
    """The sweep whose study's actor has this name."""
    return actor.removeprefix("study-").rpartition("-")[0]


class StudyClient:
    """The methods of `SweepStudy`, called on its actor; again while the study's storage refuses."""

    def __init__(self, name: str) -> None:
        self._actor = ray.get_actor(name, NAMESPACE)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            while True:
                try:
                    return ray.get(getattr(self._actor, method).remote(*args, **kwargs))
                except optuna.exceptions.StorageInternalError:  # the actor has told the user
                    time.sleep(_ASK_AGAIN)

        return call
