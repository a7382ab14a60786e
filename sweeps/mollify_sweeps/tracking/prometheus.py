"""A sweep's figures among Ray's metrics, where Prometheus finds them: on the metrics port of the driver's machine.

Ray puts ``ray_`` before each name. Epochs are counted: ``rate(ray_mollify_epochs_total[5m])`` are epochs per second.
"""

from __future__ import annotations

from typing import Any

from mollify_sweeps.tracking.follower import Follower


class SweepMetrics(Follower):
    """Gauges and a counter, each with the tag `sweep`; made by the process that is connected to Ray.

    Args:
        sweep: its name.
        objective: name of the first objective.
    """

    def __init__(self, sweep: str, objective: str) -> None:
        from ray.util.metrics import Counter, Gauge

        def gauge(name: str, description: str, *tags: str) -> Any:
            made = Gauge(f"mollify_{name}", description=description, tag_keys=("sweep", *tags))
            made.set_default_tags({"sweep": sweep})
            return made

        self._objective = objective
        self._trials = gauge("trials", "Trials of a sweep by state.", "state")
        self._failures = gauge("failures", "Failed trials of a sweep by kind: nan, oom, settings or bug.", "kind")
        self._best = gauge("best", "The least value of a sweep's first objective in a completed trial.", "objective")
        self._epochs = Counter("mollify_epochs", description="Epochs trained in a sweep.", tag_keys=("sweep",))
        self._epochs.set_default_tags({"sweep": sweep})

    def epoch(self, number: int, epoch: int, metrics: dict[str, float]) -> None:
        self._epochs.inc()

    def update(self, status: dict[str, Any]) -> None:
        for state, count in status["counts"].items():
            self._trials.set(count, tags={"state": state.lower()})
        for kind, count in status["failures"].items():
            self._failures.set(count, tags={"kind": kind})
        if status["best"]:
            self._best.set(status["best"]["value"], tags={"objective": self._objective})
